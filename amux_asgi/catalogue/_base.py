"""The shape of the catalogue: rows of what a model takes and what it costs."""

from collections.abc import Mapping
from typing import Final

from msgspec import Struct

from amux_asgi.schema import FIELDS
from amux_asgi.spec import ModelSpec

ALL_FIELDS: Final = FIELDS
"""For models of other vendors: what the adapter cannot say, it drops and reports."""

ANY: Final = "*"  # in a row of prices: every size, or every quality
DOLLAR: Final = 1_000_000_000  # nano-dollars
CENT: Final = DOLLAR // 100


class TokenPrices(Struct, frozen=True, kw_only=True):
    """Nano-dollars per million tokens, by what a token is of."""

    text_in: int
    cached_text_in: int
    image_in: int
    cached_image_in: int
    image_out: int
    text_out: int = 0


class ImagePrices(Struct, frozen=True, kw_only=True):
    """Nano-dollars per picture, by size and quality; `flat` is the price of every picture that has no row.

    `ANY` in a row stands for every size, or every quality, that has no row of its own.
    """

    prices: Mapping[tuple[str, str], int] = {}
    flat: int | None = None


class Entry(Struct, frozen=True, kw_only=True):
    """A row of the catalogue.

    `prices` is `None` where nobody knows them. `tokens` are those that one picture puts out, by size, where neither
    OpenAI's table nor its formula counts them; `text_most` is the most text, thoughts included, that comes beside it.
    `native` is how many pictures the model makes in one ask.
    """

    spec: ModelSpec
    prices: TokenPrices | ImagePrices | None = None
    tokens: Mapping[str, int] = {}
    text_most: int = 0
    native: int = 10
