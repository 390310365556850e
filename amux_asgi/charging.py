"""Charge a call: held before the app sees it, captured before its answer begins, released where nothing came of it."""

import logging
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from typing import Final

import anyio
from anyio.lowlevel import checkpoint
from msgspec.structs import replace
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from amux_asgi.errors import ConfigError, GatewayError, RequestTimeoutError
from amux_asgi.pricing import dollars, parse_dollars
from amux_asgi.quota import Ledger, Order, Settlement, fresh_id
from amux_asgi.reservation import DEAREST
from amux_asgi.respond import respond
from amux_asgi.scope import (
    Reservation,
    facts_of,
    header_values,
    principal_of,
    request_id_of,
    reservation_of,
    with_reservation,
)

PREFIX: Final = "call_"
BAD_REQUEST: Final = 400
GLANCE: Final = 8  # turns of the event loop until a server, and two layers of middleware, have said that a client left

logger: logging.Logger = logging.getLogger("amux_asgi")


def charge(scope: Scope, cost: str) -> None:
    """Say what a call did cost, in USD, before its answer begins; said twice, the last one counts.

    Wants a `QuotaMiddleware(most=...)` outside; behind a fixed price it changes nothing.

    Raises:
        ValueError: it is no amount of USD.
        RuntimeError: nothing in front of the app charges, or the answer has begun.
    """
    reservation = reservation_of(scope)
    if reservation is None:
        raise RuntimeError("nothing in front of this app charges; put a QuotaMiddleware(most=...) there")
    reservation.report(Settlement(ended=0, charged=_amount(cost), cost=None))


def price_of(text: str) -> int:
    """Read a price, in nano-dollars.

    Raises:
        ConfigError: it is none, is not above zero, or is more than a reservation can hold.
    """
    try:
        amount = _amount(text)
    except ValueError as exc:
        raise ConfigError(str(exc)) from exc
    if not 0 < amount <= DEAREST:
        raise ConfigError(f"{text!r} is no price; it must be above zero, and at most {dollars(DEAREST)}")
    return amount


class Till:
    """Charges calls to their principals: a fixed amount each, or what the app reports and at most that.

    A call that an app further out holds for is never held for again: a fixed price is only reported to it.
    """

    def __init__(
        self, ledger: Ledger, amount: int, *, fixed: bool, now: Callable[[], int], channel: str | None = None
    ) -> None:
        """`amount` is in nano-dollars, `now` Unix time in milliseconds; `channel` is for the usage rows."""
        self.ledger = ledger
        self.now = now
        self._amount = amount
        self.said: Settlement | None = (
            Settlement(ended=0, charged=amount, cost=None, channel=channel) if fixed else None
        )

    async def serve(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a call of HTTP or a websocket by the app.

        Raises nothing of its own: answers 401, 429 and 503 itself, before the app sees the call, and 503 in the place
        of an answer that could not be charged.
        """
        outer = reservation_of(scope)
        if outer is not None:
            if self.said is not None:
                outer.report(self.said)
            await app(scope, receive, send)
            return
        try:
            order = self._order(scope)
            await self.ledger.hold(order)
        except GatewayError as error:
            await respond(scope, send, error)
            return
        call = _Call(self, order, scope, receive, send)
        try:
            await app(with_reservation(scope, call.reservation), call.receive, call.send)
        except Exception:
            if not call.over:
                raise
            logger.debug("%s: the app ended with its answer withheld", order.id, exc_info=True)
        finally:
            call.leave()

    def _order(self, scope: Scope) -> Order:
        principal = principal_of(scope)
        begun = self.now()
        order = Order(
            id=fresh_id(PREFIX, begun),
            account=principal.account,
            key=principal.key,
            budget=principal.budget,
            amount=self._amount,
            begun=begun,
            request_id=request_id_of(scope),
        )
        facts_of(scope)["call"] = order.id
        return order


class _GoneError(ClientDisconnect, OSError):
    """What an app is told whose answer is withheld: as by a server whose client has left."""


class _State(Enum):
    OPEN = "nothing decided"
    SETTLED = "captured or released; the answer flows"
    OVER = "released; nothing flows any more"


class _Call:
    """One held call: watches the client leave, and settles when the answer begins."""

    def __init__(self, till: Till, order: Order, scope: Scope, receive: Receive, send: Send) -> None:
        said = till.said
        self.reservation = Reservation(order=order, fixed=said is not None, hand_over=self._hand_over, settlement=said)
        self._till = till
        self._scope = scope
        self._receive = receive
        self._send = send
        self._state = _State.OPEN
        self._gone = False
        self._receiving = anyio.Lock(fast_acquire=True)  # a message that two wait for could reach the wrong one
        self._complete = False  # the request has been received
        self._kept: list[Message] = []  # received, and not by the app yet

    @property
    def over(self) -> bool:
        """Tell whether the app's answer was withheld."""
        return self._state is _State.OVER

    async def receive(self) -> Message:
        """Receive for the app."""
        if self.over:
            return {"type": f"{self._scope['type']}.disconnect", "code": _ABNORMAL}
        async with self._receiving:
            return self._kept.pop(0) if self._kept else await self._take()

    async def send(self, message: Message) -> None:
        """Send for the app; what begins an answer is charged for first."""
        if self._state is _State.OPEN and message["type"] in _BEGINNINGS:
            await self._settle(message)
        if self.over:
            raise _GoneError
        await self._send(message)

    def _hand_over(self) -> None:
        """Give the money back, and let the answer through: the app charges for it."""
        if self._state is _State.OPEN:
            self._release(_State.SETTLED)

    def leave(self) -> None:
        """Give back what nothing came of; waits for nothing."""
        if self._state is _State.OPEN:
            self._release(_State.OVER)

    async def _settle(self, beginning: Message) -> None:
        """Charge for an answer that is none of an error, and withhold it where that cannot be."""
        said = self.reservation.settlement
        self.reservation.open = False
        if said is None or not _succeeds(beginning):
            self._release(_State.SETTLED)
        elif await self._left():
            await self._withhold(RequestTimeoutError("the client left before its answer began"))
        else:
            try:
                charged = await self._till.ledger.capture(self.reservation.order, self._settlement(said))
            except GatewayError as error:
                await self._withhold(error)
            else:
                if self._state is _State.OPEN:  # otherwise the app left meanwhile, and it is released
                    self._state = _State.SETTLED
                    facts_of(self._scope)["charged"] = dollars(charged)

    def _settlement(self, said: Settlement) -> Settlement:
        order = self.reservation.order
        charged = order.amount if self.reservation.fixed else said.charged
        if charged > order.amount:  # the ledger takes what was held
            logger.warning(
                "%s: undercharged: it did cost %s, and %s was held", order.id, dollars(charged), dollars(order.amount)
            )
        return replace(said, charged=charged, ended=self._till.now())

    def _release(self, state: _State) -> None:
        self._state = state
        self.reservation.open = False
        said = self.reservation.settlement or Settlement(ended=0, cost=None)
        self._till.ledger.release(self.reservation.order, replace(said, charged=0, ended=self._till.now()))

    async def _withhold(self, error: GatewayError) -> None:
        self._release(_State.OVER)
        await respond(self._scope, self._send, error)

    async def _take(self) -> Message:
        message = await self._receive()
        self._gone |= message["type"] in ("http.disconnect", "websocket.disconnect")
        self._complete |= message["type"] == "http.request" and not message.get("more_body", False)
        return message

    async def _left(self) -> bool:
        """Tell whether the client has left, as far as the server says now, unless the app waits for that already."""
        if self._may_look():
            async with anyio.create_task_group() as tasks:
                # Not in a scope that is cancelled beforehand: a `BaseHTTPMiddleware` in between would lose what it has.
                tasks.start_soon(self._look)
                for _ in range(GLANCE):
                    await checkpoint()
                    if self._gone:
                        break
                tasks.cancel_scope.cancel()
        return self._gone

    def _may_look(self) -> bool:
        """Tell whether nothing is under way but, one day, the word that the client has left."""
        if self._gone or self._receiving.locked() or self._scope["type"] == "websocket":
            return False
        return self._complete or not _has_body(self._scope)

    async def _look(self) -> None:
        """Take what there is; what is not for us is kept for the app."""
        with suppress(Exception):  # a receiver that fails when nothing is to come tells nothing
            async with self._receiving:
                if not self._complete:
                    self._kept.append(await self._take())
                if self._complete:
                    self._kept.append(await self._take())


def _amount(text: str) -> int:
    try:
        return parse_dollars(text)
    except ValueError as exc:
        raise ValueError(f"{text!r} is no amount of US dollars: {exc}") from exc


def _succeeds(beginning: Message) -> bool:
    """Tell whether it begins an answer that is to be charged."""
    if beginning["type"] == "http.response.start":
        return bool(beginning["status"] < BAD_REQUEST)
    return bool(beginning["type"] == "websocket.accept")


def _has_body(scope: Scope) -> bool:
    return bool(header_values(scope, b"transfer-encoding")) or header_values(scope, b"content-length") not in _EMPTY


_ABNORMAL: Final = 1006  # of a websocket's end
_BEGINNINGS: Final = (
    "http.response.start",
    "websocket.accept",
    "websocket.close",
    "websocket.http.response.start",
)
_EMPTY: Final[tuple[list[bytes], ...]] = ([], [b"0"])
