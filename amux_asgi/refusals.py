"""What a client is told of limits: the refusal, and the headers `RateLimit` and `RateLimit-Policy`.

Source: the IETF's draft-ietf-httpapi-ratelimit-headers-10: lists of strings with parameters, as RFC 9651 writes them.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final

from msgspec import Struct

from amux_asgi.admission import MEGAPIXEL, SECOND, Admitted, Hit, Rule, Standing, Unit
from amux_asgi.errors import RateLimitError

Headers = tuple[tuple[str, str], ...]
HIDDEN: Final = ("gateway", "model")  # everybody's together: how much others do is not told
OWNERS: Final = {"key": "this API key's", "account": "the account's", "address": "your address's"}


def headers_of(standings: Iterable[Standing]) -> Headers:
    """Write how the rules stand; nothing where none is the client's own, or all were counted further out."""
    told = _told([one for one in standings if one.hit.weight])
    return _headers(told, told)


def verdict(standings: Sequence[Standing], lease: str | None, nodes: int = 1) -> Admitted:
    """Admit if all rules do; what no wait can help is refused for good.

    Raises:
        RateLimitError: one does not.
    """
    refusing = [one for one in standings if one.wait]
    if not refusing:
        return Admitted(standings=tuple(standings), lease=lease)
    check_weights([one.hit for one in refusing], nodes)
    longest = max(refusing, key=lambda one: one.wait)
    error = RateLimitError(f"{_named(longest.hit)} is reached", retry_after=longest.wait / SECOND)
    # Only those that refuse: of others, more may come after `Retry-After`, which must not be the earlier of the two.
    error.headers = _headers(_told(standings), _told(refusing))
    raise error


def check_weights(hits: Iterable[Hit], nodes: int = 1) -> None:
    """Refuse for good what no wait can help.

    Raises:
        RateLimitError: the request alone is more than a whole limit.
    """
    for hit in hits:
        if hit.weight > hit.rule.share(nodes):
            raise RateLimitError(f"this request alone is more than {_named(hit)} allows", retry=False)


def _named(hit: Hit) -> str:
    if hit.kind in HIDDEN:
        return f"a limit of the whole {hit.kind}"
    what = "" if hit.rule.seconds else " requests"
    return f"{OWNERS.get(hit.kind, 'the')} limit of {hit.rule}{what}"


class _Words(Struct, frozen=True):
    """How a rule is told: its name, its policy, and what one of its unit is."""

    name: str
    policy: str
    unit: int


_Told = list[tuple[Standing, _Words]]


def _told(standings: Iterable[Standing]) -> _Told:
    """Give those that are told, with their words."""
    return [(one, words) for one in standings if (words := _words(one.hit.kind, one.hit.rule)) is not None]


def _headers(policies: _Told, standings: _Told) -> Headers:
    if not policies:
        return ()
    policy = ("ratelimit-policy", ", ".join([words.policy for _, words in policies]))
    return (policy, ("ratelimit", ", ".join([_limit(*one) for one in standings]))) if standings else (policy,)


def _limit(one: Standing, words: _Words) -> str:
    left = one.left // words.unit if one.left > 0 else 0
    return f"{words.name};r={left};t={-(-one.reset // SECOND)}" if one.reset else f"{words.name};r={left}"


@lru_cache(1024)  # by the rules of the configuration, which each request is told of
def _words(kind: str, rule: Rule) -> _Words | None:
    if kind in HIDDEN:
        return None
    name = "-".join(part for part in (kind if kind in OWNERS else "call", rule.unit.value, rule.per) if part)
    window = f";w={rule.seconds}" if rule.seconds else ""
    policy = f'"{name}";q={rule.amount};qu="{_QUOTA_UNITS[rule.unit]}"{window}'
    return _Words(f'"{name}"', policy, MEGAPIXEL if rule.unit is Unit.MEGAPIXELS else 1)


_QUOTA_UNITS: Final = {
    Unit.REQUESTS: "requests",
    Unit.IMAGES: "images",  # these two are not in the draft's registry; without them, it would say "requests"
    Unit.MEGAPIXELS: "megapixels",
    Unit.CONCURRENT: "concurrent-requests",
}
