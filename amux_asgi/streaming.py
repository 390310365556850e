"""One stream's pictures: each is delivered and charged for, then told of; what is not told of costs nothing."""

from collections.abc import Awaitable, Callable, Iterable
from typing import Literal

import anyio
from msgspec import UNSET

from amux_asgi.adapt import report
from amux_asgi.asking import MAYBE_PAID, Choice, Sent
from amux_asgi.claims import Work
from amux_asgi.errors import GatewayError
from amux_asgi.events import completed_events, error_frame, preview_event
from amux_asgi.fanout import worst
from amux_asgi.generation import Streamed, facts_about
from amux_asgi.idempotency import DAY, URL_LIFE
from amux_asgi.planning import Plan
from amux_asgi.pricing import dollars
from amux_asgi.quota import Attempt, Ledger, Order, Settlement
from amux_asgi.schema import ImagesResponse, Json, Preview
from amux_asgi.settling import Settler, capture
from amux_asgi.streams import Stream

Reveal = Literal["attempts", "channel", "cost"]
Deliver = Callable[[Sent], Awaitable[ImagesResponse]]
"""From what an upstream gave to the same in the form that the client wants; raises `GatewayError`."""


class Streamer:
    """Watches one sending for a stream, and settles it.

    Before a finished picture is told of, what it earned is committed; with the last one that was asked for, the charge
    for all and the answer that is kept.
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
    ) -> None:
        """`attempts` is filled while it is sent; `reveal` names what the client is told of it."""
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
        self._turn = anyio.Lock()  # of pictures that are finished side by side
        self._parts: list[Settlement] = []
        self._frames: list[bytearray] = []  # for the answer that is kept, if one is
        self._missed: list[Exception] = []
        self._choice = plan.first
        self._is_priced = plan.cost is not None
        self._life = DAY
        self._made: Streamed | None = None

    async def run(self, send: Callable[[], Awaitable[object]]) -> Streamed:
        """Hold the most it can cost, send, and charge what it did cost.

        Raises:
            GatewayError: no picture was told of.
        """
        await self._ledger.hold(self._order)
        try:
            await send()
            return await self._end() if self._made is None else self._made
        except GatewayError as error:
            if any(attempt.end in MAYBE_PAID for attempt in self._attempts):
                error.retry = False  # the same once more could be paid once more
            raise
        finally:
            if self._made is None:
                self._ledger.release(self._order, self._settler.joined(self._parts, self._attempts))

    def show(self, preview: Preview, choice: Choice) -> None:
        """Tell how a picture looks so far."""
        self._begin(choice)
        self._stream.tell(preview_event(preview, choice.shown, now=self._seconds()))

    async def finish(self, sent: Sent) -> None:
        """Tell of finished pictures, unless they cannot be delivered or charged for."""
        self._begin(sent.choice)
        try:
            images = await self._deliver(sent)
            async with self._turn:
                await self._take(sent, images)
        except GatewayError as error:
            self.miss(error)

    def miss(self, error: Exception) -> None:
        """Keep why some pictures will not come."""
        self._missed.append(error)

    def _begin(self, choice: Choice) -> None:
        self.begun = True
        self._choice = choice
        self._stream.changes = choice.adapted.changes

    async def _take(self, sent: Sent, images: ImagesResponse) -> None:
        price = self._settler.price(self._plan, sent, images)
        part = self._settler.settlement(sent, len(images.data), price or 0, ())
        parts = [*self._parts, part]
        count = sum(part.images for part in parts)
        self._is_priced &= price is not None
        events = completed_events(images, sent.choice.shown, now=self._seconds(), x_amux=self._said(sent.choice, parts))
        frames = [event.frame for event in events]
        if any(image.url is not UNSET for image in images.data):
            self._life = URL_LIFE
        if count >= (self._plan.request.n or 1):
            await self._settle(parts, frames)
        elif part.charged:
            await self._ledger.earn(self._order, sum(part.charged for part in parts), images=count)
        self._parts = parts
        if self._work.claim is not None:
            self._frames += frames
        for event in events:
            self._stream.tell(event)
        if self._made is not None:
            self._stream.close(self._made, None)

    async def _end(self) -> Streamed:
        """Settle what there is: fewer pictures than asked for, or none."""
        fault = worst(self._missed) if self._missed else None
        if fault is not None and not self._parts:
            raise fault
        frames = [error_frame(fault)] if isinstance(fault, GatewayError) else []
        made = await self._settle(self._parts, frames)
        self._stream.close(made, fault)
        return made

    async def _settle(self, parts: list[Settlement], frames: list[bytearray]) -> Streamed:
        """Charge for all parts, and keep what was told with these frames."""
        settlement = self._settler.joined(parts, self._attempts)
        made = Streamed(
            id=self._order.id,
            body=b"" if self._work.claim is None else b"".join((*self._frames, *frames)),
            images=settlement.images,
            changes=self._choice.adapted.changes,
            channel=settlement.channel or "",
            attempts=len(self._attempts),
            cost=min(settlement.charged, self._order.amount) if self._is_priced else None,
        )
        answer = self._work.answer(made.body, facts=facts_about(made), life=self._life)
        await capture(self._ledger, self._order, settlement, self._work.with_capture(answer))
        self._made = made
        (self._work.keep if self._plan.terms.paid else self._work.finish)(answer)  # as for a generation
        return made

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
