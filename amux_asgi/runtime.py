"""What runs, one object an event loop: started by the lifespan or, reduced, by a request without one."""

import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Final, Protocol, TypeVar

import anyio
from anyio.abc import TaskGroup
from msgspec import Struct

from amux_asgi.admission import Limiter
from amux_asgi.claims import Claims
from amux_asgi.idempotency import MemoryAnswers
from amux_asgi.in_flight import Held, InFlight
from amux_asgi.jobs import Jobs, Outcome
from amux_asgi.loops import loop_here, on_asyncio, spawn_here
from amux_asgi.pictures import OpenPictures, Pictures
from amux_asgi.places import Places
from amux_asgi.pulse import Pulse
from amux_asgi.quota import Ledger, MemoryLedger
from amux_asgi.transport.base import Transport
from amux_asgi.wiring import Lines, Wired, Wires

T = TypeVar("T")
Clock = Callable[[], float]
Now = Callable[[], int]
GIB: Final = 2**30

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
OpenLimiter = Callable[[], AbstractAsyncContextManager[Limiter]]


class Runtime:
    """What one job has of its event loop: jobs, ledger, claims, pictures, limiter; by channel its transport and places.

    The latter two are those of the version of the configuration that the job began with. `in_flight` counts the bytes
    that all requests hold.
    """

    def __init__(  # noqa: PLR0913, its parts
        self,
        jobs: Jobs,
        stores: Stores,
        pictures: Pictures,
        limiter: Limiter,
        *,
        transports: Mapping[str, Transport],
        places: Mapping[str, Places],
        in_flight: InFlight,
    ) -> None:
        self.jobs = jobs
        self.ledger: Ledger = stores.ledger
        self.claims: Claims = stores.claims
        self.pictures = pictures
        self.limiter = limiter
        self.transports = transports
        self.places = places
        self.in_flight = in_flight


class Home(Struct, frozen=True, eq=False):
    """What runs on one event loop, whatever the version of the configuration."""

    jobs: Jobs
    stores: Stores
    pictures: Pictures
    limiter: Limiter
    wires: Wires
    pulse: Pulse
    in_flight: InFlight
    start: Callable[..., object]  # of a task that ends with all others, when no job runs any more

    async def run(self, work: Callable[[Runtime], Awaitable[T]], lines: Lines) -> T:
        """Run a job's work with what its version needs."""
        wired = await self.wires.use(lines)
        try:
            return await work(self.runtime(wired))
        finally:
            self.wires.leave(wired)

    def runtime(self, wired: Wired) -> Runtime:
        """Give what a job of one version has."""
        return Runtime(
            self.jobs,
            self.stores,
            self.pictures,
            self.limiter,
            transports=wired.transports,
            places=wired.places,
            in_flight=self.in_flight,
        )


class Runtimes:
    """The runtimes of one app.

    Constructing it opens nothing: safe before a fork, in several threads, on several loops one after the other.
    """

    def __init__(  # noqa: PLR0913, its parts
        self,
        lines: Lines,
        *,
        stores: OpenStores,
        pictures: OpenPictures,
        limiter: OpenLimiter,
        grace: float,
        clock: Clock = time.monotonic,
        max_in_flight: int = GIB,
    ) -> None:
        """`lines` are those of the newest version; `grace` and `clock` are in seconds, `max_in_flight` in bytes."""
        self._lines = lines
        self._pictures = pictures
        self._stores = stores
        self._limiter = limiter
        self._grace = grace
        self._clock = clock
        self._max_in_flight = max_in_flight
        self._stopping: float | None = None
        self._homes: dict[object, Home] = {}  # by event loop
        self._warned = False

    @property
    def current(self) -> Home | None:
        """Give what runs on this event loop, if the lifespan was entered."""
        return self._homes.get(loop_here())

    @property
    def stopping(self) -> bool:
        """Tell whether `stop` was called."""
        return self._stopping is not None

    def stop(self) -> None:
        """Let the grace time begin now, and not when the lifespan is left: a server waits for its requests before."""
        if self._stopping is None:
            self._stopping = self._clock()

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[Home]:
        """Run on this event loop until left; who enters while it runs already, joins.

        Leaving waits up to the grace time for the jobs, then cuts them off.
        """
        if (current := self.current) is not None:
            yield current
            return
        self._stopping = None
        async with self._start() as home:
            loop = loop_here()
            self._homes[loop] = home
            try:
                yield home
            finally:
                self.stop()
                with anyio.CancelScope(shield=True):
                    await home.jobs.drain(self._left())
                del self._homes[loop]

    async def renew(self, lines: Lines) -> None:
        """Go on with a new version: where the app runs, its transports are open when this returns.

        Another event loop opens what it needs for its first request of the new version.
        """
        if (home := self.current) is not None:
            await home.wires.renew(lines)
        self._lines = lines

    async def run(self, work: Callable[[Runtime], Awaitable[T]], lines: Lines | None = None) -> T:
        """Run one job to its end, whoever leaves; `lines` are those of the version that it belongs to.

        Raises:
            NotStartedError: the lifespan never ran, on an event loop that cannot do without.
        """
        jobs, job = self._job(work, lines)
        return await jobs.run(job)

    def begin(
        self, work: Callable[[Runtime], Awaitable[T]], lines: Lines | None, ended: Callable[[Outcome[T]], object]
    ) -> Outcome[T]:
        """Begin a job that nobody waits for; `ended` is told of its end. Raises as `run` does."""
        jobs, job = self._job(work, lines)
        return jobs.begin(job, ended)

    def _job(
        self, work: Callable[[Runtime], Awaitable[T]], lines: Lines | None
    ) -> tuple[Jobs, Callable[[], Awaitable[T]]]:
        """Say where a job runs, and all that is done for it."""
        lines = self._lines if lines is None else lines
        if (home := self.current) is not None:
            return home.jobs, partial(home.run, work, lines)
        spawn = spawn_here()
        self._warn()
        return Jobs(spawn), partial(self._alone, work, lines)

    def open(self, key: str) -> Held:
        """Give what a request of this key holds outside its job, to be entered: its body, and its reply."""
        home = self.current
        return (self._in_flight() if home is None else home.in_flight).open(key)

    async def picture(self, name: str) -> bytes | None:
        """Give a hosted picture; `None` if there is none of this name.

        Raises:
            StorageUnavailableError: the store is away.
        """
        if (home := self.current) is not None:
            return await home.pictures.get(name)
        async with self._pictures() as pictures:
            return await pictures.get(name)

    def _in_flight(self) -> InFlight:
        return InFlight(self._max_in_flight, clock=self._clock)

    @asynccontextmanager
    async def _start(self) -> AsyncGenerator[Home]:
        async with AsyncExitStack() as stack:
            stores = await stack.enter_async_context(self._stores())
            pictures = await stack.enter_async_context(self._pictures())
            limiter = await stack.enter_async_context(self._limiter())
            keepers = await stack.enter_async_context(_group())
            wires = Wires(keepers.start, clock=self._clock)
            stack.callback(wires.close)
            await wires.renew(self._lines)
            tasks = await stack.enter_async_context(_group())
            stack.callback(tasks.cancel_scope.cancel)
            pulse = Pulse(stores.ledger, clock=self._clock)
            jobs, in_flight = Jobs(spawn_here() if on_asyncio() else tasks.start_soon), self._in_flight()
            tasks.start_soon(jobs.keep)
            yield Home(jobs, stores, pictures, limiter, wires, pulse, in_flight, tasks.start_soon)

    async def _alone(self, work: Callable[[Runtime], Awaitable[T]], lines: Lines) -> T:
        async with self._start() as home:
            return await home.run(work, lines)

    def _left(self) -> float:
        """Give what is left of the grace time, in seconds."""
        begun = self._clock() if self._stopping is None else self._stopping
        return max(0.0, begun + self._grace - self._clock())

    def _warn(self) -> None:
        if not self._warned:
            self._warned = True
            logger.warning(
                "the lifespan of images_app() never ran, so each request opens its own connections and nothing waits "
                "for it at exit; give it to the outermost app: Starlette(..., lifespan=images.lifespan)"
            )


@asynccontextmanager
async def _group() -> AsyncGenerator[TaskGroup]:
    """Run a task group that wraps nothing: what is raised inside comes out as it is."""
    error: Exception | None = None
    async with anyio.create_task_group() as tasks:
        try:
            yield tasks
        except Exception as exc:  # noqa: BLE001, raised again below
            error = exc
    if error is not None:
        raise error


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
