"""Show a picture in a terminal: two pixels a character, the upper one in the colour of the letter."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# Pillow's types name numpy's, which are not here.

import sys
from pathlib import Path

from PIL import Image

WIDTH = 48  # characters


def thumbnail(file: Path) -> str:
    """Draw it, on lines of its own; nothing where nobody looks at a terminal."""
    if not sys.stdout.isatty():
        return ""
    with Image.open(file) as opened:
        picture = opened.convert("RGB")
    small = picture.resize((WIDTH, WIDTH * picture.height // picture.width // 2 * 2))
    lines = ("".join(_cell(small, x, y) for x in range(WIDTH)) for y in range(0, small.height, 2))
    return "\n" + "\n".join(f"{line}\x1b[0m" for line in lines)


def _cell(picture: Image.Image, x: int, y: int) -> str:
    upper, lower = (";".join(map(str, _colour(picture, x, y + i))) for i in (0, 1))
    return f"\x1b[38;2;{upper}m\x1b[48;2;{lower}m\N{UPPER HALF BLOCK}"


def _colour(picture: Image.Image, x: int, y: int) -> tuple[int, ...]:
    found = picture.getpixel((x, y))
    return found if isinstance(found, tuple) else ()
