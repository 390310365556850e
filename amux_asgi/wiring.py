"""The transports and places of one event loop, for the versions of a configuration that are in use side by side."""

import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

import anyio
from anyio.abc import TaskStatus
from msgspec import Struct

from amux_asgi.places import Places, PlacesState
from amux_asgi.transport.base import Open, Transport

logger: logging.Logger = logging.getLogger("amux_asgi")


class Line(Struct, frozen=True):
    """How a channel is reached: what opens its transport, and how many asks may be under way at once."""

    open: Open
    places: int = 64


Lines = Mapping[str, Line]
"""By channel's name: of one version, which is known by this object itself. Equal openers are opened once."""


class Wired:
    """One version's transports and places, by channel's name, and how many have it in hand."""

    def __init__(self, lines: Lines, transports: Mapping[str, Transport], places: Mapping[str, Places]) -> None:
        self.lines = lines
        self.transports = transports
        self.places = places
        self.users = 0


class _Opened(Struct, frozen=True, eq=False):
    transport: Transport
    over: anyio.Event  # set when nobody wants it any more


class Wires:
    """Opens what a version needs that is not open yet, and closes what no version in use needs any more.

    Each transport lives in a task of its own, as it must be left where it was entered.
    """

    def __init__(self, start: Callable[..., Awaitable[Any]], *, clock: Callable[[], float]) -> None:
        """`start` is that of a task group which ends after `close`; `clock` is monotonic, in seconds."""
        self._start = start
        self._clock = clock
        self._opened: dict[Open, _Opened] = {}
        self._wanted: Counter[Open] = Counter()  # by how many versions
        self._versions: dict[int, Wired] = {}
        self._newest: Wired | None = None
        self._changing = anyio.Lock()

    async def use(self, lines: Lines) -> Wired:
        """Begin to use a version, which stays open until it is left."""
        wired = self._versions.get(id(lines)) or await self._wire(lines)
        wired.users += 1
        return wired

    def leave(self, wired: Wired) -> None:
        """Use a version no more; once for each use."""
        wired.users -= 1
        if not wired.users:
            del self._versions[id(wired.lines)]
            self._let_go(_openers(wired.lines))

    async def renew(self, lines: Lines) -> None:
        """Keep this version open from now on, and the one before only as long as somebody uses it."""
        wired = await self._wire(lines)
        wired.users += 1
        for name, line in lines.items():
            wired.places[name].resize(line.places)
        before, self._newest = self._newest, wired
        if before is not None:
            self.leave(before)

    def snapshot(self) -> Mapping[str, PlacesState]:
        """Tell of the newest version's places."""
        wired = self._newest
        return {} if wired is None else {name: places.snapshot() for name, places in wired.places.items()}

    def close(self) -> None:
        """Close all that is open, in the tasks that opened it."""
        for opened in self._opened.values():
            opened.over.set()

    async def _wire(self, lines: Lines) -> Wired:
        async with self._changing:
            if (wired := self._versions.get(id(lines))) is not None:
                return wired
            openers = _openers(lines)
            self._wanted.update(openers)
            try:
                for opener in openers:
                    if opener not in self._opened:
                        self._opened[opener] = await self._start(self._keep, opener)
            except BaseException:
                self._let_go(openers)
                raise
            transports = {name: self._opened[line.open].transport for name, line in lines.items()}
            wired = Wired(lines, transports, {name: self._places(name, line) for name, line in lines.items()})
            self._versions[id(lines)] = wired
            return wired

    def _places(self, name: str, line: Line) -> Places:
        """Go on with the places of a version in use: who holds one of them still asks the same upstream."""
        for wired in self._versions.values():
            if (places := wired.places.get(name)) is not None:
                return places
        return Places(line.places, clock=self._clock)

    def _let_go(self, openers: Iterable[Open]) -> None:
        self._wanted.subtract(openers)
        for opener in openers:
            if not self._wanted[opener] and opener in self._opened:
                self._opened.pop(opener).over.set()

    async def _keep(self, opener: Open, *, task_status: TaskStatus[_Opened]) -> None:
        over = anyio.Event()
        async with opener() as transport:
            task_status.started(_Opened(transport, over))
            await over.wait()


def _openers(lines: Lines) -> list[Open]:
    return list(dict.fromkeys(line.open for line in lines.values()))
