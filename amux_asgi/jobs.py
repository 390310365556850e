"""Work that runs on, whoever leaves: once begun it ends by itself, and who asked for it only waits."""

import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, Generic, TypeVar, cast

import anyio

from amux_asgi.errors import GatewayError, UpstreamTimeoutError

T = TypeVar("T")
Spawn = Callable[[Callable[[], Coroutine[Any, Any, None]]], object]
"""Starts a task that nobody awaits."""
STOPPED: Final = "the gateway stopped before the picture was ready"

logger: logging.Logger = logging.getLogger("amux_asgi")


class Jobs:
    """The work of one event loop.

    A job never waits for its reader, is never cancelled because its reader left, and lets no exception out: what it
    ends with goes to the reader, or to the log when the reader has gone and it is a bug.
    """

    def __init__(self, spawn: Spawn) -> None:
        self._spawn = spawn
        self._running = 0
        self._idle = anyio.Event()

    def begin(
        self, work: Callable[[], Awaitable[T]], ended: Callable[["Outcome[T]"], object] | None = None
    ) -> "Outcome[T]":
        """Begin the work; `ended` is told of its end, however it comes."""
        outcome: Outcome[T] = Outcome(ended)
        self._running += 1
        self._spawn(lambda: self._finish(work, outcome))
        return outcome

    async def run(self, work: Callable[[], Awaitable[T]]) -> T:
        """Begin the work and wait for its end.

        Raises:
            GatewayError: as the work does; `UpstreamTimeoutError` when it was cut off because the app stopped.
        """
        outcome = self.begin(work)
        try:
            await outcome.done.wait()
        finally:
            outcome.waited_for = False
        return outcome.get()

    async def drain(self, grace: float) -> None:
        """Wait until no job runs any more, at most `grace` seconds."""
        with anyio.move_on_after(grace):
            while self._running:
                self._idle = anyio.Event()
                await self._idle.wait()

    async def _finish(self, work: Callable[[], Awaitable[T]], outcome: "Outcome[T]") -> None:
        try:
            outcome.value = (await work(),)
        except Exception as exc:
            outcome.error = exc
            if not (outcome.waited_for or isinstance(exc, GatewayError)):
                logger.exception("a generation failed after its client had left")
        finally:
            self._running -= 1
            self._idle.set()
            outcome.done.set()
            if outcome.ended is not None:
                outcome.ended(outcome)


class Outcome(Generic[T]):
    """How a job ended: with a value, with an error, or with neither when it was cut off.

    `waited_for` says that somebody still wants to know.
    """

    __slots__ = ("done", "ended", "error", "value", "waited_for")

    def __init__(self, ended: Callable[["Outcome[T]"], object] | None = None) -> None:
        self.ended: Callable[[Outcome[T]], object] | None = ended
        self.done: anyio.Event = anyio.Event()
        self.value: tuple[T] | None = None
        self.error: Exception | None = None
        self.waited_for: bool = True

    @property
    def fault(self) -> Exception | None:
        """Give the error that it ended with, if it did not end with a value."""
        if self.value is not None:
            return None
        return self.error or UpstreamTimeoutError(STOPPED)

    def get(self) -> T:
        """Give the value.

        Raises:
            Exception: it ended with an error.
        """
        if self.value is None:
            raise cast("Exception", self.fault)
        return self.value[0]
