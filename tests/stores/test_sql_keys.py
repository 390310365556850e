"""API keys in a database: who is let in, and for how long."""

import math
import random
import statistics
import time
from collections.abc import Generator
from pathlib import Path
from statistics import median

import anyio
import pytest
import sqlalchemy as sa
from anyio import wait_all_tasks_blocked

from amux_asgi.errors import AuthenticationError, StorageUnavailableError
from amux_asgi.keys import Principal, key_id_of, make_key
from amux_asgi.stores.sql.keys import SURE, UNSEEN
from amux_asgi.stores.sql.look_ups import REMEMBERED, TICK, WAITING
from tests.stores.key_rows import DIGITS, PEER, Rows, Store, opened, same_id, with_checksum

pytestmark = pytest.mark.anyio
MINUTE = 60_000  # milliseconds


@pytest.fixture
def both(database: str) -> Generator[tuple[Rows, Store]]:
    with opened(database) as both:
        yield both


@pytest.fixture
def rows(both: tuple[Rows, Store]) -> Rows:
    return both[0]


@pytest.fixture
def store(both: tuple[Rows, Store]) -> Store:
    return both[1]


async def test_a_key_gives_all_that_is_known_of_it(rows: Rows, store: Store) -> None:
    """Account, name, models, passthroughs, budget and networks."""
    key = rows.make(models='["gpt-*"]', passthrough='["speech"]', budget="b1", networks='["10.0.0.0/8"]')
    plain = rows.make()
    assert await store.show(key, plain) == ["team", "team"]

    full, bare = store.at_once(key), store.at_once(plain)

    assert full == Principal(
        account="team",
        key="team-a",
        models=("gpt-*",),
        passthrough=("speech",),
        budget="b1",
        networks=("10.0.0.0/8",),
    )
    assert bare == Principal(account="team", key="team-a")


async def test_a_key_that_was_shown_before_needs_no_waiting(rows: Rows, store: Store) -> None:
    """Neither a statement nor a turn of the event loop."""
    key = rows.make()
    await store.show(key)
    asked = len(store.statements)

    for _ in range(100):
        store.at_once(key)

    assert len(store.statements) == asked


async def test_a_wrong_key_is_refused(rows: Rows, store: Store) -> None:
    """Unknown; of a known id but with another secret, before and after the right one was shown."""
    key = rows.make()
    guess = same_id(key)

    before = await store.show(guess, make_key())
    await store.show(key)
    after = await store.show(guess)

    assert before + after == ["invalid_api_key"] * 3


async def test_a_disabled_or_expired_key_says_so_only_to_whom_has_it(rows: Rows, store: Store) -> None:
    """Whoever knows the id alone learns nothing."""
    disabled, expired = rows.make(disabled=True), rows.make(expires=store.now)

    ends = await store.show(disabled, expired, same_id(disabled), same_id(expired))

    assert ends == ["api_key_disabled", "api_key_expired", "invalid_api_key", "invalid_api_key"]


async def test_a_key_expires_at_its_very_moment(rows: Rows, store: Store) -> None:
    """Also while it is known by heart."""
    key = rows.make(expires=store.now + 1)
    await store.show(key)
    store.at_once(key)

    store.now += 1

    assert await store.show(key) == ["api_key_expired"]


async def test_what_is_no_key_is_never_looked_up(rows: Rows, store: Store) -> None:
    """A wrong shape, a wrong checksum, pieces of SQL: nobody is asked, and nothing of them reaches the database."""
    key = rows.make()
    hostile = ["' OR 1=1 --", "amx_' OR 1=1_x", f"{key}' --", "{'$gt': ''}", "x\0y", "\udcff", "", f"{key[:-1]}!"]
    hostile += [f"amx_{i:08}_{'0' * 32}_000000" for i in range(100)]

    ends = await store.show(*hostile)

    assert set(ends) == {"invalid_api_key"}
    assert store.statements == []


async def test_statements_carry_ids_alone(rows: Rows, store: Store) -> None:
    """Neither the key nor its digest is sent anywhere, so that no log of the database can hold them."""
    key = rows.make()

    await store.show(key, same_id(key))

    looks = [statement for statement in store.statements if "keys" in statement]
    assert any(key[4:12] in statement for statement in looks)
    assert not any(key[13:45] in statement or key[-6:] in statement for statement in store.statements)
    assert key[4:12] not in looks[0].partition(" FROM ")[2].partition("{")[0].partition("(")[0]  # a parameter


async def test_those_who_ask_at_the_same_time_are_one_statement(rows: Rows, store: Store) -> None:
    """Fifty requests with one key, and a hundred with others, from many places."""
    keys = rows.many(100)

    ends = await store.show(*[keys[0]] * 50, *keys, peers=[f"192.0.2.{i}" for i in range(150)])

    asked = [sum(key[4:12] in statement for statement in store.statements) for key in keys]
    together = [statement for statement in store.statements if all(key[4:12] in statement for key in keys)]
    assert ends == ["team"] * 150
    assert (asked, len(together)) == ([1] * 100, 1)


async def test_a_thousand_new_keys_at_once_are_all_answered(rows: Rows, store: Store) -> None:
    """From one address too, as behind a proxy: those who are right are not taken for guessing."""
    keys = rows.many(10) * 100

    assert set(await store.show(*keys)) == {"team"}


async def test_too_many_at_once_are_refused_at_once(store: Store) -> None:
    """Those who wait are answered, the others hear 503 without waiting."""
    keys = [make_key() for _ in range(WAITING + 5)]
    ends: list[str] = []
    refused: list[str] = []
    waited: list[float] = []

    async def one(i: int, key: str) -> None:
        begun = time.monotonic()
        try:
            await store.keys.authenticate(key, str(i))
        except (StorageUnavailableError, AuthenticationError) as error:
            ends.append(error.code)
        waited.append(time.monotonic() - begun)

    async with anyio.create_task_group() as tasks:
        for i, key in enumerate(keys):
            tasks.start_soon(one, i, key)
        while len(ends) < 5:
            await anyio.lowlevel.checkpoint()
        refused = [*ends]
        while len(ends) < len(keys):
            store.look()
            await anyio.lowlevel.checkpoint()

    assert refused == ["storage_unavailable"] * 5
    assert max(waited[:5]) < 0.1
    assert ends[5:] == ["invalid_api_key"] * WAITING


async def test_a_revoked_key_is_refused_from_the_next_look_on(rows: Rows, store: Store) -> None:
    """And a look comes every half second."""
    key, other = rows.make(), rows.make()
    await store.show(key, other)

    rows.revoke(key)
    store.look()

    assert await store.show(key, other) == ["api_key_disabled", "team"]
    assert TICK <= 0.5


async def test_a_deleted_key_is_nobodys(rows: Rows, store: Store) -> None:
    """It is forgotten here too."""
    key = rows.make()
    await store.show(key)

    rows.change(sa.text("DELETE FROM keys WHERE id = :id"), {"id": key_id_of(key)})
    store.look()

    assert await store.show(key) == ["invalid_api_key"]
    assert store.keys.look_ups.proven == {}


async def test_a_rolled_key_overlaps_with_its_successor(rows: Rows, store: Store) -> None:
    """Both let in until the old one's end, to the millisecond; then only the new one."""
    old = rows.make()
    assert await store.show(old) == ["team"]
    new = rows.make()
    end = sa.text("UPDATE keys SET expires = :at WHERE id = :id")
    rows.change(end, {"at": store.now + MINUTE, "id": key_id_of(old)})
    store.look()

    during = await store.show(old, new)
    store.now += MINUTE - 1
    at_the_end = await store.show(old, new)
    store.now += 1
    after = await store.show(old, new)

    assert (during, at_the_end, after) == (["team"] * 2, ["team"] * 2, ["api_key_expired", "team"])


async def test_a_change_between_two_looks_is_never_missed(rows: Rows, store: Store) -> None:
    """However changes, looks and requests follow each other, what is let in was so at the last look."""
    chance = random.Random(7)
    keys = rows.many(3)
    turn = sa.text("UPDATE keys SET disabled = NOT disabled WHERE id = :id")
    for step in range(60):
        key = chance.choice(keys)
        told = rows.disabled()
        store.look()
        shown = await store.show(*chance.sample(keys, 2), key, peers=[str(step)])
        assert shown[-1] == ("api_key_disabled" if told[key[4:12]] else "team")
        rows.change(turn, {"id": key_id_of(chance.choice(keys))})


async def test_whoever_hears_of_it_too_late_asks_again(rows: Rows, store: Store) -> None:
    """An event loop that was held up lets nobody in by what was so long ago."""
    key = rows.make()
    ends: list[str] = []

    async def one() -> None:
        try:
            ends.append((await store.keys.authenticate(key, PEER)).account)
        except AuthenticationError as error:
            ends.append(error.code)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(one)
        await wait_all_tasks_blocked()
        store.look()
        rows.revoke(key)
        store.clock += TICK + 0.001
        await wait_all_tasks_blocked()
        store.look()

    assert ends == ["api_key_disabled"]


async def test_a_process_that_stood_still_looks_before_it_lets_anybody_in(rows: Rows, store: Store) -> None:
    """A key that was revoked meanwhile is not let in by what was known before."""
    key, other = rows.many(2)
    await store.show(key, other)

    rows.revoke(key)
    store.clock += SURE + 0.001

    assert await store.show(key, other) == ["api_key_disabled", "team"]
    assert SURE < 1


async def test_nobody_waits_for_ever(database: str) -> None:
    """If a look does not end, a known key is let in by the last one, for a minute; whoever else asks hears 503."""
    errors: list[StorageUnavailableError] = []
    with opened(database, patience=0.2) as (rows, store):
        key = rows.make()
        while await store.show(key) != ["team"]:
            pass
        store.clock += UNSEEN

        known = (await store.keys.authenticate(key, PEER)).account
        store.clock += 0.001
        for late in (key, make_key()):
            with pytest.raises(StorageUnavailableError, match="in time") as caught:
                await store.keys.authenticate(late, PEER)
            errors.append(caught.value)

    assert known == "team"
    assert all(error.retry_after for error in errors)


async def test_guessing_is_refused_after_twenty_in_a_minute(rows: Rows, store: Store) -> None:
    """However many at once; who is known, and who guesses elsewhere, notices nothing."""
    good, new = rows.make(), rows.make()
    await store.show(good)
    before = len(store.statements)

    ends = await store.show(*(make_key() for _ in range(1000)))
    asked = len(store.statements) - before
    late = await store.show(good, new, peers=[PEER])
    elsewhere = await store.show(make_key(), new, peers=["192.0.2.8"])

    assert ends.count("invalid_api_key") == 20
    assert ends.count("rate_limit_exceeded") == 980
    assert asked < 10
    assert late == ["team", "rate_limit_exceeded"]
    assert elsewhere == ["invalid_api_key", "team"]
    store.clock += 60
    assert (await store.show(make_key(), new)) == ["invalid_api_key", "team"]


async def test_a_known_key_lets_in_while_others_guess(rows: Rows, store: Store) -> None:
    """Also just after a change, when it has to be looked up again, from the very address that guesses."""
    good = rows.make()
    await store.show(good)
    await store.show(*(make_key() for _ in range(40)))

    rows.make()
    store.look()

    assert await store.show(good, *[same_id(good)] * 30) == ["team", *["invalid_api_key"] * 30]


async def test_guesses_at_a_known_id_are_counted_until_its_key_was_shown(rows: Rows, store: Store) -> None:
    """Ids are no secret: somebody may know one whose key was not used here yet."""
    key = rows.make()

    ends = await store.show(*[same_id(key)] * 30)

    assert ends.count("invalid_api_key") == 20
    assert ends.count("rate_limit_exceeded") == 10


async def test_only_so_many_keys_are_kept(rows: Rows, store: Store) -> None:
    """The one that came first is looked up again when it is shown."""
    first, second = rows.make(), rows.make()
    await store.show(first)
    found = store.keys.look_ups.proven[str(key_id_of(first))]
    store.keys.look_ups.proven.update({str(i): found for i in range(REMEMBERED - 1)})

    await store.show(second)

    assert len(store.keys.look_ups.proven) == REMEMBERED
    assert key_id_of(first) not in store.keys.look_ups.proven
    assert await store.show(first) == ["team"]


@pytest.mark.parametrize("broken", [{"models": "gpt-*"}, {"passthrough": "5"}, {"networks": "[5]"}])
async def test_a_row_that_cannot_be_read_is_its_own_keys_trouble(
    rows: Rows, store: Store, broken: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody wrote into the table by hand: that key is a 500 and told to the operator, all others are let in."""
    bad, good = rows.make(**broken), rows.make()

    ends = await store.show(bad, good)

    assert ends == ["internal_error", "team"]
    assert "cannot be read" in caplog.text


async def test_no_key_can_be_found_in_what_is_kept_shown_or_logged(
    rows: Rows, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """Only hashes: in the database, in memory, in logs and in errors."""
    caplog.set_level(0)
    keys = [rows.make(), rows.make(disabled=True), rows.make(models="broken")]
    errors: list[BaseException] = []
    await store.show(*keys, *(same_id(key) for key in keys))
    for key in (*keys, same_id(keys[0]), keys[0][:-1]):
        try:
            store.at_once(key)
        except (AuthenticationError, AssertionError) as error:
            errors.append(error)

    with rows.engine.connect() as connection:
        dump = repr(connection.execute(sa.text("SELECT * FROM keys")).all())
    shown = [dump, caplog.text, repr(store.keys), repr(store.keys.look_ups.proven), repr(errors)]
    kept = b"".join(path.read_bytes() for path in Path(str(rows.engine.url.database)).parent.glob("amux.db*"))

    for key in keys:
        assert [text for text in shown if key[13:45] in text] == []
        assert key[13:45].encode() not in kept


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # no matter of the event loop, and many refusals
async def test_how_long_a_refusal_takes_says_nothing(rows: Rows, store: Store) -> None:
    """Keys of known ids that are wrong in the first or in the last character of the secret, 20,000 times each.

    Medians that differ by less than a fiftieth, some tens of nanoseconds, are told apart by no network: a machine may
    favour one of two texts by so much.
    """
    keys = rows.many(50)
    await store.show(*keys)
    chance = random.Random(3)
    seen: list[tuple[float, float]] = []

    while len(seen) < 4 and not (seen and is_blind(*seen[-1])):  # one in a hundred goes wrong by chance
        times: dict[int, list[int]] = {13: [], 44: []}
        for _ in range(20_000):
            for place in chance.sample((13, 44), 2):
                key = wrong_at(chance.choice(keys), place, chance)
                times[place].append(refused_in(store, key))
        first, last = times.values()
        seen.append((same_median(first, last), median(first) / median(last)))

    assert is_blind(*seen[-1]), seen


def is_blind(chance: float, ratio: float) -> bool:
    return chance > 0.01 or 49 / 50 < ratio < 50 / 49


def wrong_at(key: str, place: int, chance: random.Random) -> str:
    """Give a key with another character at this place, and a true checksum."""
    return with_checksum(f"{key[:place]}{chance.choice(DIGITS.replace(key[place], ''))}{key[place + 1 : 45]}")


def refused_in(store: Store, key: str) -> int:
    """Tell how many nanoseconds the refusal of a key took."""
    begun = time.perf_counter_ns()
    try:
        store.at_once(key)
    except AuthenticationError:
        return time.perf_counter_ns() - begun
    raise AssertionError("it was let in")


def same_median(one: list[int], two: list[int]) -> float:
    """Say how likely two samples differ as much if their medians are one (Mood's test)."""
    middle = statistics.median(one + two)
    above = [sum(value > middle for value in sample) for sample in (one, two)]
    share = sum(above) / (len(one) + len(two))
    spread = math.sqrt(share * (1 - share) * (1 / len(one) + 1 / len(two)))
    return math.erfc(abs(above[0] / len(one) - above[1] / len(two)) / spread / math.sqrt(2))


def test_the_test_of_medians_tells_a_difference() -> None:
    """One of a fiftieth is seen in 20,000 samples, none is not."""
    chance = random.Random(1)
    one, two = ([int(chance.gauss(5000, 500)) for _ in range(20_000)] for _ in range(2))

    assert same_median(one, two) > 0.01
    assert same_median(one, [value + 100 for value in two]) < 0.0001
