"""What requests cost by one price: nano-dollars, integers only, one rounding a total, up.

What must hold, for every request that is valid for its upstream model and every honest answer (one picture to as many
as were asked for, a size and a quality that fit the request, tokens as published, text input of at most a token a byte
of the prompt for each picture): `least <= cost <= most`. Whatever an upstream says, no charge is below zero or above
`LARGEST`.
"""

from collections.abc import Callable
from functools import partial
from typing import Final

import msgspec
from msgspec import UNSET, Struct

from amux_asgi.catalogue._base import ANY, ImagePrices, TokenPrices
from amux_asgi.models import CATALOGUE
from amux_asgi.schema import BAD_JSON, GenerationRequest, ImagesResponse, Usage
from amux_asgi.tokens import PARTIAL, picture_tokens

LARGEST: Final = 2**63 - 1
MILLION: Final = 1_000_000  # tokens that a token price is for
TEXT_OUT: Final = 1024
"""Text tokens that a model which bills them may put out for a picture, beside the prompt's own said again.

No bound is published. The most that was seen is 446; a model that words the prompt anew grows with it, hence the bytes.
"""
ABSURD: Final = 10_000_000
"""Tokens that no answer has: ten of the dearest pictures with a known count are 237,190."""

Priced = TokenPrices | ImagePrices
Count = Callable[[str | None, str | None], tuple[int, int] | None]
"""From size and quality, `None` for any, to the least and the most of one picture; `None` where nobody knows."""


class Range(Struct, frozen=True):
    """Nano-dollars for the whole request; `least` is for one picture, as pictures that do not come cost nothing."""

    least: int
    most: int


class Rate:
    """What one model costs where one upstream serves it: `priced`, or `None` where nobody knows."""

    def __init__(self, priced: Priced | None, row: str, *, told: bool) -> None:
        """`row` is the catalogue's name of the model; a price that was `told` goes by the client's words."""
        entry = CATALOGUE.get(row)
        self.priced: Priced | None = priced
        self._told = told
        self._defaults = (None, None) if entry is None else entry.spec.defaults
        self._text_most = 0 if entry is None else entry.text_most
        self._count = _counter(priced, row)

    def estimate(self, request: GenerationRequest, *, sure: bool = True) -> Range | None:
        """Give the least and the most that a valid request can cost; `None` where that has no price.

        Without a price are: a model nobody knows the prices of, a row that a table of pictures lacks, and by tokens
        whatever has no public token count: models outside the catalogue, `xhigh` and `max` (so `auto` too, where a
        model makes these), `gif` and `svg`. Unless size and quality are `sure`, the catalogue's prices do not go by
        them: of all that it could come to, the dearest is the most.
        """
        span = self._count(*self._asked(request)) if sure or self._told else self._count(None, None)
        if span is None:
            return None
        least, most = span
        if isinstance(self.priced, TokenPrices):
            if request.output_format in _UNCOUNTED:
                return None
            least, most = self._by_tokens(self.priced, request, least, most)
        else:
            most *= request.n or 1
        return Range(least, most) if most <= LARGEST else None

    def cost(
        self, request: GenerationRequest, images: ImagesResponse, usage: Usage | None, *, sure: bool = True
    ) -> int | None:
        """Give what an answer did cost: by its tokens, else by what its pictures are; `None` where that has no price.

        The usage counts only if it can be true: no number negative, sums that add up, tokens for the pictures, fewer
        than `ABSURD`. Otherwise the pictures are priced as if there were none: an upstream that talks nonsense makes
        nothing free, and nobody poor.
        """
        priced = self.priced
        count = min(len(images.data), request.n or 1)
        if not isinstance(priced, TokenPrices):
            each = self._most(request, images, sure=sure)
            return None if each is None else _checked(each * count)
        if request.output_format == "svg":
            return None  # drawn by another model, at that model's prices
        if usage is not None and _is_sound(usage):
            expected = None
            if _is_mixed(priced, usage):  # otherwise nothing depends on what the pictures are, and most end here
                expected = self._most(request, images, sure=sure)
            partial_out = PARTIAL * (request.partial_images or 0)
            charge = _checked(_by_usage(priced, usage, None if expected is None else (expected + partial_out) * count))
            if charge is not None:
                return charge
        tokens = self._most(request, images, sure=sure)
        if tokens is None or request.output_format == "gif":
            return None
        # Nobody told the input: the bound, which is never less than the vendor's bill.
        return _checked(_total((tokens * priced.image_out + _bytes(request) * priced.text_in) * count))

    def _asked(self, request: GenerationRequest) -> tuple[str | None, str | None]:
        """Give size and quality of a request, `None` for whatever the model will choose."""
        size, quality = self._defaults
        return _concrete(request.size) or size, _concrete(request.quality) or quality

    def _most(self, request: GenerationRequest, images: ImagesResponse, *, sure: bool) -> int | None:
        """Count the most of one picture by what it may be, surest first: as the answer says, as was asked, anything."""
        span = None
        if sure or self._told:
            size, quality = self._asked(request)
            told_size, told_quality = _told(images, "size"), _told(images, "quality")
            span = self._count(told_size or size, told_quality or quality) or self._count(size, quality)
        span = span or self._count(None, None)
        return None if span is None else span[1]

    def _by_tokens(self, priced: TokenPrices, request: GenerationRequest, least: int, most: int) -> tuple[int, int]:
        """Price the tokens of a picture; for the most, all that may come beside them, of as many as are asked for."""
        length = _bytes(request)
        image = (most + PARTIAL * (request.partial_images or 0)) * priced.image_out
        text = length * priced.text_in + (self._text_most or length + TEXT_OUT) * priced.text_out
        return _total(least * priced.image_out), _total((image + text) * (request.n or 1))


def _counter(priced: Priced | None, row: str) -> Count:
    """Give what counts one picture: its tokens, or by a table its price."""
    if isinstance(priced, ImagePrices):
        return partial(_rows, priced)
    # Only what the catalogue bounds is remembered: other models' sizes may be a megabyte of anything.
    return partial(picture_tokens, row) if priced is not None and row in CATALOGUE else _uncounted


def _uncounted(_size: str | None, _quality: str | None) -> None:
    """Count what nobody can."""


def _by_usage(priced: TokenPrices, usage: Usage, expected: int | None) -> int:
    """Price tokens by what they are of. No upstream tells which of them were cached.

    Output that is not told apart is text only beyond what the pictures, with the partial ones, are `expected` to be.
    """
    image_in = 0 if usage.input_tokens_details is UNSET else usage.input_tokens_details.image_tokens
    if usage.output_tokens_details is not UNSET:
        text_out = usage.output_tokens_details.text_tokens
    elif expected is not None:
        text_out = max(0, usage.output_tokens - expected)
    else:
        text_out = 0
    return _total(
        (usage.input_tokens - image_in) * priced.text_in
        + image_in * priced.image_in
        + (usage.output_tokens - text_out) * priced.image_out
        + text_out * priced.text_out
    )


def _is_mixed(priced: TokenPrices, usage: Usage) -> bool:
    """Tell whether the output may hold text that costs something else and is not told apart."""
    return usage.output_tokens_details is UNSET and bool(priced.text_out)


def _is_sound(usage: Usage) -> bool:
    inside, outside = usage.input_tokens_details, usage.output_tokens_details
    return (
        0 < usage.total_tokens < ABSURD
        and usage.input_tokens >= 0
        and usage.output_tokens > 0
        and usage.total_tokens == usage.input_tokens + usage.output_tokens
        and (
            inside is UNSET
            or (
                inside.text_tokens >= 0
                and inside.image_tokens >= 0
                and inside.text_tokens + inside.image_tokens == usage.input_tokens
            )
        )
        and (
            outside is UNSET
            or (
                outside.text_tokens >= 0
                and outside.image_tokens > 0
                and outside.text_tokens + outside.image_tokens == usage.output_tokens
            )
        )
    )


def _told(images: ImagesResponse, name: str) -> str | None:
    raw = images.extra.get(name)
    if raw is None or not 0 < len(raw) <= _LONGEST:
        return None
    try:
        return _concrete(_text.decode(raw))
    except BAD_JSON:
        return None


def _concrete(value: str | None) -> str | None:
    return None if value == "auto" else value


def _rows(priced: ImagePrices, size: str | None, quality: str | None) -> tuple[int, int] | None:
    """Give the least and the most of the rows that fit; without any, the flat price."""
    if size is not None and quality is not None:
        rows = ((size, quality), (size, ANY), (ANY, quality))
        price = next((priced.prices[row] for row in rows if row in priced.prices), priced.flat)
        return None if price is None else (price, price)
    fitting = [
        price
        for (row_size, row_quality), price in priced.prices.items()
        if (size is None or row_size in (size, ANY)) and (quality is None or row_quality in (quality, ANY))
    ]
    if priced.flat is not None:
        fitting.append(priced.flat)
    return (min(fitting), max(fitting)) if fitting else None


def _bytes(request: GenerationRequest) -> int:
    prompt = request.prompt
    return len(prompt) if prompt.isascii() else len(prompt.encode("utf-8", "surrogatepass"))


def _total(by_million: int) -> int:
    return -(-by_million // MILLION)


def _checked(nano: int) -> int | None:
    return nano if nano <= LARGEST else None


_UNCOUNTED: Final = ("gif", "svg")  # frames and drawings: how many tokens they are is not public
_LONGEST: Final = 32  # bytes of a size or a quality that an answer names
_text: Final = msgspec.json.Decoder(str)
