"""One limiter for all nodes, in Redis or Valkey; while that is away or slow, each node admits its share by itself."""

import asyncio  # noqa: TID251, as the client below; its tasks may be ended by another task than began them
import logging
import secrets
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import count
from typing import Any, Final

import anyio
from msgspec import Struct
from msgspec.structs import replace
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from amux_asgi.admission import SECOND, Admitted, Hit, Rule, Standing, Unit
from amux_asgi.refusals import check_weights, verdict
from amux_asgi.stores.limiter import Central, ClusterCounters, LocalStorage, Question, RedisCounters
from amux_asgi.windows import LATER, needs_lease

CLUSTER: Final = "redis+cluster://"
SCHEMES: Final = {  # as they are written, and as `limits` knows them: Valkey speaks Redis' protocol
    "redis://": "redis://",
    "rediss://": "rediss://",
    CLUSTER: CLUSTER,
    "valkey://": "redis://",
    "valkeys://": "rediss://",
    "valkey+cluster://": CLUSTER,
}
TRIAL: Final = Question([Hit(rule=Rule(amount=1_000_000, unit=Unit.REQUESTS, seconds=1), scope="trial")])

logger: logging.Logger = logging.getLogger("amux_asgi")


class Pace(Struct, frozen=True, kw_only=True):
    """How long things take, in seconds."""

    patience: float = 0.05  # until an answer; after that, this node decides
    trial: float = 0.5  # between two looks whether a store that was away is back
    longest_trial: float = 2.0  # until such a look has failed: a cluster's map may have to be read anew
    beat: float = 4.0  # between two renewals of leases
    life: float = 15.0  # of a lease that nobody renews
    batch: int = 64  # questions asked in one


USUAL: Final = Pace()


class CentralLimiter:
    """Asks the store, and decides alone where that does not answer.

    What this process admitted, it counts itself too: so it never admits more than the limit, also when the store has
    lost everything, and several nodes that are alone admit no more than their shares. `fallbacks` counts what was
    decided alone; `away` tells whether the store is.
    """

    def __init__(self, central: Central, place: str, *, nodes: int, clock: Callable[[], float], pace: Pace) -> None:
        """`clock` is monotonic, in seconds."""
        self.fallbacks: int = 0
        self.away: bool = False
        self._central = central
        self._place = place
        self._nodes = nodes
        self._clock = clock
        self._pace = pace
        self._life = int(pace.life * SECOND)
        self._own = LocalStorage(clock=clock)
        self._names = count(1)
        self._owner = secrets.token_hex(8)
        self._waiting: deque[_Asked] = deque()
        self._asked = anyio.Event()
        self._lost = anyio.Event()
        self._dropped = anyio.Event()
        self._returned: dict[str, dict[str, float]] = {}  # leases to give back, by counter, and since when

    @property
    def returning(self) -> int:
        """Count the places that the store does not know to be free yet."""
        return sum(len(leases) for leases in self._returned.values())

    @property
    def place(self) -> Hashable:
        """Give the store's address."""
        return self._place

    async def admit(self, hits: Sequence[Hit]) -> Admitted:
        """Admit a request.

        Raises:
            RateLimitError: a limit is reached.
        """
        check_weights(hits)
        if not hits:
            return Admitted()
        verdict(self._own.look(hits), None)
        lease = f"{self._owner}:{next(self._names)}" if needs_lease(hits) else None
        counted = False
        try:
            admitted = await self._admit(hits, lease)
            self._own.add(hits, lease)
            counted = True
        finally:
            if lease is not None and not counted:  # it may have been placed all the same
                self._give_back(lease, [hit.counter for hit in hits if hit.rule.unit is Unit.CONCURRENT])
        return admitted

    def release(self, lease: str | None) -> None:
        """Give places back: at once in this process, soon in the store."""
        if counters := self._own.drop(lease):
            self._give_back(str(lease), counters)

    async def start(self) -> None:
        """Look whether the store is there; without it, begin alone."""
        if not await self._is_back():
            self._lose("it cannot be reached")

    async def watch(self) -> None:
        """Look after a store that is away, until it is back; for ever."""
        while True:
            await self._lost.wait()
            while self.away:
                await anyio.sleep(self._pace.trial)
                if await self._is_back():
                    self.away = False
                    self._lost = anyio.Event()
                    logger.warning("the limits' store is back; limits are counted there again")

    async def renew(self) -> None:
        """Renew the leases of what is under way, and give back those of what has ended; for ever."""
        while True:
            with anyio.move_on_after(self._pace.beat) as pause:
                await self._dropped.wait()
            self._dropped = anyio.Event()
            self._forget_fallen()
            if not self.away:
                await self._tell(beat=pause.cancelled_caught)

    async def part(self) -> None:
        """Give back what has ended before the last word."""
        if not self.away:
            await self._tell(beat=False)

    async def _tell(self, *, beat: bool) -> None:
        try:
            with anyio.fail_after(self._pace.longest_trial):
                await self._tell_returned()
                if beat:
                    await self._central.tell(self._own.leases(), self._life)
        except Exception as exc:  # noqa: BLE001, whatever is wrong there, the store is away
            self._lose(exc)

    async def ask(self) -> None:
        """Ask the store for all who wait, in as few questions as there can be; for ever."""
        while True:
            await self._asked.wait()
            self._asked = anyio.Event()
            while self._waiting:
                await self._ask([self._waiting.popleft() for _ in range(min(self._pace.batch, len(self._waiting)))])

    async def _ask(self, batch: Sequence["_Asked"]) -> None:
        wanted = [asked for asked in batch if asked.waited_for]
        try:
            with anyio.fail_after(self._pace.patience):
                found = await self._central.take([asked.question for asked in wanted], self._life)
        except Exception as exc:  # noqa: BLE001, whatever is wrong there, the store is away
            self._lose(exc)
            return
        for asked, standings in zip(wanted, found, strict=True):
            asked.answer(standings)

    async def _admit(self, hits: Sequence[Hit], lease: str | None) -> Admitted:
        standings = None if self.away else await self._found(hits, lease)
        if standings is None:
            return self._alone(hits, lease)
        verdict(self._own.look(hits), None)  # again: others of this process have been admitted meanwhile
        return verdict(standings, lease)

    async def _found(self, hits: Sequence[Hit], lease: str | None) -> tuple[Standing, ...] | None:
        """Give what the store says, or `None` if it does not in time."""
        gone = {hit.counter: list(self._returned.get(hit.counter, ())) for hit in hits} if lease else {}
        asked = _Asked(Question(hits, lease or "", gone))
        self._waiting.append(asked)
        self._asked.set()
        try:
            with anyio.move_on_after(self._pace.patience) as time_is_up:
                await asked.done.wait()
        finally:
            asked.waited_for = False
        if time_is_up.cancelled_caught:
            self._lose("it did not answer in time")
        return asked.standings

    def _alone(self, hits: Sequence[Hit], lease: str | None) -> Admitted:
        """Decide by this node's share; who must wait for the store's return alone waits no longer than for that."""
        self.fallbacks += 1
        standings = self._own.look(hits, nodes=self._nodes)
        return verdict([replace(one, wait=min(one.wait, LATER)) for one in standings], lease)

    def _lose(self, reason: object) -> None:
        for asked in self._waiting:
            asked.done.set()  # unanswered
        self._waiting.clear()
        if not self.away:
            self.away = True
            self._lost.set()
            what = f"{type(reason).__name__}: {reason}" if isinstance(reason, Exception) else reason
            logger.warning("the limits' store is away or slow, this node counts by itself (%s)", what)

    async def _is_back(self) -> bool:
        """Tell whether the store answers in time, and knows what this process holds; the second look is a warm one."""
        for _ in range(2):
            begun = self._clock()
            try:
                with anyio.fail_after(self._pace.longest_trial):
                    await self._central.take([TRIAL], self._life)
                    quick = self._clock() - begun <= self._pace.patience
                    await self._tell_returned()
                    await self._central.tell(self._own.leases(), self._life)
            except Exception:
                logger.debug("the limits' store is still away", exc_info=True)
                return False
            if quick:
                return True
        return False

    def _give_back(self, lease: str, counters: Sequence[str]) -> None:
        for counter in counters:
            self._returned.setdefault(counter, {})[lease] = self._clock()
        if not self.away:
            self._dropped.set()

    async def _tell_returned(self) -> None:
        """Give back leases; until the store has confirmed it, each question tells it too, so that nobody is refused."""
        told = {counter: list(leases) for counter, leases in self._returned.items()}
        await self._central.tell(told, 0)
        for counter, leases in told.items():
            self._forget(counter, leases)

    def _forget_fallen(self) -> None:
        """Forget the leases that have fallen by themselves meanwhile."""
        oldest = self._clock() - self._pace.life
        for counter, leases in list(self._returned.items()):
            self._forget(counter, [lease for lease, since in leases.items() if since < oldest])

    def _forget(self, counter: str, leases: Iterable[str]) -> None:
        kept = self._returned.get(counter, {})
        for lease in leases:
            kept.pop(lease, None)
        if not kept:
            self._returned.pop(counter, None)


class _Asked:
    """A question, and who waits for its answer."""

    __slots__ = ("done", "question", "standings", "waited_for")

    def __init__(self, question: Question) -> None:
        self.question = question
        self.done = anyio.Event()
        self.standings: tuple[Standing, ...] | None = None
        self.waited_for = True

    def answer(self, standings: tuple[Standing, ...]) -> None:
        self.standings = standings
        self.done.set()


@asynccontextmanager
async def open_central(
    url: str, *, nodes: int = 1, clock: Callable[[], float] = time.monotonic, pace: Pace = USUAL
) -> AsyncGenerator[CentralLimiter]:
    """Give the limiter that a store's URL names; left, its connections are closed. Wants asyncio."""
    central = connect(url)
    limiter = CentralLimiter(central, url, nodes=nodes, clock=clock, pace=pace)
    await limiter.start()
    tasks = [asyncio.create_task(work()) for work in (limiter.ask, limiter.watch, limiter.renew)]
    try:
        yield limiter
    finally:
        for task in tasks:
            task.cancel()
        with anyio.CancelScope(shield=True), anyio.move_on_after(pace.longest_trial):
            await asyncio.gather(*tasks, return_exceptions=True)
            await limiter.part()
            await central.close()


def connect(url: str) -> Central:
    """Make the counters behind a URL, without connecting.

    Raises:
        ValueError: it is none.
    """
    scheme, separator, rest = url.partition("://")
    known = SCHEMES.get(scheme + separator)
    if known is None or not rest.strip("/"):
        raise ValueError(f"is no limits' store; known are memory://, {', '.join(SCHEMES)}")
    # A question that failed is not asked again: what it took would be taken twice.
    options: Mapping[str, Any] = {"retry": Retry(NoBackoff(), 0)}
    if known == CLUSTER:
        return ClusterCounters(known + rest, require_full_coverage=False, **options)
    return RedisCounters(known + rest, **options)
