"""What requests cost by one price: nano-dollars, integers only, one rounding a total, up.

What must hold, for every request that is valid for its upstream model and every honest answer (one picture to as many
as were asked for, a size and a quality that fit the request, tokens as published, text input of at most a token a byte
of the prompt for each picture): `least <= cost <= most`. Whatever an upstream says, no charge is below zero or above
`LARGEST`.
"""

from collections.abc import Iterator
from typing import Final

import msgspec
from msgspec import UNSET, Raw, Struct

from amux_asgi.catalogue._base import ANY, ImagePrices, TokenPrices
from amux_asgi.models import CATALOGUE
from amux_asgi.schema import BAD_JSON, NOTHING, GenerationRequest, ImagesResponse, Usage
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
        self._row = row
        self._told = told
        self._is_known = entry is not None
        self._defaults = (None, None) if entry is None else entry.spec.defaults
        self._text_most = 0 if entry is None else entry.text_most

    def estimate(self, request: GenerationRequest, *, sure: bool = True) -> Range | None:
        """Give the least and the most that a valid request can cost; `None` where that has no price.

        Without a price are: a model nobody knows the prices of, a row that a table of pictures lacks, and by tokens
        whatever has no public token count: models outside the catalogue, `xhigh` and `max` (so `auto` too, where a
        model makes these), `gif` and `svg`. Unless size and quality are `sure`, the catalogue's prices do not go by
        them: of all that it could come to, the dearest is the most.
        """
        priced = self.priced
        if priced is None:
            return None
        size, quality = self._asked(request) if sure or self._told else (None, None)
        if isinstance(priced, TokenPrices):
            found = self._by_tokens(priced, request, self._tokens(size, quality))
        else:
            span = _rows(priced, size, quality)
            found = None if span is None else Range(span[0], span[1] * (request.n or 1))
        return found if found is not None and found.most <= LARGEST else None

    def cost(
        self, request: GenerationRequest, images: ImagesResponse, usage: Usage | None, *, sure: bool = True
    ) -> int | None:
        """Give what an answer did cost: by its tokens, else by what its pictures are; `None` where that has no price.

        The usage counts only if it can be true: no number negative, sums that add up, tokens for the pictures, fewer
        than `ABSURD`. Otherwise the pictures are priced as if there were none: an upstream that talks nonsense makes
        nothing free, and nobody poor.
        """
        priced = self.priced
        if priced is None:
            return None
        sure = sure or self._told
        count = min(len(images.data), request.n or 1)
        if isinstance(priced, ImagePrices):
            words = self._said(request, images, sure=sure)
            each = next((span[1] for said in words if (span := _rows(priced, *said))), None)
            return None if each is None else _checked(each * count)
        if request.output_format == "svg":
            return None  # drawn by another model, at that model's prices
        if usage is not None and _is_sound(usage):
            expected = None
            if _is_mixed(priced, usage):  # otherwise nothing depends on what the pictures are, and most end here
                expected = self._expected(request, images, count, sure=sure)
            charge = _checked(_by_usage(priced, usage, expected, PARTIAL * (request.partial_images or 0) * count))
            if charge is not None:
                return charge
        tokens = self._expected(request, images, count, sure=sure)
        if tokens is None or request.output_format == "gif":
            return None
        # Nobody told the input: the bound, which is never less than the vendor's bill.
        return _checked(_total(tokens * priced.image_out + _bytes(request) * count * priced.text_in))

    def _asked(self, request: GenerationRequest) -> tuple[str | None, str | None]:
        """Give size and quality of a request, `None` for whatever the model will choose."""
        size, quality = self._defaults
        return _concrete(request.size) or size, _concrete(request.quality) or quality

    def _said(
        self, request: GenerationRequest, images: ImagesResponse, *, sure: bool
    ) -> Iterator[tuple[str | None, str | None]]:
        """Give what the pictures may be, surest first: as the answer says, as was asked for, anything."""
        if sure:
            size, quality = self._asked(request)
            extra = images.extra
            yield _told(extra.get("size", NOTHING)) or size, _told(extra.get("quality", NOTHING)) or quality
            yield size, quality
        yield None, None

    def _expected(self, request: GenerationRequest, images: ImagesResponse, count: int, *, sure: bool) -> int | None:
        """Count the tokens of so many pictures, by what they may be."""
        for size, quality in self._said(request, images, sure=sure):
            if span := self._tokens(size, quality):
                return span[1] * count
        return None

    def _tokens(self, size: str | None, quality: str | None) -> tuple[int, int] | None:
        # Only what the catalogue bounds is remembered: other models' sizes may be a megabyte of anything.
        return picture_tokens(self._row, size, quality) if self._is_known else None

    def _by_tokens(
        self, priced: TokenPrices, request: GenerationRequest, tokens: tuple[int, int] | None
    ) -> Range | None:
        if tokens is None or request.output_format in _UNCOUNTED:
            return None
        length = _bytes(request)
        image = (tokens[1] + PARTIAL * (request.partial_images or 0)) * priced.image_out
        text = length * priced.text_in + (self._text_most or length + TEXT_OUT) * priced.text_out
        return Range(_total(tokens[0] * priced.image_out), _total((image + text) * (request.n or 1)))


def _by_usage(priced: TokenPrices, usage: Usage, expected: int | None, partial: int) -> int:
    """Price tokens by what they are of. No upstream tells which of them were cached.

    Output that is not told apart is text only beyond what the pictures (`expected`) and the partial ones are.
    """
    image_in = 0 if usage.input_tokens_details is UNSET else usage.input_tokens_details.image_tokens
    if usage.output_tokens_details is not UNSET:
        text_out = usage.output_tokens_details.text_tokens
    elif expected is not None:
        text_out = max(0, usage.output_tokens - expected - partial)
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


def _told(raw: Raw) -> str | None:
    if not 0 < len(raw) <= _LONGEST:
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
