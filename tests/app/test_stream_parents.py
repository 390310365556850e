"""Streams inside what teams put around an app: nothing keeps them back, and who leaves is no error of theirs."""

import threading
from collections.abc import Callable
from typing import Final

import pytest
from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from amux_asgi import (
    ImagesApp,
)
from tests.app.stream_app import LATE, Upstream, host, images
from tests.app.stream_client import COMPLETED, PREVIEW, asked, let_go, streaming
from tests.serve import serve

ORIGIN: Final = "https://app.example"


class PassedOn(BaseHTTPMiddleware):
    """A middleware of a team's that only looks."""

    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        return await call_next(request)


GZIP: Final = Middleware(GZipMiddleware, minimum_size=1)
CORS: Final = Middleware(CORSMiddleware, allow_origins=[ORIGIN])
LOOKING: Final = Middleware(PassedOn)


def in_fastapi(upstream: Upstream) -> ASGIApp:
    app = images(upstream)
    inner = host(upstream, app, app)
    fast = FastAPI(lifespan=app.lifespan, middleware=[LOOKING, CORS, GZIP])
    fast.mount("/", inner)
    return fast


def within(*layers: Middleware) -> Callable[[Upstream], ASGIApp]:
    def build(upstream: Upstream) -> ASGIApp:
        app = images(upstream)
        return host(upstream, app, app, middleware=layers)

    return build


PARENTS: Final[dict[str, Callable[[Upstream], ASGIApp]]] = {
    "GZip": within(GZIP),
    "BaseHTTPMiddleware": within(LOOKING),
    "CORS": within(CORS),
    "all of them": within(GZIP, LOOKING, CORS, LOOKING),
    "in FastAPI": in_fastapi,
}


@pytest.mark.parametrize("name", PARENTS)
def test_events_come_as_they_are_made_whatever_is_around(name: str) -> None:
    """Nothing compresses or gathers them."""
    headers = {"accept-encoding": "gzip", "origin": ORIGIN}

    with serve(PARENTS[name](Upstream())) as url, streaming(url, headers=headers) as reading:
        reading.until(b"\n\n")
        first = reading.events
        let_go(url)
        reading.to_the_end()

    assert (first, reading.events) == ([PREVIEW], [PREVIEW, COMPLETED])
    assert "content-encoding" not in reading.answer.headers
    assert reading.answer.headers.get("access-control-allow-origin") in (None, "*", ORIGIN)


class Reporting:
    """What a host reports: how each call ended."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.faults: list[str] = []
        self.ended = threading.Semaphore(0)  # once for each call

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self.app(scope, receive, send)
        except Exception as exc:
            self.faults.append(type(exc).__name__)
            raise
        finally:
            if scope["path"].startswith("/v1"):
                self.ended.release()


@pytest.mark.parametrize("layers", [(), (LOOKING,), (LOOKING, GZIP, LOOKING)], ids=["none", "one", "three"])
def test_a_reader_that_leaves_is_no_error_of_the_hosts(layers: tuple[Middleware, ...]) -> None:
    """Before the first event and after it; what was begun is made, and told to who asks with the same key again."""
    upstream = Upstream()
    app = images(upstream)
    reporting = Reporting(host(upstream, app, app, middleware=layers))
    key = {"idempotency-key": "left-1"}

    with serve(lifespan_aside(reporting, app)) as url:
        with streaming(url, LATE, headers=key) as reading:  # begun with a comment
            pass
        assert reporting.ended.acquire(timeout=30)
        let_go(url)
        let_go(url)
        with streaming(url, LATE, headers=key) as again:
            again.to_the_end()
        with streaming(url) as reading:
            reading.until(PREVIEW.encode())
        let_go(url)
        assert all(reporting.ended.acquire(timeout=30) for _ in range(2))
        number = asked(url)

    assert (again.events, number) == ([COMPLETED], 2)
    assert reporting.faults == []


def lifespan_aside(app: ASGIApp, inner: ImagesApp) -> ASGIApp:
    """Let the host's own app see calls only."""

    async def outermost(scope: Scope, receive: Receive, send: Send) -> None:
        await (inner if scope["type"] == "lifespan" else app)(scope, receive, send)

    return outermost
