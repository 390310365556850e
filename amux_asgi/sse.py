"""Server-sent events, both ways: a stream of bytes taken apart into events, and an event written as bytes.

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec
from msgspec import Struct

from amux_asgi.errors import UpstreamTooLargeError

HEARTBEAT: Final = b": keep-alive\n\n"  # a comment: every SDK ignores it
DONE: Final = b"data: [DONE]\n\n"  # no JSON: sent only to who asks for it


class ServerEvent(Struct, frozen=True):
    """One event of a stream: its `event:` name ("" if it has none) and its data, lines joined by a line feed."""

    name: str
    data: bytes


class EventReader:
    """Takes a stream of server-sent events apart, however it is cut into pieces.

    `longest` is how many bytes the lines of one event may have together, comments included.
    """

    def __init__(self, *, longest: int) -> None:
        self._longest = longest
        self._size = 0  # bytes of the event so far
        self._line: list[bytes] = []  # what has come of the line that has not ended
        self._name = ""
        self._data: list[bytes] = []
        self._mark = _MARK  # what may stand before the line
        self._returned = False  # a carriage return was the last byte: a line feed would belong to it

    def feed(self, piece: bytes) -> Iterator[ServerEvent]:
        """Give the events that are complete now, one by one: a piece is taken in as they are asked for.

        Raises:
            UpstreamTooLargeError: an event is longer than `longest`; those before it were given.
        """
        for line in _lines(piece):
            half = self._returned and line == b"\n"
            self._returned = line.endswith(b"\r")
            if half:
                continue
            part = line.rstrip(b"\r\n")
            self._keep(part)
            if len(part) < len(line):
                yield from self._end_line()

    def end(self) -> list[ServerEvent]:
        """Give what the last event says when its blank line never came: at most one."""
        if self._line:
            self._end_line()
        return self._dispatch()

    def _keep(self, part: bytes) -> None:
        """Keep a part of a line; tiny ones together, since each by itself would cost more than it holds."""
        self._size += len(part)
        if self._size > self._longest:
            raise UpstreamTooLargeError(f"the upstream's event is larger than {self._longest} bytes")
        if self._line and len(self._line[-1]) < _TINY:
            self._line[-1] += part
        else:
            self._line.append(part)

    def _end_line(self) -> list[ServerEvent]:
        """Take the line for what it is; an empty one ends the event."""
        (first, *rest), self._line = self._line, []
        skip = len(self._mark) if first.startswith(self._mark) else 0
        self._mark = b""
        if not first:
            return self._dispatch()
        field, colon, value = first[skip:_START].partition(b":")
        skip += len(field) + len(colon) + value.startswith(b" ")
        if field == b"data":
            self._data.append(b"".join((memoryview(first)[skip:], *rest)))
        elif field == b"event":
            self._name = b"".join((first[skip:], *rest)).decode(errors="replace")
        return []

    def _dispatch(self) -> list[ServerEvent]:
        """End the event; without a line of data there was none."""
        events = [ServerEvent(self._name, b"\n".join(self._data))] if self._data else []
        self._name, self._data, self._size = "", [], 0
        return events


def frame(name: str, fields: Mapping[str, Any]) -> bytearray:
    """Write one event: name, one line of JSON, a blank line; pictures (`msgspec.Raw`) are copied once.

    Raises:
        UnicodeEncodeError: a text holds half a character of UTF-16.
    """
    written = bytearray(f"event: {name}\ndata: ".encode())
    start = len(written)
    _ENCODER.encode_into(fields, written, start)
    for character, instead in _BREAKS:
        _replace(written, start, character, instead)
    written += b"\n\n"
    return written


def _replace(written: bytearray, start: int, character: bytes, instead: bytes) -> None:
    """Replace a character of the JSON, in the time that a search for one byte takes, or little more."""
    first = written.find(character[0], start)
    if first < 0:
        return
    end = written.rfind(character[0], first) + len(character)
    if written.find(character, first, end) >= 0:
        written[first:end] = written[first:end].replace(character, instead)


def _lines(piece: bytes) -> list[bytes]:
    """Cut a piece after each line end; one that has none stays as it is, which two quick searches find out."""
    return piece.splitlines(keepends=True) if b"\n" in piece or b"\r" in piece or not piece else [piece]


_ENCODER: Final = msgspec.json.Encoder()
_MARK: Final = b"\xef\xbb\xbf"  # a byte order mark, which may stand before the first line
_START: Final = len(_MARK + b"event: ")  # bytes that tell what a line is
_TINY: Final = 1024  # bytes

# What JSON written elsewhere (`msgspec.Raw`) may hold and some reader takes for a line's end. The first two are
# whitespace there, since it is never read with a control character inside a string; the others stand in strings only.
_BREAKS: Final = (
    (b"\n", b" "),
    (b"\r", b" "),
    *((character.encode(), f"\\u{ord(character):04x}".encode()) for character in "\x85\u2028\u2029"),
)
