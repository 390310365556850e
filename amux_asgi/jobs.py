"""Work that runs on, whoever leaves: once begun it ends by itself, and who asked for it only waits."""

import logging
from collections.abc import Awaitable, Callable
from math import inf
from typing import Any, Final, Generic, TypeVar, cast

import anyio

from amux_asgi.errors import GatewayError, UpstreamTimeoutError
from amux_asgi.loops import Bell, Spawn, bell_here, scope_here

T = TypeVar("T")
STOPPED: Final = "the gateway stopped before the picture was ready"

logger: logging.Logger = logging.getLogger("amux_asgi")


class Jobs:
    """The work of one event loop.

    A job never waits for its reader, is never cancelled because its reader left, and lets no exception out: what it
    ends with goes to the reader, or to the log when the reader has gone and it is a bug.
    """

    def __init__(self, spawn: Spawn) -> None:
        self._spawn = spawn
        self._running: set[Outcome[Any]] = set()
        self._idle: anyio.Event | None = None  # of who waits for the end of all

    def begin(
        self, work: Callable[[], Awaitable[T]], ended: Callable[["Outcome[T]"], object] | None = None
    ) -> "Outcome[T]":
        """Begin the work; `ended` is told of its end, however it comes."""
        outcome: Outcome[T] = Outcome(ended)
        self._begin(work, outcome)
        return outcome

    async def run(self, work: Callable[[], Awaitable[T]]) -> T:
        """Begin the work and wait for its end.

        Raises:
            GatewayError: as the work does; `UpstreamTimeoutError` when it was cut off because the app stopped.
        """
        bell = bell_here()
        outcome: Outcome[T] = Outcome(bell=bell)
        self._begin(work, outcome)
        try:
            await bell.wait()
        finally:
            outcome.waited_for = False
        return outcome.get()

    async def drain(self, grace: float) -> None:
        """Wait until no job runs any more, at most `grace` seconds."""
        with anyio.move_on_after(grace):
            while self._running:
                self._idle = anyio.Event()
                await self._idle.wait()

    async def keep(self) -> None:
        """Run until cancelled, then cut off what still runs: jobs are not always tasks of a group that does it."""
        try:
            await anyio.sleep_forever()
        finally:
            for outcome in self._running:
                outcome.scope.cancel()
            with anyio.CancelScope(shield=True):
                await self.drain(inf)

    def _begin(self, work: Callable[[], Awaitable[T]], outcome: "Outcome[T]") -> None:
        self._running.add(outcome)
        self._spawn(self._finish, work, outcome)

    async def _finish(self, work: Callable[[], Awaitable[T]], outcome: "Outcome[T]") -> None:
        try:
            with outcome.scope:
                outcome.value = (await work(),)
        except Exception as exc:
            outcome.error = exc
            if not (outcome.waited_for or isinstance(exc, GatewayError)):
                logger.exception("a generation failed after its client had left")
        finally:
            self._running.discard(outcome)
            if self._idle is not None:
                self._idle.set()
            outcome.tell()


class Outcome(Generic[T]):
    """How a job ended: with a value, with an error, or with neither when it was cut off.

    `waited_for` says that somebody still wants to know.
    """

    __slots__ = ("_bell", "_ended", "error", "scope", "value", "waited_for")

    def __init__(self, ended: Callable[["Outcome[T]"], object] | None = None, *, bell: Bell | None = None) -> None:
        self.scope: anyio.CancelScope = scope_here()
        self.value: tuple[T] | None = None
        self.error: Exception | None = None
        self.waited_for: bool = True
        self._ended = ended
        self._bell = bell

    def tell(self) -> None:
        """Say that it has ended."""
        if self._bell is not None:
            self._bell.ring()
        if self._ended is not None:
            self._ended(self)

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
