"""`GET /healthz` and `GET /readyz`: for load balancers and supervisors; nobody needs a key, and nothing secret is told.

Healthy is a process that serves; to restart it helps nobody else. Ready is one that should be sent requests.
"""

from collections.abc import Awaitable, Callable, Iterable
from typing import Final

import msgspec
from msgspec import Struct
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from amux_asgi.errors import MethodNotAllowedError
from amux_asgi.health import Health
from amux_asgi.runtime import Runtimes

FRESH: Final = 1.0  # seconds for which what was found of the upstreams is told again


class Reason(Struct, frozen=True):
    """Why it is not ready."""

    code: str
    message: str


NOT_STARTED: Final = Reason("not_started", "the gateway was never started: its lifespan was not entered")
STOPPING: Final = Reason("stopping", "the gateway is stopping: it finishes what runs")
STORAGE: Final = Reason("storage_unavailable", "the store of keys and money does not answer")
UPSTREAMS: Final = Reason("upstream_unavailable", "no upstream can be asked at present: each is benched or failing")


class Probes:
    """Answers both. `asked` says whether somebody ever wanted to know if this process is ready."""

    def __init__(self, runtimes: Runtimes, health: Health, *, clock: Callable[[], float]) -> None:
        """`clock` is monotonic, in seconds."""
        self.asked: bool = False
        self._runtimes = runtimes
        self._health = health
        self._clock = clock
        self._until: float | None = None
        self._open = False

    def routes(self) -> list[BaseRoute]:
        """List the routes: of a router around the authenticated stack."""
        return [
            Route(prefix + path, app)
            for prefix in ("/v1", "")
            for path, app in (("/healthz", _Endpoint(self.healthz)), ("/readyz", _Endpoint(self.readyz)))
        ]

    async def healthz(self) -> tuple[int, object]:
        """Answer as long as there is somebody who answers."""
        return 200, {"status": "ok"}

    async def readyz(self) -> tuple[int, object]:
        """Answer 200 if requests should be sent here, otherwise 503 with all reasons against it."""
        self.asked = True
        reasons = [reason for reason in await self._reasons() if reason is not None]
        return (503, {"status": "not ready", "reasons": reasons}) if reasons else (200, {"status": "ready"})

    async def _reasons(self) -> Iterable[Reason | None]:
        home = self._runtimes.current
        if home is None:
            return (NOT_STARTED,)
        return (
            STOPPING if self._runtimes.stopping else None,
            None if await home.pulse.beats() else STORAGE,
            None if self._some_open() else UPSTREAMS,
        )

    def _some_open(self) -> bool:
        """Tell whether any channel can be asked: where one model is out, the others are still served well."""
        now = self._clock()
        if self._until is None or now >= self._until:
            self._open = any(row.state in _OPEN for row in self._health.snapshot())
            self._until = now + FRESH
        return self._open


class _Endpoint:
    def __init__(self, answer: Callable[[], Awaitable[tuple[int, object]]]) -> None:
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002, an ASGI app's signature
        if scope["method"] not in ("GET", "HEAD"):
            raise MethodNotAllowedError("this path is there to be looked at", allow="GET, HEAD")
        status, told = await self._answer()
        body = msgspec.json.encode(told)
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"cache-control", b"no-store"),
        ]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})


_OPEN: Final = ("open", "on trial")
