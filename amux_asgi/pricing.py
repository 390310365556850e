"""Whose price counts for a model that an upstream serves, and how money is written."""

import re
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from amux_asgi.catalogue._base import ANY, ImagePrices, TokenPrices
from amux_asgi.models import CATALOGUE, find
from amux_asgi.rates import LARGEST, Priced, Rate

NANO: Final = 1_000_000_000  # nano-dollars in a dollar


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
        self._rates: dict[tuple[str, str, str | None], Rate] = {}

    def find(self, model: str, upstream: str, *, rules: str | None = None) -> Priced | None:
        """Give the prices by the client's model name, else by the upstream's; `None` where nobody knows them.

        What the operator told, under either name, stands before the catalogue, which may have the upstream's model
        under another name, `rules`.
        """
        told, known = self._told, self._known
        return told.get(model) or told.get(upstream) or known.get(model) or known.get(rules or upstream)

    def rate(self, model: str, upstream: str, rules: str | None = None) -> Rate:
        """Give what a model costs where an upstream serves it, found once for each pair of the configuration."""
        key = model, upstream, rules
        rate = self._rates.get(key)
        if rate is None:
            is_told = model in self._told or upstream in self._told  # by the operator
            rate = Rate(self.find(model, upstream, rules=rules), rules or upstream, told=is_told)
            self._rates[key] = rate
        return rate

    def can_be_held(self, model: str, upstream: str, *, rules: str | None = None) -> bool:
        """Tell whether anything of a model can be priced beforehand: by tokens, only what the catalogue can count.

        A table needs a row that a request can come to: of a tier, where the model's sizes become tiers.
        """
        priced = self.find(model, upstream, rules=rules)
        spec = find(rules or upstream)
        if isinstance(priced, ImagePrices) and priced.flat is None and spec is not None and spec.tiers:
            return any(size in (*spec.tiers, ANY) for size, _ in priced.prices)
        return isinstance(priced, ImagePrices) or (priced is not None and spec is not None)


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


def _numbers(priced: Priced) -> Iterable[int]:
    if isinstance(priced, TokenPrices):
        return msgspec.structs.astuple(priced)
    return (*priced.prices.values(), priced.flat or 0)


_DECIMAL: Final = re.compile(r"([0-9]{1,10})(?:\.([0-9]{1,9}))?")
