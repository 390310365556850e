"""Turn what inner apps raise into answers, and put the request id on every answer."""

import logging
from collections.abc import Mapping
from typing import Final, cast

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from amux_asgi.errors import (
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
from amux_asgi.respond import respond
from amux_asgi.scope import facts_of, request_id_of

logger = logging.getLogger("amux_asgi")

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
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        answer = _Answer(scope, send)
        try:
            await self.app(scope, receive, answer.send)
        except Exception as exc:
            error = _meaning(exc)
            if answer.begun:
                _log(scope, error)
                raise
            _log(scope, error)
            await respond(scope, receive, send, error)
            if isinstance(error, InternalError):
                raise
        else:
            if not answer.begun and scope["type"] == "http":
                error = InternalError("the app gave no answer")
                _log(scope, error)
                await respond(scope, receive, send, error)


async def reraise(_request: Request, exc: Exception) -> Response:
    """Leave an exception to the `ErrorMiddleware` outside, so that a host's own 404 and 405 look like ours.

    For Starlette and FastAPI: `exception_handlers={HTTPException: reraise}, middleware=[Middleware(ErrorMiddleware)]`.
    """
    raise exc


class _Answer:
    """Whether an answer has begun; puts the request id on it."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self._scope = scope
        self._send = send
        self.begun = False

    async def send(self, message: Message) -> None:
        if message["type"] in _STARTS:
            self.begun = True
            request_id = request_id_of(self._scope)
            facts_of(self._scope)["request_id"] = request_id
            if message["type"] != "websocket.close":
                headers = [pair for pair in message.get("headers", ()) if pair[0].lower() != b"x-request-id"]
                message = {**message, "headers": [*headers, (b"x-request-id", request_id.encode())]}
        await self._send(message)


def _meaning(exc: Exception) -> GatewayError:
    """Say what an exception is to a client."""
    found: BaseException = exc
    while (
        isinstance(found, BaseExceptionGroup)
        and len(group := cast("BaseExceptionGroup[BaseException]", found).exceptions) == 1
    ):
        found = group[0]
    if isinstance(found, GatewayError):
        return found
    if isinstance(found, HTTPException):
        return _http_error(found)
    return InternalError("an internal error; the request id finds it in the operator's log")


def _http_error(exc: HTTPException) -> GatewayError:
    headers: Mapping[str, str] = {name.lower(): value for name, value in (exc.headers or {}).items()}
    if exc.status_code == MethodNotAllowedError.status:
        return MethodNotAllowedError("this path does not take this method", allow=headers.get("allow", ""))
    kind, message = _BY_STATUS.get(exc.status_code, (None, ""))
    if kind is None:
        kind = InvalidRequestError if exc.status_code < SERVER_ERROR else GatewayError
        message = "the request was refused" if exc.status_code < SERVER_ERROR else "the app failed"
    error = kind(message)
    error.status = exc.status_code
    error.headers = tuple((name, value) for name, value in headers.items() if name not in _OURS)
    return error


def _log(scope: Scope, error: GatewayError) -> None:
    if error.status >= SERVER_ERROR:
        logger.error("%s: %d %s", request_id_of(scope), error.status, error.code)


_STARTS: Final = ("http.response.start", "websocket.accept", "websocket.http.response.start", "websocket.close")
_OURS: Final = ("content-length", "content-type", "x-request-id")
_BY_STATUS: Final[Mapping[int, tuple[type[GatewayError], str]]] = {
    401: (AuthenticationError, "this needs authentication"),
    403: (PermissionDeniedError, "this is not allowed"),
    404: (NotFoundError, "nothing answers at this path"),
    408: (RequestTimeoutError, "the request did not arrive in time"),
    413: (RequestTooLargeError, "the request is too large"),
    415: (UnsupportedMediaTypeError, "the request's content type is not understood"),
    429: (RateLimitError, "a limit is reached"),
    503: (UpstreamUnavailableError, "this is not available at present"),
    504: (UpstreamTimeoutError, "the deadline passed"),
}
