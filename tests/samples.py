"""The smallest bytes that pass for a picture of each kind."""

from typing import Final

PNG: Final = b"\x89PNG\r\n\x1a\n" + bytes(range(256))
JPEG: Final = b"\xff\xd8\xff\xe0" + bytes(range(64))
WEBP: Final = b"RIFF\x10\x00\x00\x00WEBPVP8 " + bytes(16)
GIF: Final = b"GIF89a" + bytes(20)
SVG: Final = b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>'
