"""What runs, one object an event loop: started by the lifespan or, reduced, by a request without one."""

import asyncio  # noqa: TID251, without a lifespan only asyncio can start a task that nobody owns
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any, Protocol, TypeVar

import anyio
from anyio.lowlevel import RunVar
from msgspec import Struct

from amux_asgi.claims import Claims
from amux_asgi.errors import NotStartedError
from amux_asgi.idempotency import MemoryAnswers
from amux_asgi.jobs import Jobs
from amux_asgi.quota import Ledger, MemoryLedger
from amux_asgi.transport.base import Open, Transport

T = TypeVar("T")
Clock = Callable[[], float]
Now = Callable[[], int]

logger: logging.Logger = logging.getLogger("amux_asgi")


def unix_ms() -> int:
    """Give Unix time in milliseconds."""
    return time.time_ns() // 1_000_000


class Stores(Protocol):
    """What is kept of money and of answers, however it is kept."""

    @property
    def ledger(self) -> Ledger:
        """Give what knows the money."""
        ...

    @property
    def claims(self) -> Claims:
        """Give what recognises a request that is sent twice."""
        ...


class _InMemory(Struct, frozen=True):
    ledger: Ledger
    claims: Claims


OpenStores = Callable[[], AbstractAsyncContextManager[Stores]]


class Runtime:
    """What runs on one event loop: its jobs, its ledger and claims, and its transports by the channel they serve."""

    def __init__(self, jobs: Jobs, stores: Stores, transports: Mapping[str, Transport]) -> None:
        self.jobs = jobs
        self.ledger: Ledger = stores.ledger
        self.claims: Claims = stores.claims
        self.transports = transports


class Runtimes:
    """The runtimes of one app.

    Constructing it opens nothing: safe before a fork, in several threads, on several loops one after the other.
    """

    def __init__(self, transports: Mapping[str, Open], *, stores: OpenStores, grace: float) -> None:
        """`transports` opens one for each channel's name; equal openers are opened once. `grace` is in seconds."""
        self._openers = transports
        self._stores = stores
        self._grace = grace
        self._current: RunVar[Runtime] = RunVar("amux_asgi runtime")
        self._warned = False

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[Runtime]:
        """Run on this event loop until left; who enters while it runs already, joins.

        Leaving waits up to the grace time for the jobs, then cuts them off.
        """
        if (current := self._current.get(None)) is not None:
            yield current
            return
        async with self._start() as runtime:
            token = self._current.set(runtime)
            try:
                yield runtime
            finally:
                with anyio.CancelScope(shield=True):
                    await runtime.jobs.drain(self._grace)
                self._current.reset(token)

    async def run(self, work: Callable[[Runtime], Awaitable[T]]) -> T:
        """Run one job to its end, whoever leaves.

        Raises:
            NotStartedError: the lifespan never ran, on an event loop that cannot do without.
        """
        runtime = self._current.get(None)
        if runtime is not None:
            return await runtime.jobs.run(partial(work, runtime))
        loop = _asyncio_loop()
        self._warn()
        return await Jobs(partial(_spawn, loop)).run(partial(self._alone, work))

    @asynccontextmanager
    async def _start(self) -> AsyncGenerator[Runtime]:
        error: Exception | None = None
        async with AsyncExitStack() as stack:
            stores = await stack.enter_async_context(self._stores())
            opened = {
                opener: await stack.enter_async_context(opener()) for opener in dict.fromkeys(self._openers.values())
            }
            transports = {name: opened[opener] for name, opener in self._openers.items()}
            async with anyio.create_task_group() as tasks:
                try:
                    yield Runtime(Jobs(tasks.start_soon), stores, transports)
                except Exception as exc:  # noqa: BLE001, raised again below, where no task group wraps it
                    error = exc
                tasks.cancel_scope.cancel()
        if error is not None:
            raise error

    async def _alone(self, work: Callable[[Runtime], Awaitable[T]]) -> T:
        async with self._start() as runtime:
            return await work(runtime)

    def _warn(self) -> None:
        if not self._warned:
            self._warned = True
            logger.warning(
                "the lifespan of images_app() never ran, so each request opens its own connections and nothing waits "
                "for it at exit; give it to the outermost app: Starlette(..., lifespan=images.lifespan)"
            )


def in_memory(ledger: Ledger, *, clock: Clock = time.monotonic, now: Now = unix_ms) -> OpenStores:
    """Keep money in a ledger that is there all the time, and answers likewise, also between two lives of the app."""
    stores = _InMemory(ledger, Claims(MemoryAnswers(now=now), clock=clock, now=now))

    @asynccontextmanager
    async def opened() -> AsyncGenerator[Stores]:
        yield stores

    return opened


def forgetful(*, clock: Clock = time.monotonic, now: Now = unix_ms) -> OpenStores:
    """Keep money and answers for as long as the process lives, and say so once."""
    opened = in_memory(MemoryLedger(), clock=clock, now=now)
    warned: list[bool] = []

    @asynccontextmanager
    async def warning() -> AsyncGenerator[Stores]:
        if not warned:
            warned.append(True)
            logger.warning("there is no database, so what was used is forgotten at exit; say [gateway] database")
        async with opened() as stores:
            yield stores

    return warning


_loose: set[asyncio.Task[None]] = set()  # the event loop itself keeps only weak references


def on_asyncio() -> bool:
    """Tell whether the running event loop is asyncio's."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _asyncio_loop() -> asyncio.AbstractEventLoop:
    if not on_asyncio():
        raise NotStartedError("the gateway was never started: give images.lifespan to the outermost app")
    return asyncio.get_running_loop()


def _spawn(loop: asyncio.AbstractEventLoop, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    task = loop.create_task(work())
    _loose.add(task)
    task.add_done_callback(_loose.discard)
