"""Let in who shows a valid API key, and say who it is."""

from collections.abc import Awaitable, Callable
from typing import Any, Final

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from amux_asgi.errors import AuthenticationError, ConfigError, GatewayError
from amux_asgi.keys import KeyStore, Principal
from amux_asgi.respond import respond
from amux_asgi.scope import found_principal, with_principal

Authenticate = Callable[[HTTPConnection], Awaitable[Principal | None]]
"""Says whom a request is from; `None` is nobody, which is answered with 401."""

LONGEST: Final = 512  # characters of a key


class AuthMiddleware:
    """Authenticate by API key, or by a function of the team's.

    Raises nothing of its own: answers 401 itself. Adds a `Principal` to the scope unless an outer app did.
    """

    def __init__(self, app: ASGIApp, *, keys: KeyStore | None = None, authenticate: Authenticate | None = None) -> None:
        """Take exactly one of `keys` and `authenticate`."""
        if (keys is None) == (authenticate is None):
            raise ConfigError("say who may call in one way: either `keys` or `authenticate`")
        self.app = app
        self.keys = keys
        self.authenticate = authenticate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope; only `lifespan` passes unasked."""
        if scope["type"] == "lifespan" or found_principal(scope) is not None:
            await self.app(scope, receive, send)
            return
        try:
            principal = await self._principal(scope)
        except GatewayError as error:
            await respond(scope, receive, send, error)
            return
        await self.app(with_principal(scope, principal), receive, send)

    async def _principal(self, scope: Scope) -> Principal:
        if self.keys is not None:
            return await self.keys.authenticate(api_key_of(scope))
        if self.authenticate is None:  # excluded when constructed
            raise AuthenticationError("nobody may call this")
        found = await self.authenticate(HTTPConnection(scope))
        if found is None:
            raise AuthenticationError("the request does not say, in a way that counts here, whom it is from")
        return found


def api_key_of(scope: Scope) -> str:
    """Read the API key from the one `Authorization: Bearer` header; never from the query.

    Raises:
        AuthenticationError: there is none, more than one, or not of this kind.
    """
    values = [value for name, value in scope["headers"] if name == b"authorization"]
    if not values:
        raise AuthenticationError("no API key: send it as 'Authorization: Bearer <key>'")
    if len(values) > 1:
        raise AuthenticationError("more than one 'Authorization' header: send exactly one")
    scheme, _, key = values[0].decode("latin-1").partition(" ")
    key = key.strip(" ")
    if scheme.lower() != "bearer" or not key:
        raise AuthenticationError("the 'Authorization' header must be 'Bearer <key>'")
    if len(key) > LONGEST or not key.isascii() or not key.isprintable() or " " in key:
        raise AuthenticationError("what stands after 'Bearer' is no API key")
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


_ANYONE: Final = Principal(account="anyone", key="anyone")
