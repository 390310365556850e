"""A stream as its reader has it: what is still to be told, the newest preview and every finished picture."""

import logging
import math
from collections.abc import Callable
from typing import Self

from amux_asgi.admission import Standing
from amux_asgi.errors import GatewayError
from amux_asgi.events import ERROR, PREVIEW, Event
from amux_asgi.generation import Streamed
from amux_asgi.jobs import Outcome
from amux_asgi.loops import Bell, bell_here
from amux_asgi.sse import EventReader

Count = Callable[[int], object]
"""Is told of bytes that are kept for the reader."""

logger: logging.Logger = logging.getLogger("amux_asgi")


class Stream:
    """The events of one generation, as they come: `async for event in stream`.

    The generation began with it, and goes on whoever stops reading; what is read is paid. Previews that are not read in
    time give way to newer ones. `changes` and `standings` say what was changed of the request and how the limits stand,
    as far as that is known; `made` what came of it, when it has ended.
    """

    def __init__(
        self,
        *,
        changes: tuple[str, ...],
        count: Count,
        left: Callable[[], object],
        answered: Callable[[], object] = lambda: None,
    ) -> None:
        """`left` is told when the reader leaves, `answered` when it has all."""
        self.changes: tuple[str, ...] = changes
        self.standings: tuple[Standing, ...] = ()
        self.made: Streamed | None = None
        self._waiting: list[Event] = []
        self._count = count
        self._left = left
        self._answered = answered
        self._bell: Bell | None = None  # that the reader waits for
        self._ended = False
        self._error: Exception | None = None
        self._gone = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        """Give the next event.

        Raises:
            GatewayError: it failed; pictures that were told of before are paid.
        """
        event = await self.next()
        if event is None:
            raise StopAsyncIteration
        return event

    async def next(self, within: float = math.inf) -> Event | None:
        """Give the next event; `None` if none came within so many seconds, or when there are no more.

        Raises:
            GatewayError: as above.
        """
        if not (self._waiting or self._ended):
            self._bell = bell_here()
            await self._bell.wait(within)
        if self._waiting:
            return self._waiting.pop(0)
        error, self._error = self._error, None
        if error is not None:
            raise error
        return None

    @property
    def over(self) -> bool:
        """Tell whether all has been read."""
        return self._ended and not self._waiting and self._error is None

    def leave(self) -> None:
        """Read no more."""
        self._gone = True
        self._waiting.clear()
        self._left()

    def took_all(self) -> None:
        """Note that the reader has all that was told."""
        self._answered()

    def tell(self, event: Event) -> None:
        """Let the reader have an event, in the place of a preview that it did not take; never waits."""
        if self._gone:
            return
        if event.type == PREVIEW:
            self._waiting = [waiting for waiting in self._waiting if waiting.type != PREVIEW]
        else:
            self._count(len(event.frame))
        self._waiting.append(event)
        self._wake()

    def say_again(self, made: Streamed) -> None:
        """Let the reader have what an earlier request was told."""
        error: Exception | None = None
        for told in EventReader(longest=len(made.body)).feed(made.body):
            event = Event(told.name, bytearray(b"event: %b\ndata: %b\n\n" % (told.name.encode(), told.data)))
            if event.type == ERROR:
                error = GatewayError(**event.fields()["error"])
            else:
                self.tell(event)
        self.close(made, error)

    def close(self, made: Streamed | None, error: Exception | None) -> None:
        """Say that this is all, and why if it is not; only the first word counts."""
        if not self._ended:
            self.made, self._error, self._ended = made, error, True
            self._wake()

    def end(self, outcome: Outcome[Streamed]) -> None:
        """Say that the job has ended; of a bug the operator hears where no reader can any more."""
        fault = outcome.fault
        if (self._gone or self._ended) and not (fault is None or isinstance(fault, GatewayError)):
            logger.error("a stream failed after its reader had all, or had left", exc_info=fault)
        self.close(None if outcome.value is None else outcome.value[0], fault)

    def _wake(self) -> None:
        if self._bell is not None:
            self._bell.ring()
