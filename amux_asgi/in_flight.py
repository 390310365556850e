"""The bytes that requests hold: what is expected is booked before anything is paid, what comes is counted."""

from collections import OrderedDict
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

import anyio
from msgspec import Struct

from amux_asgi.errors import OverloadedError

USUAL: Final = 512 * 2**10  # bytes that a picture is expected to have before any was seen
LEAST: Final = 64 * 2**10  # bytes that an ask holds anyway
COPIES: Final = 3  # of an answer in memory: its pieces and the whole, then the whole and the reply made of it
GREED: Final = 4  # times what is free, which one key may hold: alone 4/5 of all, one of two 4/9
SPARE: Final = 4  # a fourth of all is booked by nobody: it is for the one that may always go on
RISE: Final = 1 / 2  # weight of the newest answer in what is expected, where it is larger
FALL: Final = 1 / 8  # and where it is smaller
SHORTEST: Final = 1.0  # seconds that a refused client is asked to stay away
LONGEST: Final = 60.0


class InFlightState(Struct, frozen=True, kw_only=True):
    """What is held now, in bytes; `waiting` counts the answers that are not read on until others have left."""

    most: int
    held: int
    waiting: int


class Held:
    """What one request holds, until it is left."""

    __slots__ = ("_begun", "_book", "booked", "key", "seen", "wanted")

    def __init__(self, book: "InFlight", key: str) -> None:
        self.key: str = key
        self.booked: int = 0
        self.seen: int = 0  # bytes of answers
        self.wanted: int = 0  # bytes that are waited for
        self._book = book
        self._begun = book.clock()

    def reserve(self, size: int) -> None:
        """Book what is expected, before anything is begun.

        Raises:
            OverloadedError: there is no room, or others have a right to it.
        """
        self._book.reserve(self, size)

    def add(self, size: int) -> None:
        """Count what is in memory already, so that nobody could wait for it."""
        self._book.add(self, size)

    async def grow(self, size: int) -> None:
        """Count bytes of an answer as they come; beyond all room, wait until others have left.

        One request at a time may always go on, so all come to their end.
        """
        self.seen += size
        more = self.seen * COPIES - self.booked - self.wanted
        if more > 0:
            await self._book.grow(self, more)

    def forget(self, size: int) -> None:
        """Note that bytes of an answer are held no more: as many may come in their place."""
        self.seen -= size

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._book.free(self, self._book.clock() - self._begun)


class _Want:
    __slots__ = ("bell", "held", "size")

    def __init__(self, held: Held, size: int) -> None:
        self.held = held
        self.size = size
        self.bell = anyio.Event()


class InFlight:
    """The bytes that are held on one event loop, by whom, and how many an answer is expected to have."""

    def __init__(self, most: int, *, clock: Callable[[], float]) -> None:
        """`most` is in bytes; `clock` is monotonic, in seconds."""
        self.clock = clock
        self._most = most
        self._room = most - most // SPARE
        self._held = 0
        self._by_key: dict[str, int] = {}
        self._expected: dict[str, float] = {}
        self._line: OrderedDict[_Want, None] = OrderedDict()
        self._first: Held | None = None  # the one that may always go on
        self._holders = 0
        self._pace = SHORTEST  # seconds that something is usually held

    def open(self, key: str) -> Held:
        """Give what a request of this key holds, to be entered: nothing yet."""
        self._holders += 1
        return Held(self, key)

    def expected(self, model: str, pictures: int, *, longest: int) -> int:
        """Say how many bytes to book for so many pictures of a model, none of which has more than `longest`.

        Of very much only a part, or it would never find room.
        """
        one = min(self._expected.get(model, USUAL), longest)
        return min(LEAST + int(one * pictures), self._room // SPARE)

    def learn(self, model: str, pictures: int, size: int) -> None:
        """Note what an answer had: more is soon expected of all, less only by and by."""
        one = size / pictures
        before = self._expected.get(model, one)
        self._expected[model] = before + (RISE if one > before else FALL) * (one - before)

    def snapshot(self) -> InFlightState:
        """Say what goes on."""
        return InFlightState(most=self._most, held=self._held, waiting=len(self._line))

    def reserve(self, held: Held, size: int) -> None:
        """Book; see `Held.reserve`."""
        free = self._room - self._held - size
        if free < 0 or self._by_key.get(held.key, 0) > GREED * free:
            raise OverloadedError(
                "the gateway holds as much as it may; try again soon",
                retry_after=min(max(self._pace / self._holders, SHORTEST), LONGEST),
            )
        self.add(held, size)

    def add(self, held: Held, size: int) -> None:
        """Count, whatever there is room for."""
        held.booked += size
        self._held += size
        self._by_key[held.key] = self._by_key.get(held.key, 0) + size

    async def grow(self, held: Held, size: int) -> None:
        """Count when there is room; see `Held.grow`."""
        if held is self._first or (not self._line and self._may(held, size)):
            self.add(held, size)
            return
        want = _Want(held, size)
        self._line[want] = None
        held.wanted += size
        try:
            await want.bell.wait()
        finally:
            if want in self._line:  # it was cancelled
                self._take_out(want)

    def free(self, held: Held, took: float) -> None:
        """Let go of all that one held, and others go on."""
        self._pace += FALL * (took - self._pace)
        self._holders -= 1
        self._held -= held.booked
        left = self._by_key.pop(held.key, 0) - held.booked
        if left:
            self._by_key[held.key] = left
        if self._first is held:
            self._first = None
        while self._line:
            want = next(iter(self._line))
            if not self._may(want.held, want.size):
                break
            # who may always go on asks for several pictures, perhaps, and then waits in several places
            for other in [other for other in self._line if other is want or other.held is self._first]:
                self._grant(other)

    def _may(self, held: Held, size: int) -> bool:
        """Tell whether a request may hold more: there is room, or none other may go on anyway."""
        if self._held + size <= self._room:
            return True
        if self._first is None:
            self._first = held
        return self._first is held

    def _grant(self, want: _Want) -> None:
        self._take_out(want)
        self.add(want.held, want.size)
        want.bell.set()

    def _take_out(self, want: _Want) -> None:
        del self._line[want]
        want.held.wanted -= want.size
