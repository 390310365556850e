"""Turn what inner apps raise into answers, and put the request id on every answer."""

import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from typing import Final, cast

from starlette.exceptions import HTTPException, WebSocketException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from amux_asgi.errors import (
    INTERNAL,
    AuthenticationError,
    GatewayError,
    InternalError,
    InvalidRequestError,
    MethodNotAllowedError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    RequestTimeoutError,
    RequestTooLargeError,
    UnsupportedMediaTypeError,
    UpstreamTimeoutError,
    UpstreamUnavailableError,
)
from amux_asgi.redact import redact
from amux_asgi.respond import log, respond
from amux_asgi.scope import request_id_of

logger: logging.Logger = logging.getLogger("amux_asgi")

BAD_REQUEST: Final = 400
SERVER_ERROR: Final = 500


class ErrorMiddleware:
    """Answer errors of any app in one form.

    Our own errors and Starlette's `HTTPException` become answers; anything else becomes a 500 that tells nothing and is
    raised again, for the host's own error reporting. Once an answer has begun, everything is raised again.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        # Asked before an inner app copies the scope, so that all know the same one.
        watched = _Watched(request_id_of(scope), receive, send)
        try:
            await self.app(scope, watched.receive, watched.send)
        except Exception as exc:  # noqa: BLE001, raised again where it is not an answer
            await _raised(_alone(exc), exc, scope, watched)
        else:
            if scope["type"] == "http" and not watched.begun and not watched.gone:
                await _fail(scope, send, InternalError("the app gave no answer"))


async def reraise(_request: Request, exc: Exception) -> Response:
    """Leave an exception to the `ErrorMiddleware` outside, so that a host's own 404 and 405 look like ours.

    For Starlette and FastAPI: `exception_handlers={HTTPException: reraise}, middleware=[Middleware(ErrorMiddleware)]`.
    """
    raise exc


class _Watched:
    """What went through: whether an answer has begun, and whether the client has gone; puts the id on the answer."""

    __slots__ = ("_id", "_receive", "_send", "begun", "gone")

    def __init__(self, request_id: str, receive: Receive, send: Send) -> None:
        self._id = (b"x-request-id", request_id.encode())
        self._receive = receive
        self._send = send
        self.begun: bool = False
        self.gone: bool = False

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] in _ENDS:
            self.gone = True
        return message

    def send(self, message: Message) -> Awaitable[None]:
        if message["type"] in _BEGINNINGS:
            self.begun = True
            if message["type"] in _STARTS:
                headers = [pair for pair in message.get("headers", ()) if pair[0].lower() != b"x-request-id"]
                message = {**message, "headers": [*headers, self._id]}
        return self._send(message)


async def _raised(cause: BaseException, exc: Exception, scope: Scope, watched: _Watched) -> None:
    """Answer what an app raised, or raise it again."""
    if isinstance(cause, ClientDisconnect | WebSocketDisconnect):
        raise exc
    if isinstance(cause, WebSocketException) and scope["type"] == "websocket" and not watched.gone:
        await watched.send({"type": "websocket.close", "code": cause.code, "reason": cause.reason})
        return
    if watched.gone and isinstance(cause, GatewayError):  # nobody is there, and it is no bug
        if scope["type"] == "http" and not watched.begun:
            with suppress(OSError):  # some servers say so when nobody takes it
                await respond(scope, watched.send, cause)  # a host's `BaseHTTPMiddleware` fails without an answer
        return
    error = _meaning(cause)
    if watched.begun or watched.gone:
        log(scope, error)
        raise exc
    if isinstance(cause, HTTPException) and cause.status_code < BAD_REQUEST:  # a redirect, say: no error
        await Response(status_code=cause.status_code, headers=cause.headers)(scope, watched.receive, watched.send)
        return
    await _fail(scope, watched.send, error)
    if isinstance(error, InternalError):
        raise exc


async def _fail(scope: Scope, send: Send, error: GatewayError) -> None:
    log(scope, error)
    await respond(scope, send, error)


def _alone(exc: Exception) -> BaseException:
    """Take an exception out of the groups that task groups wrap around it."""
    found: BaseException = exc
    while isinstance(found, BaseExceptionGroup):
        match cast("BaseExceptionGroup[BaseException]", found).exceptions:
            case [one]:
                found = one
            case _:
                return exc
    return found


def _meaning(cause: BaseException) -> GatewayError:
    """Say what an exception is to a client."""
    if isinstance(cause, GatewayError):
        return cause
    if isinstance(cause, HTTPException):
        return _http_error(cause)
    return InternalError(INTERNAL)


def _http_error(exc: HTTPException) -> GatewayError:
    status = exc.status_code
    usual = (InvalidRequestError, "the request was refused") if status < SERVER_ERROR else (GatewayError, "it failed")
    kind, message = _BY_STATUS.get(status, usual)
    error = kind(_detail(exc) or message)
    error.status = status
    headers = {name.lower(): value for name, value in (exc.headers or {}).items() if name.lower() not in _OURS}
    if isinstance(error, MethodNotAllowedError):
        error.allow = headers.pop("allow", "")
    if headers.get("retry-after", "").isdecimal():
        error.retry_after = int(headers.pop("retry-after"))
    error.headers = tuple({**dict(error.headers), **headers}.items())
    return error


def _detail(exc: HTTPException) -> str:
    """Give what an app says to its client, if it is text and more than the status's own phrase."""
    detail = getattr(exc, "detail", None)  # FastAPI's may be anything
    if not isinstance(detail, str) or exc.status_code >= SERVER_ERROR or detail == _PHRASES.get(exc.status_code):
        return ""
    return redact(detail)


_STARTS: Final = ("http.response.start", "websocket.accept", "websocket.http.response.start")
_BEGINNINGS: Final = (*_STARTS, "websocket.close")
_ENDS: Final = ("http.disconnect", "websocket.disconnect")
_PHRASES: Final = {status.value: status.phrase for status in HTTPStatus}
_OURS: Final = ("content-length", "content-type", "x-request-id")
_BY_STATUS: Final[Mapping[int, tuple[Callable[[str], GatewayError], str]]] = {
    401: (AuthenticationError, "this needs authentication"),
    403: (PermissionDeniedError, "this is not allowed"),
    404: (NotFoundError, "nothing answers at this path"),
    405: (partial(MethodNotAllowedError, allow=""), "this path does not take this method"),
    408: (RequestTimeoutError, "the request did not arrive in time"),
    413: (RequestTooLargeError, "the request is too large"),
    415: (UnsupportedMediaTypeError, "the request's content type is not understood"),
    429: (RateLimitError, "a limit is reached"),
    503: (UpstreamUnavailableError, "this is not available at present"),
    504: (UpstreamTimeoutError, "the deadline passed"),
}
