"""Limit how often, and how often at once, anybody calls any app."""

import ipaddress
from collections.abc import Callable, Iterable
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from amux_asgi.admission import Admission, Hit, Limiter, Rule, Unit, enter, rules
from amux_asgi.admitting import account_scope, key_scope
from amux_asgi.errors import ConfigError, GatewayError
from amux_asgi.refusals import headers_of
from amux_asgi.respond import encoded, respond
from amux_asgi.scope import admission_of, peer_of, principal_of, with_admission

NEAR: Final = 64  # bits of an IPv6 address that a customer of a provider does not choose


def by_key(scope: Scope) -> str:
    """Count by the API key that the call came with.

    Raises:
        AuthenticationError: nobody said whom it is from.
    """
    return key_scope(principal_of(scope))


def by_account(scope: Scope) -> str:
    """Count by the account that the call is from.

    Raises:
        AuthenticationError: nobody said whom it is from.
    """
    return account_scope(principal_of(scope))


def by_address(scope: Scope) -> str:
    """Count by the client's address as the server saw it; of IPv6, by the network of 64 bits."""
    peer = peer_of(scope) or ""
    try:
        address = ipaddress.ip_address(peer)
    except ValueError:
        return f"address:{peer}"
    if isinstance(address, ipaddress.IPv6Address):
        return f"address:{ipaddress.ip_network((address, NEAR), strict=False)}"
    return f"address:{address}"


class LimitMiddleware:
    """Admit what the rules admit, as `"60 requests/minute"` and `"4 concurrent"`; 429 with `Retry-After` otherwise.

    `key` says by whom it is counted: `by_key`, which wants an `AuthMiddleware` outside, `by_account`, `by_address`, or
    a function of the scope that gives any text. A place is held until the answer has ended, or the app has, whoever
    left. An images app inside counts what is counted here no second time, and holds the place until its work has ended.

    Raises nothing of its own: answers 401 and 429 itself. Answers that begin here say how the limits stand.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        rules: Iterable[str | Rule],
        limiter: Limiter,
        key: Callable[[Scope], str] = by_key,
    ) -> None:
        """Take rules of requests, and of how many at once.

        Raises:
            ConfigError: one of them is none, or counts what only the images app can: pictures.
        """
        self.app = app
        self._rules = _read(rules)
        self._limiter = limiter
        self._key = key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope; only `lifespan` passes unasked."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] not in ("http", "websocket"):
            raise NotImplementedError(f"nobody can be limited in an ASGI scope of type {scope['type']!r}")
        try:
            whose = self._key(scope)
            hits = [Hit(rule=rule, scope=whose) for rule in self._rules]
            admission = await enter(self._limiter, hits, admission_of(scope))
        except GatewayError as error:
            await respond(scope, send, error)
            return
        place = _Place(admission, send)
        try:
            await self.app(with_admission(scope, admission), receive, place.send)
        finally:
            place.leave()


class _Place:
    """What one call holds."""

    def __init__(self, admission: Admission, send: Send) -> None:
        self._admission: Admission | None = admission
        self._send = send
        self._headers = encoded(headers_of(admission.standings))
        self._trailers = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._trailers = bool(message.get("trailers", False))
            message = {**message, "headers": [*message.get("headers", ()), *self._headers]}
        await self._send(message)
        if message["type"] == "http.response.body" and not message.get("more_body", False) and not self._trailers:
            self.leave()

    def leave(self) -> None:
        """Hold it no more; said again, it changes nothing."""
        if self._admission is not None:
            self._admission.leave()
            self._admission = None


def _read(told: Iterable[str | Rule]) -> tuple[Rule, ...]:
    read = rules(*(str(rule) for rule in told))
    for rule in read:
        if rule.unit not in (Unit.REQUESTS, Unit.CONCURRENT):
            raise ConfigError(f"'{rule}' cannot be told from a request's head; the images app counts it: [limits]")
    return read
