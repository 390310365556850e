"""Pictures that we host for a while: their names, what they are by their first bytes, and the port that keeps them.

Times are Unix seconds, as several processes and nodes share them; sizes are in bytes.
"""

import re
import secrets
import string
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Final, Protocol

from msgspec import Struct

from amux_asgi.errors import StorageUnavailableError, UpstreamBadResponseError

NEVER: Final = 2**63 - 1
_DIGITS: Final = string.digits + string.ascii_uppercase + string.ascii_lowercase
_LENGTH: Final = 32  # digits of 62 kinds: 190 random bits, so nobody finds a name that was not told
_NAME: Final = re.compile(r"([1-9][0-9]{0,11})-[0-9A-Za-z]{32}")


def fresh_name(expires: int) -> str:
    """Make the name of a picture that is there until `expires`."""
    return f"{expires}-{''.join(secrets.choice(_DIGITS) for _ in range(_LENGTH))}"


def expiry_of(name: str) -> int | None:
    """Say until when a picture of this name is there; `None` if no picture of ours can have it."""
    found = _NAME.fullmatch(name)
    return None if found is None else int(found[1])


def is_over(name: str, now: float) -> bool:
    """Tell whether the time of this name has passed, or it never had one."""
    expires = expiry_of(name)
    return expires is None or expires <= now


def soonest_of(names: Iterable[str]) -> int:
    """Say when the first of these expires."""
    return min((expiry_of(name) or NEVER for name in names), default=NEVER)


class Kind(Struct, frozen=True):
    """A kind of picture; `inline` says whether a browser may show it by itself."""

    media_type: str
    ending: str  # of a file's name
    inline: bool = True


PNG: Final = Kind("image/png", "png")
JPEG: Final = Kind("image/jpeg", "jpg")
WEBP: Final = Kind("image/webp", "webp")
GIF: Final = Kind("image/gif", "gif")
SVG: Final = Kind("image/svg+xml", "svg", inline=False)  # it may hold scripts


def kind_of(data: bytes) -> Kind | None:
    """Say what a picture is, by its first bytes alone; `None` for anything that is not one of the five kinds."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return WEBP
    for start, kind in _STARTS:
        if data.startswith(start):
            return kind
    return SVG if _SVG.match(data) else None


def check_picture(data: bytes) -> None:
    """Check that these bytes are a picture of a kind that we host.

    Raises:
        UpstreamBadResponseError: they are not.
    """
    if kind_of(data) is None:
        raise UpstreamBadResponseError("the upstream's picture is no PNG, JPEG, WebP, GIF or SVG")


def headers_of(kind: Kind, left: int) -> tuple[tuple[str, str], ...]:
    """Give the headers that make a picture harmless wherever it is opened; `left` is its time in seconds."""
    shown = "inline" if kind.inline else "attachment"
    return (
        ("content-type", kind.media_type),
        ("content-disposition", f'{shown}; filename="picture.{kind.ending}"'),
        ("x-content-type-options", "nosniff"),
        ("content-security-policy", "sandbox; default-src 'none'"),
        ("cross-origin-resource-policy", "cross-origin"),
        ("cache-control", f"private, max-age={left}, immutable"),
    )


class Pictures(Protocol):
    """Keeps pictures until they expire."""

    async def put(self, data: bytes, *, expires: int) -> str:
        """Keep a picture, and give its name.

        Raises:
            StorageUnavailableError: there is no room, or the store is away.
            UpstreamBadResponseError: it is no picture.
        """
        ...

    async def get(self, name: str) -> bytes | None:
        """Give the picture of this name; `None` if there is none, or its time is over.

        Raises:
            StorageUnavailableError: the store is away.
        """
        ...

    async def check_room(self, size: int) -> None:
        """Check that `size` more bytes could be kept now: before anybody is asked to make them.

        Raises:
            StorageUnavailableError: they could not.
        """
        ...

    async def sweep(self) -> None:
        """Delete what has expired, and count what is there.

        Raises:
            StorageUnavailableError: the store is away.
        """
        ...


OpenPictures = Callable[[], AbstractAsyncContextManager[Pictures]]


class Shelf:
    """How much a store holds, and whether more fits: what was there when it was counted, and what was put since."""

    def __init__(self, most: int, now: Callable[[], float]) -> None:
        """Allow `most` bytes."""
        self._most = most
        self._now = now
        self._added: dict[str, int] = {}  # sizes of what no count has seen yet
        self._soonest = NEVER  # when the first of all expires
        self.used: int = 0

    def add(self, name: str, size: int) -> None:
        """Take the room for a picture.

        Raises:
            StorageUnavailableError: there is too little.
        """
        self.check(size)
        self._added[name] = size
        self.used += size
        self._soonest = min(self._soonest, soonest_of((name,)))

    def drop(self, name: str) -> None:
        """Give back the room of a picture that could not be kept after all."""
        self.used -= self._added.pop(name, 0)

    def check(self, size: int) -> None:
        """Check that a picture of this size fits.

        Raises:
            StorageUnavailableError: it does not; it says when the first of the others expires.
        """
        if size > self._most:
            raise StorageUnavailableError(
                "the pictures may be larger than all the room for hosted pictures", retry=False
            )
        if self.used + size > self._most:
            wait = max(1.0, self._soonest - self._now())
            raise StorageUnavailableError("there is no room for another hosted picture at present", retry_after=wait)

    def wants_sweep(self, size: int) -> bool:
        """Tell whether a picture of this size may fit once what has expired is deleted."""
        return self._most - self.used < size <= self._most and self._soonest <= self._now()

    def counted(self, sizes: Mapping[str, int], soonest: int) -> None:
        """Take note of what is there, and when the first of it expires."""
        now = self._now()
        unseen = {name: size for name, size in self._added.items() if name not in sizes and not is_over(name, now)}
        self._added = unseen
        self._soonest = min(soonest, soonest_of(unseen))
        self.used = sum(sizes.values()) + sum(unseen.values())


class MemoryPictures:
    """Pictures in memory, at most so many bytes."""

    def __init__(self, *, most: int, now: Callable[[], float]) -> None:
        self._held: dict[str, bytes] = {}
        self._now = now
        self.shelf: Shelf = Shelf(most, now)

    async def put(self, data: bytes, *, expires: int) -> str:
        """Keep a picture, and give its name.

        Raises:
            StorageUnavailableError: there is no room.
            UpstreamBadResponseError: it is no picture.
        """
        check_picture(data)
        await self._make_room(len(data))
        name = fresh_name(expires)
        self.shelf.add(name, len(data))
        self._held[name] = data
        return name

    async def get(self, name: str) -> bytes | None:
        """Give the picture of this name, if its time is not over."""
        return None if is_over(name, self._now()) else self._held.get(name)

    async def check_room(self, size: int) -> None:
        """Check that `size` more bytes could be kept now.

        Raises:
            StorageUnavailableError: they could not.
        """
        await self._make_room(size)
        self.shelf.check(size)

    async def sweep(self) -> None:
        """Delete what has expired."""
        now = self._now()
        for name in tuple(self._held):
            if is_over(name, now):
                self._held.pop(name, None)
        held = {name: len(data) for name, data in tuple(self._held.items())}
        self.shelf.counted(held, soonest_of(held))

    async def _make_room(self, size: int) -> None:
        if self.shelf.wants_sweep(size):
            await self.sweep()


_STARTS: Final = (
    (b"\x89PNG\r\n\x1a\n", PNG),
    (b"\xff\xd8\xff", JPEG),
    (b"GIF87a", GIF),
    (b"GIF89a", GIF),
)
_SVG: Final = re.compile(
    rb"""
    (?:\xef\xbb\xbf)?+
    (?: \s++
      | <\?xml (?:[^?]|\?(?!>))*+ \?>
      | <!-- (?:[^-]|-(?!->))*+ -->
      | <!DOCTYPE\s+svg(?=[\s>\[]) [^>\[]*+ (?:\[[^\]]*+\]\s*+)?+ >
    )*+
    <svg[\s/>]
    """,
    re.VERBOSE,
)
"""What may stand before the root of an SVG, and the root. Each byte is looked at once, whatever it is."""
