"""Let in who shows a valid API key, and say who it is."""

import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from amux_asgi.errors import AuthenticationError, ConfigError, GatewayError, InternalError, PermissionDeniedError
from amux_asgi.keys import KeyStore, Principal
from amux_asgi.networks import inside, networks_of
from amux_asgi.respond import respond
from amux_asgi.scope import found_principal, header_values, peer_of, with_principal

Authenticate = Callable[[HTTPConnection], Awaitable[Principal | None]]
"""Says whom a request is from; `None` is nobody, which is answered with 401."""

LONGEST: Final = 512  # characters of a key

logger: logging.Logger = logging.getLogger("amux_asgi")


class AuthMiddleware:
    """Authenticate by API key, or by a function of the team's.

    Raises nothing of its own: answers 401, 403, 429 and 503 itself. Adds a `Principal` to the scope unless an outer app
    did. Where the client is, the server says; `X-Forwarded-For` and the like are never read here.
    """

    def __init__(self, app: ASGIApp, *, keys: KeyStore | None = None, authenticate: Authenticate | None = None) -> None:
        """Take exactly one of `keys` and `authenticate`."""
        self.app = app
        if authenticate is not None and keys is None:
            self._authenticate = _by_function(authenticate)
        elif keys is not None and authenticate is None:
            self._authenticate = _by_key(keys)
        else:
            raise ConfigError("say who may call in one way: either `keys` or `authenticate`")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope; only `lifespan` passes unasked."""
        if scope["type"] == "lifespan" or found_principal(scope) is not None:
            await self.app(scope, receive, send)
            return
        if scope["type"] not in ("http", "websocket"):
            raise NotImplementedError(f"nobody can be authenticated in an ASGI scope of type {scope['type']!r}")
        try:
            principal = _checked(await self._authenticate(scope))
            inner = with_principal(scope, principal)
            _check_network(principal, peer_of(scope))
        except GatewayError as error:
            await respond(scope, send, error)
            return
        await self.app(inner, receive, send)


def api_key_of(scope: Scope) -> str:
    """Read the API key from the one `Authorization: Bearer` header; never from the query.

    Raises:
        AuthenticationError: there is none, more than one, or not of this kind.
    """
    values = header_values(scope, b"authorization")
    if not values:
        raise AuthenticationError("no API key: send it as 'Authorization: Bearer <key>'")
    if len(values) > 1:
        raise AuthenticationError("more than one 'Authorization' header: send exactly one")
    scheme, _, rest = values[0].decode("latin-1").partition(" ")
    key = rest.strip(" ")
    if scheme.lower() != "bearer":
        raise AuthenticationError("the 'Authorization' header must be of the scheme 'Bearer': 'Bearer <key>'")
    if not key:
        raise AuthenticationError("the 'Authorization' header holds no key behind 'Bearer'")
    if len(key) > LONGEST:
        raise AuthenticationError(f"what stands behind 'Bearer' is longer than {LONGEST} characters, so it is no key")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise AuthenticationError("what stands behind 'Bearer' holds a character that no key has")
    return key


async def anyone(_connection: HTTPConnection) -> Principal:
    """Let everybody in, as one and the same account."""
    return _ANYONE


async def outer(_connection: HTTPConnection) -> None:
    """Let in only whom an `AuthMiddleware` further out has named already."""


def from_user(resolve: Callable[[Any], Principal | None]) -> Authenticate:
    """Authenticate by the host's own `scope["user"]`, if it is authenticated.

    `resolve` leads from the user to the principal; `None` is nobody.
    """

    async def authenticate(connection: HTTPConnection) -> Principal | None:
        user = connection.scope.get("user")
        # Starlette's `UnauthenticatedUser` is truthy: only what it says of itself counts.
        return resolve(user) if getattr(user, "is_authenticated", False) is True else None

    return authenticate


def _by_key(keys: KeyStore) -> Callable[[Scope], Awaitable[object]]:
    def authenticate(scope: Scope) -> Awaitable[Principal]:
        return keys.authenticate(api_key_of(scope), peer_of(scope))

    return authenticate


def _by_function(function: Authenticate) -> Callable[[Scope], Awaitable[object]]:
    def authenticate(scope: Scope) -> Awaitable[object]:
        return function(HTTPConnection(scope))

    return authenticate


def _checked(found: object) -> Principal:
    """Take an answer of the team's own code only if it is one: what is merely true lets nobody in."""
    if found is None:
        raise AuthenticationError("the request does not say, in a way that counts here, whom it is from")
    if not isinstance(found, Principal):
        logger.error("`authenticate` gave a %s; it must give a Principal, or None for nobody", type(found).__name__)
        raise InternalError("the gateway could not find out whom the request is from")
    return found


def _check_network(principal: Principal, peer: str | None) -> None:
    if principal.networks is None:
        return
    try:
        networks = networks_of(principal.networks)
    except ValueError as exc:
        logger.exception("the networks of the API key %r cannot be read, so nobody may use it", principal.key)
        raise InternalError("the gateway could not find out where this API key may be used from") from exc
    if not inside(networks, peer):
        raise PermissionDeniedError("this API key may not be used from where you are", code="network_not_allowed")


_ANYONE: Final = Principal(account="anyone", key="anyone")
