"""Claims and answers in a database: across processes, crashes, and whatever order."""

import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import anyio
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from amux_asgi.claims import Work
from amux_asgi.errors import GatewayError, IdempotencyConflictError, StorageUnavailableError
from amux_asgi.idempotency import Answers, Claim, Turn
from amux_asgi.quota import Answer, Order, Settlement
from amux_asgi.reservation import Verb
from amux_asgi.stores.sql import SqlStores, open_store
from amux_asgi.stores.sql.answers import AT_ONCE, POLL, SqlAnswers
from amux_asgi.stores.sql.claim_rows import Drop, Keep, Look, Reserve, Take
from amux_asgi.stores.sql.engine import open_engine
from amux_asgi.stores.sql.operation import Task, Transaction
from amux_asgi.stores.sql.reservations import End
from amux_asgi.stores.sql.schema import ANSWERS, METADATA, OWNERS
from amux_asgi.wallets import account_wallet
from tests.claimants import LATE, answer_of, keyed, replay, stock, work
from tests.stores.claimant import ORDER

PICTURE = b'{"data":[{"b64_json":"aGk="}]}'
anyio_test = pytest.mark.anyio


class Node:
    """One process of many. Hurried, its seconds pass as it looks at the clock, so that others soon look dead."""

    def __init__(self, database: str, *, hurried: bool = False) -> None:
        self.database = database
        self.now = 1
        self.asleep = anyio.Event()
        self._hurried = hurried
        self._seconds = count()

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[SqlStores]:
        async def sleep(_: float) -> None:
            self.asleep.set()
            await (stores.writer.run(nothing()) if self._hurried else anyio.sleep(POLL / 10))

        async with open_store(self.database, clock=self.clock, now=lambda: self.now, sleep=sleep) as stores:
            yield stores

    def clock(self) -> float:
        return next(self._seconds) / 4 if self._hurried else time.monotonic()


def nothing() -> Task[None]:
    return Task(lambda _: None, LATE)


@anyio_test
async def test_a_twin_on_another_node_gets_the_captured_bytes(database: str) -> None:
    """It waits while its twin works; a later one finds them too."""
    one, other = Node(database), Node(database)
    bodies: list[bytes] = []

    async def come(stores: SqlStores) -> None:
        bodies.append((await replay(stores.claims, keyed())).body)

    async with one.open() as here, other.open() as there, anyio.create_task_group() as twins:
        mine = await work(here.claims, keyed())
        await here.ledger.hold(ORDER)
        for _ in range(3):
            twins.start_soon(come, there)
        await other.asleep.wait()
        answer = answer_of(mine, PICTURE)
        await here.ledger.capture(ORDER, Settlement(ended=2, charged=6), mine.with_capture(answer))
        mine.finish(answer)
        mine.drop()
        await come(here)

    assert bodies == [PICTURE] * 4


@anyio_test
async def test_a_twin_on_another_node_takes_over(database: str) -> None:
    """When the work ends without an answer."""
    one, other = Node(database), Node(database)
    begun: list[Work] = []

    async def come(stores: SqlStores) -> None:
        begun.append(await work(stores.claims, keyed()))

    async with one.open() as here, other.open() as there:
        async with anyio.create_task_group() as twins:
            mine = await work(here.claims, keyed())
            twins.start_soon(come, there)
            await other.asleep.wait()
            mine.drop()
        begun[0].keep(answer_of(begun[0], PICTURE))
        await there.writer.run(nothing())

        assert (await replay(here.claims, keyed())).body == PICTURE


@anyio_test
async def test_a_twin_on_another_node_waits_only_as_long_as_it_has_time(database: str) -> None:
    """Then it is told to ask again."""
    async with Node(database).open() as here, Node(database).open() as there:
        await work(here.claims, keyed())

        with pytest.raises(IdempotencyConflictError):
            await there.claims.begin(keyed(), deadline=time.monotonic())


@anyio_test
async def test_a_retry_on_another_node_finds_what_its_client_left(database: str) -> None:
    """A stock SDK comes back through a load balancer, while the first time is worked on or after."""
    one, other = Node(database), Node(database)
    bodies: list[bytes] = []

    async def come_back(stores: SqlStores) -> None:
        bodies.append((await replay(stores.claims, stock(1))).body)

    async with one.open() as here, other.open() as there:
        async with anyio.create_task_group() as retries:
            first, alike = await work(here.claims, stock(0)), await work(here.claims, stock(0))
            first.left()
            alike.left()
            await here.writer.run(nothing())
            retries.start_soon(come_back, there)
            await other.asleep.wait()
            first.finish(answer_of(first, PICTURE))
            alike.finish(answer_of(alike, b"another"))
        await come_back(there)

    assert bodies == [PICTURE] * 2


@pytest.fixture(params=["taken", "captured"])
def killed(request: pytest.FixtureRequest, database: str) -> tuple[str, str]:
    """Kill a process where it stands."""
    command = [sys.executable, "-m", "tests.stores.claimant", database, str(request.param)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.kill()
    return str(request.param), database


@anyio_test
async def test_the_twin_of_a_killed_process_goes_on(killed: tuple[str, str]) -> None:
    """Killed before the capture, the twin works and pays once; after it, it gets the bytes and pays nothing."""
    until, database = killed
    order = Order(id="gen_twin", account="alice", key="laptop", amount=10, begun=1)

    async with Node(database, hurried=True).open() as stores:
        begun = await stores.claims.begin(keyed(), deadline=LATE)
        if isinstance(begun, Work):
            await stores.ledger.hold(order)
            answer = answer_of(begun, b"of the twin")
            await stores.ledger.capture(order, Settlement(ended=2, charged=6), begun.with_capture(answer))
            begun.finish(answer)
        wallet = await stores.ledger.get(account_wallet("alice"))
        replayed = await replay(stores.claims, keyed())

    assert isinstance(begun, Work) == (until == "taken")
    assert replayed.body == (b"of the twin" if until == "taken" else b"of the killed")
    assert wallet is not None
    assert (wallet.held, wallet.captured) == (0, 6)


@anyio_test
@pytest.mark.parametrize("taken_over", [True, False])
async def test_who_was_taken_for_dead_keeps_its_answer_where_it_still_can(database: str, *, taken_over: bool) -> None:
    """It never writes over the work of who took over; if nobody did, its late capture is kept all the same."""
    async with Node(database).open() as here, Node(database).open() as there:
        mine = await work(here.claims, keyed())
        await here.ledger.hold(ORDER)
        await there.writer.run(Task(bury, LATE))
        theirs = await work(there.claims, keyed()) if taken_over else None
        answer = answer_of(mine, b"late")

        await here.ledger.capture(ORDER, Settlement(ended=2, charged=6), mine.with_capture(answer))
        mine.finish(answer)
        if theirs is not None:
            await here.writer.run(nothing())
            theirs.keep(answer_of(theirs, PICTURE))

        found = [(await replay(stores.claims, keyed())).body for stores in (here, there)]
    assert found == [PICTURE if taken_over else b"late"] * 2


def bury(transaction: Transaction) -> None:
    """Do what a sweep does to every other process."""
    others = OWNERS.c.id != transaction.owner
    transaction.connection.execute(OWNERS.update().where(others).values(dead=True))
    transaction.connection.execute(ANSWERS.delete().where(ANSWERS.c.owner != transaction.owner))


@anyio_test
async def test_a_withdrawn_capture_takes_its_answer_with_it_and_no_other(database: str) -> None:
    """What was not paid is not said again, and a claim that somebody has since stays."""
    async with Node(database).open() as stores:
        mine = await work(stores.claims, keyed())
        await stores.ledger.hold(ORDER)
        answer = answer_of(mine, PICTURE)
        settlement = Settlement(ended=2, charged=6)
        await stores.ledger.capture(ORDER, settlement, mine.with_capture(answer))

        await stores.writer.run(End(ORDER.id, ORDER.wallets, Verb.REVOKE, settlement, deadline=LATE, answer=answer))
        mine.drop()

        again = await work(stores.claims, keyed())
        other = Order(id="gen_other", account="alice", key="laptop", amount=10, begun=1)
        await stores.ledger.hold(other)
        await stores.writer.run(End(other.id, other.wallets, Verb.REVOKE, settlement, deadline=LATE, answer=answer))
        again.keep(answer_of(again, b"again"))
        assert (await replay(stores.claims, keyed())).body == b"again"


@anyio_test
async def test_who_leaves_while_the_claim_is_written_leaves_it_free(database: str) -> None:
    """The next one waits until that is written too."""
    async with Node(database).open() as stores, anyio.create_task_group() as tasks:
        tasks.start_soon(work, stores.claims, keyed())
        await anyio.lowlevel.checkpoint()
        await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()

    async with Node(database).open() as stores:
        begun = await stores.claims.begin(keyed(), deadline=LATE)
        assert isinstance(begun, Work)


@anyio_test
@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # no matter of the event loop, and many answers
async def test_what_expired_is_removed(database: str) -> None:
    """A few at a time, until none is left; what is worked on stays."""
    node = Node(database)
    async with node.open() as stores:
        await work(stores.claims, keyed("working"))
        for number in range(2 * AT_ONCE + 1):
            one = await work(stores.claims, keyed(str(number)))
            one.keep(answer_of(one, PICTURE, life=10))
        node.now = 11
        left = [""] * AT_ONCE
        while len(left) > 1:
            left = await stores.writer.run(Task(names, LATE))

    assert len(left) == 1


def names(transaction: Transaction) -> Sequence[str]:
    return transaction.connection.execute(sa.select(ANSWERS.c.claim)).scalars().all()


@anyio_test
async def test_an_answer_that_expires_while_it_is_read_is_none(database: str) -> None:
    """The request is then a new one."""
    ticks = iter([1, 1, 2, 20, 20])

    async with open_store(database, clock=time.monotonic, now=lambda: next(ticks, 20)) as stores:
        one = await work(stores.claims, keyed())
        one.keep(answer_of(one, PICTURE, life=10))
        again = await stores.claims.begin(keyed(), deadline=LATE)

    assert isinstance(again, Work)


@anyio_test
async def test_a_database_that_cannot_be_read_is_said_so(database: str) -> None:
    """Not that there is no answer."""
    async with Node(database).open() as stores:
        one = await work(stores.claims, keyed())
        one.keep(answer_of(one, PICTURE))
        await stores.writer.run(nothing())
        engine = open_engine("postgresql://nobody@127.0.0.1:1/none")
        broken = SqlAnswers(stores.writer, engine, now=lambda: 1, sleep=anyio.sleep, random=lambda: 0)
        assert isinstance(broken, Answers)

        with pytest.raises(StorageUnavailableError):
            await broken.find(keyed().claim, deadline=LATE)


class Model:
    """What one operation after the other must lead to: under each name, who works or what was answered."""

    def __init__(self) -> None:
        self.rows: dict[str, tuple[str, bytes, Answer | None]] = {}

    def do(self, operation: Any, now: int) -> Any:
        claim, token = operation.claim, operation.token
        fingerprint, of, answer = self.rows.get(claim.name, ("", b"", None))
        free = claim.name not in self.rows or (answer is not None and answer.expires <= now)
        mine = not free and answer is None and of == token
        match operation:
            case Keep() if free or mine:
                self.rows[claim.name] = (claim.fingerprint, b"", operation.answer)
            case Reserve() if free:
                self.rows[claim.name] = (claim.fingerprint, token, None)
            case Drop() if mine:
                del self.rows[claim.name]
            case Take() | Look():
                if free or (mine and isinstance(operation, Take)):
                    if isinstance(operation, Take):
                        self.rows[claim.name] = (claim.fingerprint, token, None)
                    return Turn.MINE
                if fingerprint != claim.fingerprint:
                    return None
                return Turn.THEIRS if answer is None else Turn.OVER
            case _:
                pass
        return None


kinds = st.sampled_from([Take, Take, Look, Reserve, Drop, Keep])
operations = st.tuples(kinds, st.sampled_from("ab"), st.sampled_from("xy"), st.integers(0, 3), st.integers(1, 6))
batches = st.lists(st.lists(operations, min_size=1, max_size=6), max_size=8)


@given(batches)
def test_a_batch_does_what_one_after_the_other_would(script: Sequence[Sequence[Any]]) -> None:
    """Whatever order of claims, answers, ends and hours: at most one works, and an answer stays as it was kept."""
    engine = sa.create_engine("sqlite://")
    METADATA.create_all(engine)
    model = Model()

    for hour, batch in enumerate(script):
        done = [operation(hour, step) for step in batch]
        with engine.begin() as connection:
            Take.together(Transaction(connection, "owner"), done)
        for one in done:
            expected = model.do(one, hour)
            assert told(one) == expected
        with engine.connect() as connection:
            rows = connection.execute(sa.select(ANSWERS.c.claim, ANSWERS.c.body, ANSWERS.c.facts)).all()
        assert {name: body for name, body, _ in rows} == {
            name: answer and answer.body for name, (_, _, answer) in model.rows.items()
        }
        assert all(facts == model.rows[name][1] for name, body, facts in rows if body is None)
    engine.dispose()


def told(operation: Any) -> Turn | None:
    if isinstance(operation.error, GatewayError):
        return None
    result: Any = operation.result
    turn: Turn | None = result[0] if operation.__class__ is Take else result
    return turn


def operation(hour: int, step: Any) -> Any:
    kind, name, fingerprint, number, life = step
    options: dict[str, Any] = {"now": lambda: hour, "token": f"{fingerprint} {number}".encode()}
    if kind is Keep:
        options["answer"] = Answer(claim=name, body=b"%d %d" % (hour, number), expires=hour + life)
    return kind(Claim(name, fingerprint), LATE, **options)
