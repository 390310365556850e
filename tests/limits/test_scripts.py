"""The scripts in the server count as the memory does, for all servers and clusters."""

import random
import uuid
from typing import Final, cast

import pytest
import redis.asyncio

from amux_asgi import rules
from amux_asgi.admission import SECOND, Hit, Rule, Standing, Unit
from amux_asgi.stores.central import connect
from amux_asgi.stores.limiter import Central, Question, text_of
from amux_asgi.windows import Counters
from tests.limit_stores import Store, nonsense
from tests.limits.clocks import Clock

STEPS: Final = 4_000
LIFE: Final = 15 * SECOND
PLACES: Final = rules("4 concurrent")[0]
MINUTE: Final = rules("60 requests/minute")[0]


@pytest.fixture(params=["asyncio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


pytestmark = pytest.mark.anyio


def whose() -> str:
    """Name a key that no other test has."""
    return f"key:{uuid.uuid4().hex}"


async def test_it_counts_as_the_memory_does(own: Store) -> None:
    """Four thousand steps by chance, the server's clock in the test's hand: the same answers, number for number."""
    clock, chance = Clock(), random.Random(11)
    memory = Counters(clock)
    text = text_of("admit").replace("redis.call('TIME')", "cjson.decode(redis.call('GET', 'now'))")
    told = rules("5 requests/second", "40 requests/minute", "30 images/minute", "60 megapixels/minute", "4 concurrent")
    held: list[str] = []
    async with redis.asyncio.Redis(port=own.port) as client:
        script = client.register_script(text)
        for step in range(STEPS):
            clock.go(chance.choice((0, 1, 999_999, chance.randrange(SECOND), chance.randrange(2 * SECOND))))
            weights = {"requests": 1, "images": chance.randrange(11), "megapixels": chance.randrange(20_000_000)}
            hits = [
                Hit(rule=rule, scope=f"key:{chance.randrange(2)}", weight=weights.get(rule.unit.value, 1))
                for rule in chance.sample(told, chance.randrange(1, 4))
            ]
            at_once = [hit.counter for hit in hits if hit.rule.unit is Unit.CONCURRENT]
            lease = f"lease {step}"
            expected = memory.look(hits)
            if not any(standing.wait for standing in expected):
                memory.add(hits, lease)
                held += [lease] if at_once else []
            gone = [held.pop(0)] if len(held) > chance.randrange(9) else []
            keys, args = [f"{{limits}}{hit.counter}" for hit in hits], [LIFE, lease, len(hits)]
            for hit in hits:
                args += [hit.rule.limit, hit.weight, hit.rule.window, 0]
            await client.set("now", f"[{clock.micro // SECOND}, {clock.micro % SECOND}]")

            answer = cast("list[int]", await script(keys, args))

            found = [tuple(answer[i : i + 3]) for i in range(0, len(answer), 3)]
            assert found == [(one.wait, one.left, one.reset) for one in expected], step
            for lease in gone:
                for counter in memory.drop(lease):
                    await client.zrem(f"{{limits}}{counter}", lease)
            if step % 7 == 0:  # leases of a dead clock would fall
                for counter, leases in memory.leases().items():
                    await client.zadd(f"{{limits}}{counter}", dict.fromkeys(leases, clock.micro + LIFE))


async def taken(
    central: Central, hits: list[Hit], lease: str = "", gone: dict[str, list[str]] | None = None
) -> list[Standing]:
    (standings,) = await central.take([Question(hits, lease, gone or {})], LIFE)
    return list(standings)


async def test_all_rules_are_taken_or_none(place: str) -> None:
    """Of a key, its account, a model and the gateway in one step, also in a cluster."""
    central = connect(place)
    name = whose()
    many = [Hit(rule=MINUTE, scope=f"{name} {i}") for i in range(4)]
    few = Hit(rule=rules("1 images/hour")[0], scope=name)
    place_at_once = Hit(rule=PLACES, scope=name)

    first = await taken(central, [*many, few, place_at_once], "lease 1")
    second = await taken(central, [*many, few, place_at_once], "lease 2")
    third = await taken(central, [*many, place_at_once], "lease 3")
    await central.close()

    assert [(one.wait, one.left) for one in first] == [(0, 59)] * 4 + [(0, 0), (0, 3)]
    assert [(one.wait > 0, one.left) for one in second] == [(False, 58)] * 4 + [(True, 0), (False, 2)]
    assert [(one.wait, one.left) for one in third] == [(0, 58)] * 4 + [(0, 2)]
    assert 3599 * SECOND < second[4].wait <= 3600 * SECOND


async def test_questions_of_several_are_answered_one_after_the_other(place: str) -> None:
    """Each finds what those before it took, and nothing of those that were refused."""
    central = connect(place)
    few, many = (Hit(rule=rule, scope=whose()) for rule in rules("2 requests/hour", "60 requests/minute"))
    questions = [Question([many, few]) for _ in range(4)] + [Question([many])]

    found = await central.take(questions, LIFE)
    await central.close()

    assert [[(one.wait > 0, one.left) for one in standings] for standings in found] == [
        [(False, 59), (False, 1)],
        [(False, 58), (False, 0)],
        [(False, 57), (True, 0)],
        [(False, 57), (True, 0)],
        [(False, 57)],
    ]


async def test_leases_are_given_back_renewed_and_fall(place: str) -> None:
    """Given back by name, with a question or without; one that nobody renews falls by itself."""
    central = connect(place)
    hit = Hit(rule=PLACES, scope=whose())
    for lease in "abc":
        await taken(central, [hit], lease)
    await central.tell({hit.counter: ["a"]}, 0)
    await central.tell({hit.counter: ["d", "e"]}, LIFE)  # the store had forgotten them
    full = await taken(central, [hit], "f")
    after_one = await taken(central, [hit], "f", {hit.counter: ["b", "unknown"]})
    await central.tell({hit.counter: ["c", "d", "e", "f"]}, 1)
    fallen = await taken(central, [hit], "g")
    await central.close()

    assert [one.wait for one in full] == [SECOND]
    assert [(one.wait, one.left) for one in after_one] == [(0, 0)]
    assert [(one.wait, one.left) for one in fallen] == [(0, 3)]


@pytest.mark.parametrize(
    ("rule", "command"),
    [
        (MINUTE, ("SET", "{key}", "5")),
        (MINUTE, ("LPUSH", "{key}", "a")),
        (MINUTE, ("ZADD", "{key}", "9e15", "0000000000000001:1")),
        (MINUTE, ("ZADD", "{key}", "NOW", "nonsense")),
        (PLACES, ("SET", "{key}", "5")),
        (PLACES, ("LPUSH", "{key}", "a")),
    ],
)
async def test_what_lies_there_and_is_none_of_ours_is_replaced(
    own: Store, rule: Rule, command: tuple[str, ...]
) -> None:
    """S05: another program's key, or one of a clock from the future, refuses nobody."""
    central = connect(own.url)
    hit = Hit(rule=rule, scope="key:a")
    now = f"{own.ask('TIME')[0]}000000"
    own.ask(*[word.format(key=f"amux:{{limits}}:{hit.counter}").replace("NOW", now) for word in command])

    standings = await taken(central, [hit], "lease")
    own.ask("SET", f"amux:{{limits}}:{hit.counter}", "5")
    await central.tell({hit.counter: ["lease"]}, LIFE)
    await central.close()

    assert [(one.wait, one.left) for one in standings] == [(0, rule.limit - 1)]
    assert own.ask("TYPE", f"amux:{{limits}}:{hit.counter}") == b"zset"


async def test_a_clock_that_goes_back_a_little_stands_instead(own: Store) -> None:
    """After a fail-over to a server whose clock is behind, a window is no shorter."""
    central = connect(own.url)
    hit = Hit(rule=MINUTE, scope="key:a")
    seconds, micro = own.ask("TIME")
    soon = seconds * SECOND + micro + 900_000
    own.ask("ZADD", f"amux:{{limits}}:{hit.counter}", soon, "0000000000000060:60")

    (standing,) = await taken(central, [hit])
    await central.close()

    assert (standing.wait, standing.left) == (60 * SECOND, 0)


async def test_keys_do_not_outlive_their_window(own: Store) -> None:
    """Nothing is left of whoever does not come back."""
    central = connect(own.url)
    hits = [Hit(rule=MINUTE, scope="key:a"), Hit(rule=PLACES, scope="key:a")]

    await taken(central, hits, "lease")
    await central.close()

    lives = {key: own.ask("PTTL", key) for key in own.ask("KEYS", "*")}
    assert sorted(-(-life // 1000) for life in lives.values()) == [15, 60]


async def test_an_answer_that_is_none_is_noticed() -> None:
    """Whatever is between us and the store, nobody is admitted by chance."""
    with nonsense(b"*2\r\n:0\r\n:1\r\n") as url:
        central = connect(url)

        with pytest.raises(ValueError, match="an answer that is none"):
            await taken(central, [Hit(rule=MINUTE, scope="key:a")])
        await central.close()


@pytest.mark.parametrize("url", ["", "redis", "redis://", "memcached://host", "redis+sentinel://host", "memory://"])
def test_what_is_no_store_is_refused(url: str) -> None:
    """The schemes that there are stand in the message."""
    with pytest.raises(ValueError, match=r"is no limits' store; known are memory://, redis://"):
        connect(url)
