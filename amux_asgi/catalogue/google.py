"""Google's Gemini models that make pictures (Nano Banana).

Source: https://ai.google.dev/gemini-api/docs/image-generation, 2026-11.
"""

from collections.abc import Mapping
from datetime import date
from typing import Final

from amux_asgi.catalogue._base import ALL_FIELDS, CENT, DOLLAR, Entry, TokenPrices
from amux_asgi.spec import ModelSpec

TEN: Final = ("1:1", "2:3", "3:2", "3:4", "4:3", "4:5", "5:4", "9:16", "16:9", "21:9")
FOURTEEN: Final = (*TEN, "1:4", "4:1", "1:8", "8:1")
QUALITIES: Final = ("low", "medium", "high", "standard", "hd", "auto")
LEVELS: Final = ("minimal", "low", "medium", "high")  # of thinking, that the interface knows

_PIXELS: Final[Mapping[str, tuple[int, int]]] = {
    "1:1": (1024, 1024),
    "2:3": (848, 1264),
    "3:4": (896, 1200),
    "4:5": (928, 1152),
    "9:16": (768, 1376),
    "9:21": (672, 1584),
    "1:4": (512, 2048),
    "1:8": (384, 3072),
}
"""Of tier 1K; the other tiers have the edges halved, doubled and doubled twice, the mirrored ratios exchanged."""

_FIRST: Final[Mapping[str, tuple[int, int]]] = {
    "1:1": (1024, 1024),
    "2:3": (832, 1248),
    "3:4": (864, 1184),
    "4:5": (896, 1152),
    "9:16": (768, 1344),
    "9:21": (672, 1536),
}
"""Of gemini-2.5-flash-image."""

_HALVES: Final[Mapping[str, int]] = {"512": 1, "1K": 2, "2K": 4, "4K": 8}


def pixels(model: str, ratio: str, tier: str) -> str:
    """Give the exact size of a picture, "WIDTHxHEIGHT"."""
    table = _FIRST if model == "gemini-2.5-flash-image" else _PIXELS
    mirrored = ratio not in table
    width, height = table[":".join(reversed(ratio.split(":"))) if mirrored else ratio]
    if mirrored:
        width, height = height, width
    return f"{width * _HALVES[tier] // 2}x{height * _HALVES[tier] // 2}"


THINKING: Final[Mapping[str, tuple[str, ...]]] = {
    "gemini-2.5-flash-image": (),
    "gemini-3-pro-image": (),  # it always thinks as much as it likes
    "gemini-3.1-flash-image": ("minimal", "high"),
    "gemini-nano-banana-2.1": ("minimal", "medium", "high"),
}
"""What each model can be told about thinking; of others nobody says it."""


def _spec(ratios: tuple[str, ...], tiers: tuple[str, ...]) -> ModelSpec:
    return ModelSpec(
        fields=ALL_FIELDS,
        prompt_max=32_000,
        qualities=QUALITIES,
        snaps=True,
        ratios=ratios,
        tiers=tiers,
        defaults=("1K", None),
    )


def _prices(*, text_in: int, text_out: int, image_out: int) -> TokenPrices:
    """Pictures count as text on the way in, and nothing is cached. Thoughts are text."""
    return TokenPrices(
        text_in=text_in,
        cached_text_in=text_in,
        image_in=text_in,
        cached_image_in=text_in,
        image_out=image_out,
        text_out=text_out,
    )


# How much a model may think and say beside a picture is only bounded by its whole answer, 32,768 tokens: that would be
# $0.39 held beside a picture of $0.13. Seen were up to 2,500 tokens, 630 where it does not think; an answer with more
# than these is captured at the hold, and logged.
_WORDS: Final = 2_048
_THOUGHTS: Final = 8_192

# Prices and tokens: https://ai.google.dev/gemini-api/docs/pricing (the page of 2026-10-09, paid tier, standard).
PRICED: Final = date(2026, 10, 9)  # when the prices were looked up
ROWS: Final[Mapping[str, Entry]] = {
    "gemini-2.5-flash-image": Entry(
        spec=_spec(TEN, ("1K",)),
        prices=_prices(text_in=30 * CENT, text_out=250 * CENT, image_out=30 * DOLLAR),
        tokens={"1K": 1290},
        text_most=_WORDS,
        native=1,
    ),
    "gemini-3-pro-image": Entry(
        spec=_spec(TEN, ("1K", "2K", "4K")),
        prices=_prices(text_in=2 * DOLLAR, text_out=12 * DOLLAR, image_out=120 * DOLLAR),
        tokens={"1K": 1120, "2K": 1120, "4K": 2000},
        text_most=_THOUGHTS,
        native=1,
    ),
    "gemini-3.1-flash-image": Entry(
        spec=_spec(FOURTEEN, ("512", "1K", "2K", "4K")),
        prices=_prices(text_in=50 * CENT, text_out=3 * DOLLAR, image_out=60 * DOLLAR),
        tokens={"512": 747, "1K": 1120, "2K": 1680, "4K": 2520},
        text_most=_THOUGHTS,
        native=1,
    ),
    "gemini-3.1-flash-lite-image": Entry(
        spec=_spec(FOURTEEN, ("1K",)),
        prices=_prices(text_in=25 * CENT, text_out=150 * CENT, image_out=30 * DOLLAR),
        tokens={"1K": 1120},
        text_most=4096 - 1120,  # its whole answer has at most 4,096 tokens
        native=1,
    ),
    "gemini-nano-banana-2.1": Entry(
        spec=_spec(FOURTEEN, ("1K", "2K", "4K")),
        prices=_prices(text_in=150 * CENT, text_out=750 * CENT, image_out=30 * DOLLAR),
        tokens={"1K": 1120, "2K": 1680, "4K": 3780},  # other pages say 2520 for 4K; the dearer is taken
        text_most=_THOUGHTS,
        native=1,
    ),
}
