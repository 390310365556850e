"""Pictures from bytes to base64 and back, in turns.

Sixteen megabytes at once would take tens of milliseconds, in which nothing else in the process gets its turn: in a
thread, too, since Python's base64 lets no other thread run meanwhile.
"""

import re
from binascii import a2b_base64, b2a_base64
from collections.abc import Generator
from typing import Final, TypeVar

import msgspec
from msgspec import Raw

from amux_asgi.errors import UpstreamBadResponseError, UpstreamTooLargeError

T = TypeVar("T")
Turns = Generator[None, None, T]
"""Work that lets others have their turn at each `yield`, and returns what came of it."""

STEP: Final = 3 * 2**16  # bytes of a picture in one turn
_CHARACTERS: Final = STEP // 3 * 4


def quoted(data: bytes) -> Turns[Raw]:
    """Write a picture as a JSON string of base64, each byte once, in the place where it stays."""
    view = memoryview(data)
    text = bytearray(_QUOTES + (len(data) + 2) // 3 * 4)
    text[0] = text[-1] = ord('"')
    for start in range(0, len(data), STEP):
        piece = b2a_base64(view[start : start + STEP], newline=False)
        at = 1 + start // 3 * 4
        text[at : at + len(piece)] = piece
        yield
    return Raw(text)


def unquoted(raw: Raw) -> Turns[bytes]:
    """Read a picture from a JSON string of base64.

    Raises:
        UpstreamBadResponseError: it is none.
    """
    try:
        return (yield from _decoded(memoryview(raw)[1:-1], 0))
    except ValueError:  # some write a slash as `\\/`
        return (yield from _of_text(_text(raw), 0))


def data_of(url: str, cap: int) -> Turns[bytes]:
    """Read a picture from a `data:` URL.

    Raises:
        UpstreamBadResponseError: it says that it is no picture, or it is no base64.
        UpstreamTooLargeError: the picture has more than `cap` bytes.
    """
    head = _DATA.match(url)
    if head is None:
        raise _no_base64()
    if (len(url) - head.end()) // 4 * 3 - url.count("=", -2) > cap:
        raise UpstreamTooLargeError(f"the upstream's picture is larger than {cap} bytes")
    return (yield from _of_text(url, head.end()))


def start_of(raw: Raw) -> bytes:
    """Give the first bytes of a picture that is a JSON string of base64; none if it is no base64."""
    text = bytes(memoryview(raw)[1:-1][: 2 * _HEAD]).replace(b"\\/", b"/")[:_HEAD]
    try:
        return a2b_base64(text[: len(text) // 4 * 4], strict_mode=True)
    except ValueError:
        return b""


def _of_text(text: str, start: int) -> Turns[bytes]:
    try:
        return (yield from _decoded(text, start))
    except ValueError as exc:
        raise _no_base64() from exc


def _decoded(text: str | memoryview, start: int) -> Turns[bytes]:
    """Decode strictly from `start` to the end; raises `ValueError`."""
    pieces: list[bytes] = []
    for at in range(start, len(text), _CHARACTERS):
        piece = a2b_base64(text[at : at + _CHARACTERS], strict_mode=True)
        if len(piece) != STEP and at + _CHARACTERS < len(text):
            raise ValueError  # it ended before its end
        pieces.append(piece)
        yield
    return b"".join(pieces)


def _text(raw: Raw) -> str:
    try:
        return msgspec.json.decode(raw, type=str)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise _no_base64() from exc


def _no_base64() -> UpstreamBadResponseError:
    return UpstreamBadResponseError("the upstream's picture is not the base64 it should be")


_QUOTES: Final = 2
_HEAD: Final = 64  # characters of base64
_DATA: Final = re.compile(
    r"data:(?:image/[a-z0-9.+-]{1,64}|application/octet-stream)?(?:;[a-z0-9-]{1,32}=[a-z0-9._-]{1,64}){0,4};base64,",
    re.IGNORECASE | re.ASCII,
)
