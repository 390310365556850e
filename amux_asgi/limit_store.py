"""Where limits are counted: in memory, or in a store that is opened for as long as a lifespan runs."""

import time
from collections.abc import AsyncGenerator, Callable, Hashable, Sequence
from contextlib import asynccontextmanager, nullcontext
from functools import partial
from typing import Final

from anyio.lowlevel import RunVar

from amux_asgi.admission import Admitted, Hit, Limiter
from amux_asgi.errors import ConfigError, NotStartedError
from amux_asgi.lifespans import Shared
from amux_asgi.loops import on_asyncio
from amux_asgi.plugins import load
from amux_asgi.runtime import OpenLimiter
from amux_asgi.windows import Counters, MemoryLimiter

MEMORY: Final = "memory://"
STORES: Final = "amux_asgi.stores"


class Limits:
    """Counts where a URL says: `memory://`, `redis://host:6379`, `redis+cluster://host:6379,...`, `valkey://...`.

    Constructing it opens nothing: safe before a fork, in several threads, on several loops one after the other. What is
    in memory needs no lifespan. `nodes` is how many processes share the limits: what counts in memory admits its share,
    and so does each one while the store is away.

    Raises:
        ConfigError: the URL is none, or what it needs is not installed.
    """

    def __init__(self, url: str = MEMORY, *, nodes: int = 1, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` is monotonic, in seconds."""
        self._url = url
        self._nodes = nodes
        self._clock = clock
        self._memory: Limiter | None = None
        self._shared: RunVar[Shared[Limiter]] = RunVar("amux_asgi limits")
        if url == MEMORY:
            self._memory = MemoryLimiter(Counters(clock), nodes=nodes)
            return
        self._open = load(f"{STORES}.central:open_central")
        try:
            load(f"{STORES}.central:connect")(url)  # refused here, not by the first request
        except ValueError as exc:
            raise ConfigError(f"{exc}") from exc

    @property
    def place(self) -> Hashable:
        """Give something equal for all that count in the same place."""
        return self._url if self._memory is None else self._memory.place

    async def admit(self, hits: Sequence[Hit]) -> Admitted:
        """Admit a request.

        Raises:
            RateLimitError: a limit is reached.
            NotStartedError: a store was never opened.
        """
        limiter = self._found()
        if limiter is None:
            raise NotStartedError("the limits' store was never opened: give its lifespan to the outermost app")
        return await limiter.admit(hits)

    def release(self, lease: str | None) -> None:
        """Give places back; of a store that was closed meanwhile, they fall by themselves."""
        if lease is not None and (limiter := self._found()) is not None:
            limiter.release(lease)

    @asynccontextmanager
    async def lifespan(self, app: object = None) -> AsyncGenerator[None]:  # noqa: ARG002, a lifespan gets its app
        """Keep it open on this event loop until left; who enters while it is open, joins.

        Raises:
            ConfigError: the event loop is not asyncio's, which stores want.
        """
        async with self.opened():
            yield

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[Limiter]:
        """Give what counts on this event loop.

        Raises:
            ConfigError: the event loop is not asyncio's, which stores want.
        """
        if self._memory is not None:
            yield self._memory
            return
        if not on_asyncio():
            raise ConfigError("limits are counted in Redis and Valkey on asyncio only; on trio, say memory://")
        shared = self._shared.get(None)
        if shared is None:
            shared = Shared(lambda: self._open(self._url, nodes=self._nodes, clock=self._clock))
            self._shared.set(shared)
        limiter = await shared.enter()
        try:
            yield limiter
        finally:
            await shared.leave()

    def _found(self) -> Limiter | None:
        """Give what is open on this event loop, if anything is."""
        if self._memory is not None:
            return self._memory
        shared = self._shared.get(None)
        return None if shared is None else shared.value


def opener_of(limiter: Limiter) -> OpenLimiter:
    """Say how a limiter is opened: one of yours is open already."""
    return limiter.opened if isinstance(limiter, Limits) else partial(nullcontext, limiter)
