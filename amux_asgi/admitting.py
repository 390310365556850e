"""Which rules a request falls under, and what it weighs by them."""

from collections.abc import Iterable, Mapping
from re import compile as pattern
from typing import Final

from msgspec import Struct

from amux_asgi.adapters._base import pixels_of
from amux_asgi.admission import IMAGES, MEGAPIXELS, Demand, Hit, Rule, Unit
from amux_asgi.keys import Principal
from amux_asgi.models import find
from amux_asgi.schema import GenerationRequest

USUAL: Final = 1024 * 1024  # pixels of a picture of which nobody can say anything


class Asked(Struct, frozen=True):
    """A request as it was fitted to an upstream's model: its pixels are counted where a rule asks for them."""

    request: GenerationRequest
    upstream: str

    def weight(self, unit: Unit) -> int:
        """Say what it weighs by a rule of this unit."""
        if unit is IMAGES:
            return self.request.n or 1
        return demand_of(self.request, self.upstream).pixels if unit is MEGAPIXELS else 1


class Rulebook(Struct, frozen=True, kw_only=True):
    """All rules of one gateway: `key` for keys that bring none of their own, `models` for all callers together."""

    gateway: tuple[Rule, ...] = ()
    account: tuple[Rule, ...] = ()
    key: tuple[Rule, ...] = ()
    models: Mapping[str, tuple[Rule, ...]] = {}

    def hits(self, principal: Principal, model: str, demand: Demand | Asked) -> list[Hit]:
        """List what a request for a model, by the client's name of it, falls under."""
        own = self.key if principal.limits is None else principal.limits
        hits = _hits(own, key_scope(principal), demand) if own else []
        if self.account:
            hits += _hits(self.account, account_scope(principal), demand)
        if rules := self.models.get(model):
            hits += _hits(rules, f"model:{model}", demand)
        if self.gateway:
            hits += _hits(self.gateway, "gateway:", demand)
        return hits


def _hits(rules: Iterable[Rule], scope: str, demand: Demand | Asked) -> list[Hit]:
    return [Hit(rule=rule, scope=scope, weight=demand.weight(rule.unit)) for rule in rules]


def key_scope(principal: Principal) -> str:
    """Name whom a key's limits are about."""
    return f"key:{principal.account}/{principal.key}"


def account_scope(principal: Principal) -> str:
    """Name whom an account's limits are about."""
    return f"account:{principal.account}"


def demand_of(request: GenerationRequest, upstream: str) -> Demand:
    """Say what a request asks for, as it was fitted to an upstream's model.

    What the model will choose counts as the largest that it can make.
    """
    images = request.n or 1
    return Demand(images=images, pixels=images * _pixels(request.size, upstream))


def _pixels(size: str | None, upstream: str) -> int:
    spec = find(upstream)
    usual = None if spec is None else spec.defaults[0]
    told = _area((None if size == "auto" else size) or usual or "")
    if told is not None or spec is None:
        return told or USUAL
    if spec.pixels is not None:
        return spec.pixels.most
    return max((area for one in (*spec.sizes, *spec.tiers) if (area := _area(one))), default=USUAL)


def _area(size: str) -> int | None:
    """Count the pixels of "WIDTHxHEIGHT", or of a tier as "2K", which is a square's edge; `None` for anything else."""
    if edges := pixels_of(size):
        return edges[0] * edges[1]
    tier = _TIER.fullmatch(size)
    return None if tier is None else (int(tier[1]) * 1024) ** 2


_TIER: Final = pattern(r"([1-9])[kK]")
