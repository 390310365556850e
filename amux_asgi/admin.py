"""`admin_app(...)`: keys, accounts and use over HTTP, for an operator's own tools; mounted by nobody unasked."""

import hmac
import logging
import os
import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import Any, Final
from urllib.parse import parse_qsl

import msgspec
from msgspec import Struct
from starlette.routing import BaseRoute, Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from amux_asgi.admin_document import document
from amux_asgi.admin_verbs import Asked, Verb, paths
from amux_asgi.database import Database
from amux_asgi.document import object_of
from amux_asgi.errors import (
    AuthenticationError,
    ConfigError,
    InvalidRequestError,
    MethodNotAllowedError,
    NotFoundError,
    StorageUnavailableError,
)
from amux_asgi.keys import digest_of
from amux_asgi.live import ChannelState, Live
from amux_asgi.manage import Manager
from amux_asgi.middleware.auth import LONGEST as LONGEST_SECRET
from amux_asgi.middleware.auth import api_key_of
from amux_asgi.middleware.errors import ErrorMiddleware
from amux_asgi.receive import receive_json
from amux_asgi.words import quote

SHORTEST_SECRET: Final = 20  # characters
LONGEST_BODY: Final = 65_536  # bytes
BODY_TIMEOUT: Final = 30  # seconds
DOCUMENT: Final = "/openapi.json"
CHANNELS: Final = "/channels"

logger: logging.Logger = logging.getLogger("amux_asgi")


class AdminApp:
    """The admin app: to be run alone on a private address, or mounted where only operators come.

    `lifespan` keeps the database open; without it, each request opens it.
    """

    def __init__(self, database: Database | None, secret: str, images: Live | None) -> None:
        self._database = database
        digest = digest_of(secret)
        routes: list[BaseRoute] = []
        if database is not None:
            routes += [Route(path, _Guard(_Endpoint(database, verbs), digest)) for path, verbs in paths().items()]
            routes.append(Route(DOCUMENT, _Document()))
        if images is not None:
            routes.append(Route(CHANNELS, _Guard(_LiveChannels(images), digest)))
        router = Router(
            routes,
            redirect_slashes=False,
            default=_Guard(_nothing_here, digest),
            lifespan=self.lifespan,
        )
        self._app = ErrorMiddleware(router)

    def lifespan(self, app: object = None) -> AbstractAsyncContextManager[None]:
        """Keep the database open while entered."""
        return nullcontext() if self._database is None else self._database.lifespan(app)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope."""
        await self._app(scope, receive, send)


def admin_app(database: Database | str | None, *, secret: str, images: Live | None = None) -> AdminApp:
    """Make the admin app of a database, or of a database's URL; opens nothing.

    With `images`, the gateway's app in the same process, `GET /channels` says what its channels do; without a database
    that is all.

    Whoever shows the secret as `Authorization: Bearer <secret>` may do everything; only `/openapi.json`, which tells
    nothing of the database, is for everybody.

    Raises:
        ConfigError: the secret is too short or cannot be sent, or the URL is none.
    """
    if not (SHORTEST_SECRET <= len(secret) <= LONGEST_SECRET and _SECRET.fullmatch(secret)):
        raise ConfigError(
            f"the admin app's secret has {SHORTEST_SECRET} to {LONGEST_SECRET} printable ASCII characters and no blank"
        )
    return AdminApp(Database(database) if isinstance(database, str) else database, secret, images)


class _Guard:
    """Let in who knows the secret; whom an app further out let in does not count here."""

    def __init__(self, app: ASGIApp, digest: bytes) -> None:
        self._app = app
        self._digest = digest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise NotFoundError("nothing answers to a websocket here")
        if not hmac.compare_digest(digest_of(api_key_of(scope)), self._digest):
            raise AuthenticationError("this is not the admin app's secret")
        await self._app(scope, receive, send)


class _Endpoint:
    """One path: each of its methods is a verb."""

    def __init__(self, database: Database, verbs: Mapping[str, Verb]) -> None:
        self._database = database
        self._verbs = verbs

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        verb = self._verbs.get(scope["method"])
        if verb is None:
            raise _not_allowed(self._verbs)
        asked = Asked(scope["path_params"].get("name", ""), _query(scope, verb), await _body(scope, receive, verb))
        async with self._managed() as manager:
            answer = await verb.run(manager, asked)
        await _answer(send, answer, verb.status)

    @asynccontextmanager
    async def _managed(self) -> AsyncGenerator[Manager]:
        try:
            async with self._database.opened() as stores:
                yield stores.manage
        except ConfigError as exc:
            logger.exception("the admin app cannot use its database")
            raise StorageUnavailableError("the database cannot be used at present") from exc


class Channels(Struct, frozen=True):
    """The answer of `GET /channels`: of one process, by its number."""

    process: int
    channels: list[ChannelState]


class _LiveChannels:
    """What the channels do now."""

    def __init__(self, images: Live) -> None:
        self._images = images

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002, an ASGI app's signature
        if scope["method"] != "GET":
            raise _not_allowed({"GET": None})
        await _answer(send, Channels(os.getpid(), self._images.channels()), 200)


class _Document:
    """What can be asked, for everybody."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002, an ASGI app's signature
        if scope["method"] != "GET":
            raise _not_allowed({"GET": None})
        await _answer(send, document(scope.get("root_path", "")), 200)


async def _nothing_here(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001, an ASGI app's signature
    raise NotFoundError(f"nothing answers at {quote(scope['path'])}; {DOCUMENT} says what does")


def _not_allowed(methods: Mapping[str, object]) -> MethodNotAllowedError:
    allow = ", ".join(methods)
    return MethodNotAllowedError(f"this path takes {allow} only", allow=allow)


def _query(scope: Scope, verb: Verb) -> Any:  # noqa: ANN401, of the verb's type
    try:
        pairs = parse_qsl(
            scope["query_string"].decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=MOST_FIELDS
        )
    except ValueError as exc:
        raise InvalidRequestError("the query is not what URLs have") from exc
    told = dict(pairs)
    if len(told) < len(pairs):
        raise InvalidRequestError("the query names a field twice", code="duplicate_key")
    return _read(told, verb.query or _Nothing, strict=False)


async def _body(scope: Scope, receive: Receive, verb: Verb) -> Any:  # noqa: ANN401, of the verb's type
    if verb.body is None:
        return None
    body = await receive_json(scope, receive, longest=LONGEST_BODY, timeout=BODY_TIMEOUT)
    return _read(object_of(body), verb.body, strict=True)


def _read(told: Mapping[str, Any], kind: type[Struct], *, strict: bool) -> Struct:
    try:
        return msgspec.convert(told, kind, strict=strict)
    except msgspec.ValidationError as exc:
        raise _invalid(str(exc)) from exc


def _invalid(text: str) -> InvalidRequestError:
    """Say what msgspec found, in the words of the API."""
    for pattern, code, message in _FAULTS:
        if found := pattern.match(text):
            return InvalidRequestError(message.format(quote(found[1])), param=found[1], code=code)
    message, _, at = text.partition(" - at `$.")
    where = re.split(r"[^A-Za-z_]", at)[0]
    return InvalidRequestError(f"'{where}': {message[0].lower()}{message[1:]}", param=where, code="invalid_type")


async def _answer(send: Send, answer: object, status: int) -> None:
    body = msgspec.json.encode(answer)
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class _Nothing(Struct, forbid_unknown_fields=True):
    """The query of a verb that takes none."""


MOST_FIELDS: Final = 20
_SECRET: Final = re.compile(r"[!-~]+")
_FAULTS: Final = (
    (re.compile(r"Object missing required field `(.*?)`"), "missing_required_parameter", "{} is missing"),
    (re.compile(r"Object contains unknown field `(.*)`", re.DOTALL), "unknown_parameter", "there is no field {}"),
)
