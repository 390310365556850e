"""One limiter for all, in a real Redis that is killed, paused, emptied, replaced and slow."""

import gc
import logging
import os
import random
import signal
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final

import anyio
import pytest
from msgspec.structs import replace

from amux_asgi import rules
from amux_asgi.admission import SECOND, Admitted, Hit, Limiter
from amux_asgi.errors import RateLimitError
from amux_asgi.stores.central import CentralLimiter, Pace, open_central
from tests.limit_stores import Store, cluster, store
from tests.shim import network

BACK: Final = 5  # seconds
PATIENCE: Final = 60.0
MINUTE, PLACES = rules("60 requests/minute", "4 concurrent")
REQUEST: Final = [Hit(rule=MINUTE, scope="key:a")]
CALL: Final = [*REQUEST, Hit(rule=PLACES, scope="key:a")]
PATIENT: Final = Pace(
    patience=5
)  # where a machine that is busy with other tests must not count as a store that is slow


@pytest.fixture(params=["asyncio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


pytestmark = pytest.mark.anyio


async def until(true: Callable[[], bool], patience: float = PATIENCE) -> float:
    """Wait until something is true; give how long it took."""
    begun = time.monotonic()
    with anyio.fail_after(patience):
        while not true():  # noqa: ASYNC110, it is in a server, which wants the processor meanwhile
            await anyio.sleep(0.01)
    return time.monotonic() - begun


async def passes(limiter: Limiter, number: int, hits: list[Hit] = REQUEST) -> list[Admitted]:
    """Ask so often at once; give those that passed."""
    passed: list[Admitted] = []

    async def one() -> None:
        try:
            passed.append(await limiter.admit(hits))
        except RateLimitError as error:
            assert 0 < (error.retry_after or 0) <= 60

    async with anyio.create_task_group() as tasks:
        for _ in range(number):
            tasks.start_soon(one)
    return passed


@asynccontextmanager
async def limiters(url: str, number: int = 1, pace: Pace | None = None) -> AsyncGenerator[list[CentralLimiter]]:
    """Open as many as there are nodes."""
    async with anyio.create_task_group() as tasks:
        ready: list[CentralLimiter] = []
        ended = anyio.Event()

        async def hold() -> None:
            async with open_central(url, nodes=number, pace=pace or Pace()) as limiter:
                ready.append(limiter)
                await ended.wait()

        for _ in range(number):
            tasks.start_soon(hold)
        await until(lambda: len(ready) == number)
        yield ready
        ended.set()


@pytest.mark.parametrize("nodes", [1, 3])
async def test_all_nodes_together_admit_the_limit(place: str, nodes: int) -> None:
    """R01 and R03, in Redis, Valkey and clusters of both: 60 of 300, and 4 at once, whoever is asked."""
    name = f"key:{nodes}"
    async with limiters(place, nodes, PATIENT) as all_of_them:
        passed = 0
        for limiter in all_of_them:
            passed += len(await passes(limiter, 100, [Hit(rule=MINUTE, scope=name)]))
        at_once = [Hit(rule=PLACES, scope=name)]
        held = [(one, admitted) for one in all_of_them for admitted in await passes(one, 9, at_once)]
        assert {limiter.fallbacks for limiter in all_of_them} == {0}

        for limiter, admitted in held:
            limiter.release(admitted.lease)
        again = await passes(held[0][0], 9, at_once)

    assert (passed, len(held)) == (60, 4)
    assert 1 <= len(again) <= 4


async def test_one_after_the_other_is_never_refused(place: str) -> None:
    """A place that was given back is free at once for whoever comes to the same node."""
    hits = [Hit(rule=rules("1 concurrent")[0], scope="key:patient")]
    async with open_central(place, pace=PATIENT) as limiter:
        for _ in range(200):
            limiter.release((await limiter.admit(hits)).lease)
        limiter.release("unknown")

        assert limiter.fallbacks == 0


@pytest.mark.parametrize("nodes", [1, 2])
async def test_a_store_that_is_killed_under_load_costs_nobody_an_error(own: Store, nodes: int) -> None:
    """S01: no more than the limit passes before, meanwhile and after; central again within five seconds."""
    async with limiters(own.url, nodes, Pace(patience=0.5)) as all_of_them:  # a busy machine is no slow store
        passed = sum([len(await passes(limiter, 20)) for limiter in all_of_them])
        assert passed == 20 * nodes
        own.kill()
        for _ in range(3):
            passed += sum([len(await passes(limiter, 100)) for limiter in all_of_them])
        assert all(limiter.away and limiter.fallbacks for limiter in all_of_them)

        own.start()
        took = await until(lambda: not any(limiter.away for limiter in all_of_them))
        decided = [limiter.fallbacks for limiter in all_of_them]
        if nodes == 1:  # what each admitted itself it knows, what others did died with the store
            passed += len(await passes(all_of_them[0], 100))
        other = [Hit(rule=MINUTE, scope="key:other")]
        assert sum([len(await passes(limiter, 50, other)) for limiter in all_of_them]) == min(60, 50 * nodes)

    assert passed == 60
    assert took <= BACK
    assert [limiter.fallbacks for limiter in all_of_them] == decided


async def test_a_store_that_hangs_costs_fifty_milliseconds_once(own: Store) -> None:
    """S02: whoever asks first waits 50 ms, those after it nothing; the breaker closes by itself."""
    took: list[float] = []
    async with open_central(own.url) as limiter:
        await limiter.admit(REQUEST)
        own.signal(signal.SIGSTOP)
        for i in range(1000):
            begun = time.monotonic()
            await limiter.admit([Hit(rule=MINUTE, scope=f"key:{i}")])
            took.append(time.monotonic() - begun)
        assert limiter.away
        own.signal(signal.SIGCONT)
        back = await until(lambda: not limiter.away)

    took.sort()
    assert took[989] <= 0.06
    assert sum(one > 0.03 for one in took) <= 3
    assert back <= BACK


@pytest.mark.parametrize(("delay", "pieces"), [(0.2, 10), (2, 3)])  # more than one look takes
async def test_a_store_that_is_slow_is_left_alone(own: Store, delay: float, pieces: int) -> None:
    """S02 again: it answers, but late; only the looks whether it is quick again ask it, and nobody waits for those."""
    with network(own.port) as between:
        async with open_central(between.url) as limiter:
            between.delay = delay
            await passes(limiter, 100)
            asked = between.slow
            await until(lambda: between.slow >= asked + pieces)
            begun = time.monotonic()
            await passes(limiter, 100)
            took, still = time.monotonic() - begun, limiter.away
            between.delay = 0
            back = await until(lambda: not limiter.away)

            assert limiter.place == between.url

    assert still
    assert took < 0.2
    assert back <= BACK


async def test_scripts_that_the_server_forgot_are_told_again(own: Store) -> None:
    """S03: nobody notices."""
    async with open_central(own.url, pace=PATIENT) as limiter:
        await passes(limiter, 10)
        own.ask("SCRIPT", "FLUSH")
        passed = await passes(limiter, 100)

        assert (limiter.fallbacks, limiter.away, len(passed)) == (0, False, 50)


async def test_a_store_that_was_emptied_learns_of_leases_again(own: Store) -> None:
    """What is under way is known again after a beat; what this node admitted, it never forgets."""
    pace = replace(PATIENT, beat=0.1)
    async with limiters(own.url, 2, pace) as (one, other):
        held = await passes(one, 40, CALL)
        own.ask("FLUSHALL")
        assert len(await passes(one, 100)) == 56

        await until(lambda: own.ask("EXISTS", "amux:{limits}:key:a:concurrent:0") == 1)
        assert await passes(other, 40, CALL) == []
        one.release(held[0].lease)
        await until(lambda: own.ask("ZCARD", "amux:{limits}:key:a:concurrent:0") == 3)

    assert len(held) == 4
    assert (one.fallbacks, other.fallbacks) == (0, 0)


async def test_after_a_fail_over_to_an_empty_replica_at_most_one_limit_more_passes(own: Store, tmp_path: Path) -> None:
    """S04: and only because several nodes know no more of each other."""
    (tmp_path / "other").mkdir()
    with store(tmp_path / "other") as replica, network(own.port) as between:
        async with limiters(between.url, 2, PATIENT) as all_of_them:
            before = [len(await passes(limiter, 45)) for limiter in all_of_them]
            between.lead_to(replica.port)
            during = [len(await passes(limiter, 45)) for limiter in all_of_them]
            await until(lambda: not any(limiter.away for limiter in all_of_them), BACK)
            after = [len(await passes(limiter, 100)) for limiter in all_of_them]
            most = [before[i] + during[i] + after[i] for i in range(2)]

    assert sum(before) == 60
    assert sum(before + during + after) <= 120
    assert max(most) <= 60


async def test_a_replica_that_only_reads_is_as_good_as_none(own: Store, tmp_path: Path) -> None:
    """It answers, but counts nothing: each node does, until there is a primary again."""
    (tmp_path / "primary").mkdir()
    with store(tmp_path / "primary") as primary:
        own.ask("REPLICAOF", "127.0.0.1", primary.port)
        async with open_central(own.url) as limiter:
            alone = limiter.away
            passed = await passes(limiter, 100)
            own.ask("REPLICAOF", "NO", "ONE")
            took = await until(lambda: not limiter.away)

    assert (alone, len(passed)) == (True, 60)
    assert took <= BACK


@pytest.mark.parametrize("length", [0, 5, 20])
async def test_an_answer_that_is_cut_off_costs_nobody_an_error(own: Store, length: int) -> None:
    """S05: as if it were away."""
    with network(own.port) as between:
        async with open_central(between.url) as limiter:
            await passes(limiter, 10)
            between.most = length
            passed = await passes(limiter, 30)
            assert limiter.away
            between.most = None
            took = await until(lambda: not limiter.away)
            passed += await passes(limiter, 30)

    assert 0 < len(passed) <= 50
    assert took <= BACK


async def test_another_programs_key_is_replaced(own: Store) -> None:
    """S05: WRONGTYPE is nobody's trouble."""
    async with open_central(own.url, pace=PATIENT) as limiter:
        for hit in CALL:
            own.ask("SET", f"amux:{{limits}}:{hit.counter}", "mine")
        passed = await passes(limiter, 5, CALL)

        assert (len(passed), limiter.fallbacks) == (4, 0)


async def test_a_node_of_a_cluster_may_go(tmp_path: Path) -> None:
    """With a replica behind it: nobody notices but the metric, and all count together again."""
    with cluster(tmp_path, replicas=3) as nodes:
        addresses = ",".join(f"127.0.0.1:{node.port}" for node in nodes[:3])
        async with limiters(f"redis+cluster://{addresses}", 2, Pace(patience=1)) as all_of_them:
            await passes(all_of_them[0], 30)
            (holder,) = (node for node in nodes[:3] if node.ask("KEYS", "*"))
            holder.kill()
            for limiter in all_of_them:
                await passes(limiter, 10)
            await until(lambda: not any(limiter.away for limiter in all_of_them))
            decided = sum(limiter.fallbacks for limiter in all_of_them)
            other = [Hit(rule=MINUTE, scope="key:other")]
            passed = sum([len(await passes(limiter, 50, other)) for limiter in all_of_them])

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # redis' client leaves a dead node's socket to the collector
        gc.collect()
    assert decided > 0
    assert (passed, sum(limiter.fallbacks for limiter in all_of_them)) == (60, decided)


async def test_a_store_that_is_away_at_the_start_is_no_reason_not_to_start(
    own: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """Said once; it is used as soon as it is there."""
    own.kill()
    with caplog.at_level(logging.WARNING, "amux_asgi"):
        async with limiters(own.url, 2) as (limiter, _):
            alone = await passes(limiter, 100, CALL)
            for admitted in alone:
                limiter.release(admitted.lease)
            own.start()
            await until(lambda: not limiter.away, BACK)

    said = [record.message for record in caplog.records]
    assert len(alone) == 2  # its share of the places
    assert sum("is away or slow" in line for line in said) == 2
    assert any("is back" in line for line in said)


async def test_a_refusal_for_the_share_alone_asks_to_come_back_soon(own: Store) -> None:
    """Who is refused because others' shares are unused waits until the nodes may count together again, no longer."""
    own.kill()
    async with open_central(own.url, nodes=60) as limiter:
        await limiter.admit(REQUEST)

        with pytest.raises(RateLimitError) as caught:
            await limiter.admit(REQUEST)
        with pytest.raises(RateLimitError) as heavy:
            await limiter.admit([Hit(rule=MINUTE, scope="key:b", weight=2)])

    assert (caught.value.retry_after, heavy.value.retry_after) == (5, 5)


async def test_whoever_stops_waiting_holds_no_place(own: Store) -> None:
    """Cancelled while the store is asked: what it took is given back."""
    async with open_central(own.url, pace=Pace(patience=10)) as limiter:
        own.signal(signal.SIGSTOP)
        with anyio.move_on_after(0.1):
            await limiter.admit(CALL)
        own.signal(signal.SIGCONT)
        await until(lambda: own.ask("ZCARD", "amux:{limits}:key:a:concurrent:0") == 0)

        assert len(await passes(limiter, 20, CALL)) == 4
        assert await limiter.admit([]) == Admitted()


async def test_leases_of_a_store_that_went_are_given_back_when_it_returns(own: Store) -> None:
    """Work that ended meanwhile holds no place there; work that goes on does."""
    async with open_central(own.url) as limiter:
        held = [await limiter.admit(CALL) for _ in range(3)]
        own.signal(signal.SIGSTOP)
        await passes(limiter, 1)
        for one in held[1:]:
            limiter.release(one.lease)
        own.signal(signal.SIGCONT)
        await until(lambda: not limiter.away)

        assert own.ask("ZCARD", "amux:{limits}:key:a:concurrent:0") == 1


async def test_leases_that_have_fallen_are_not_given_back(own: Store) -> None:
    """A store that is away for long leaves nothing to be remembered."""
    pace = Pace(life=0.05, beat=0.05)
    async with open_central(own.url, pace=pace) as limiter:
        held = [await limiter.admit(CALL) for _ in range(3)]
        own.kill()
        await passes(limiter, 1)
        for one in held:
            limiter.release(one.lease)

        await until(lambda: not limiter.returning)


async def test_a_store_that_fails_while_leases_are_told_is_away(own: Store) -> None:
    """Also when nobody asks for anything."""
    async with open_central(own.url, pace=Pace(beat=0.05)) as limiter:
        await limiter.admit(CALL)
        own.kill()

        await until(lambda: limiter.away)


async def test_an_app_that_fails_closes_its_store_and_says_so_itself(own: Store) -> None:
    """Its own error comes out, in no group."""
    with pytest.raises(ZeroDivisionError):
        async with open_central(own.url):
            raise ZeroDivisionError


HOLDER: Final = """
import asyncio, sys
from amux_asgi import rules
from amux_asgi.admission import Hit
from amux_asgi.stores.central import Pace, open_central

async def main():
    async with open_central(sys.argv[1], pace=Pace(patience=5, beat=0.2, life=1.5)) as limiter:
        hits = [Hit(rule=rules("4 concurrent")[0], scope="key:a")]
        for _ in range(4):
            await limiter.admit(hits)
        print("held", flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""


@contextmanager
def holder(url: str) -> Generator[subprocess.Popen[str]]:
    """Run a process that holds four places."""
    command = [sys.executable, "-c", HOLDER, url]
    told = {**os.environ, "PYTHONPATH": os.fspath(Path.cwd())}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=told) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


async def test_leases_fall_with_their_process(own: Store) -> None:
    """Killed, it renews nothing any more: after a bounded time its places are free; until then they are held."""
    hits = [Hit(rule=PLACES, scope="key:a")]
    with holder(own.url) as process:
        async with open_central(own.url, pace=PATIENT) as limiter:
            held_until = time.monotonic() + 2.5  # longer than a lease's life
            while time.monotonic() < held_until:
                assert await passes(limiter, 1, hits) == []
                await anyio.sleep(0.05)
            process.kill()
            begun = time.monotonic()
            while not await passes(limiter, 1, hits):
                assert time.monotonic() - begun < BACK
                await anyio.sleep(0.05)
            took = time.monotonic() - begun

    assert took < 3


async def test_no_window_ever_holds_more_than_the_limit(own: Store) -> None:
    """R02 in real time: three nodes hammer one key, and the server's own record of it is added up."""
    hits = [Hit(rule=rules("20 requests/second")[0], scope="key:a")]
    chance = random.Random(3)
    passed: Counter[int] = Counter()
    async with limiters(own.url, 3, PATIENT) as all_of_them:
        last = time.monotonic() + 3
        while time.monotonic() < last:
            for limiter in all_of_them:
                for admitted in await passes(limiter, chance.randrange(8), hits):
                    standing = admitted.standings[0]
                    passed[standing.left] += 1
            seconds, micro = own.ask("TIME")
            edge = seconds * SECOND + micro - SECOND
            in_window = own.ask("ZCOUNT", "amux:{limits}:key:a:requests:1", f"({edge}", "+inf")
            assert in_window <= 20

    assert 20 < sum(passed.values()) <= 100
