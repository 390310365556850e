"""Find the nearest size that a DashScope model makes."""

from collections.abc import Callable, Mapping
from math import ceil, floor, sqrt
from typing import Final

from amux_asgi.adapters._base import nearest_size, pixels_of
from amux_asgi.catalogue.dashscope import Sizes
from amux_asgi.errors import InvalidRequestError
from amux_asgi.words import quote

_TIERS: Final[Mapping[str, str]] = {"1K": "1024x1024", "2K": "2048x2048", "4K": "4096x4096"}


def spelled(size: str) -> str:
    """Write "WIDTH*HEIGHT", the vendor's spelling, as "WIDTHxHEIGHT"."""
    return size.replace("*", "x")


def legal(size: str, sizes: Sizes) -> str:
    """Find the size nearest to one that a model makes.

    OpenAI's sizes become what the vendor has in their place, unless they are said in the vendor's spelling.

    Raises:
        InvalidRequestError: it is no size.
    """
    tier = size.upper()
    if tier in sizes.tiers:
        return tier
    if tier in _TIERS and sizes.tiers:
        return sizes.tiers[-1]
    plain = spelled(size)
    pixels = pixels_of(_TIERS.get(tier, plain))
    if pixels is None:
        raise InvalidRequestError(f"{quote(size)} is no size; say WIDTHxHEIGHT in pixels", param="size")
    width, height = pixels
    if sizes.only:
        return nearest_size(width, height, sizes.only)
    if size in sizes.presets:
        return sizes.presets[size]
    if plain in sizes.beside or _is_legal(width, height, sizes):
        return f"{width}x{height}"
    return "{}x{}".format(*_scaled(width, height, sizes))


def _is_legal(width: int, height: int, sizes: Sizes) -> bool:
    long, short = max(width, height), min(width, height)
    return (
        sizes.shortest <= short
        and long <= min(sizes.longest, sizes.ratio * short)
        and sizes.fewest <= width * height <= sizes.most
    )


def _scaled(width: int, height: int, sizes: Sizes) -> tuple[int, int]:
    """Scale a size into the bounds; the shape is kept as far as they allow."""
    ratio = min(sizes.ratio, sizes.longest / sizes.shortest)
    long = float(max(width, height))
    short = max(float(min(width, height)), long / ratio)
    least = max(1.0, sizes.shortest / short, sqrt(sizes.fewest / (long * short)))
    most = min(1.0, sizes.longest / long, sqrt(sizes.most / (long * short)))

    def rounded(whole: Callable[[float], int]) -> tuple[int, int]:
        edge = max(whole(short * least * most), sizes.shortest)
        return min(whole(long * least * most), floor(edge * ratio), sizes.longest), edge

    down = rounded(floor)
    other, edge = down if _is_legal(*down, sizes) else rounded(ceil)
    return (other, edge) if width >= height else (edge, other)
