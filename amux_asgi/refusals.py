"""What a client is told of limits: the refusal, and the headers `RateLimit` and `RateLimit-Policy`.

Source: the IETF's draft-ietf-httpapi-ratelimit-headers-10: lists of strings with parameters, as RFC 9651 writes them.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final

from amux_asgi.admission import MEGAPIXEL, SECOND, Admitted, Hit, Rule, Standing, Unit
from amux_asgi.errors import RateLimitError

Headers = tuple[tuple[str, str], ...]
HIDDEN: Final = ("gateway", "model")  # everybody's together: how much others do is not told
OWNERS: Final = {"key": "this API key's", "account": "the account's", "address": "your address's"}


def headers_of(standings: Iterable[Standing]) -> Headers:
    """Write how the rules stand; nothing where none is the client's own, or all were counted further out."""
    told = _visible(one for one in standings if one.hit.weight)
    return _headers(told, told)


def verdict(standings: Sequence[Standing], lease: str | None) -> Admitted:
    """Admit if all rules do.

    Raises:
        RateLimitError: one does not.
    """
    refusing = [one for one in standings if one.wait]
    if not refusing:
        return Admitted(standings=tuple(standings), lease=lease)
    longest = max(refusing, key=lambda one: one.wait)
    error = RateLimitError(f"{_named(longest.hit)} is reached", retry_after=longest.wait / SECOND)
    # Only those that refuse: of others, more may come after `Retry-After`, which must not be the earlier of the two.
    error.headers = _headers(_visible(standings), _visible(refusing))
    raise error


def check_weights(hits: Iterable[Hit], nodes: int = 1) -> None:
    """Refuse for good what no wait can help.

    Raises:
        RateLimitError: the request alone is more than a whole limit.
    """
    for hit in hits:
        if hit.weight > hit.rule.share(nodes):
            raise RateLimitError(f"this request alone is more than {_named(hit)} allows", retry=False)


def _visible(standings: Iterable[Standing]) -> list[Standing]:
    return [one for one in standings if one.hit.kind not in HIDDEN]


def _named(hit: Hit) -> str:
    if hit.kind in HIDDEN:
        return f"a limit of the whole {hit.kind}"
    what = "" if hit.rule.seconds else " requests"
    return f"{OWNERS.get(hit.kind, 'the')} limit of {hit.rule}{what}"


def _headers(policies: Sequence[Standing], standings: Sequence[Standing]) -> Headers:
    lines = (
        ("ratelimit-policy", ", ".join(_policy(one.hit.kind, one.hit.rule) for one in policies)),
        ("ratelimit", ", ".join(_limit(one) for one in standings)),
    )
    return tuple((name, value) for name, value in lines if value)


@lru_cache(1024)  # by the rules of the configuration, which each request is told of
def _policy(kind: str, rule: Rule) -> str:
    window = f";w={rule.seconds}" if rule.seconds else ""
    return f'"{_name(kind, rule)}";q={rule.amount};qu="{_QUOTA_UNITS[rule.unit]}"{window}'


def _limit(one: Standing) -> str:
    rule = one.hit.rule
    left = one.left // MEGAPIXEL if rule.unit is Unit.MEGAPIXELS else one.left
    reset = f";t={-(-one.reset // SECOND)}" if one.reset else ""
    return f'"{_name(one.hit.kind, rule)}";r={max(left, 0)}{reset}'


@lru_cache(1024)
def _name(kind: str, rule: Rule) -> str:
    kind = kind if kind in OWNERS else "call"
    return "-".join(part for part in (kind, rule.unit.value, rule.per) if part)


_QUOTA_UNITS: Final = {
    Unit.REQUESTS: "requests",
    Unit.IMAGES: "images",  # these two are not in the draft's registry; without them, it would say "requests"
    Unit.MEGAPIXELS: "megapixels",
    Unit.CONCURRENT: "concurrent-requests",
}
