"""The exact moving window, counted in memory: never more than the limit in any window, at the same cost for any key."""

from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from itertools import count
from typing import Final

from amux_asgi.admission import SECOND, Admitted, Hit, Standing
from amux_asgi.refusals import verdict

LATER: Final = 5 * SECOND  # when to come back where nobody can know
POLL: Final = SECOND  # the same for a place among those at once, which somebody may leave at any moment
_Named = Sequence[tuple[str, Hit]]  # with the names of their counters
SWEPT: Final = 2  # idle keys that go with each hit, which brings at most one for each window


def fits_at(entries: Iterable[tuple[int, int]], free: int, weight: int) -> int | None:
    """Say when a weight fits that does not now: `entries` are (when it ends, weight), oldest first.

    `None` if it is more than there will ever be.
    """
    for ends, taken in entries:
        free += taken
        if weight <= free:
            return ends
    return None


class Window:
    """What was admitted within one window, oldest first."""

    __slots__ = ("entries", "used")

    def __init__(self) -> None:
        self.entries: deque[tuple[int, int]] = deque()  # when it ends, weight
        self.used: int = 0

    def forget(self, now: int) -> None:
        """Let go what has ended."""
        while self.entries and self.entries[0][0] <= now:
            self.used -= self.entries.popleft()[1]


class Counters:
    """Windows and leases by counter. Nothing waits, so each step is indivisible; idle counters vanish.

    `clock` is monotonic, in seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._windows: dict[int, OrderedDict[str, Window]] = {}  # by length; whoever was hit last, last
        self._leases: dict[str, set[str]] = {}
        self._held: dict[str, tuple[str, ...]] = {}  # by lease, its counters

    def now(self) -> int:
        """Give the time in microseconds."""
        return int(self._clock() * SECOND)

    def look(self, hits: Iterable[Hit], *, nodes: int = 1) -> tuple[Standing, ...]:
        """Say how the rules would stand, without taking anything; several nodes have a share each."""
        return self._look(_named(hits), nodes, self.now())

    def add(self, hits: Iterable[Hit], lease: str | None) -> None:
        """Take, whether it fits or not."""
        self._add(_named(hits), lease, self.now())

    def take(self, hits: Iterable[Hit], lease: str | None, *, nodes: int = 1) -> tuple[Standing, ...]:
        """Say how the rules stand, and take if none of them says to wait."""
        named, now = _named(hits), self.now()
        standings = self._look(named, nodes, now)
        if not [one for one in standings if one.wait]:
            self._add(named, lease, now)
        return standings

    def _look(self, named: _Named, nodes: int, now: int) -> tuple[Standing, ...]:
        standings: list[Standing] = []
        for counter, hit in named:
            limit = hit.rule.limit if nodes == 1 else hit.rule.share(nodes)
            if hit.rule.at_once:
                standings.append(self._at_once(hit, counter, limit))
            else:
                standings.append(self._in_window(hit, counter, limit, now))
        return tuple(standings)

    def _add(self, named: _Named, lease: str | None, now: int) -> None:
        held: list[str] = []
        for counter, hit in named:
            if not hit.weight:
                continue
            if hit.rule.at_once and lease is not None:
                held.append(counter)
                self._leases.setdefault(counter, set()).add(lease)
            else:
                self.count(counter, hit.rule.window, hit.weight, now)
        if lease is not None:
            self._held[lease] = tuple(held)

    def drop(self, lease: str | None) -> tuple[str, ...]:
        """Give the places of a lease back; say of which counters they were."""
        counters = self._held.pop(lease or "", ())
        for counter in counters:
            leases = self._leases[counter]
            leases.discard(lease or "")
            if not leases:
                del self._leases[counter]
        return counters

    def leases(self) -> dict[str, list[str]]:
        """List the leases by counter."""
        return {counter: list(leases) for counter, leases in self._leases.items()}

    def count(self, counter: str, window: int, weight: int, now: int) -> None:
        """Take a weight in a window."""
        windows = self._windows.get(window)
        if windows is None:
            windows = self._windows[window] = OrderedDict()
        found = windows.get(counter)
        if found is None:
            found = windows[counter] = Window()
        else:
            found.forget(now)
            windows.move_to_end(counter)
        found.entries.append((now + window, weight))
        found.used += weight
        self._sweep(windows, now)

    def window(self, counter: str, window: int, now: int) -> Window:
        """Give what is in a window now."""
        windows = self._windows.get(window)
        found = None if windows is None else windows.get(counter)
        if found is None:
            return Window()
        found.forget(now)
        return found

    def windows(self, counter: str, now: int) -> list[Window]:
        """Give the windows of each length in which something counts now."""
        found = [self.window(counter, window, now) for window in self._windows]
        return [window for window in found if window.entries]

    def forget(self, counter: str) -> None:
        """Forget a counter's windows."""
        for windows in self._windows.values():
            windows.pop(counter, None)

    def forget_all(self) -> int:
        """Forget all windows; say how many there were."""
        known = sum(len(windows) for windows in self._windows.values())
        self._windows.clear()
        return known

    def _sweep(self, windows: OrderedDict[str, Window], now: int) -> None:
        for _ in range(SWEPT):
            counter, window = next(iter(windows.items()))  # the one just hit is there
            if window.entries and window.entries[-1][0] > now:
                return
            del windows[counter]

    def _at_once(self, hit: Hit, counter: str, limit: int) -> Standing:
        free = limit - len(self._leases.get(counter, ()))
        if hit.weight <= free:
            return Standing(hit=hit, wait=0, left=free - hit.weight, reset=0)
        return Standing(hit=hit, wait=POLL, left=max(free, 0), reset=0)

    def _in_window(self, hit: Hit, counter: str, limit: int, now: int) -> Standing:
        window = self.window(counter, hit.rule.window, now)
        free = limit - window.used
        first = window.entries[0][0] - now if window.entries else hit.rule.window * (hit.weight > 0)
        if hit.weight <= free:
            return Standing(hit=hit, wait=0, left=free - hit.weight, reset=first)
        fits = fits_at(window.entries, free, hit.weight)
        return Standing(hit=hit, wait=LATER if fits is None else fits - now, left=max(free, 0), reset=first)


class MemoryLimiter:
    """A limiter that lasts as long as its process, and is one of `nodes` that each have their share."""

    def __init__(self, counters: Counters, *, nodes: int = 1) -> None:
        self._counters = counters
        self._nodes = nodes
        self._names = count(1)

    @property
    def place(self) -> Hashable:
        """Give the counters themselves: nobody else has them."""
        return self._counters

    async def admit(self, hits: Sequence[Hit]) -> Admitted:
        """Admit a request.

        Raises:
            RateLimitError: a limit is reached.
        """
        lease = str(next(self._names)) if needs_lease(hits) else None
        standings = self._counters.take(hits, lease, nodes=self._nodes)
        return verdict(standings, lease, self._nodes)

    def release(self, lease: str | None) -> None:
        """Give places back."""
        self._counters.drop(lease)


def needs_lease(hits: Iterable[Hit]) -> bool:
    """Tell whether there is a limit of what is under way."""
    return True in [hit.rule.at_once for hit in hits if hit.weight]


def _named(hits: Iterable[Hit]) -> _Named:
    return [(hit.counter, hit) for hit in hits]
