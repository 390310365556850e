"""Rules are read as they are written, weigh what they say, and what was admitted is held until all have left."""

from collections.abc import Hashable, Sequence

import pytest

from amux_asgi import ConfigError, rules
from amux_asgi.admission import MOST, Admission, Admitted, Demand, Hit, Standing, Unit, enter, parse_rule, parse_rules

pytestmark = pytest.mark.anyio


class Counting:
    """A limiter that admits everything and remembers it."""

    def __init__(self, place: str = "here") -> None:
        self.place: Hashable = place
        self.hits: list[tuple[str, int]] = []
        self.released: list[str | None] = []

    async def admit(self, hits: Sequence[Hit]) -> Admitted:
        self.hits += [(hit.counter, hit.weight) for hit in hits]
        standings = tuple(Standing(hit=hit, wait=0, left=1, reset=0) for hit in hits)
        return Admitted(standings=standings, lease=f"lease {len(self.hits)}")

    def release(self, lease: str | None) -> None:
        self.released.append(lease)


@pytest.mark.parametrize(
    ("text", "amount", "unit", "seconds", "written"),
    [
        ("60 requests/minute", 60, Unit.REQUESTS, 60, "60 requests/minute"),
        ("1 request/second", 1, Unit.REQUESTS, 1, "1 requests/second"),
        ("20 images/hour", 20, Unit.IMAGES, 3600, "20 images/hour"),
        ("1 image/day", 1, Unit.IMAGES, 86_400, "1 images/day"),
        (" 40  Megapixels / Minute ", 40, Unit.MEGAPIXELS, 60, "40 megapixels/minute"),
        ("1 megapixel/second", 1, Unit.MEGAPIXELS, 1, "1 megapixels/second"),
        ("4 concurrent", 4, Unit.CONCURRENT, 0, "4 concurrent"),
        (f"{MOST} requests/day", MOST, Unit.REQUESTS, 86_400, f"{MOST} requests/day"),
    ],
)
def test_a_rule_is_read(text: str, amount: int, unit: Unit, seconds: int, written: str) -> None:
    """A number, what is counted, and in which time; written again, it is the same rule."""
    rule = parse_rule(text)

    assert (rule.amount, rule.unit, rule.seconds, str(rule)) == (amount, unit, seconds, written)
    assert parse_rule(written) == rule


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "is no limit"),
        ("sixty requests/minute", "is no limit"),
        ("60/minute", "is no limit"),
        ("-1 requests/minute", "is no limit"),
        ("1.5 requests/minute", "is no limit"),
        ("60 requests/minute/hour", "is no limit"),
        ("0 requests/minute", "from 1 to"),
        (f"{MOST + 1} requests/minute", "from 1 to"),
        ("60 requsts/minute", "do you mean 'requests'?"),
        ("60 zzz/minute", "known are requests, "),
        ("60 requests/minutes", "do you mean 'minute'?"),
        ("60 requests/fortnight", "known are second, minute, hour, day"),
        ("60 requests", "write '60 requests/minute'"),
        ("4 concurrent/minute", "write '4 concurrent'"),
    ],
)
def test_what_is_no_rule_is_refused_with_the_reason(text: str, part: str) -> None:
    """Whoever misspells one is told what to write."""
    with pytest.raises(ValueError, match=r".") as caught:
        parse_rule(text)

    assert part in str(caught.value)


def test_two_rules_that_limit_the_same_are_refused() -> None:
    """One of the two would never count; other windows and units stand side by side."""
    assert len(parse_rules(["60 requests/minute", "600 requests/hour", "60 images/minute", "4 concurrent"])) == 4

    with pytest.raises(ConfigError, match="'60 requests/minute' and '70 requests/minute' limit the same"):
        rules("60 requests/minute", "70 requests/minute")


def test_a_request_weighs_by_the_unit() -> None:
    """One request and one place, its pictures, and their pixels to the last one."""
    demand = Demand(images=3, pixels=3 * 1254 * 1254)

    weights = {unit: demand.weight(unit) for unit in Unit}

    assert weights == {
        Unit.REQUESTS: 1,
        Unit.CONCURRENT: 1,
        Unit.IMAGES: 3,
        Unit.MEGAPIXELS: 4_717_548,
    }
    assert parse_rule("2 megapixels/minute").limit == 2_000_000


def test_the_share_of_a_node_is_at_least_one() -> None:
    """Also where there are more nodes than may pass."""
    rule = parse_rule("7 requests/minute")

    assert [rule.share(nodes) for nodes in (1, 2, 7, 100)] == [7, 3, 1, 1]


async def test_what_an_outer_app_counted_is_not_counted_again() -> None:
    """The same counter in the same place weighs nothing; another counter, or another place, weighs as ever."""
    here, there = Counting(), Counting("there")
    by_minute, by_hour = (Hit(rule=rule, scope="key:a") for rule in rules("60 requests/minute", "60 requests/hour"))
    outer = await enter(here, [by_minute])
    middle = await enter(there, [by_minute], outer)

    await enter(here, [by_minute, by_hour], middle)

    assert here.hits == [("key:a:requests:60", 1), ("key:a:requests:60", 0), ("key:a:requests:3600", 1)]
    assert there.hits == [("key:a:requests:60", 1)]


async def test_a_place_is_held_until_all_have_left() -> None:
    """The answer ends first, the work behind it later; and the other way round."""
    for order in ((0, 1), (1, 0)):
        limiter = Counting()
        outer = await enter(limiter, [])
        both: list[Admission] = [outer, await enter(limiter, [], outer)]

        both[order[0]].leave()
        assert "lease 0" not in limiter.released[1:]
        both[order[1]].leave()

        assert limiter.released == ["lease 0", "lease 0"]


async def test_a_place_that_was_given_back_is_taken_anew() -> None:
    """Work whose request has left before it began holds a place of its own; the request has been counted."""
    limiter = Counting()
    hits = [Hit(rule=rule, scope="key:a") for rule in rules("60 requests/minute", "4 concurrent")]
    outer = await enter(limiter, hits)
    outer.leave()

    await enter(limiter, hits, outer)

    assert limiter.hits[2:] == [("key:a:requests:60", 0), ("key:a:concurrent:0", 1)]
