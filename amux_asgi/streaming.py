"""One stream's pictures: each is delivered and charged for, then told of; what is not told of costs nothing."""

import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, Literal

import anyio
from msgspec import UNSET, Struct
from msgspec.structs import replace

from amux_asgi.adapt import report
from amux_asgi.asking import MAYBE_PAID, Choice, Sent
from amux_asgi.claims import Work
from amux_asgi.errors import INTERNAL, End, GatewayError, InternalError, UpstreamTimeoutError
from amux_asgi.events import Event, completed_events, error_frame, preview_event
from amux_asgi.fanout import worst
from amux_asgi.generation import Streamed, facts_about
from amux_asgi.idempotency import DAY, URL_LIFE
from amux_asgi.jobs import STOPPED
from amux_asgi.planning import Plan
from amux_asgi.pricing import dollars
from amux_asgi.quota import Attempt, Ledger, Order, Settlement
from amux_asgi.schema import ImagesResponse, Json, Preview
from amux_asgi.settling import Settler, capture
from amux_asgi.streams import Stream

Reveal = Literal["attempts", "channel", "cost"]
Deliver = Callable[[Sent], Awaitable[ImagesResponse]]
"""From what an upstream gave to the same in the form that the client wants; raises `GatewayError`."""

logger: logging.Logger = logging.getLogger("amux_asgi")


class Streamer:
    """Watches one sending for a stream, and settles it.

    Before a finished picture is told of, what it earned is committed; with the last one that was asked for, the charge
    for all and the answer that is kept. While that cannot be, pictures wait for the end, and are told of with it.
    """

    def __init__(  # noqa: PLR0913, what belongs to one generation
        self,
        stream: Stream,
        plan: Plan,
        order: Order,
        work: Work,
        *,
        ledger: Ledger,
        settler: Settler,
        deliver: Deliver,
        attempts: list[Attempt],
        reveal: Iterable[Reveal],
        settled: Callable[[], object],
    ) -> None:
        """`attempts` is filled while it is sent; `reveal` names what the client is told of it.

        `settled` is called before the reader can hear that this is all, unless it ends with an error.
        """
        self.begun: bool = False
        self._stream = stream
        self._plan = plan
        self._order = order
        self._work = work
        self._ledger = ledger
        self._settler = settler
        self._deliver = deliver
        self._attempts = attempts
        self._reveal = frozenset(reveal)
        self._settled = settled
        self._turn = anyio.Lock(fast_acquire=True)  # of pictures that are finished side by side
        self._parts: list[Settlement] = []  # of what was told
        self._frames: list[bytearray] = []  # of the same, for the answer that is kept, if one is
        self._waiting: list[_Finished] = []  # until what they earned is committed
        self._is_noted = True  # what was earned; after a failure only the end may follow
        self._missed: list[Exception] = []
        self._failure: GatewayError | None = None  # of the charge for all
        self._choice = plan.first
        self._is_priced = plan.cost is not None
        self._life = DAY
        self._made: Streamed | None = None

    async def run(self, send: Callable[[], Awaitable[object]]) -> Streamed:
        """Hold the most it can cost, send, and charge what it did cost.

        Raises:
            GatewayError: no picture was told of, or the others could not be charged for.
        """
        await self._ledger.hold(self._order)
        fault: GatewayError = UpstreamTimeoutError(STOPPED)
        try:
            await send()
            return self._made or await self._end()
        except GatewayError as error:
            fault = error
            if any(attempt.end in MAYBE_PAID for attempt in self._attempts):
                error.retry = False  # the same once more could be paid once more
            raise
        except Exception:
            fault = InternalError(INTERNAL)
            raise
        finally:
            if self._made is None:
                self._leave(fault)

    def show(self, preview: Preview, choice: Choice) -> None:
        """Tell how a picture looks so far."""
        self._begin(choice)
        self._stream.tell(preview_event(preview, choice.shown, now=self._seconds()))

    async def finish(self, sent: Sent) -> None:
        """Tell of finished pictures, unless they cannot be delivered or charged for."""
        self._begin(sent.choice)
        try:
            images = await self._deliver(sent)
        except GatewayError as error:
            self.miss(error)
            return
        async with self._turn:
            with anyio.CancelScope(shield=True):  # at its deadline an ask hands on once more what was not taken
                await self._take(sent, images)

    def miss(self, error: Exception) -> None:
        """Keep why some pictures will not come."""
        self._missed.append(error)

    def _begin(self, choice: Choice) -> None:
        self.begun = True
        self._choice = choice
        self._stream.changes = choice.adapted.changes

    async def _take(self, sent: Sent, images: ImagesResponse) -> None:
        price, part = self._settler.settled(self._plan, sent, len(images.data), ())
        self._is_priced &= price is not None
        if any(image.url is not UNSET for image in images.data):
            self._life = URL_LIFE
        parts = [*self._all_parts(), part]
        events = completed_events(images, sent.choice.shown, now=self._seconds(), x_amux=self._said(sent.choice, parts))
        self._waiting.append(_Finished(part, events))
        if sum(part.images for part in parts) >= (self._plan.request.n or 1):
            await self._settle_in_time()
        elif self._is_noted:
            await self._earn(parts)

    async def _earn(self, parts: list[Settlement]) -> None:
        """Note what all pictures have earned, and tell of those that wait; if that fails, they wait for the end."""
        try:
            await self._ledger.earn(
                self._order, sum(part.charged for part in parts), sum(part.images for part in parts)
            )
        except GatewayError:
            self._is_noted = False
            logger.warning("%s: a picture waits until it can be charged for", self._order.id)
        else:
            self._tell()

    async def _settle_in_time(self) -> None:
        """Settle before the upstream has ended; a failure is told when it has."""
        try:
            await self._settle(None)
        except GatewayError as error:
            self._failure = error

    async def _end(self) -> Streamed:
        """Settle what there is: fewer pictures than asked for, or none."""
        if self._failure is not None:
            raise self._failure
        fault = worst(self._missed) if self._missed else None
        if fault is not None and not self._all_parts():
            raise fault
        return await self._settle(fault)

    async def _settle(self, fault: Exception | None) -> Streamed:
        """Charge for all pictures, tell of those that wait, and that this is all, or why it is.

        Raises:
            GatewayError: it could not be charged for; what is left to do is to leave.
        """
        settlement = self._settlement(self._all_parts())
        made = self._streamed(settlement, [event.frame for one in self._waiting for event in one.events], fault)
        answer = self._work.answer(made.body, facts=facts_about(made), life=self._life)
        await capture(self._ledger, self._order, settlement, self._work.with_capture(answer))
        self._made = made
        (self._work.keep if self._plan.terms.paid else self._work.finish)(answer)  # as for a generation
        self._settled()
        self._tell()
        self._stream.close(made, fault)
        return made

    def _leave(self, fault: GatewayError) -> None:
        """Charge for what was told of, which stands, and give the rest back; waits for nothing."""
        settlement = self._settlement(self._parts)
        self._ledger.release(self._order, settlement)
        if self._parts:
            made = self._streamed(settlement, [], fault)
            self._work.keep(self._work.answer(made.body, facts=facts_about(made), life=self._life))

    def _settlement(self, parts: list[Settlement]) -> Settlement:
        """Say how it ended; what may have been paid for pictures that nobody is told of, nobody knows."""
        settlement = self._settler.joined(parts, self._attempts)
        lost = len(parts) < len(self._all_parts()) or any(_may_be_paid(error) for error in self._missed)
        return replace(settlement, cost=None) if parts and lost else settlement

    def _streamed(self, settlement: Settlement, frames: list[bytearray], fault: Exception | None) -> Streamed:
        """Say what came of it, told so far and with these frames."""
        if fault is not None:
            frames = [*frames, error_frame(fault if isinstance(fault, GatewayError) else InternalError(INTERNAL))]
        return Streamed(
            id=self._order.id,
            body=b"" if self._work.claim is None else b"".join((*self._frames, *frames)),
            images=settlement.images,
            changes=self._choice.adapted.changes,
            channel=settlement.channel or "",
            attempts=len(self._attempts),
            cost=min(settlement.charged, self._order.amount) if self._is_priced else None,
        )

    def _tell(self) -> None:
        """Tell of the pictures that wait."""
        waiting, self._waiting = self._waiting, []
        for finished in waiting:
            self._parts.append(finished.part)
            for event in finished.events:
                if self._work.claim is not None:
                    self._frames.append(event.frame)
                self._stream.tell(event)

    def _all_parts(self) -> list[Settlement]:
        return [*self._parts, *(finished.part for finished in self._waiting)]

    def _said(self, choice: Choice, parts: list[Settlement]) -> dict[str, Json]:
        """Say what no header could: it went before."""
        cost = min(sum(part.charged for part in parts), self._order.amount)
        told: dict[str, Json] = {
            "attempts": len(self._attempts),
            "channel": choice.candidate.channel.name,
            "cost": dollars(cost) if self._is_priced else None,
        }
        said = {name: value for name, value in told.items() if name in self._reveal and value is not None}
        if choice is not self._plan.first and choice.adapted.changes:
            said["adapted"] = report(choice.adapted.changes)
        return said

    def _seconds(self) -> int:
        return self._settler.now() // 1000


class _Finished(Struct, frozen=True):
    """Finished pictures, and what is told of them."""

    part: Settlement
    events: list[Event]


def _may_be_paid(error: Exception) -> bool:
    return not (isinstance(error, GatewayError) and error.end in _UNPAID)


_UNPAID: Final = (End.FINAL, End.NEVER_SENT, End.REFUSED)
