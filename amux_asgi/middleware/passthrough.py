"""Pass chosen paths to a vendor unchanged, under the team's own keys and with our credential."""

from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from itertools import count
from typing import Final, Literal

import anyio
from msgspec import Struct
from starlette.types import ASGIApp, Receive, Scope, Send

from amux_asgi.errors import (
    ConfigError,
    End,
    GatewayError,
    PermissionDeniedError,
    RequestTooLargeError,
    UpstreamAuthError,
    UpstreamRedirectError,
    UpstreamTimeoutError,
)
from amux_asgi.respond import respond
from amux_asgi.routing import Channel
from amux_asgi.scope import facts_of, principal_of, request_id_of
from amux_asgi.transport.base import Incoming, Progress, Transport
from amux_asgi.transport.httpx import open_httpx2
from amux_asgi.wire import HttpRequest

TransportOf = Callable[[Channel], AbstractAsyncContextManager[Transport]]


class Passthrough(Struct, frozen=True, kw_only=True):
    """One path of a vendor's that is passed on.

    `path` is the exact decoded path here; `upstream_path` goes behind the channel's base URL. Only principals whose
    `passthrough` globs name it may call it. `unmetered=True` says that calls are not charged; prices come later.
    """

    name: str
    path: str
    upstream_path: str
    channel: Channel
    methods: tuple[str, ...] = ("POST",)
    unmetered: Literal[True]
    max_body: int = 26_214_400  # bytes


class PassthroughMiddleware:
    """Stream matching requests to the vendor and its answers back; everything else goes to the wrapped app.

    Raises nothing of its own: answers its refusals itself. Wants an `AuthMiddleware` outside.
    """

    def __init__(
        self, app: ASGIApp, passthroughs: Iterable[Passthrough], *, transport_of: TransportOf | None = None
    ) -> None:
        """`transport_of` gives a channel's open transport; without it each call opens its own."""
        self.app = app
        self.passthroughs = {passthrough.path: passthrough for passthrough in passthroughs}
        self.transport_of: TransportOf = transport_of or (lambda _channel: open_httpx2())
        self._turns = count()
        for passthrough in self.passthroughs.values():
            _check(passthrough)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope."""
        passthrough = self.passthroughs.get(_path(scope)) if scope["type"] == "http" else None
        if passthrough is None or scope["method"] not in passthrough.methods:
            await self.app(scope, receive, send)
            return
        answer = _Answer(scope, send)
        try:
            await self._pass(passthrough, scope, receive, answer)
        except GatewayError as error:
            if answer.begun:
                raise
            await respond(scope, receive, send, error)

    async def _pass(self, passthrough: Passthrough, scope: Scope, receive: Receive, answer: "_Answer") -> None:
        if not principal_of(scope).may_pass(passthrough.name):
            raise PermissionDeniedError(
                f"this API key may not use the passthrough {passthrough.name!r}", code="passthrough_not_allowed"
            )
        facts_of(scope).update(passthrough=passthrough.name, channel=passthrough.channel.name)
        request = self._request(passthrough, scope)
        body = _Body(receive, passthrough.max_body)
        progress = Progress()
        try:
            with anyio.fail_after(passthrough.channel.timeout):
                async with (
                    self.transport_of(passthrough.channel) as transport,
                    transport.send(request, progress, body=body.pieces() if _has_body(scope) else None) as incoming,
                ):
                    _check_answer(incoming)
                    await _relay(incoming, answer, body, receive)
        except TimeoutError as exc:
            raise UpstreamTimeoutError("the upstream did not finish in time", end=_end(progress)) from exc
        except GatewayError as error:
            if body.fault is not None:
                raise body.fault from error
            error.end = error.end or _end(progress)
            raise

    def _request(self, passthrough: Passthrough, scope: Scope) -> HttpRequest:
        channel = passthrough.channel
        sent = tuple((name.decode(), value.decode("latin-1")) for name, value in scope["headers"] if name in _FORWARDED)
        request = HttpRequest(
            method=scope["method"],
            url=channel.base_url + passthrough.upstream_path,
            headers=(*sent, ("accept-encoding", "identity"), ("user-agent", "amux-asgi"), *channel.headers.items()),
        )
        if not channel.credentials:
            return request
        credential = channel.credentials[next(self._turns) % len(channel.credentials)]
        signed = channel.adapter.sign(request, credential)
        return HttpRequest(method=request.method, url=request.url, headers=(*request.headers, *signed))


class _Answer:
    """The way back to the client."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self._scope = scope
        self._send = send
        self.begun = False

    async def start(self, incoming: Incoming) -> None:
        self.begun = True
        headers = [
            (name.encode("latin-1"), value.encode("latin-1")) for name, value in incoming.headers if _is_returned(name)
        ]
        headers.append((b"x-request-id", request_id_of(self._scope).encode()))
        await self._send({"type": "http.response.start", "status": incoming.status, "headers": headers})

    async def piece(self, body: bytes, *, more: bool) -> None:
        await self._send({"type": "http.response.body", "body": body, "more_body": more})


class _Body:
    """The request's body on its way up, piece by piece; `fault` is what was wrong with it."""

    def __init__(self, receive: Receive, longest: int) -> None:
        self._receive = receive
        self._left = longest
        self.fault: GatewayError | None = None
        self.complete = False

    async def pieces(self) -> AsyncIterator[bytes]:
        more = True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise OSError("the client left")
            piece: bytes = message.get("body", b"")
            self._left -= len(piece)
            if self._left < 0:
                self.fault = RequestTooLargeError("the request is larger than this passthrough takes")
                raise OSError("the request is too large")
            more = message.get("more_body", False)
            if piece:
                yield piece
        self.complete = True


async def _relay(incoming: Incoming, answer: _Answer, body: AsyncIterable[bytes] | _Body, receive: Receive) -> None:
    """Hand the answer on as it comes; a client that leaves ends it, and with it the upstream's connection."""
    await answer.start(incoming)
    error: Exception | None = None
    async with anyio.create_task_group() as tasks:
        if not isinstance(body, _Body) or body.complete:
            tasks.start_soon(_cancel_on_leaving, receive, tasks.cancel_scope)
        try:
            async for piece in incoming.chunks:
                await answer.piece(piece, more=True)
            await answer.piece(b"", more=False)
        except Exception as exc:  # noqa: BLE001, raised again below, outside the task group that would wrap it
            error = exc
        tasks.cancel_scope.cancel()
    if error is not None:
        raise error


async def _cancel_on_leaving(receive: Receive, scope: anyio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


def _check(passthrough: Passthrough) -> None:
    segments = {segment for segment in (passthrough.path + passthrough.upstream_path).lower().split("/") if segment}
    if stateful := sorted(segments & _STATEFUL):
        raise ConfigError(
            f"the passthrough {passthrough.name!r} leads to {stateful[0]!r}, where all tenants share one account; "
            "it cannot be passed through"
        )
    if not (passthrough.path.startswith("/") and passthrough.upstream_path.startswith("/")):
        raise ConfigError(f"the paths of the passthrough {passthrough.name!r} must begin with a slash")
    if passthrough.channel.base_url.startswith("asgi:"):
        raise ConfigError(f"the passthrough {passthrough.name!r} needs an upstream with an address")


def _check_answer(incoming: Incoming) -> None:
    if incoming.status in (401, 403):
        raise UpstreamAuthError("the upstream refuses this gateway's credential")
    if 300 <= incoming.status < 400:  # noqa: PLR2004, HTTP's redirects
        raise UpstreamRedirectError("the upstream answered with a redirect, which is never followed")


def _end(progress: Progress) -> End:
    return End.UNKNOWN if progress.began else End.NEVER_SENT


def _path(scope: Scope) -> str:
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    return path.removeprefix(root) if root and path.startswith(f"{root}/") else path


def _has_body(scope: Scope) -> bool:
    return any(name in (b"content-length", b"transfer-encoding") for name, _ in scope["headers"])


def _is_returned(name: str) -> bool:
    return name in _RETURNED or name.startswith("x-ratelimit-")


_FORWARDED: Final = frozenset({b"accept", b"content-type", b"content-length", b"idempotency-key"})
_RETURNED: Final = frozenset(
    {"cache-control", "content-disposition", "content-length", "content-type", "retry-after", "retry-after-ms"}
)
_STATEFUL: Final = frozenset(
    {
        "assistants",
        "batches",
        "containers",
        "conversations",
        "files",
        "fine_tuning",
        "responses",
        "threads",
        "uploads",
        "vector_stores",
        "videos",
    }
)
