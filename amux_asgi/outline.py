"""A long JSON text without the pictures in it: they are found by searches for one byte, and never copied.

A parser looks at each byte, which takes longer than all else that is done with two megabytes.
"""

import json
import re
from typing import Any, Final

from msgspec import Raw, Struct

LONG: Final = 65_536  # bytes; what is shorter is soon read as it is


class Outline(Struct, frozen=True):
    """The text with a mark in the place of each picture, and the pictures in order: JSON strings, quotes included."""

    text: bytes
    pictures: tuple[Raw, ...]

    @property
    def marks(self) -> list[bytes]:
        """Give the JSON strings that stand in the places of the pictures."""
        return [_mark(number) for number in range(len(self.pictures))]


def outline(body: bytes) -> Outline | None:
    """Leave the pictures out of a valid JSON text.

    `None` where that is not worth it or not safe: some escape the slashes of base64, and another string may look like
    a mark.
    """
    if len(body) < LONG:
        return None
    pieces: list[bytes] = []
    pictures: list[Raw] = []
    at = 0
    while (found := body.find(_NAME, at)) >= 0:
        value = _VALUE.match(body, found + len(_NAME))
        if value is None:
            return None
        start, end = value.end() - 1, body.find(b'"', value.end()) + 1
        if body.find(b"\\", start, end) >= 0:
            return None
        pieces += (body[at:start], _mark(len(pictures)))
        pictures.append(Raw(memoryview(body)[start:end]))
        at = end
    text = b"".join((*pieces, body[at:]))
    return Outline(text, tuple(pictures)) if text.count(_MARK) == len(pictures) else None


def same(one: bytes, other: bytes) -> bool:
    """Tell whether two valid JSON texts say the same; one that says something twice is sure to say nothing."""
    try:
        return _decoder.decode(one.decode()) == _decoder.decode(other.decode())
    except (ValueError, RecursionError):
        return False


def _mark(number: int) -> bytes:
    return _MARK + b'%d"' % number


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError("a key stands twice in one object")
    return fields


_NAME: Final = b'"b64_json"'
_VALUE: Final = re.compile(rb'\s*:\s*"')
_MARK: Final = b'"@'  # base64 has no such character
_decoder: Final = json.JSONDecoder(object_pairs_hook=_once)
