"""A world of several processes on one database, all of it by chance: what they do is told to the reference too.

A batch is lost before its commit, or committed without its process hearing of it; then it is done again, with others
between. Time, threads and sockets have no part in it, so that a seed says all.
"""

import random
from typing import Any, Final

import sqlalchemy as sa

from amux_asgi.errors import GatewayError, InvalidRequestError, QuotaError, StorageUnavailableError
from amux_asgi.quota import Order, Settlement
from amux_asgi.reservation import Verb
from amux_asgi.stores.sql.ledger import Change
from amux_asgi.stores.sql.operation import FOR_EVER, Transaction
from amux_asgi.stores.sql.owners import farewell
from amux_asgi.stores.sql.reservations import Earn, End, Hold, MoneyOperation, Unearn
from amux_asgi.stores.sql.schema import METADATA, USAGE, WALLETS
from amux_asgi.wallets import Wallet, topped_up, wallets_of
from tests.stores.reference import LOST, REFUSED, Reference

ACCOUNTS: Final = ("rich", "poor", "tiny", "endless")
BUDGETS: Final = (None, None, "small", "none")
OWNERS: Final = ("one", "two", "three")
RECENT: Final = 40  # reservations that something may still happen to


class World:
    """A database in memory, and what should be in it."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.reference = Reference()
        self.engine = sa.create_engine("sqlite://", poolclass=sa.StaticPool)
        self.connection = self.engine.connect()
        METADATA.create_all(self.connection)
        self.connection.commit()
        self.operations = 0
        self._known: list[Order] = []
        self._earns: list[Earn] = []
        self._lost: list[tuple[str, list[MoneyOperation]]] = []  # what a process does not know the end of

    def step(self) -> None:
        """Let one process do one transaction, and compare."""
        owner = self.chance.choice(OWNERS)
        if self.chance.random() < 0.02:
            self._sweep(owner)
            return
        again = self._lost.pop(self.chance.randrange(len(self._lost))) if self._lost and self._even() else None
        owner, batch = again or (owner, [self._any() for _ in range(self.chance.choice((1, 3, 20, 60)))])
        if again and self._even():
            batch = batch + [self._any() for _ in range(3)]
        self.operations += len(batch)
        fate = self.chance.random()
        with self.connection.begin() as transaction:
            MoneyOperation.together(Transaction(self.connection, owner), batch)
            for operation in batch:
                operation.tried = True
            if fate < 0.1:
                transaction.rollback()
        if fate >= 0.1:
            self._compare(owner, batch)
        if fate < 0.2:
            self._lost.append((owner, batch))
            for operation in batch:
                operation.error = operation.result = None

    def check(self) -> None:
        """Hold every wallet and every reservation against the reference."""
        found = self.connection.execute(sa.select(WALLETS)).all()
        assert {row.id for row in found} == set(self.reference.purses)
        for row in found:
            purse = self.reference.purses[row.id]
            assert (row.available, row.held, row.captured) == (purse.left, purse.aside, purse.taken)
            assert row.granted == purse.put == row.available + row.held + row.captured  # I1
            assert row.credit is None or row.available >= -row.credit  # I2
        self.connection.rollback()

    def check_rows(self) -> None:
        """Hold every reservation against the reference, and the sums of them all against the wallets."""
        held = dict.fromkeys(self.reference.purses, 0)
        taken = dict.fromkeys(self.reference.purses, 0)
        rows = self.connection.execute(sa.select(USAGE)).all()
        assert {row.id for row in rows} == set(self.reference.stays)
        for row in rows:
            stay = self.reference.stays[row.id]
            assert (row.state, row.charged, row.earned, row.images, stay.ends) == (
                stay.state,
                stay.charged,
                stay.earned,
                stay.images,
                int(stay.state == "captured"),
            )  # I3
            for wallet in wallets_of(row.account, row.budget):
                held[wallet] += row.amount if row.state == "held" else 0
                taken[wallet] += row.charged
        for name, purse in self.reference.purses.items():
            assert (held[name], taken[name]) == (purse.aside, purse.taken)
        self.connection.rollback()

    def close(self) -> None:
        """Let the database go."""
        self.connection.close()
        self.engine.dispose()

    def _even(self) -> bool:
        return self.chance.random() < 0.5

    def _sweep(self, owner: str) -> None:
        with self.connection.begin():
            farewell(Transaction(self.connection, owner), now=lambda: 1)
        self.reference.sweep(owner)
        self.check()

    def _any(self) -> MoneyOperation:
        chance = self.chance.random()
        if chance < 0.45 or not self._known:
            return self._hold()
        if chance < 0.5:
            return self._grant()
        order = self.chance.choice(self._known[-RECENT:])
        charge = self.chance.choice((0, 0, 1, order.amount // 2, order.amount, order.amount + 1, -1))
        images = self.chance.randrange(10)
        if chance < 0.7:
            return self._earn(order, charge, images)
        verb = self.chance.choices((Verb.CAPTURE, Verb.RELEASE, Verb.REVOKE), (6, 2, 1))[0]
        settlement = Settlement(ended=1, charged=charge, images=images)
        return End(order.id, order.wallets, verb, settlement, deadline=FOR_EVER)

    def _earn(self, order: Order, earned: int, images: int) -> MoneyOperation:
        """Let a stream earn something, or take back what one of the last ones did."""
        back = self.chance.choice(self._earns[-RECENT:]).undo() if self._earns and self.chance.random() < 0.2 else None
        if isinstance(back, Unearn):
            return back
        self._earns.append(Earn(order, earned, images, FOR_EVER))
        return self._earns[-1]

    def _hold(self) -> Hold:
        order = Order(
            id=f"gen_{len(self._known):07d}",
            account=self.chance.choice(ACCOUNTS),
            budget=self.chance.choice(BUDGETS),
            key="key",
            amount=self.chance.choice((0, 1, 7, 10**9, self.chance.randrange(10**6), 10**17)),
            begun=1,
        )
        self._known.append(order)
        return Hold(order, FOR_EVER)

    def _grant(self) -> Change:
        account, budget = self.chance.choice(ACCOUNTS[:3]), self.chance.choice(BUDGETS[2:])
        wallet = self.chance.choice(wallets_of(account, budget))
        amount = self.chance.choice((1, 10**6, -(10**5), 10**10, -1))
        return Granting(f"grant_{self.chance.randrange(400)}", wallet, amount)

    def _compare(self, owner: str, batch: list[MoneyOperation]) -> None:
        for operation in batch:
            expected = self._expected(owner, operation)
            assert outcome(operation) == expected, operation.id
        self.check()

    def _expected(self, owner: str, operation: MoneyOperation) -> int | str:
        match operation:
            case Hold(order=order):
                return self.reference.hold(order.id, owner, order.wallets, order.amount)
            case Granting(amount=amount, wallets=(wallet,)):
                return self.reference.grant(operation.id, wallet, amount)
            case Earn(earned=earned, images=images):
                return self.reference.earn(operation.id, earned, images)
            case Unearn(after=after, before=before):
                told = after.earned, after.images
                return self.reference.unearn(operation.id, told, (before.earned, before.images))
            case End():
                return self._expected_end(operation.id, operation.verb, operation.settlement)
            case _:
                raise AssertionError(operation)

    def _expected_end(self, stay: str, verb: Verb, told: Settlement) -> int | str:
        match verb:
            case Verb.CAPTURE:
                return self.reference.capture(stay, told.charged, told.images)
            case Verb.RELEASE:
                return self.reference.release(stay, told.charged, told.images)
            case _:
                return self.reference.revoke(stay, told.images)


class Granting(Change):
    """A top-up that tells its amount."""

    def __init__(self, id: str, wallet: str, amount: int) -> None:  # noqa: A002, a row's id
        super().__init__(id, wallet, self._more, note="", at=1, deadline=FOR_EVER)
        self.amount = amount

    def _more(self, wallet: Wallet) -> Wallet:
        return topped_up(wallet, self.amount)


def outcome(operation: MoneyOperation) -> Any:
    """Say how it ended as the reference does."""
    error: GatewayError | Exception | None = operation.error
    match error:
        case None:
            return operation.result
        case QuotaError() | InvalidRequestError():
            return REFUSED
        case StorageUnavailableError():
            return LOST
        case _:
            raise error
