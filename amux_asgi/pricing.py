"""The most a request can cost, and what an answer did cost: nano-dollars, integers only, one rounding a total, up.

What must hold, for every request that is valid for its upstream model and every honest answer (one picture to as many
as were asked for, a size and a quality that fit the request, tokens as published, text input of at most a token a byte
of the prompt for each picture): `least <= cost <= most`. Whatever an upstream says, no charge is below zero or above
`LARGEST`.
"""

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Final

import msgspec
from msgspec import UNSET, Raw, Struct

from amux_asgi.catalogue._base import ANY, Entry, ImagePrices, TokenPrices
from amux_asgi.models import CATALOGUE, find
from amux_asgi.schema import BAD_JSON, NOTHING, GenerationRequest, ImagesResponse, Usage
from amux_asgi.spec import ModelSpec, Pixels
from amux_asgi.tokens import PARTIAL, fixed_size_tokens, free_size_bounds, free_size_tokens

NANO: Final = 1_000_000_000  # nano-dollars in a dollar
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


class Prices:
    """All prices of one gateway: the catalogue's, and those that stand before them, by model name.

    Raises:
        ValueError: a price is negative or above `LARGEST`.
    """

    def __init__(self, overrides: Mapping[str, Priced] = {}) -> None:
        for model, priced in overrides.items():
            if not all(0 <= price <= LARGEST for price in _numbers(priced)):
                raise ValueError(f"a price of {model!r} is negative or too large")
        self._told: dict[str, Priced] = dict(overrides)
        self._known: dict[str, Priced] = {
            name: entry.prices for name, entry in CATALOGUE.items() if entry.prices is not None
        }

    def find(self, model: str, upstream: str, *, rules: str | None = None) -> Priced | None:
        """Give the prices by the client's model name, else by the upstream's; `None` where nobody knows them.

        What the operator told, under either name, stands before the catalogue, which may have the upstream's model
        under another name, `rules`.
        """
        told, known = self._told, self._known
        return told.get(model) or told.get(upstream) or known.get(model) or known.get(rules or upstream)

    def can_be_held(self, model: str, upstream: str, *, rules: str | None = None) -> bool:
        """Tell whether anything of a model can be priced beforehand: by tokens, only what the catalogue can count.

        A table needs a row that a request can come to: of a tier, where the model's sizes become tiers.
        """
        priced = self.find(model, upstream, rules=rules)
        spec = find(rules or upstream)
        if isinstance(priced, ImagePrices) and priced.flat is None and spec is not None and spec.tiers:
            return any(size in (*spec.tiers, ANY) for size, _ in priced.prices)
        return isinstance(priced, ImagePrices) or (priced is not None and spec is not None)

    def estimate(
        self,
        model: str,
        upstream: str,
        request: GenerationRequest,
        *,
        rules: str | None = None,
        sure: bool = True,
    ) -> Range | None:
        """Give the least and the most that a valid request can cost; `None` where that has no price.

        Without a price are: a model nobody knows the prices of, a row that a table of pictures lacks, and by tokens
        whatever has no public token count: models outside the catalogue, `xhigh` and `max` (so `auto` too, where a
        model makes these), `gif` and `svg`. Unless size and quality are `sure`, the catalogue's prices do not go by
        them: of all that it could come to, the dearest is the most.
        """
        priced = self.find(model, upstream, rules=rules)
        row = rules or upstream
        size, quality = _asked(request, find(row)) if sure or self._is_told(model, upstream) else (None, None)
        if isinstance(priced, TokenPrices):
            found = _by_tokens(priced, request, _tokens(row, size, quality), _text_most(row, request))
        else:
            span = None if priced is None else _rows(priced, size, quality)
            found = None if span is None else Range(span[0], span[1] * (request.n or 1))
        return found if found is not None and found.most <= LARGEST else None

    def cost(  # noqa: PLR0913, who asked whom for what, and what came
        self,
        model: str,
        upstream: str,
        request: GenerationRequest,
        images: ImagesResponse,
        *,
        rules: str | None = None,
        sure: bool = True,
    ) -> int | None:
        """Give what an answer did cost: by its tokens, else by what its pictures are; `None` where that has no price.

        The usage counts only if it can be true: no number negative, sums that add up, tokens for the pictures, fewer
        than `ABSURD`. Otherwise the pictures are priced as if there were none: an upstream that talks nonsense makes
        nothing free, and nobody poor.
        """
        priced = self.find(model, upstream, rules=rules)
        row = rules or upstream
        if priced is None:
            return None
        sure = sure or self._is_told(model, upstream)
        count = min(len(images.data), request.n or 1)
        if isinstance(priced, ImagePrices):
            words = _said(request, images, row, sure=sure)
            each = next((span[1] for said in words if (span := _rows(priced, *said))), None)
            return None if each is None else _checked(each * count)
        if request.output_format == "svg":
            return None  # drawn by another model, at that model's prices
        usage = images.tokens()
        if usage is not None and _is_sound(usage):
            expected = None
            if _is_mixed(priced, usage):  # otherwise nothing depends on what the pictures are, and most end here
                expected = _expected(request, images, row, count, sure=sure)
            charge = _checked(_by_usage(priced, usage, expected, PARTIAL * (request.partial_images or 0) * count))
            if charge is not None:
                return charge
        tokens = _expected(request, images, row, count, sure=sure)
        if tokens is None or request.output_format == "gif":
            return None
        # Nobody told the input: the bound, which is never less than the vendor's bill.
        return _checked(_total(tokens * priced.image_out + _bytes(request) * count * priced.text_in))

    def _is_told(self, model: str, upstream: str) -> bool:
        """Tell whether a price is the operator's own, and so goes by the client's words."""
        return model in self._told or upstream in self._told


def parse_dollars(text: str) -> int:
    """Read dollars, as `5` or `0.211`, as nano-dollars.

    Raises:
        ValueError: it is no plain decimal of at most nine places, or too large.
    """
    match = _DECIMAL.fullmatch(text)
    if match is None:
        raise ValueError("not a plain decimal number of at most nine places")
    nano = int(match[1]) * NANO + int((match[2] or "").ljust(9, "0"))
    if nano > LARGEST:
        raise ValueError("too large")
    return nano


def dollars(nano: int) -> str:
    """Write nano-dollars as dollars: exact, without needless zeros."""
    whole, rest = divmod(abs(nano), NANO)
    text = f"{whole}.{rest:09}".rstrip("0").rstrip(".")
    return f"-{text}" if nano < 0 else text


def _by_tokens(
    priced: TokenPrices, request: GenerationRequest, tokens: tuple[int, int] | None, text_most: int
) -> Range | None:
    if tokens is None or request.output_format in _UNCOUNTED:
        return None
    image = (tokens[1] + PARTIAL * (request.partial_images or 0)) * priced.image_out
    text = _bytes(request) * priced.text_in + text_most * priced.text_out
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


def _text_most(row: str, request: GenerationRequest) -> int:
    """Bound the text that comes beside one picture, in tokens."""
    entry = CATALOGUE.get(row)
    return entry.text_most if entry is not None and entry.text_most else _bytes(request) + TEXT_OUT


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
                min(inside.text_tokens, inside.image_tokens) >= 0
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


def _asked(request: GenerationRequest, spec: ModelSpec | None) -> tuple[str | None, str | None]:
    """Give size and quality of a request, `None` for whatever the model will choose."""
    usual = (None, None) if spec is None else spec.defaults
    return _concrete(request.size) or usual[0], _concrete(request.quality) or usual[1]


def _said(
    request: GenerationRequest, images: ImagesResponse, row: str, *, sure: bool
) -> Iterable[tuple[str | None, str | None]]:
    """Give what the pictures may be, surest first: as the answer says, as was asked for, anything."""
    if sure:
        size, quality = _asked(request, find(row))
        yield _told(images.extra.get("size", NOTHING)) or size, _told(images.extra.get("quality", NOTHING)) or quality
        yield size, quality
    yield None, None


def _expected(request: GenerationRequest, images: ImagesResponse, row: str, count: int, *, sure: bool) -> int | None:
    """Count the tokens of so many pictures, by what they may be."""
    spans = (_tokens(row, *said) for said in _said(request, images, row, sure=sure))
    return next((span[1] * count for span in spans if span), None)


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


def _tokens(row: str, size: str | None, quality: str | None) -> tuple[int, int] | None:
    # Only what the catalogue bounds is remembered: other models' sizes may be a megabyte of anything.
    return _counted(row, size, quality) if row in CATALOGUE else None


@lru_cache(maxsize=4096)
def _counted(row: str, size: str | None, quality: str | None) -> tuple[int, int] | None:
    """Give the fewest and the most output tokens of one picture; `None` if one of those that fit has no known count.

    Nothing bounds `xhigh` and `max`: three factors do not say how the next ones go on, and three times as much for
    each (the largest known step) would be $17 held for a small picture, as good as a refusal that does not say why.
    """
    entry = CATALOGUE[row]
    if entry.tokens:
        return _of_tier(entry, size)
    spec = entry.spec
    qualities = _choices(quality, spec.qualities)
    if spec.pixels is not None:
        spans = [_free(size, spec.pixels, one) for one in qualities]
    else:
        spans = [_fixed(one_size, one) for one in qualities for one_size in _choices(size, spec.sizes)]
    known = [span for span in spans if span is not None]
    if len(known) < len(spans):
        return None
    return min(least for least, _ in known), max(most for _, most in known)


def _of_tier(entry: Entry, size: str | None) -> tuple[int, int]:
    """Count a picture of a tier; of any, where none is known by this name."""
    count = entry.tokens.get(size or "")
    return (min(entry.tokens.values()), max(entry.tokens.values())) if count is None else (count, count)


def _fixed(size: str, quality: str) -> tuple[int, int] | None:
    count = fixed_size_tokens(size, quality)
    return None if count is None else (count, count)


def _free(size: str | None, rule: Pixels, quality: str) -> tuple[int, int] | None:
    """Count a size of any step: what `auto` chose may break it (1254x1254 was seen), never the rest of the rule."""
    if size is None:
        return free_size_bounds(rule, quality)
    match = _SIZE.fullmatch(size)
    if match is None:
        return None
    width, height = int(match[1]), int(match[2])
    long, short = max(width, height), min(width, height)
    if long > min(rule.longest, rule.ratio * short) or not rule.fewest <= width * height <= rule.most:
        return None
    count = free_size_tokens(width, height, quality)
    return None if count is None else (count, count)


def _choices(value: str | None, all_of_them: tuple[str, ...]) -> list[str]:
    return [one for one in all_of_them if one != "auto"] if value is None else [value]


def _bytes(request: GenerationRequest) -> int:
    prompt = request.prompt
    return len(prompt) if prompt.isascii() else len(prompt.encode("utf-8", "surrogatepass"))


def _total(by_million: int) -> int:
    return -(-by_million // MILLION)


def _checked(nano: int) -> int | None:
    return nano if nano <= LARGEST else None


def _numbers(priced: Priced) -> Iterable[int]:
    if isinstance(priced, TokenPrices):
        return msgspec.structs.astuple(priced)
    return (*priced.prices.values(), priced.flat or 0)


_UNCOUNTED: Final = ("gif", "svg")  # frames and drawings: how many tokens they are is not public
_LONGEST: Final = 32  # bytes of a size or a quality that an answer names
_DECIMAL: Final = re.compile(r"([0-9]{1,10})(?:\.([0-9]{1,9}))?")
_SIZE: Final = re.compile(r"([1-9][0-9]{0,5})x([1-9][0-9]{0,5})")
_text: Final = msgspec.json.Decoder(str)
