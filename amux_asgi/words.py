"""Foreign values: quoted shortly, listed with OpenAI's grammar, told by their type."""

import re
from collections.abc import Sequence
from typing import Any, Final, cast

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
LONGEST: Final = 60  # characters of a value that a message shows
_TYPES: Final[dict[type[object], str]] = {
    str: "a string",
    bool: "a boolean",
    int: "an integer",
    float: "a decimal number",
    dict: "an object",
    list: "an array",
}


def quote(value: str) -> str:
    """Show a client's own words: short, printable, in quotes."""
    shown = "".join(character if character.isprintable() else "?" for character in value[:LONGEST])
    return f"'{shown}...'" if len(value) > LONGEST else f"'{shown}'"


def join(values: Sequence[str], *, last: str = "and") -> str:
    """List values: `'a' and 'b'`, `'a', 'b', and 'c'`."""
    quoted = [f"'{value}'" for value in values]
    match quoted:
        case [one]:
            return one
        case [one, two]:
            return f"{one} {last} {two}"
        case _:
            return f"{', '.join(quoted[:-1])}, {last} {quoted[-1]}"


def as_object(value: object) -> dict[str, Any] | None:
    """Give a JSON or TOML value as an object, if it is one."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else None


def as_list(value: object) -> list[Any] | None:
    """Give a JSON or TOML value as an array, if it is one."""
    return cast("list[Any]", value) if isinstance(value, list) else None


def type_word(value: object) -> str:
    """Name the type of a JSON value, with its article."""
    return "null" if value is None else _TYPES[type(value)]


def is_printable(text: str) -> bool:
    """Tell whether a name or an identifier holds no control character."""
    return text.isprintable() or _CONTROL.search(text) is None
