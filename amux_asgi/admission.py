"""Admission: the grammar of rules, what a request weighs by them, and the port that counts."""

import re
from collections.abc import Hashable, Iterable, Sequence
from difflib import get_close_matches
from enum import StrEnum
from functools import cached_property
from typing import Final, Protocol

from msgspec import Struct
from msgspec.structs import replace

from amux_asgi.errors import ConfigError

SECOND: Final = 1_000_000  # of the time here, which is whole microseconds: sums are exact, in Redis' doubles too
MEGAPIXEL: Final = 1_000_000
MOST: Final = 1_000_000_000  # of a rule, so that even its pixels are counted exactly


class Unit(StrEnum):  # a text, as those are looked up without a function of Python for each hash
    """What a rule counts."""

    REQUESTS = "requests"
    IMAGES = "images"
    MEGAPIXELS = "megapixels"
    CONCURRENT = "concurrent"


IMAGES: Final = Unit.IMAGES  # Python 3.11 finds an enum's members by a function of Python, each time
MEGAPIXELS: Final = Unit.MEGAPIXELS


class Rule(Struct, frozen=True, kw_only=True, dict=True):
    """At most so much in any window of so many seconds; or, where there is no window, at once.

    What each request asks of it is worked out once.
    """

    amount: int
    unit: Unit
    seconds: int = 0

    @cached_property
    def limit(self) -> int:
        """Give the amount as it is counted: megapixels by the pixel."""
        return self.amount * MEGAPIXEL if self.unit is Unit.MEGAPIXELS else self.amount

    @cached_property
    def window(self) -> int:
        """Give the window's length in microseconds."""
        return self.seconds * SECOND

    @cached_property
    def at_once(self) -> bool:
        """Tell whether it counts what is under way."""
        return self.unit is Unit.CONCURRENT

    @cached_property
    def measure(self) -> str:
        """Name what is counted, and in which time; the same for another amount."""
        return f"{self.unit.value}:{self.seconds}"

    @property
    def per(self) -> str:
        """Name the window; empty where there is none."""
        return _NAMES.get(self.seconds, "")

    def share(self, nodes: int) -> int:
        """Give what one of several nodes may admit while they do not count together; at least one."""
        return max(self.limit // nodes, 1)

    def __str__(self) -> str:
        return f"{self.amount} {self.unit.value}" + (f"/{self.per}" if self.per else "")


def rules(*texts: str) -> tuple[Rule, ...]:
    """Read rules as `"60 requests/minute"`, `"20 images/hour"`, `"40 megapixels/minute"` and `"4 concurrent"`.

    Raises:
        ConfigError: one of them is none, or two limit the same.
    """
    try:
        return parse_rules(texts)
    except ValueError as exc:
        raise ConfigError(str(exc)) from exc


def parse_rules(texts: Iterable[str]) -> tuple[Rule, ...]:
    """Read rules.

    Raises:
        ValueError: one of them is none, or two limit the same.
    """
    found: dict[tuple[Unit, int], Rule] = {}
    for text in texts:
        rule = parse_rule(text)
        if other := found.get((rule.unit, rule.seconds)):
            raise ValueError(f"'{other}' and '{rule}' limit the same; leave one of them out")
        found[rule.unit, rule.seconds] = rule
    return tuple(found.values())


def parse_rule(text: str) -> Rule:
    """Read one rule.

    Raises:
        ValueError: it is none; the message says what is wrong with it.
    """
    match = _RULE.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no limit; write it as '60 requests/minute' or '4 concurrent'")
    number, word, window = int(match["number"]), match["unit"].lower(), (match["window"] or "").lower()
    if not 1 <= number <= MOST:
        raise ValueError(f"{text!r}: the number must be from 1 to {MOST}")
    unit = _UNITS.get(word)
    if unit is None:
        raise ValueError(f"{text!r}: {_nearest(word, _UNITS)}")
    if unit is Unit.CONCURRENT:
        if window:
            raise ValueError(f"{text!r}: 'concurrent' means at once, and has no time; write '{number} concurrent'")
        return Rule(amount=number, unit=unit)
    if not window:
        raise ValueError(f"{text!r}: in which time? write '{number} {word}/minute'")
    if window not in _SECONDS:
        raise ValueError(f"{text!r}: {_nearest(window, _SECONDS)}")
    return Rule(amount=number, unit=unit, seconds=_SECONDS[window])


def _nearest(word: str, known: Iterable[str]) -> str:
    close = get_close_matches(word, list(known), n=1)
    return f"{word!r} counts nothing here; " + (
        f"do you mean {close[0]!r}?" if close else f"known are {', '.join(known)}"
    )


class Demand(Struct, frozen=True, kw_only=True):
    """What a request asks for: `pixels` are those of all its images together."""

    images: int = 1
    pixels: int = MEGAPIXEL

    def weight(self, unit: Unit) -> int:
        """Say what it weighs by a rule of this unit."""
        if unit is IMAGES:
            return self.images
        return self.pixels if unit is MEGAPIXELS else 1


class Hit(Struct, frozen=True, kw_only=True):
    """One rule that a request falls under: whose it is (`"key:team-a"`, `"gateway:"`), and what the request weighs.

    A weight of zero adds nothing: somebody further out has counted it; the rule must hold all the same.
    """

    rule: Rule
    scope: str
    weight: int = 1

    @property
    def counter(self) -> str:
        """Name what is counted; the same for a rule whose number was changed."""
        return f"{self.scope}:{self.rule.measure}"

    @property
    def kind(self) -> str:
        """Name the kind of whom it is about."""
        return self.scope.partition(":")[0]


class Standing(Struct, frozen=True, kw_only=True):
    """How one rule stands: µs until it would admit (0: it does), what is left, and µs until more is there."""

    hit: Hit
    wait: int
    left: int
    reset: int


class Admitted(Struct, frozen=True, kw_only=True):
    """What a request was admitted by; `lease` names its places of those limits that count what is under way."""

    standings: tuple[Standing, ...] = ()
    lease: str | None = None


class Limiter(Protocol):
    """The port that counts. All rules of a request are taken, or none; what was admitted counts."""

    @property
    def place(self) -> Hashable:
        """Give something equal for all that count in the same place."""
        ...

    async def admit(self, hits: Sequence[Hit]) -> Admitted:
        """Admit a request, and hold its places until they are released.

        Raises:
            RateLimitError: a limit is reached; `retry_after` is when the first moment is that all rules would admit it.
        """
        ...

    def release(self, lease: str | None) -> None:
        """Give places back, at once or soon; waits for nothing, so that a `finally` may call it."""
        ...


class Admission:
    """What was admitted, held until everybody who has to do with it has left: the request, and work that outlives it.

    Within another one (an app behind a `LimitMiddleware`), it holds that one too.
    """

    def __init__(self, limiter: Limiter, admitted: Admitted, outer: "Admission | None" = None) -> None:
        self.standings: tuple[Standing, ...] = admitted.standings
        self._limiter = limiter
        self._lease: str | None = admitted.lease
        self._outer: Admission | None = outer
        self._holders = 1
        if outer is not None:
            outer.join()

    def took(self, limiter: Limiter, hit: Hit) -> bool:
        """Tell whether this has been counted already; a place that was given back meanwhile is none."""
        over = hit.rule.at_once and not self._holders
        if limiter.place == self._limiter.place and self._counts(hit.counter) and not over:
            return True
        return self._outer is not None and self._outer.took(limiter, hit)

    def _counts(self, counter: str) -> bool:
        return any(standing.hit.counter == counter for standing in self.standings)

    def join(self) -> None:
        """Hold it too."""
        self._holders += 1

    def leave(self) -> None:
        """Hold it no more; once for each who holds it."""
        self._holders -= 1
        if self._holders:
            return
        self._limiter.release(self._lease)
        if self._outer is not None:
            self._outer.leave()


async def enter(limiter: Limiter, hits: Sequence[Hit], outer: Admission | None = None) -> Admission:
    """Admit a request; what an outer app has counted in the same place is not counted again.

    Raises:
        RateLimitError: a limit is reached.
    """
    if outer is not None:
        hits = [replace(hit, weight=0) if outer.took(limiter, hit) else hit for hit in hits]
    return Admission(limiter, await limiter.admit(hits), outer)


_SECONDS: Final = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400}
_NAMES: Final = {seconds: name for name, seconds in _SECONDS.items()}
_UNITS: Final = {
    "requests": Unit.REQUESTS,
    "request": Unit.REQUESTS,
    "images": Unit.IMAGES,
    "image": Unit.IMAGES,
    "megapixels": Unit.MEGAPIXELS,
    "megapixel": Unit.MEGAPIXELS,
    "concurrent": Unit.CONCURRENT,
}
_RULE: Final = re.compile(r"\s*(?P<number>[0-9]{1,30})\s+(?P<unit>[A-Za-z]+)\s*(?:/\s*(?P<window>[A-Za-z]+)\s*)?")
