"""The places of a channel: so many asks at once, and before them a short line in which keys take turns."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

import anyio
from msgspec import Struct

from amux_asgi.errors import OverloadedError

WAITING: Final = 2  # asks that may wait for each place: longer lines do no more, and take longer to be short again
OLDEST: Final = 60.0  # seconds that a key's first one has waited when its next ones are refused
SHORTEST: Final = 1.0  # seconds that a refused client is asked to stay away
LONGEST: Final = 60.0  # seconds; SDKs give up rather than wait longer
MEMORY: Final = 1 / 8  # weight of the newest ask in the usual time of one


class PlacesState(Struct, frozen=True, kw_only=True):
    """What a channel does now. `oldest` is for how many seconds the first one has waited."""

    places: int
    taken: int
    waiting: int
    oldest: float


class _Waiter:
    __slots__ = ("bell", "granted", "key", "since")

    def __init__(self, key: str, since: float) -> None:
        self.key = key
        self.since = since
        self.bell = anyio.Event()
        self.granted = False


class Places:
    """The places of one channel on one event loop; no lock and no task of its own, and each step costs the same.

    While all are taken, a key's asks wait in their order and keys take turns. A key may have as many in the line as it
    leaves free there, so that who asks for much never shuts others out.
    """

    def __init__(self, places: int, *, clock: Callable[[], float]) -> None:
        """`clock` is monotonic, in seconds."""
        self._places = places
        self._clock = clock
        self._taken = 0
        self._waiting = 0
        self._lines: OrderedDict[str, OrderedDict[_Waiter, None]] = OrderedDict()  # by key, next turn first
        self._pace: float | None = None  # seconds that an ask usually takes

    def check(self, key: str, *, left: float) -> None:
        """Let in a new request of this key, which has `left` seconds; what was let in may then take several places.

        Raises:
            OverloadedError: the line is too long, or moves too slowly. Nothing was sent.
        """
        if self._taken < self._places:
            return
        line = self._lines.get(key)
        mine = 0 if line is None else len(line)
        if mine >= WAITING * self._places - self._waiting:
            raise self._overloaded("too many requests wait for this upstream")
        if line is not None and self._clock() - next(iter(line)).since > OLDEST:
            raise self._overloaded("requests wait too long for this upstream")
        if self._wait(key) > left:
            raise self._overloaded("this upstream cannot be asked in the time that is left")

    async def take(self, key: str, left: float) -> float:
        """Take a place, waiting at most `left` seconds; tell when it was taken, which `leave` wants to know.

        Raises:
            OverloadedError: there was none in time.
        """
        if self._taken < self._places:
            self._taken += 1
        else:
            await self._queue(key, left)
        return self._clock()

    def leave(self, taken: float) -> None:
        """Give a place back that was taken then."""
        took = self._clock() - taken
        self._pace = took if self._pace is None else self._pace + MEMORY * (took - self._pace)
        self._give_back()

    def resize(self, places: int) -> None:
        """Have another number of places from now on; who holds one keeps it."""
        self._places = places
        self._grant()

    def snapshot(self) -> PlacesState:
        """Say what goes on."""
        oldest = min((next(iter(line)).since for line in self._lines.values()), default=None)
        return PlacesState(
            places=self._places,
            taken=self._taken,
            waiting=self._waiting,
            oldest=0.0 if oldest is None else self._clock() - oldest,
        )

    async def _queue(self, key: str, left: float) -> None:
        waiter = self._join(key)
        try:
            with anyio.move_on_after(left):
                await waiter.bell.wait()
        except BaseException:
            if waiter.granted:  # in the moment in which it was cancelled
                self._give_back()
            else:
                self._quit(waiter)
            raise
        if not waiter.granted:
            self._quit(waiter)
            raise self._overloaded("every place at the upstream stayed taken")

    def _join(self, key: str) -> _Waiter:
        waiter = _Waiter(key, self._clock())
        self._lines.setdefault(key, OrderedDict())[waiter] = None
        self._waiting += 1
        return waiter

    def _quit(self, waiter: _Waiter) -> None:
        line = self._lines[waiter.key]
        del line[waiter]
        if not line:
            del self._lines[waiter.key]
        self._waiting -= 1

    def _give_back(self) -> None:
        self._taken -= 1
        self._grant()

    def _grant(self) -> None:
        while self._lines and self._taken < self._places:
            key, line = next(iter(self._lines.items()))
            waiter = next(iter(line))
            self._quit(waiter)
            if line:
                self._lines.move_to_end(key)
            self._taken += 1
            waiter.granted = True
            waiter.bell.set()

    def _wait(self, key: str) -> float:
        """Guess for how long a new one of this key would wait."""
        mine = len(self._lines.get(key, ())) + 1
        before = min(self._waiting + 1, mine * (len(self._lines) + 1))
        return (self._pace or 0.0) * before / self._places

    def _overloaded(self, message: str) -> OverloadedError:
        """Say when the line will be half as long."""
        half = (self._pace or 0.0) * self._waiting / self._places / 2
        return OverloadedError(message, retry_after=min(max(half, SHORTEST), LONGEST))
