"""The thread that writes: everybody who waits is told in time, and whatever nobody heard of is taken back."""

import asyncio  # noqa: TID251, makes a loop that is closed
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest
import sqlalchemy as sa
from sqlalchemy import event

from amux_asgi.errors import (
    GatewayError,
    InternalError,
    InvalidRequestError,
    NotFoundError,
    QuotaError,
    StorageUnavailableError,
)
from amux_asgi.quota import Answer, Attempt, Order, Settlement
from amux_asgi.reservation import Verb
from amux_asgi.stores.sql import SqlStores
from amux_asgi.stores.sql.book import Book
from amux_asgi.stores.sql.desks import Desks
from amux_asgi.stores.sql.engine import open_engine
from amux_asgi.stores.sql.ledger import Change
from amux_asgi.stores.sql.operation import FOR_EVER, Chore, Desk, Operation, Pace, Task, Transaction
from amux_asgi.stores.sql.reservations import End, Hold, MoneyOperation
from amux_asgi.stores.sql.schema import ANSWERS, GRANTS, OWNERS, USAGE
from amux_asgi.stores.sql.writer import Writer
from amux_asgi.wallets import account_wallet, topped_up
from tests.stores.world import QUICK, busy, give, opened_store, order, paid, rows, states, sums

pytestmark = pytest.mark.anyio


class Failed(BaseException):
    """What ends a thread."""


async def test_money_is_set_aside_taken_and_given_back(database: str) -> None:
    """L10: the usage row tells what was charged and what it was for; the rest is back in the same commit."""
    settlement = Settlement(
        ended=7,
        charged=6,
        cost=5,
        channel="openai",
        attempts=(Attempt(channel="openai", end="billed"),),
        images=2,
        input_tokens=3,
        output_tokens=4,
    )
    async with opened_store(database) as stores:
        await give(stores, 100)
        await give(stores, 50, budget="b")
        both = Order(id="gen_1", account="a", budget="b", key="k", amount=10, begun=1, model="m", request_id="r")
        await stores.ledger.hold(both)

        charged = await stores.ledger.capture(both, settlement)

        assert charged == 6
        assert (await stores.ledger.get("account:nobody")) is None
    assert sums(database) == (94, 0, 6)
    assert sums(database, "budget:b") == (44, 0, 6)
    (row,) = rows(database, sa.select(*(column for column in USAGE.c if column.name != "owner")))
    expected = ("gen_1", "captured", "a", "k", "b", 10, 6, 5, "m", "openai", "r")
    assert row == (*expected, '[{"channel":"openai","end":"billed","code":null}]', 2, 3, 4, 1, 7, 0)


async def test_a_second_end_tells_the_first(database: str) -> None:
    """L22: released twice, captured after a release, captured twice: balances unchanged."""
    async with opened_store(database) as stores:
        await give(stores, 100)
        for name in ("gen_1", "gen_2"):
            await stores.ledger.hold(order(name))
        stores.ledger.release(order("gen_1"), paid(0))
        stores.ledger.release(order("gen_1"), paid(0))

        after_release = await stores.ledger.capture(order("gen_1"), paid(9))
        once = await stores.ledger.capture(order("gen_2"), paid(7))
        twice = await stores.ledger.capture(order("gen_2"), paid(8))
        stores.ledger.release(order("gen_2"), paid(0))

    assert (after_release, once, twice) == (0, 7, 7)
    assert sums(database) == (93, 0, 7)


async def test_a_thousand_at_once_get_what_the_money_is_for(database: str) -> None:
    """L06: money for a hundred is held exactly a hundred times."""
    async with opened_store(database) as stores:
        await give(stores, 1000)
        ends: list[str] = []

        async def hold(name: str) -> None:
            try:
                await stores.ledger.hold(order(name))
                ends.append("held")
                await stores.ledger.capture(order(name), paid())
            except QuotaError as error:
                ends.append(error.code)

        async with anyio.create_task_group() as tasks:
            for i in range(1000):
                tasks.start_soon(hold, f"gen_{i}")

    assert (ends.count("held"), ends.count("insufficient_quota")) == (100, 900)
    assert sums(database) == (0, 0, 1000)


async def test_a_budget_bounds_its_key_and_the_account_all_of_them(database: str) -> None:
    """L08: a budget for ten inside an account for a hundred, two hundred asked with each of two keys."""
    async with opened_store(database) as stores:
        await give(stores, 1000)
        await give(stores, 100, budget="b")
        ends: list[str] = []

        async def hold(name: str, budget: str | None) -> None:
            try:
                await stores.ledger.hold(order(name, budget=budget))
                ends.append(budget or "free")
            except QuotaError:
                ends.append("refused")

        async with anyio.create_task_group() as tasks:
            for i in range(200):
                tasks.start_soon(hold, f"gen_b{i}", "b")
        async with anyio.create_task_group() as tasks:
            for i in range(200):
                tasks.start_soon(hold, f"gen_f{i}", None)

        assert (ends.count("b"), ends.count("free"), ends.count("refused")) == (10, 90, 300)
        assert sums(database) == (0, 1000, 0)
    assert sums(database) == (1000, 0, 0)


async def test_a_hold_whose_client_left_is_not_begun(database: str) -> None:
    """Cancelled before it was decided: nothing was set aside, neither of what was begun nor of what was not."""
    async with opened_store(database) as stores:
        await give(stores, 100)
        with busy(stores):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(stores.ledger.hold, order("gen_1"))
                hold = Hold(order("gen_2"), stores.writer.clock() + 9)
                hold.tried = True  # as if it had been begun
                tasks.start_soon(stores.writer.run, hold)
                await anyio.wait_all_tasks_blocked()
                tasks.cancel_scope.cancel()

        wallet = await stores.ledger.get("account:a")
        assert wallet is not None
        assert await settled(stores) == 100

    assert states(database) == {}
    assert sums(database) == (100, 0, 0)


async def settled(stores: SqlStores) -> int:
    """Give what the account has once nothing is set aside."""
    with anyio.fail_after(20):
        while True:
            wallet = await stores.ledger.get("account:a")
            if wallet is not None and not wallet.held:
                return wallet.available


async def test_what_was_told_to_one_who_left_is_taken_back(database: str) -> None:
    """Committed in the very moment of the cancellation: it is as if it had never been."""
    async with opened_store(database) as stores:
        await give(stores, 100)
        hold = Hold(order("gen_1"), stores.writer.clock() + 9)

        with anyio.CancelScope() as scope:
            hold.together = cancelling(hold, scope)  # type: ignore[method-assign]
            await stores.writer.run(hold)

        assert scope.cancelled_caught
        assert await settled(stores) == 100


def cancelling(hold: Hold, scope: anyio.CancelScope) -> Any:
    """Hold, and cancel who waits just before its loop hears of it."""

    def together(transaction: Transaction, operations: Sequence[Any]) -> None:
        Hold.together(transaction, operations)
        assert hold.desk is not None
        desk, soon = hold.desk, hold.desk.soon

        def cancelled(ring: Callable[..., object], *told: object) -> None:
            desk.soon = soon
            soon(scope.cancel)
            soon(ring, *told)

        desk.soon = cancelled

    return together


async def test_a_database_that_hangs_hangs_nobody(database: str) -> None:
    """L25: who waits longer than is patient is told 503, and what is committed later is taken back."""
    async with opened_store(database, Pace(patience=0.2)) as stores:
        await give(stores, 100)
        with busy(stores):
            begun = time.monotonic()
            with pytest.raises(StorageUnavailableError) as caught:
                await stores.ledger.hold(order("gen_1"))
            passed = time.monotonic() - begun

        assert passed < 2
        assert caught.value.retry_after
        assert await settled(stores) == 100


async def test_a_capture_that_nobody_can_wait_for_is_no_charge(database: str) -> None:
    """The picture is not delivered, so what was held is given back."""
    async with opened_store(database, Pace(capture=0.2)) as stores:
        await give(stores, 100)
        await stores.ledger.hold(order("gen_1"))
        with busy(stores), pytest.raises(StorageUnavailableError):
            await stores.ledger.capture(order("gen_1"), paid())

        assert await settled(stores) == 100
    assert states(database) == {"gen_1": "released"}


async def test_a_capture_outlasts_a_cancellation(database: str) -> None:
    """What it says decides what is delivered, so it is waited for."""
    async with opened_store(database) as stores:
        await give(stores, 100)
        await stores.ledger.hold(order("gen_1"))
        charged: list[int] = []
        with anyio.CancelScope() as scope:
            scope.cancel()

            charged.append(await stores.ledger.capture(order("gen_1"), paid(4)))

        assert charged == [4]
    assert sums(database) == (96, 0, 4)


async def test_too_much_at_once_is_refused_at_once(database: str) -> None:
    """S08: the queue is bounded for what is new; captures are owed, and written however much waits."""
    async with opened_store(database, Pace(waiting=5)) as stores:
        await give(stores, 1000)
        await stores.ledger.hold(order("gen_0"))
        ends: list[str] = []

        async def hold(name: str) -> None:
            try:
                await stores.ledger.hold(order(name))
                ends.append("held")
            except StorageUnavailableError as error:
                ends.append(error.code)

        async with anyio.create_task_group() as tasks:
            with busy(stores):
                for i in range(1000):
                    tasks.start_soon(hold, f"gen_{i + 1}")
                await anyio.wait_all_tasks_blocked()
                assert ends == ["storage_unavailable"] * 995
                tasks.start_soon(stores.ledger.capture, order("gen_0"), paid())
                await anyio.wait_all_tasks_blocked()

        assert ends.count("held") == 5
    assert sums(database) == (990, 0, 10)


async def test_what_comes_while_another_process_writes_goes_with_what_waits(tmp_path: Path) -> None:
    """In one transaction: another turn among the processes would be as long again."""
    database = f"sqlite:///{tmp_path}/amux.db"
    begun = threading.Event()
    seen: list[Transaction] = []
    async with opened_store(database):
        other, engine = open_engine(database), open_engine(database, lock=60)
        event.listen(engine, "connect", lambda *_: begun.set())
        writer = Writer(engine, clock=time.monotonic, pace=Pace(dead_after=3000))
        writer.start()
        async with anyio.create_task_group() as tasks:
            with other.begin():  # as another process
                tasks.start_soon(writer.run, Task(seen.append, FOR_EVER))
                await anyio.to_thread.run_sync(begun.wait)
                tasks.start_soon(writer.run, Task(seen.append, FOR_EVER))
                await anyio.wait_all_tasks_blocked()
        await anyio.to_thread.run_sync(writer.stop, Task(lambda _: None, FOR_EVER))
        other.dispose()
        engine.dispose()

    one, two = seen
    assert one is two


async def test_only_what_is_at_fault_fails(database: str) -> None:
    """Among many that wait, one that no database takes gets a 500, and every other one its answer."""
    async with opened_store(database) as stores:
        await give(stores, 1000)
        await stores.ledger.hold(order("gen_bad"))
        ends: dict[str, Any] = {}

        async def end(name: str, settlement: Settlement) -> None:
            try:
                ends[name] = await stores.ledger.capture(order(name), settlement)
            except GatewayError as error:
                ends[name] = error.code

        names = [f"gen_{i}" for i in range(6)]
        for name in names:
            await stores.ledger.hold(order(name))
        async with anyio.create_task_group() as tasks:
            with busy(stores):
                for name in (*names[:3], "gen_bad", *names[3:]):
                    wrong = Settlement(ended=1, charged=1, input_tokens=2**70)
                    tasks.start_soon(end, name, wrong if name == "gen_bad" else paid())
                await anyio.wait_all_tasks_blocked()

        assert ends == {**dict.fromkeys(names, 10), "gen_bad": "internal_error"}
        assert await settled(stores) == 940
    assert states(database)["gen_bad"] == "released"


async def test_a_task_that_refuses_leaves_nothing_behind(database: str) -> None:
    """Also where it had written before it refused."""

    def work(transaction: Transaction) -> None:
        transaction.connection.execute(GRANTS.insert(), {"id": "x", "wallet": "w", "amount": 1, "note": "", "at": 1})
        raise NotFoundError("no")

    async with opened_store(database) as stores:
        with pytest.raises(NotFoundError):
            await stores.writer.run(Task(work, stores.writer.clock() + 9))
        with pytest.raises(InternalError):
            await stores.writer.run(Task(lambda _: 1 / 0, stores.writer.clock() + 9))

    assert rows(database, sa.select(GRANTS)) == []


async def test_what_is_there_already_is_no_conflict_for_ever(database: str) -> None:
    """A row that two would make is tried again a few times, then it is a fault, and others do not wait for it."""

    def work(transaction: Transaction) -> None:
        transaction.connection.execute(GRANTS.insert(), {"id": "x", "wallet": "w", "amount": 1, "note": "", "at": 1})

    async with opened_store(database) as stores:
        await stores.writer.run(Task(work, stores.writer.clock() + 9))

        with pytest.raises(InternalError):
            await stores.writer.run(Task(work, stores.writer.clock() + 9))


async def test_an_answer_is_kept_with_its_capture_and_goes_with_it(database: str) -> None:
    """In one commit: whoever is charged can hear the answer again; taken back, it is not said again."""

    def claim(transaction: Transaction) -> None:
        claims = [
            {"claim": name, "fingerprint": "", "owner": transaction.owner, "expires": 1} for name in ("one", "two")
        ]
        transaction.connection.execute(ANSWERS.insert(), claims)

    async with opened_store(database) as stores:
        await give(stores, 100)
        await stores.writer.run(Task(claim, stores.writer.clock() + 9))
        for name in ("one", "two"):
            await stores.ledger.hold(order(f"gen_{name}"))
            answer = Answer(claim=name, body=b"{}", expires=9, facts=b"1")
            await stores.ledger.capture(order(f"gen_{name}"), paid(), answer)
        answer = Answer(claim="two", body=b"{}", expires=9, facts=b"1")
        back = End("gen_two", order("gen_two").wallets, Verb.REVOKE, paid(), deadline=FOR_EVER, answer=answer)

        await stores.writer.run(back)

        found = rows(database, sa.select(ANSWERS.c.claim, ANSWERS.c.body, ANSWERS.c.facts, ANSWERS.c.expires))
        assert found == [("one", b"{}", b"1", 9)]
    assert sums(database) == (90, 0, 10)


async def test_a_thread_that_dies_leaves_nobody_waiting(database: str) -> None:
    """What waited and what comes later is told 503, and the app still stops."""

    def work(_: Transaction) -> None:
        raise Failed

    async with opened_store(database) as stores:
        await give(stores, 100)
        ends: list[str] = []

        async def hold(name: str) -> None:
            with pytest.raises(StorageUnavailableError):
                await stores.ledger.hold(order(name))
            ends.append(name)

        async with anyio.create_task_group() as tasks:
            with busy(stores):
                stores.writer.put(Task(work, stores.writer.clock() + 9))
                for i in range(300):
                    tasks.start_soon(hold, f"gen_{i}")
                await anyio.wait_all_tasks_blocked()
        with pytest.raises(StorageUnavailableError):
            await stores.ledger.hold(order("gen_late"))

        assert len(ends) == 300
    assert sums(database) == (100, 0, 0)


async def test_stopping_waits_no_longer_than_it_should(database: str) -> None:
    """A database that hangs does not keep the process from ending; who waits is told."""
    over = threading.Event()
    begun = threading.Event()

    def work(_: Transaction) -> None:
        begun.set()
        over.wait(20)

    since = time.monotonic()
    ends: list[str] = []
    async with anyio.create_task_group() as tasks, opened_store(database, Pace(farewell=0.3)) as stores:
        await give(stores, 100)

        async def hold() -> None:
            with pytest.raises(StorageUnavailableError):
                await stores.ledger.hold(order("gen_1"))
            ends.append("told")

        stores.writer.put(Task(work, stores.writer.clock() + 60))
        assert begun.wait(20)
        tasks.start_soon(hold)
        await anyio.wait_all_tasks_blocked()
    assert ends == ["told"]
    assert time.monotonic() - since < 10
    over.set()
    stores.writer.join()
    assert sums(database) == (100, 0, 0)


async def test_what_comes_after_the_end_is_refused(database: str) -> None:
    """Nobody waits for a store that is closed."""
    async with opened_store(database) as stores:
        pass

    with pytest.raises(StorageUnavailableError):
        await stores.ledger.hold(order("gen_1"))


async def test_a_closed_event_loop_gets_its_money_back(database: str) -> None:
    """A hold whose loop was closed meanwhile is as if it had never been."""

    async def here() -> Desk:
        return Desks(stores.writer.put, time.monotonic).here()

    async with opened_store(database) as stores:
        await give(stores, 100)
        loop = asyncio.new_event_loop()
        hold = Hold(order("gen_1"), stores.writer.clock() + 9)
        hold.desk = await anyio.to_thread.run_sync(loop.run_until_complete, here())
        await anyio.to_thread.run_sync(loop.close)

        stores.writer.put(hold)

        with anyio.fail_after(20):
            while not hold.done:
                await stores.ledger.get("account:a")
        assert await settled(stores) == 100
    assert states(database) == {"gen_1": "released"}


async def test_a_chore_that_fails_is_begun_again(database: str) -> None:
    """One fault in what is done now and then stops nothing."""
    made = threading.Semaphore(0)

    def make() -> Operation[Any] | None:
        made.release()
        if next(numbers) == 0:
            raise Failing
        return None

    numbers = iter(range(100))
    async with opened_store(database):
        engine = open_engine(database)
        writer = Writer(engine, clock=time.monotonic, pace=Pace(dead_after=1))
        writer.start([Chore(every=0.01, make=make)])

        assert await anyio.to_thread.run_sync(made.acquire, True, 20)  # noqa: FBT003, blocking
        assert await anyio.to_thread.run_sync(made.acquire, True, 20)  # noqa: FBT003, blocking

        await anyio.to_thread.run_sync(writer.stop, Task(lambda _: None, FOR_EVER))
        engine.dispose()


class Failing(Exception):  # noqa: N818, it fails
    """What a chore fails with."""


async def test_the_same_change_happens_once(database: str) -> None:
    """A top-up that is repeated tells what it did; accounts are opened once, and known before they are changed."""

    def change(id: str, wallet: str, amount: int, *, new: bool | None = None) -> Change:  # noqa: A002, a row's id
        return Change(
            id, wallet, lambda wallet: topped_up(wallet, amount), note="", at=1, deadline=time.monotonic() + 9, new=new
        )

    async with opened_store(database) as stores:
        run = stores.writer.run

        first = [await run(change("1", "account:a", 5)) for _ in range(2)]
        await run(change("2", "account:a", 0))
        await run(change("3", "account:b", 0, new=True))
        with pytest.raises(NotFoundError):
            await run(change("4", "account:c", 5, new=False))
        with pytest.raises(InvalidRequestError, match="already"):
            await run(change("5", "account:a", 5, new=True))
        with pytest.raises(InvalidRequestError, match="spent"):
            await run(change("6", "budget:x", -5))

    assert first == [5, 5]
    assert sorted(rows(database, sa.select(GRANTS.c.id, GRANTS.c.amount))) == [("1", 5), ("3", 0)]


async def test_what_the_database_forgot_is_not_delivered(database: str) -> None:
    """A capture of what was never held, or lost by a fail-over, is refused; its release needs nothing."""
    async with opened_store(database) as stores:
        await give(stores, 100)
        with pytest.raises(StorageUnavailableError) as caught:
            await stores.ledger.capture(order("gen_1"), paid())
        stores.ledger.release(order("gen_2"), paid(0))

    assert caught.value.retry is False
    assert sums(database) == (100, 0, 0)


async def test_a_store_that_was_closed_leaves_nothing_behind(database: str) -> None:
    """What a process still held is given back by itself, and its name is gone."""
    async with opened_store(database, QUICK) as stores:
        await give(stores, 10_000)
        async with anyio.create_task_group() as tasks:
            for i in range(600):
                tasks.start_soon(stores.ledger.hold, order(f"gen_{i}"))
        assert len(rows(database, sa.select(OWNERS.c.id))) == 1

    assert sums(database) == (10_000, 0, 0)
    assert set(states(database).values()) == {"swept"}
    assert rows(database, sa.select(OWNERS)) == []


def test_an_operation_says_what_it_does() -> None:
    """A kind of operation without its work is a mistake that shows at once."""
    operation: Operation[None] = Operation(0)

    assert operation.undo() is None
    with pytest.raises(NotImplementedError):
        MoneyOperation("gen_1", (), 0).decide(Book("me", {}, {}, {}))
    with pytest.raises(NotImplementedError):
        operation.together(Transaction(sa.create_engine("sqlite://").connect(), "me"), [operation])


async def test_names_of_accounts_are_only_names(database: str) -> None:
    """K08: whatever stands in them."""
    name = "x' OR 1=1; DROP TABLE wallets; --"
    async with opened_store(database) as stores:
        await give(stores, 10, account=name)

        await stores.ledger.hold(order("gen_'; --", account=name))

    assert sums(database, account_wallet(name)) == (10, 0, 0)
