"""Mounted anywhere, in any host, with any lifespan: the traps, each with a real server."""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import anyio
import httpx2  # noqa: TID251, the test's client
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.authentication import AuthCredentials, AuthenticationBackend, BaseUser, SimpleUser
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from amux_asgi import (
    AuthMiddleware,
    ChannelConfig,
    ConfigError,
    GenerationRequest,
    ImagesApp,
    KeyConfig,
    Principal,
    anyone,
    combine_lifespans,
    fixed_keys,
    from_user,
    images_app,
    outer,
)
from tests.children import listens, until
from tests.serve import serve

KEY: Final = "mount-key-of-the-tests-1"
BEARER: Final = {"authorization": f"Bearer {KEY}"}
BODY: Final = {"model": "gpt-image-2", "prompt": "a cat"}
ME: Final = Principal(account="me", key="me")


def images(**parts: Any) -> ImagesApp:
    told: dict[str, Any] = {
        "channels": [ChannelConfig(name="sandbox", adapter="sandbox", models=("gpt-image-2",))],
        "keys": [KeyConfig(name="mount", key=KEY)],
    }
    return images_app(**(told | parts))


def ask(url: str, path: str = "/images/generations", **options: Any) -> httpx2.Response:
    headers = BEARER | options.pop("headers", {})
    return httpx2.post(url + path, json=BODY, headers=headers, timeout=60, **options)


async def home(_request: Request) -> PlainTextResponse:
    await anyio.lowlevel.checkpoint()
    return PlainTextResponse("home")


def at(path: str) -> Callable[[ImagesApp], ASGIApp]:
    return lambda app: Starlette(routes=[Mount(path, app)], lifespan=app.lifespan)


def in_fastapi(app: ImagesApp) -> ASGIApp:
    host = FastAPI(lifespan=app.lifespan)
    host.mount("/v1", app)
    return host


PLACES: Final[dict[str, tuple[Callable[[ImagesApp], ASGIApp], str]]] = {
    "alone": (lambda app: app, "/v1"),
    "alone, without /v1": (lambda app: app, ""),
    "at /": (at("/"), "/v1"),
    "at /v1": (at("/v1"), "/v1"),
    "at /v1, doubled": (at("/v1"), "/v1/v1"),
    "at /ai/v1": (at("/ai/v1"), "/ai/v1"),
    "nested": (
        lambda app: Starlette(routes=[Mount("/a", Starlette(routes=[Mount("/b", app)]))], lifespan=app.lifespan),
        "/a/b/v1",
    ),
    "in FastAPI": (in_fastapi, "/v1"),
}


@pytest.mark.parametrize("place", PLACES)
def test_it_answers_wherever_it_is_mounted(place: str) -> None:
    """Pictures, models and errors, whatever the prefix."""
    build, prefix = PLACES[place]

    with serve(build(images())) as url:
        made = ask(url, f"{prefix}/images/generations")
        listed = httpx2.get(f"{url}{prefix}/models", headers=BEARER)
        lost = httpx2.get(f"{url}{prefix}/nowhere", headers=BEARER)

    assert made.status_code == 200
    assert [model["id"] for model in listed.json()["data"]] == ["gpt-image-2"]
    assert lost.json()["error"]["code"] == "not_found"


@pytest.mark.parametrize(("sent", "root"), [("/v1", "/ai"), ("/ai/v1", "/ai")])
def test_it_answers_behind_a_proxy_that_strips_a_prefix(sent: str, root: str) -> None:
    """With the server told its root path, the proxy may strip the prefix."""

    def told_of_root(app: ASGIApp) -> ASGIApp:
        async def with_root(scope: Scope, receive: Receive, send: Send) -> None:
            path = scope.get("path", "")
            full = path if path.startswith(f"{root}/") else root + path
            await app({**scope, "root_path": root, "path": full} if scope["type"] == "http" else scope, receive, send)

        return with_root

    app = images()
    with serve(told_of_root(Starlette(routes=[Mount("/v1", app)], lifespan=app.lifespan))) as url:
        assert ask(url, f"{sent}/images/generations").status_code == 200


def test_uvicorns_own_root_path_is_understood() -> None:
    """The usual way to say that a proxy strips `/ai`."""
    with serve(at("/v1")(images()), root_path="/ai") as url:
        assert ask(url, "/v1/images/generations").status_code == 200


class Noting(BaseHTTPMiddleware):
    """A host's own middleware that reads facts after the answer."""

    facts: dict[str, Any]

    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        response = await call_next(request)
        type(self).facts = dict(request.scope["state"].get("amux", {}))
        return response


def test_it_works_under_a_hosts_own_middleware() -> None:
    """BaseHTTPMiddleware, GZip and CORS, as teams stack them; the access log finds its facts."""
    app = images()
    host = Starlette(
        routes=[Route("/", home), Mount("/v1", app)],
        lifespan=app.lifespan,
        middleware=[
            Middleware(Noting),
            Middleware(
                CORSMiddleware,
                allow_origins=["https://app.example"],
                allow_headers=["authorization"],
                allow_methods=["POST"],
            ),
            Middleware(GZipMiddleware),
        ],
    )

    with serve(host) as url:
        made = ask(url, "/v1/images/generations", headers={"origin": "https://app.example", "accept-encoding": "gzip"})
        facts = dict(Noting.facts)
        preflight = httpx2.options(
            f"{url}/v1/images/generations",
            headers={
                "origin": "https://app.example",
                "access-control-request-method": "POST",
                "access-control-request-headers": "authorization",
            },
        )
        own = httpx2.get(url)

    assert (made.status_code, made.headers["content-encoding"], len(made.json()["data"])) == (200, "gzip", 1)
    assert made.headers["access-control-allow-origin"] == "https://app.example"
    assert (preflight.status_code, own.text) == (200, "home")
    assert facts["key"] == facts["account"] == "mount"
    assert (facts["model"], facts["images"], facts["attempts"], facts["channel"]) == ("gpt-image-2", 1, 1, "sandbox")
    assert facts["generation"].startswith("gen_")
    assert facts["request_id"] == made.headers["x-request-id"]


def test_a_client_that_leaves_is_no_error_of_the_hosts() -> None:
    """`BaseHTTPMiddleware` raises for a request without an answer, and the host's error reporting would hear it."""
    app = images()
    host = Starlette(routes=[Mount("/v1", app)], lifespan=app.lifespan, middleware=[Middleware(Noting)])
    ended: list[BaseException | None] = []

    async def reporting(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await host(scope, receive, send)
        except Exception as exc:
            ended.append(exc)
            raise
        ended.append(None)

    head = f"POST /v1/images/generations HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\ncontent-length: 9\r\n"
    with serve(reporting) as url, socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) as leaving:
        leaving.sendall(f"{head}content-type: application/json\r\nexpect: 100-continue\r\n\r\n".encode())
        assert leaving.recv(100).startswith(b"HTTP/1.1 100 ")  # the body is waited for

    assert ended == [None, None]  # the request, and the lifespan


def test_lifespans_are_combined_in_order() -> None:
    """The team's own resources begin first and end last; what they put on the state is kept."""
    order: list[str] = []

    @asynccontextmanager
    async def own(_app: object) -> AsyncGenerator[dict[str, Any]]:
        order.append("begin")
        yield {"own": 1}
        order.append("end")

    async def state(request: Request) -> PlainTextResponse:
        await anyio.lowlevel.checkpoint()
        return PlainTextResponse(str(request.state.own))

    app = images()
    host = Starlette(routes=[Route("/state", state), Mount("/v1", app)], lifespan=combine_lifespans(own, app.lifespan))
    with serve(host) as url:
        answers = ask(url, "/v1/images/generations").status_code, httpx2.get(f"{url}/state").text

    assert answers == (200, "1")
    assert order == ["begin", "end"]


def test_several_mounts_of_one_app_share_its_lifespan(caplog: pytest.LogCaptureFixture) -> None:
    """Entered twice, started once."""
    app = images()
    host = Starlette(
        routes=[Mount("/a", app), Mount("/b", app)], lifespan=combine_lifespans(app.lifespan, app.lifespan)
    )

    with serve(host) as url:
        statuses = [ask(url, f"{prefix}/images/generations").status_code for prefix in ("/a", "/b")]

    assert statuses == [200, 200]
    assert "lifespan" not in caplog.text


def test_a_bare_test_client_works_twice_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    """Each call runs on an event loop of its own, and no lifespan ever ran."""
    client = TestClient(images())

    with caplog.at_level(logging.WARNING, logger="amux_asgi"):
        statuses = [client.post("/v1/images/generations", json=BODY, headers=BEARER).status_code for _ in range(2)]

    assert statuses == [200, 200]
    assert caplog.text.count("lifespan=images.lifespan") == 1


def test_a_test_client_with_a_lifespan_works_twice() -> None:
    """Started and stopped as often as a test wants."""
    app = images()
    host = Starlette(routes=[Mount("/v1", app)], lifespan=app.lifespan)

    for _ in range(2):
        with TestClient(host) as client:
            assert client.post("/v1/images/generations", json=BODY, headers=BEARER).status_code == 200


def test_on_trio_it_says_what_is_missing() -> None:
    """Without a lifespan trio cannot run jobs; the answer names the mend."""
    answer = TestClient(images(), backend="trio").post("/v1/images/generations", json=BODY, headers=BEARER)

    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "not_started")
    assert answer.headers["x-should-retry"] == "false"
    with TestClient(images(), backend="trio") as client:
        assert client.post("/v1/images/generations", json=BODY, headers=BEARER).status_code == 200


def test_who_may_call_must_be_said() -> None:
    """An open gateway is an accident unless it is said; said twice, it is unclear."""
    with pytest.raises(ConfigError, match="who may call"):
        images(keys=None)
    with pytest.raises(ConfigError, match="one way"):
        images(authenticate=anyone)
    for told in (fixed_keys([KeyConfig(name="a", key=KEY)]), [KeyConfig(name="a", key=KEY)]):
        images(keys=told)
    images(keys=None, authenticate=anyone)


def test_an_outer_auth_middleware_counts() -> None:
    """The host asks for keys once, for its own routes too."""
    app = images(keys=None, authenticate=outer)
    guarded = AuthMiddleware(app, keys=fixed_keys([KeyConfig(name="a", key=KEY)]))
    with serve(Starlette(routes=[Mount("/in", guarded), Mount("/out", app)], lifespan=app.lifespan)) as url:
        inside, outside = ask(url, "/in/v1/images/generations"), ask(url, "/out/v1/images/generations")

    assert (inside.status_code, outside.status_code) == (200, 401)


class Logins(AuthenticationBackend):
    """A host's own authentication: whoever says a name is that user."""

    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, BaseUser] | None:
        name = conn.headers.get("x-login")
        return None if name is None else (AuthCredentials(), SimpleUser(name))


def test_the_hosts_own_users_count_only_if_they_are_logged_in() -> None:
    """Starlette gives everybody a user, and the one of a stranger is true as well."""

    def resolve(user: BaseUser) -> Principal | None:
        return None if user.display_name == "banned" else Principal(account=user.display_name, key="login")

    app = images(keys=None, authenticate=from_user(resolve))
    host = Starlette(
        routes=[Mount("/v1", app)],
        lifespan=app.lifespan,
        middleware=[Middleware(AuthenticationMiddleware, backend=Logins())],
    )
    with serve(host) as url:
        statuses = [
            ask(url, "/v1/images/generations", headers=login).status_code
            for login in ({"x-login": "ann"}, {"x-login": "banned"}, {})
        ]

    assert statuses == [200, 401, 401]


def test_constructing_does_nothing() -> None:
    """No file, socket or thread: a second process may be forked from it."""
    code = (
        "import os, sys, threading\n"
        "before = set(os.listdir('/proc/self/fd'))\n"
        "from amux_asgi import ChannelConfig, anyone, images_app\n"
        "channel = ChannelConfig(name='a', adapter='openai', credentials=('k',), models=('m',))\n"
        "images_app(channels=[channel], authenticate=anyone)\n"
        "print(len(set(os.listdir('/proc/self/fd')) - before), threading.active_count(), 'httptools' in sys.modules)\n"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.split() == ["0", "1", "False"]


PRELOADED: Final = """
import sys
sys.path.insert(0, {root!r})
from amux_asgi import ChannelConfig, KeyConfig, images_app
app = images_app(
    channels=[ChannelConfig(name="sandbox", adapter="sandbox", models=("gpt-image-2",))],
    keys=[KeyConfig(name="mount", key={key!r})],
)
"""


@pytest.mark.parametrize("server", ["uvicorn", "granian", "hypercorn"])
def test_several_workers_of_any_server_serve_it(server: str, tmp_path: Path) -> None:
    """Constructed at import in each worker, started by each worker's own lifespan."""
    (tmp_path / "preloaded.py").write_text(PRELOADED.format(root=os.fspath(Path.cwd()), key=KEY))
    commands = {
        "uvicorn": ["uvicorn", "preloaded:app", "--port", "{port}", "--workers", "2"],
        "granian": ["granian", "--interface", "asgi", "preloaded:app", "--port", "{port}", "--workers", "2"],
        "hypercorn": ["hypercorn", "preloaded:app", "--bind", "127.0.0.1:{port}", "--workers", "2"],
    }
    port = free_port()
    command = [part.format(port=port) for part in commands[server]]
    with subprocess.Popen(
        [sys.executable, "-m", *command],
        cwd=tmp_path,
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        try:
            answers = [asked_until_it_listens(f"http://127.0.0.1:{port}") for _ in range(3)]
        finally:
            os.killpg(process.pid, signal.SIGKILL)  # granian may miss SIGTERM while it still starts a worker

    assert [answer.status_code for answer in answers] == [200, 200, 200]


FORKED: Final = """
import os
import socket
import uvicorn
from preloaded import app
listening = socket.create_server(("127.0.0.1", {port}))
for _ in range(2):
    if not os.fork():
        uvicorn.Server(uvicorn.Config(app, log_level="error")).run([listening])
        os._exit(0)
listening.close()
os.wait()
"""


def test_it_may_be_preloaded_before_the_workers_are_forked(tmp_path: Path) -> None:
    """One app, made once, served by the children of the process that made it."""
    (tmp_path / "preloaded.py").write_text(PRELOADED.format(root=os.fspath(Path.cwd()), key=KEY))
    port = free_port()
    with subprocess.Popen(
        [sys.executable, "-c", FORKED.format(port=port)], cwd=tmp_path, start_new_session=True
    ) as process:
        try:
            answers = [asked_until_it_listens(f"http://127.0.0.1:{port}") for _ in range(4)]
        finally:
            os.killpg(process.pid, signal.SIGTERM)

    assert [answer.status_code for answer in answers] == [200] * 4


@pytest.mark.anyio
async def test_it_generates_without_http() -> None:
    """The library: a request in, a picture out, on asyncio and on trio."""
    app = images()

    async with app.lifespan():
        made = await app.gateway.generate(GenerationRequest(model="gpt-image-2", prompt="a cat"), ME)

    assert made.images.data[0].read()[:4] == b"\x89PNG"
    assert made.images.tokens() is not None
    assert made.id.startswith("gen_")


@pytest.mark.anyio
async def test_a_generation_is_finished_when_its_client_leaves() -> None:
    """What may have been paid is not thrown away: the upstream is asked once, and answers to nobody."""
    begun, go_on, ended = anyio.Event(), anyio.Event(), anyio.Event()

    async def upstream(_scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        begun.set()
        await go_on.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b'{"data":[{"b64_json":"aGVsbG8="}]}'})
        ended.set()

    app = images(
        channels=[
            ChannelConfig(
                name="own", adapter="openai-compatible", base_url="asgi://painter/v1", models=("gpt-image-2",)
            )
        ],
        apps={"painter": upstream},
    )
    async with app.lifespan():
        async with anyio.create_task_group() as client:
            client.start_soon(app, scope(), receiving(), swallow)
            await begun.wait()
            client.cancel_scope.cancel()
        go_on.set()
        await ended.wait()


def scope() -> Scope:
    headers = [(b"content-type", b"application/json"), (b"authorization", f"Bearer {KEY}".encode())]
    return {"type": "http", "method": "POST", "path": "/v1/images/generations", "headers": headers}


def receiving() -> Receive:
    async def receive() -> Message:
        await anyio.lowlevel.checkpoint()
        return {"type": "http.request", "body": json.dumps(BODY).encode()}

    return receive


async def swallow(_message: Message) -> None:
    await anyio.lowlevel.checkpoint()


def free_port() -> int:
    with serve(PlainTextResponse("x"), lifespan="off") as url:
        return int(url.rpartition(":")[2])


def asked_until_it_listens(url: str) -> httpx2.Response:
    """Ask as soon as somebody listens."""
    until(lambda: listens(int(url.rpartition(":")[2])))
    return ask(url, "/v1/images/generations")
