"""Listen to one ask's stream: previews are shown and finished pictures handed on as they come."""

import logging
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Final

import anyio

from amux_asgi.asking import BILLED, Choice, Sending, Sent, Watch
from amux_asgi.errors import End, GatewayError, UpstreamBadResponseError, UpstreamTooLargeError
from amux_asgi.fanout import joined
from amux_asgi.loops import turn
from amux_asgi.quota import Attempt
from amux_asgi.redact import hide
from amux_asgi.schema import ImagesResponse, Preview
from amux_asgi.sse import EventReader, ServerEvent
from amux_asgi.transport.base import Incoming
from amux_asgi.wire import Hear

LINGER: Final = 2.0  # seconds in which a stream that has told all may end, so that its connection can be used again
EVENT_STREAM: Final = "text/event-stream"

logger: logging.Logger = logging.getLogger("amux_asgi")


class Hearing:
    """What was heard of one ask so far. `made` are the finished pictures, which count however the stream ends."""

    def __init__(self, hear: Hear, choice: Choice, sending: Sending, watch: Watch, *, most: int) -> None:
        """`most` is how many bytes a picture may have."""
        request = choice.adapted.request
        self.made: list[ImagesResponse] = []
        self._hear = hear
        self._choice = choice
        self._sending = sending
        self._watch = watch
        self._most = most
        self._wanted = request.n or 1
        self._previews = request.partial_images or 0
        self._shown: Counter[int] = Counter()
        self._begun = False
        self._in_hand: ImagesResponse | None = None  # finished, and not handed on yet
        self._missed: list[GatewayError] = []  # why some of several will not come
        self._room = most * self._wanted * (1 + self._previews)

    async def listen(self, incoming: Incoming) -> ImagesResponse | GatewayError | None:
        """Take a stream to its end; `None` if the answer is none.

        Raises:
            GatewayError: it was cut off.
        """
        headers = dict(incoming.headers)
        plain = headers.get("content-encoding", "identity").lower() == "identity"
        kind = headers.get("content-type", "").lower()
        if incoming.status != _OK or not plain or not kind.startswith(EVENT_STREAM):
            return None
        async with aclosing(self._events(incoming)) as events:
            async for event in events:
                try:
                    await self._take(event)
                except GatewayError as error:
                    return self._failed(error)
                if self._done:
                    await self._linger(events)
                    break
        return self._outcome()

    async def rest(self, error: GatewayError) -> ImagesResponse:
        """Give what was made before it went wrong."""
        if self._in_hand is not None:
            await self._hand(self._in_hand)
        self._miss(error)
        return joined(self.made)

    @property
    def _done(self) -> bool:
        return len(self.made) >= self._wanted

    async def _events(self, incoming: Incoming) -> AsyncGenerator[ServerEvent]:
        reader = EventReader(longest=self._most)
        async for piece in incoming.chunks:
            self._room -= len(piece)
            if self._room < 0:
                raise UpstreamTooLargeError("the upstream's stream is larger than its pictures may be")
            if self._sending.grow is not None:
                await self._sending.grow(len(piece))
            for event in reader.feed(piece):
                yield event
        for event in reader.end():
            yield event

    async def _take(self, event: ServerEvent) -> None:
        heard = self._hear(event)
        if isinstance(heard, ImagesResponse):
            self._begun = True
            self.made.append(heard)
            if len(self.made) == 1:  # paid, whatever comes now
                self._sending.attempts.append(Attempt(channel=self._choice.candidate.channel.name, end=BILLED))
            await self._hand(heard)
            return
        if isinstance(heard, Preview):
            self._show(heard)
            await self._let_take()
        elif heard is not None:
            self._missed.append(heard)
        if self._sending.forget is not None:
            self._sending.forget(len(event.data))

    def _show(self, preview: Preview) -> None:
        """Show what was asked for, and nothing twice."""
        self._begun = True
        self._shown[preview.index] += 1
        if preview.index < self._previews and self._shown[preview.index] <= self._wanted:
            self._watch.show(preview, self._choice)

    async def _let_take(self) -> None:
        """Let a reader who waits take a preview before the next one comes with the same piece and stands in for it."""
        for _ in range(_TURNS):
            await turn()

    async def _hand(self, images: ImagesResponse) -> None:
        self._in_hand = images
        await self._watch.finish(Sent(images, self._choice))
        self._in_hand = None

    def _miss(self, error: GatewayError) -> None:
        """Say why pictures will not come; no attempt ends with this, where its words would be looked at."""
        hide(error, self._choice.candidate.channel.secrets())
        self._watch.miss(error)

    def _failed(self, error: GatewayError) -> GatewayError:
        """Judge a failure that the stream tells: what was begun may have been paid."""
        if self._begun and error.end is not End.FINAL:
            error.end = End.UNKNOWN
        return error

    async def _linger(self, events: AsyncGenerator[ServerEvent]) -> None:
        """Let it end in peace; what it says now is one picture too many, or nothing."""
        with anyio.move_on_after(LINGER), suppress(GatewayError):
            async for event in events:
                if isinstance(self._hear(event), ImagesResponse):
                    logger.warning(
                        "%s: the upstream made more than the %d pictures asked; the rest is cut off",
                        self._sending.id,
                        self._wanted,
                    )

    def _outcome(self) -> ImagesResponse | GatewayError:
        for error in self._missed if self.made else ():
            self._miss(error)
        if self.made:
            return joined(self.made)
        missed = self._missed or [UpstreamBadResponseError("the upstream's stream ended without a picture")]
        return self._failed(missed[0])


_OK: Final = 200
_TURNS: Final = 2  # of the event loop: whoever is woken in one has run by the second, in whichever order it is taken
