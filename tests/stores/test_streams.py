"""Streams earn picture by picture: however one ends, what was delivered is charged, and nothing else is."""

import os
import signal
from collections.abc import Callable
from functools import partial

import anyio
import pytest
import sqlalchemy as sa

from amux_asgi.errors import GatewayError, StorageUnavailableError
from amux_asgi.manage import UsageQuery
from amux_asgi.quota import Answer, Order, Settlement
from amux_asgi.reservation import Verb
from amux_asgi.stores.sql import SqlStores
from amux_asgi.stores.sql.operation import FOR_EVER, Pace, Task, Transaction
from amux_asgi.stores.sql.owners import farewell
from amux_asgi.stores.sql.reservations import Earn, End, MoneyOperation
from amux_asgi.stores.sql.schema import ANSWERS, USAGE
from tests.stores.processes import processes
from tests.stores.world import QUICK, busy, give, opened_store, order, paid, rows, states, sums

pytestmark = pytest.mark.anyio
ROW = order("gen_1")
WHOLE = sa.select(USAGE.c.state, USAGE.c.charged, USAGE.c.earned, USAGE.c.images, USAGE.c.cost)


async def streaming(stores: SqlStores, earned: int = 4, images: int = 2) -> None:
    """Let a stream have delivered something."""
    await give(stores, 100)
    await stores.ledger.hold(ROW)
    await stores.ledger.earn(ROW, earned, images)


async def unheard(stores: SqlStores, operation: MoneyOperation) -> None:
    """Have something written whose end nobody hears of, and wait until that was seen to."""
    operation.tried = operation.abandoned = True
    stores.writer.put(operation)
    while not operation.done:
        await stores.ledger.get("account:a")
    await stores.ledger.get("account:a")


async def test_what_is_earned_is_still_held_until_the_end(database: str) -> None:
    """Each word of it replaces the one before, and is bounded by what is held; the end says what it did cost."""
    async with opened_store(database) as stores:
        await streaming(stores)
        await stores.ledger.earn(ROW, 11, 3)

        assert sums(database) == (90, 10, 0)
        assert rows(database, WHOLE) == [("held", 0, 10, 3, None)]
        charged = await stores.ledger.capture(ROW, paid(9))

    assert charged == 9
    assert rows(database, WHOLE) == [("captured", 9, 10, 1, 0)]
    assert sums(database) == (91, 0, 9)


async def test_a_release_gives_back_all_but_what_was_delivered(database: str) -> None:
    """With the facts of the usage row; one that tells nothing gives everything back."""
    other = order("gen_2")
    async with opened_store(database) as stores:
        await streaming(stores)
        await stores.ledger.hold(other)
        await stores.ledger.earn(other, 4, 1)

        stores.ledger.release(ROW, Settlement(ended=2, charged=4, cost=3, channel="c", images=2))
        stores.ledger.release(other, Settlement(ended=2))

    assert sums(database) == (96, 0, 4)
    assert sorted(rows(database, WHOLE)) == [("captured", 4, 4, 2, 3), ("released", 0, 4, 0, 0)]


async def test_a_process_that_stops_charges_for_what_its_streams_delivered(database: str) -> None:
    """Nobody knows what it did cost the vendor, and managers find it among what was used."""
    async with opened_store(database) as stores:
        await streaming(stores)
        await stores.ledger.hold(order("gen_2"))

    assert sums(database) == (96, 0, 4)
    assert sorted(rows(database, WHOLE)) == [("captured", 4, 4, 2, None), ("swept", 0, 0, 0, None)]
    async with opened_store(database) as stores:
        (used,) = await stores.manage.usage(UsageQuery(by=("account",)))
        history = (await stores.manage.accounts.history("a")).data
    assert (used.requests, used.failed, used.running, used.images, used.unknown_costs) == (2, 1, 0, 2, 2)
    assert used.charged == "0.000000004"
    (paid_for,) = [(entry.id, entry.amount, entry.images) for entry in history if entry.state == "captured"]
    assert paid_for == ("gen_1", "-0.000000004", 2)


async def test_what_was_swept_earns_no_more_and_is_charged_once(database: str) -> None:
    """The next picture is not delivered, for there is nothing left that it could be paid of."""
    async with opened_store(database) as stores:
        await streaming(stores)
        await stores.writer.run(Task(away_with(stores.writer.owner), FOR_EVER))

        with pytest.raises(StorageUnavailableError) as caught:
            await stores.ledger.earn(ROW, 6, 3)
        late = await stores.ledger.capture(ROW, paid(6))
        stores.ledger.release(ROW, paid(6))

    assert caught.value.retry is False
    assert late == 4
    assert rows(database, WHOLE) == [("captured", 4, 4, 2, None)]
    assert sums(database) == (96, 0, 4)


def away_with(owner: str) -> Callable[[Transaction], None]:
    """Settle what a process holds, as if it had been taken for dead."""

    def work(transaction: Transaction) -> None:
        farewell(Transaction(transaction.connection, owner), now=lambda: 9)

    return work


async def test_what_the_database_forgot_earns_nothing(database: str) -> None:
    """Lost by a fail-over: the picture is not delivered."""
    async with opened_store(database) as stores:
        await give(stores, 100)

        with pytest.raises(StorageUnavailableError, match="lost") as caught:
            await stores.ledger.earn(ROW, 4, 1)

    assert caught.value.retry is False
    assert states(database) == {}


async def test_a_stream_that_cannot_be_written_down_in_time_delivers_nothing(database: str) -> None:
    """A database that hangs: who waits is told, and it is as if it had never been asked."""
    async with opened_store(database, Pace(capture=0.2)) as stores:
        await streaming(stores)
        with busy(stores), pytest.raises(StorageUnavailableError) as caught:
            await stores.ledger.earn(ROW, 6, 3)

        assert caught.value.retry_after
        await stores.ledger.get("account:a")
        assert rows(database, WHOLE) == [("held", 0, 4, 2, None)]


async def test_earning_outlasts_a_cancellation(database: str) -> None:
    """What it says decides what is delivered, so it is waited for."""
    heard: list[str] = []
    async with opened_store(database) as stores:
        await streaming(stores)
        with anyio.CancelScope() as scope:
            scope.cancel()
            await stores.ledger.earn(ROW, 6, 3)
            heard.append("told")

        assert rows(database, WHOLE) == [("held", 0, 6, 3, None)]
    assert heard == ["told"]


async def test_what_was_earned_without_anybody_hearing_of_it_is_taken_back(database: str) -> None:
    """Its picture was not delivered; the stream is worth what it was before, and an end in between is none of it."""
    async with opened_store(database) as stores:
        await streaming(stores)

        await unheard(stores, Earn(ROW, 6, 3, FOR_EVER))

        assert rows(database, WHOLE) == [("held", 0, 4, 2, None)]
        late = Earn(ROW, 8, 4, FOR_EVER)
        await stores.writer.run(late)
        assert await stores.ledger.capture(ROW, paid(8)) == 8
        back = late.undo()
        assert back is not None
        await stores.writer.run(back)
    assert rows(database, WHOLE) == [("captured", 8, 8, 1, 0)]


async def test_what_was_committed_by_an_earlier_try_is_taken_back_as_well(database: str) -> None:
    """Its end was not known, so it was tried again and found done, and still nobody heard of it."""
    async with opened_store(database) as stores:
        await streaming(stores)
        twice = Earn(ROW, 6, 3, FOR_EVER)
        await stores.writer.run(twice)
        twice.done = False

        await unheard(stores, twice)

        assert rows(database, WHOLE) == [("held", 0, 4, 2, None)]


async def test_a_later_word_is_not_taken_back_with_an_earlier_one(database: str) -> None:
    """Only what nobody heard of."""
    async with opened_store(database) as stores:
        await streaming(stores)
        first = Earn(ROW, 6, 3, FOR_EVER)
        with busy(stores):
            first.tried = first.abandoned = True
            stores.writer.put(first)
            stores.writer.put(Earn(ROW, 8, 4, FOR_EVER))
        await stores.ledger.get("account:a")
        await stores.ledger.get("account:a")

        assert rows(database, WHOLE) == [("held", 0, 8, 4, None)]


async def test_a_capture_that_nobody_hears_of_leaves_what_was_delivered(database: str) -> None:
    """Charged are the pictures before the last, which is not delivered; the answer is not said again."""
    answer = Answer(claim="one", body=b"{}", expires=9)
    async with opened_store(database) as stores:
        await streaming(stores)
        await stores.writer.run(Task(partial(claim, name="one"), FOR_EVER))

        await unheard(stores, capture(ROW, Settlement(ended=2, charged=6, images=3), answer))

    assert rows(database, WHOLE) == [("captured", 4, 4, 2, None)]
    assert sums(database) == (96, 0, 4)
    assert rows(database, sa.select(ANSWERS.c.claim)) == []


async def test_a_capture_of_what_was_delivered_is_no_less_true_for_being_unheard(database: str) -> None:
    """It stays, facts and all; only its answer is not said again."""
    answer = Answer(claim="one", body=b"{}", expires=9)
    async with opened_store(database) as stores:
        await streaming(stores)
        await stores.writer.run(Task(partial(claim, name="one"), FOR_EVER))

        await unheard(stores, capture(ROW, Settlement(ended=2, charged=4, cost=3, images=2), answer))

    assert rows(database, WHOLE) == [("captured", 4, 4, 2, 3)]
    assert rows(database, sa.select(ANSWERS.c.claim)) == []


async def test_a_capture_that_cannot_be_written_leaves_what_was_delivered(database: str) -> None:
    """Facts that no database takes cost the client neither money nor what it has."""
    async with opened_store(database) as stores:
        await streaming(stores)
        with pytest.raises(GatewayError):
            await stores.ledger.capture(ROW, Settlement(ended=2, charged=6, images=3, input_tokens=2**70))

    assert rows(database, WHOLE) == [("captured", 4, 4, 2, None)]
    assert sums(database) == (96, 0, 4)


def capture(row: Order, settlement: Settlement, answer: Answer) -> End:
    return End(row.id, row.wallets, Verb.CAPTURE, settlement, deadline=FOR_EVER, answer=answer)


def claim(transaction: Transaction, name: str) -> None:
    row = {"claim": name, "fingerprint": "", "owner": transaction.owner, "expires": 1}
    transaction.connection.execute(ANSWERS.insert(), row)


async def test_streams_that_are_swept_while_they_earn_are_charged_for_what_they_were_told(database: str) -> None:
    """Another process takes this one for dead while each of them delivers: the charge is right to the picture."""
    names = [f"gen_{i}" for i in range(40)]
    told = dict.fromkeys(names, 0)
    begun = anyio.Event()

    async def earn(name: str) -> None:
        try:
            for pictures in range(1, 100):
                await one.ledger.earn(order(name, 300), 3 * pictures, pictures)
                told[name] = 3 * pictures
                begun.set()
        except StorageUnavailableError:
            pass

    async with opened_store(database) as one, opened_store(database) as two:
        await give(one, 12_000)
        for name in names:
            await one.ledger.hold(order(name, 300))
        dead = one.writer.owner
        async with anyio.create_task_group() as tasks:
            for name in names:
                tasks.start_soon(earn, name)
            await begun.wait()
            await two.writer.run(Task(away_with(dead), FOR_EVER))

        found = dict(rows(database, sa.select(USAGE.c.id, USAGE.c.charged)))  # pyright: ignore[reportArgumentType]
        assert found == told
        assert sums(database) == (12_000 - sum(told.values()), 0, sum(told.values()))


async def test_a_process_that_is_killed_while_it_streams_is_charged_for_what_it_delivered(
    database: str,
) -> None:
    """SIGKILL between a picture and the end, in a process of its own: the others charge for it, to the nano-dollar."""
    async with opened_store(database, QUICK) as stores:
        await give(stores, 100)
        with processes(database) as children:
            child = children.start("stream", totals=[3, 7], late=0)
            children.hear("holding")
            os.kill(child, signal.SIGKILL)
            with anyio.fail_after(60):
                while sums(database)[1]:
                    await stores.ledger.get("account:a")

    assert rows(database, WHOLE) == [("captured", 7, 7, 2, None)]
    assert sums(database) == (93, 0, 7)


async def test_a_process_that_was_stopped_while_it_streamed_delivers_no_more(database: str) -> None:
    """Swept while it slept: what it delivered before is charged once, its next picture is refused."""
    async with opened_store(database, QUICK) as stores:
        await give(stores, 100)
        with processes(database) as children:
            child = children.start("stream", totals=[3], late=6)
            children.hear("holding")
            with anyio.fail_after(60):
                while sums(database)[1]:
                    await stores.ledger.get("account:a")
            os.kill(child, signal.SIGCONT)

            assert children.hear("refused") == ["refused", "503", "False"]
            assert children.hear("captured") == ["captured", "3"]
    assert sums(database) == (97, 0, 3)
