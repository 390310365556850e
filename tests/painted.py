"""Small pictures for tests that host some."""

import io
from typing import Final

from PIL import Image

SVG: Final = b'<svg xmlns="http://www.w3.org/2000/svg" width="1" height="1"/>'


def painted(form: str = "PNG") -> bytes:
    """Paint one of a form that Pillow knows."""
    written = io.BytesIO()
    Image.new("RGB", (2, 2), (200, 30, 30)).save(written, form)
    return written.getvalue()


def heavy(size: int) -> bytes:
    """Give so many bytes that begin as a PNG does."""
    return painted().ljust(size, b"\0")[:size]
