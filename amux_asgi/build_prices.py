"""From the configuration to prices, checked one by one."""

from collections.abc import Mapping
from typing import Final

from msgspec.structs import replace

from amux_asgi.catalogue._base import ImagePrices, TokenPrices
from amux_asgi.config import Config, PriceConfig
from amux_asgi.models import CATALOGUE
from amux_asgi.pricing import NANO, Prices, parse_dollars
from amux_asgi.rates import Priced
from amux_asgi.toml_lines import Path as Where

DEAREST: Final = 1_000_000 * NANO  # a price: with it, and all the tokens and pictures there can be, totals fit


def prices_of(config: Config) -> Prices:
    """Make the prices: the configuration's before the catalogue's.

    Raises:
        ConfigError: one of them is none.
    """
    return Prices({model: _priced(config, model, told) for model, told in config.prices.items()})


def _priced(config: Config, model: str, told: PriceConfig) -> Priced:
    where: Where = ("prices", model)
    tokens = {
        name: _dollars(config, (*where, name), value)
        for name in TokenPrices.__struct_fields__
        if (value := getattr(told, name)) is not None
    }
    if told.image is not None and tokens:
        raise config.fault((*where, "image"), "a model is priced by its tokens or by picture; leave one of them out")
    if tokens:
        return _token_prices(config, model, tokens)
    if isinstance(told.image, str):
        return ImagePrices(flat=_dollars(config, (*where, "image"), told.image))
    rows: dict[tuple[str, str], int] = {}
    for size, by_quality in (told.image or {}).items():
        for quality, price in by_quality.items():
            place = (*where, "image", size, quality)
            if "auto" in (size, quality):
                raise config.fault(place, "'auto' has no price of its own, it is held at the dearest; leave it out")
            rows[size, quality] = _dollars(config, place, price)
    if not rows:
        raise config.fault(where, "there is no price; give 'text_in' and 'image_out', or 'image'")
    return ImagePrices(prices=rows)


def _token_prices(config: Config, model: str, told: Mapping[str, int]) -> TokenPrices:
    """Complete what is told: from the catalogue's prices of the model, else cached as uncached, a picture as text."""
    entry = CATALOGUE.get(model)
    if entry is not None and isinstance(entry.prices, TokenPrices):
        return replace(entry.prices, **told)
    for name in ("text_in", "image_out"):
        if name not in told:
            raise config.fault(
                ("prices", model), f"the key {name!r} is missing; the catalogue has no price to take its place"
            )
    image_in = told.get("image_in", told["text_in"])
    others = {"cached_text_in": told["text_in"], "image_in": image_in, "cached_image_in": image_in}
    return TokenPrices(**{**others, **told})


def _dollars(config: Config, where: Where, text: str) -> int:
    try:
        nano = parse_dollars(text)
    except ValueError as exc:
        raise config.fault(where, f"{exc}; write US dollars as '0.211'") from exc
    if nano > DEAREST:
        raise config.fault(where, f"too large; a price is at most {DEAREST // NANO} dollars")
    return nano
