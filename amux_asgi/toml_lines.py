"""On which line of a TOML text something stands; the standard library's parser does not say."""

import tomllib
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

from amux_asgi.words import as_list, as_object

Path = tuple[str | int, ...]
Toml = Any  # whatever TOML can say


class Lines:
    """The lines of a valid TOML text, by path: keys, and positions in arrays of tables."""

    def __init__(self, text: str) -> None:
        self._lines: dict[Path, int] = {}
        for path, number in _places(text):
            self._lines.setdefault(path, number)

    def find(self, path: Path) -> int:
        """Give the line where this path, or the nearest thing around it, begins; the first line is 1."""
        while path and path not in self._lines:
            path = path[:-1]
        return self._lines.get(path, 1)


def _places(text: str) -> Iterator[tuple[Path, int]]:
    table: Path = ()
    seen: Counter[Path] = Counter()
    for number, statement in _statements(text):
        document = tomllib.loads(statement)
        if statement.lstrip().startswith("["):
            table = _header(document, seen)
            yield from ((table[: i + 1], number) for i in range(len(table)))
        else:
            for path in _paths(document):
                yield table + path, number


def _statements(text: str) -> Iterator[tuple[int, str]]:
    """Cut the text where one header or one `key = value` ends: as soon as what was gathered is TOML by itself."""
    begun, gathered = 1, ""
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        if not gathered:
            begun = number
        gathered += line
        if _is_toml(gathered):
            if tomllib.loads(gathered):
                yield begun, gathered
            gathered = ""


def _is_toml(text: str) -> bool:
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return False
    return True


def _header(document: dict[str, Toml], seen: Counter[Path]) -> Path:
    """Follow a header's keys; those that name arrays of tables lead to the newest table in them."""
    path: Path = ()
    inner: Toml = document
    while inner:
        key, inner = next(iter(inner.items()))
        path = (*path, key)
        if isinstance(inner, list):
            seen[path] += 1
            inner = _NOTHING
        if seen[path]:
            path = (*path, seen[path] - 1)
    return path


def _paths(value: Toml) -> Iterator[Path]:
    inside: dict[Any, Toml] = as_object(value) or dict(enumerate(as_list(value) or []))
    for key, inner in inside.items():
        yield (key,)
        for path in _paths(inner):
            yield (key, *path)


_NOTHING: Final[dict[str, Toml]] = {}
