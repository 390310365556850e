"""What an operator does to keys and accounts, and learns of their use."""

import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
import sqlalchemy as sa
from msgspec import UNSET
from msgspec.structs import replace
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from amux_asgi.errors import (
    GatewayError,
    IdempotencyMismatchError,
    InvalidRequestError,
    NotFoundError,
    QuotaError,
    StorageUnavailableError,
)
from amux_asgi.keys import digest_of
from amux_asgi.manage import (
    MOST_AT_ONCE,
    AccountInfo,
    AccountOrder,
    Credit,
    Entry,
    KeyChange,
    KeyOrder,
    Roll,
    TopUp,
    UsageQuery,
    every,
)
from amux_asgi.quota import Order, Settlement
from amux_asgi.stores.sql import SqlStores, open_store
from amux_asgi.stores.sql.engine import open_engine, prepare
from amux_asgi.stores.sql.manage import SqlManager
from amux_asgi.stores.sql.manage_usage import MOST
from amux_asgi.stores.sql.operation import Task
from amux_asgi.stores.sql.owners import farewell
from amux_asgi.stores.sql.schema import KEYS, NUMBERS, USAGE, WALLETS
from amux_asgi.stores.sql.writer import Writer

pytestmark = pytest.mark.anyio

DAY = 86_400_000
START = 20_000 * DAY
DOLLAR = 10**9
LATER = datetime(2030, 1, 1, tzinfo=UTC)
MIDNIGHT = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=20_000)
MOMENT = timedelta(milliseconds=1)
ROW: dict[str, Any] = {
    "owner": "gone",
    "state": "released",
    "account": "shop",
    "amount": 1,
    "charged": 0,
    "images": 0,
    "input_tokens": 0,
    "output_tokens": 0,
    "begun": START,
}


@asynccontextmanager
async def opened(database: str, now: Callable[[], int] = lambda: START) -> AsyncGenerator[SqlStores]:
    async with open_store(database, clock=time.monotonic, now=now) as stores:
        yield stores


def order(number: int, account: str = "shop", **told: Any) -> Order:
    usual = Order(id=f"gen_{number:06d}", account=account, key="k", amount=DOLLAR, begun=START)
    return replace(usual, **told)


async def use(stores: SqlStores, number: int, charged: int = DOLLAR // 2, account: str = "shop", **told: Any) -> None:
    held = order(number, account, **told)
    await stores.ledger.hold(held)
    await stores.ledger.capture(held, Settlement(ended=held.begun + 5, charged=charged, cost=None, images=1))


async def revision(stores: SqlStores) -> int:
    asked = sa.select(NUMBERS.c.value).where(NUMBERS.c.name == "revision")
    return await stores.writer.run(Task(lambda transaction: transaction.connection.execute(asked).scalar_one(), 1e12))


def total(entries: list[Entry]) -> Decimal:
    return sum((Decimal(entry.amount) for entry in entries), Decimal())


async def whole_history(stores: SqlStores, account: str, limit: int = 2) -> list[Entry]:
    found: list[Entry] = []
    before: str | None = None
    while True:
        page = await stores.manage.accounts.history(account, before=before, limit=limit)
        found.extend(page.data)
        if page.next is None:
            return found
        before = page.next


# Keys


async def test_a_new_key_is_shown_once_and_only_its_hash_is_kept(database: str) -> None:
    """Whoever reads the database cannot use it."""
    told = KeyOrder(
        name="web",
        account="shop",
        models=("gpt-image-*",),
        passthrough=("speech",),
        networks=("10.0.0.0/8", "::1"),
        expires=LATER,
        budget="2.5",
    )
    async with opened(database) as stores:
        made = await stores.manage.keys.create(told)
        shown = await stores.manage.keys.show(made.info.id)
        work = Task(lambda transaction: tuple(transaction.connection.execute(sa.select(KEYS)).one()), 1e12)
        row = await stores.writer.run(work)
        changed = await revision(stores)

    assert made.info == shown
    assert made.key.split("_")[:2] == ["amx", shown.id]
    assert made.key.endswith(shown.last_four)
    assert digest_of(made.key) in map(bytes, (row[1],))
    assert not any(made.key in str(value) or made.key.encode() in bytes(str(value), "utf-8") for value in row)
    assert (shown.name, shown.account, shown.state, shown.expires) == ("web", "shop", "active", LATER)
    assert (shown.models, shown.passthrough, shown.networks) == (
        ("gpt-image-*",),
        ("speech",),
        ("10.0.0.0/8", "::1/128"),
    )
    assert shown.created == datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=20_000)
    assert shown.budget is not None
    assert Decimal(shown.budget.granted) == Decimal(shown.budget.available) == Decimal("2.5")
    assert changed == 1


async def test_a_key_without_more_may_use_everything_and_is_its_own_account(database: str) -> None:
    """Its account's use is metered without limit, until somebody opens the account."""
    async with opened(database) as stores:
        first = await stores.manage.keys.create(KeyOrder(name="web"))
        await stores.manage.accounts.create(AccountOrder(name="shop", balance="1"))
        second = await stores.manage.keys.create(KeyOrder(name="app", account="shop"))

    assert (first.info.account, first.info.models, first.info.networks, first.info.budget) == ("web", None, None, None)
    assert (first.unlimited, second.unlimited) == (True, False)


async def test_the_name_of_a_key_is_its_own(database: str) -> None:
    """Use is told by names, so two keys cannot share one, not even when both are made at once."""
    refused: list[GatewayError] = []

    async def create(stores: SqlStores) -> None:
        try:
            await stores.manage.keys.create(KeyOrder(name="web", budget="1"))
        except InvalidRequestError as error:
            refused.append(error)

    async with opened(database) as one, opened(database) as other, anyio.create_task_group() as tasks:
        for stores in (one, other, one, other):
            tasks.start_soon(create, stores)

    async with opened(database) as stores:
        keys = (await stores.manage.keys.list()).data
    assert len(keys) == 1
    assert [(error.code, error.param) for error in refused] == [("already_exists", "name")] * 3
    assert keys[0].id in refused[0].message


async def test_a_rolled_key_is_replaced_by_one_that_may_do_the_same(database: str) -> None:
    """The old one lives on for the overlap; name and budget are shared."""
    told = KeyOrder(name="web", models=("gpt-*",), budget="1", expires=LATER)
    async with opened(database) as stores:
        old = await stores.manage.keys.create(told)
        new = await stores.manage.keys.roll(old.info.id, Roll(overlap=60))
        before = await stores.manage.keys.show(old.info.id)
        named = (await stores.manage.keys.list(name="web")).data
        changed = await revision(stores)
    async with opened(database, lambda: START + 60_000) as stores:
        after = await stores.manage.keys.show(old.info.id)

    assert new.key != old.key
    assert (new.info.name, new.info.models, new.info.expires, new.info.budget) == (
        "web",
        ("gpt-*",),
        LATER,
        old.info.budget,
    )
    assert before.expires == before.created + timedelta(seconds=60)
    assert (before.state, after.state) == ("active", "expired")
    assert {info.id for info in named} == {old.info.id, new.info.id}
    assert changed == 2


async def test_only_the_newest_key_of_a_name_is_rolled(database: str) -> None:
    """Two people who roll one key at once do not make two keys; a revoked key is not revived."""
    async with opened(database) as stores:
        keys = stores.manage.keys
        first = await keys.create(KeyOrder(name="web"))
        second = await keys.roll(first.info.id, Roll(overlap=60, expires=LATER))
        with pytest.raises(InvalidRequestError, match=f"rolled already, to {second.info.id}"):
            await keys.roll(first.info.id, Roll())
        third = await keys.roll(second.info.id, Roll(overlap=0, expires=None))
        with pytest.raises(InvalidRequestError, match="counts no more"):
            await keys.roll(second.info.id, Roll())
        await keys.revoke(third.info.id)
        with pytest.raises(InvalidRequestError, match="counts no more"):
            await keys.roll(third.info.id, Roll())
        again = await keys.roll(first.info.id, Roll(overlap=3600))
        ends = (await keys.show(first.info.id)).expires

    assert (second.info.expires, third.info.expires) == (LATER, None)
    assert again.info.expires == ends == first.info.created + timedelta(seconds=60)  # never longer than it was


async def test_a_revoked_key_stays_revoked(database: str) -> None:
    """Revoking is at once, for ever, and may be repeated."""
    async with opened(database) as stores:
        made = await stores.manage.keys.create(KeyOrder(name="web"))
        await stores.manage.keys.revoke(made.info.id)
        info = await stores.manage.keys.revoke(made.info.id)
        changed = await revision(stores)

    assert info.state == "revoked"
    assert changed == 3


async def test_what_a_key_may_do_is_changed_field_by_field(database: str) -> None:
    """What is not named stays as it is."""
    async with opened(database) as stores:
        keys = stores.manage.keys
        made = await keys.create(KeyOrder(name="web", models=("a",), networks=("10.0.0.0/8",)))
        more = await keys.allow(
            made.info.id,
            KeyChange(models=None, passthrough=("speech",), networks=("192.0.2.0/24",), expires=LATER),
        )
        less = await keys.allow(made.info.id, KeyChange(models=("b",), passthrough=(), networks=None, expires=None))
        kept = await keys.allow(made.info.id, KeyChange())

    assert (more.models, more.passthrough, more.networks, more.expires) == (
        None,
        ("speech",),
        ("192.0.2.0/24",),
        LATER,
    )
    assert (less.models, less.passthrough, less.networks, less.expires) == (("b",), (), None, None)
    assert kept == less


async def test_a_budget_is_shared_by_the_keys_of_a_name_and_never_less_than_it_spent(database: str) -> None:
    """It is of the whole life: taken away and given again, what was spent counts."""
    async with opened(database) as stores:
        keys = stores.manage.keys
        made = await keys.create(KeyOrder(name="web"))
        given = await keys.allow(made.info.id, KeyChange(budget="2"))
        rolled = await keys.roll(made.info.id, Roll())
        await use(stores, 1, budget=made.info.id)
        spent = (await keys.show(rolled.info.id)).budget
        lowered = (await keys.allow(rolled.info.id, KeyChange(budget="0.1"))).budget
        without = [
            info.budget
            for info in [await keys.allow(rolled.info.id, KeyChange(budget=None)), *(await keys.list(name="web")).data]
        ]
        again = (await keys.allow(made.info.id, KeyChange(budget="3"))).budget
        both = [info.budget for info in (await keys.list(name="web")).data]

    assert given.budget is not None
    assert spent is not None
    assert lowered is not None
    assert again is not None
    assert (Decimal(spent.spent), Decimal(spent.available)) == (Decimal("0.5"), Decimal("1.5"))
    assert (Decimal(lowered.granted), Decimal(lowered.available)) == (Decimal("0.5"), 0)
    assert without == [None] * 3
    assert (Decimal(again.granted), Decimal(again.spent)) == (3, Decimal("0.5"))
    assert both == [again, again]


async def test_keys_are_listed_page_by_page(database: str) -> None:
    """All of them, each once; by account or by name."""
    async with opened(database) as stores:
        keys = stores.manage.keys
        for number in range(5):
            await keys.create(KeyOrder(name=f"key-{number}", account=f"account-{number % 2}"))
        first = await keys.list(limit=2)
        second = await keys.list(limit=2, after=first.next)
        third = await keys.list(limit=2, after=second.next)
        one = await keys.list(account="account-1")
        all_of_them = [info async for info in every(keys.list)]

    found = [info.id for page in (first, second, third) for info in page.data]
    assert sorted(found) == sorted(info.id for info in all_of_them)
    assert len(set(found)) == 5
    assert third.next is None
    assert {info.name for info in one.data} == {"key-1", "key-3"}


async def test_a_key_is_named_by_its_id(database: str) -> None:
    """Whoever gives its name instead is told the id; other words are nobody's."""
    async with opened(database) as stores:
        made = await stores.manage.keys.create(KeyOrder(name="web"))
        for wrong in ("web", "00000000", "' OR 1=1 --", "a\0b", "\udcff"):
            for ask in (
                stores.manage.keys.show(wrong),
                stores.manage.keys.revoke(wrong),
                stores.manage.keys.roll(wrong, Roll()),
                stores.manage.keys.allow(wrong, KeyChange(models=None)),
            ):
                with pytest.raises(NotFoundError) as caught:
                    await ask
                assert (made.info.id in caught.value.message) == (wrong == "web")
        changed = await revision(stores)

    assert changed == 1


BAD_KEYS: list[tuple[dict[str, Any], str]] = [
    ({"name": ""}, "name"),
    ({"name": "a b"}, "name"),
    ({"name": "é"}, "name"),
    ({"name": "x" * 65}, "name"),
    ({"account": "a/b"}, "account"),
    ({"models": ()}, "models"),
    ({"models": ("",)}, "models"),
    ({"models": ("a\0",)}, "models"),
    ({"models": ("\udcff",)}, "models"),
    ({"models": ("x" * 201,)}, "models"),
    ({"passthrough": ("x",) * 101}, "passthrough"),
    ({"networks": ()}, "networks"),
    ({"networks": ("10.0.0.1/8",)}, "networks"),
    ({"networks": ("here",)}, "networks"),
    ({"expires": datetime(2020, 1, 1, tzinfo=UTC)}, "expires"),
    ({"budget": "-1"}, "budget"),
    ({"budget": "1,5"}, "budget"),
    ({"budget": "0.0000000001"}, "budget"),
    ({"budget": "1000000000.000000001"}, "budget"),
    ({"budget": "1e3"}, "budget"),
]


@pytest.mark.parametrize(("fields", "param"), BAD_KEYS)
async def test_a_key_that_cannot_be_is_refused(fields: dict[str, Any], param: str, database: str) -> None:
    """With the field at fault, and nothing is made."""
    async with opened(database) as stores:
        with pytest.raises(InvalidRequestError) as caught:
            await stores.manage.keys.create(replace(KeyOrder(name="web"), **fields))

        assert (await stores.manage.keys.list()).data == ()
    assert caught.value.param == param


@pytest.mark.parametrize("overlap", [-1.0, 1e9, float("nan"), float("inf")])
async def test_an_overlap_that_cannot_be_is_refused(overlap: float, database: str) -> None:
    """Nobody lives for ever on an old key."""
    async with opened(database) as stores:
        made = await stores.manage.keys.create(KeyOrder(name="web"))

        with pytest.raises(InvalidRequestError, match="overlap"):
            await stores.manage.keys.roll(made.info.id, Roll(overlap=overlap))


# Accounts


async def test_an_account_is_opened_once(database: str) -> None:
    """The second time is refused and changes nothing."""
    async with opened(database) as stores:
        accounts = stores.manage.accounts
        made = await accounts.create(AccountOrder(name="shop", balance="25", credit="1.5"))
        for told in (AccountOrder(name="shop", balance="25"), AccountOrder(name="shop", credit=None)):
            with pytest.raises(InvalidRequestError) as caught:
                await accounts.create(told)
            assert (caught.value.code, caught.value.param) == ("already_exists", "name")
        shown = await accounts.show("shop")

    assert made == shown
    assert [Decimal(text) for text in (shown.granted, shown.available, shown.held, shown.spent)] == [25, 25, 0, 0]
    assert shown.credit is not None
    assert Decimal(shown.credit) == Decimal("1.5")


async def test_an_account_is_opened_once_also_at_a_later_time(database: str) -> None:
    """Also when it was opened without limit, which looks like one that is only metered."""
    async with opened(database) as stores:
        await stores.manage.accounts.create(AccountOrder(name="free", balance="5", credit=None))
    async with opened(database, lambda: START + 1) as stores:
        with pytest.raises(InvalidRequestError, match="already"):
            await stores.manage.accounts.create(AccountOrder(name="free", balance="5"))

        shown = await stores.manage.accounts.show("free")

    assert (Decimal(shown.granted), shown.credit) == (5, None)


async def test_an_account_that_was_limited_otherwise_cannot_be_opened_any_more(database: str) -> None:
    """What it spent would be forgiven by a slip."""
    async with opened(database) as stores:
        await use(stores, 1, charged=0)
        await stores.manage.accounts.credit("shop", Credit(credit="2"))

        with pytest.raises(InvalidRequestError, match="already"):
            await stores.manage.accounts.create(AccountOrder(name="shop"))


async def test_opening_an_account_that_was_metered_begins_anew(database: str) -> None:
    """What it spent is forgiven; what is held is held of the new money."""
    async with opened(database) as stores:
        await use(stores, 1)
        await stores.ledger.hold(order(2))
        before = await stores.manage.accounts.show("shop")
        opened_now = await stores.manage.accounts.create(AccountOrder(name="shop", balance="3"))
        entries = await whole_history(stores, "shop")

    assert (before.credit, Decimal(before.available)) == (None, Decimal("-1.5"))
    assert (Decimal(opened_now.available), Decimal(opened_now.held), Decimal(opened_now.spent)) == (
        2,
        1,
        Decimal("0.5"),
    )
    assert total(entries) == 3


async def test_a_top_up_counts_once_for_its_id(database: str) -> None:
    """A script may repeat it; the id of one account is not another's; a different sum is refused."""
    async with opened(database) as stores:
        accounts = stores.manage.accounts
        for name in ("shop", "other"):
            await accounts.create(AccountOrder(name=name))
        first = await accounts.topup("shop", TopUp(amount="10.000000001", note="invoice 7", id="inv-7"))
        again = await accounts.topup("shop", TopUp(amount="10.000000001", id="inv-7"))
        with pytest.raises(IdempotencyMismatchError):
            await accounts.topup("shop", TopUp(amount="11", id="inv-7"))
        other = await accounts.topup("other", TopUp(amount="1", id="inv-7"))
        more = await accounts.topup("shop", TopUp(amount="1"))
        entries = await whole_history(stores, "shop")

    assert [done.repeated for done in (first, again, other, more)] == [False, True, False, False]
    assert Decimal(again.account.available) == Decimal("10.000000001")
    assert Decimal(more.account.available) == Decimal("11.000000001")
    assert Decimal(other.account.available) == 1
    assert ("inv-7", "invoice 7") in [(entry.id, entry.note) for entry in entries]
    assert total(entries) == Decimal("11.000000001")


async def test_a_correction_takes_at_most_what_is_there(database: str) -> None:
    """Money that is held or spent cannot be taken back."""
    async with opened(database) as stores:
        accounts = stores.manage.accounts
        await accounts.create(AccountOrder(name="shop", balance="3"))
        await stores.ledger.hold(order(1))
        with pytest.raises(InvalidRequestError, match="spent or set aside"):
            await accounts.topup("shop", TopUp(amount="-2.000000001"))
        done = await accounts.topup("shop", TopUp(amount="-2"))

    assert (Decimal(done.account.available), Decimal(done.account.held)) == (0, 1)


async def test_an_account_without_limit_is_topped_up_and_then_limited(database: str) -> None:
    """It cannot be limited to less than it owes."""
    async with opened(database) as stores:
        accounts = stores.manage.accounts
        await use(stores, 1)
        with pytest.raises(InvalidRequestError, match="owes more") as caught:
            await accounts.credit("shop", Credit(credit="0"))
        await accounts.topup("shop", TopUp(amount="1"))
        limited = await accounts.credit("shop", Credit(credit="0"))
        with pytest.raises(QuotaError):
            await stores.ledger.hold(order(2))
        more = await accounts.credit("shop", Credit(credit="0.5"))
        await stores.ledger.hold(order(3))
        free = await accounts.credit("shop", Credit(credit=None))
        notes = [entry.note for entry in await whole_history(stores, "shop") if entry.note]

    assert caught.value.param == "credit"
    assert [Decimal(info.credit) for info in (limited, more) if info.credit is not None] == [0, Decimal("0.5")]
    assert free.credit is None
    assert sum("credit" in note for note in notes) == 3


async def test_an_account_that_is_none_is_told(database: str) -> None:
    """A slip in its name makes no account, whatever the slip is."""
    async with opened(database) as stores:
        accounts = stores.manage.accounts
        for wrong in ("shop", "' OR 1=1 --", "a\0b", "\udcff", "x" * 5000, ""):
            for ask in (
                accounts.show(wrong),
                accounts.topup(wrong, TopUp(amount="1")),
                accounts.credit(wrong, Credit(credit=None)),
                accounts.history(wrong),
            ):
                with pytest.raises(NotFoundError, match="no such account"):
                    await ask
        listed = await accounts.list()

    assert listed.data == ()


BAD_MONEY: list[tuple[Callable[[Any], Awaitable[Any]], str]] = [
    (lambda accounts: accounts.create(AccountOrder(name="a:b")), "name"),
    (lambda accounts: accounts.create(AccountOrder(name="new", balance="x")), "balance"),
    (lambda accounts: accounts.create(AccountOrder(name="new", balance="-1")), "balance"),
    (lambda accounts: accounts.create(AccountOrder(name="new", credit="-1")), "credit"),
    (lambda accounts: accounts.topup("shop", TopUp(amount="0")), "amount"),
    (lambda accounts: accounts.topup("shop", TopUp(amount="-0.00")), "amount"),
    (lambda accounts: accounts.topup("shop", TopUp(amount="--1")), "amount"),
    (lambda accounts: accounts.topup("shop", TopUp(amount="NaN")), "amount"),
    (lambda accounts: accounts.topup("shop", TopUp(amount="1", note="x" * 501)), "note"),
    (lambda accounts: accounts.topup("shop", TopUp(amount="1", note="a\0")), "note"),
    (lambda accounts: accounts.topup("shop", TopUp(amount="1", id="a:b")), "id"),
    (lambda accounts: accounts.credit("shop", Credit(credit="")), "credit"),
    (lambda accounts: accounts.history("shop", limit=0), "limit"),
    (lambda accounts: accounts.history("shop", before="yesterday"), "before"),
    (lambda accounts: accounts.history("shop", before="1.grant.a\0"), "before"),
    (lambda accounts: accounts.list(limit=1001), "limit"),
    (lambda accounts: accounts.list(after="\0"), "after"),
]


@pytest.mark.parametrize(("ask", "param"), BAD_MONEY)
async def test_what_an_account_cannot_be_told_is_refused(
    ask: Callable[[Any], Awaitable[Any]], param: str, database: str
) -> None:
    """With the field at fault, and nothing changes."""
    async with opened(database) as stores:
        before = await stores.manage.accounts.create(AccountOrder(name="shop", balance="1"))

        with pytest.raises(InvalidRequestError) as caught:
            await ask(stores.manage.accounts)

        after = (await stores.manage.accounts.list()).data
    assert caught.value.param == param
    assert after == (before,)


async def test_the_sum_of_an_account_stays_within_what_can_be_counted(database: str) -> None:
    """Nine thousand million dollars are the end."""
    async with opened(database) as stores:
        accounts = stores.manage.accounts
        await accounts.create(AccountOrder(name="shop"))
        for _ in range(9):
            await accounts.topup("shop", TopUp(amount="1000000000"))

        with pytest.raises(InvalidRequestError, match="too large"):
            await accounts.topup("shop", TopUp(amount="1000000000"))


async def test_accounts_are_listed_page_by_page_without_budgets(database: str) -> None:
    """Also those that nobody opened."""
    async with opened(database) as stores:
        accounts = stores.manage.accounts
        for name in ("b", "a", "d"):
            await accounts.create(AccountOrder(name=name))
        await stores.manage.keys.create(KeyOrder(name="k", budget="1"))
        await use(stores, 1, account="c@example.com")
        first = await accounts.list(limit=3)
        second = await accounts.list(limit=3, after=first.next)
        found: list[AccountInfo] = [info async for info in every(accounts.list)]

    assert sorted(info.name for info in (*first.data, *second.data)) == ["a", "b", "c@example.com", "d"]
    assert (len(first.data), second.next) == (3, None)
    assert found == [*first.data, *second.data]


async def test_every_account_is_found_however_many_there_are(database: str) -> None:
    """Page after page."""
    columns = {"available": 0, "held": 0, "captured": 0, "granted": 0, "credit": 0}
    rows = [{"id": f"account:{number:05d}", **columns} for number in range(MOST_AT_ONCE + 1)]
    async with opened(database) as stores:
        work = Task(lambda transaction: transaction.connection.execute(WALLETS.insert(), rows) and None, 1e12)
        await stores.writer.run(work)

        found = [info.name async for info in every(stores.manage.accounts.list)]

    assert found == [f"{number:05d}" for number in range(MOST_AT_ONCE + 1)]


# History and usage


async def test_the_history_adds_up_and_holds_nothing_of_others(database: str) -> None:
    """Newest first, page by page, each line once, although many are of one moment."""
    async with opened(database) as stores:
        for name in ("shop", "shop2", "hop"):
            await stores.manage.accounts.create(AccountOrder(name=name, balance="20"))
            for number in range(3):
                await stores.manage.accounts.topup(name, TopUp(amount="1", id=f"t{number}"))
        for number in range(9):
            account = ("shop", "shop2", "hop")[number % 3]
            await use(stores, number, account=account, begun=START + number // 6, key=f"key-of-{account}")
        await stores.ledger.hold(order(100, begun=START + 2, model="gpt-image-2", request_id="req_1"))
        stores.ledger.release(order(2, "hop"), Settlement(ended=START))
        entries = await whole_history(stores, "shop")
        at_once = (await stores.manage.accounts.history("shop", limit=1000)).data
        shown = await stores.manage.accounts.show("shop")

    assert entries == list(at_once)
    assert [entry.at for entry in entries] == sorted((entry.at for entry in entries), reverse=True)
    assert len({(entry.kind, entry.id) for entry in entries}) == len(entries) == 1 + 3 + 3 + 1
    assert {entry.key for entry in entries if entry.state == "captured"} == {"key-of-shop"}
    assert total(entries) == Decimal(shown.available) + Decimal(shown.held) == Decimal("21.5")
    assert (entries[0].state, entries[0].model, entries[0].request_id) == ("held", "gpt-image-2", "req_1")
    assert entries[0].held is not None
    assert Decimal(entries[0].held) == 1


async def test_use_is_added_up_by_what_was_asked(database: str) -> None:
    """Days are those of UTC; costs that nobody knows are counted, what runs and what failed too."""
    async with opened(database) as stores:
        for number in range(4):
            await use(stores, number, model="gpt-image-2", begun=START + number % 2 * DAY, key="ab"[number // 2])
        await use(stores, 4, account="other")
        await stores.ledger.hold(order(5, model="gpt-image-2", begun=START + DAY - 1))
        failed = order(6, begun=START - 1)
        await stores.ledger.hold(failed)
        stores.ledger.release(failed, Settlement(ended=START))
        known = order(7)
        await stores.ledger.hold(known)
        done = Settlement(ended=START, charged=1, cost=3, images=2, input_tokens=5, output_tokens=7, channel="openai")
        await stores.ledger.capture(known, done)
        all_of_it = await stores.manage.usage(UsageQuery(by=()))
        by_day = await stores.manage.usage(UsageQuery(by=("day",), account="shop"))
        by_key = await stores.manage.usage(UsageQuery(by=("key", "model", "key"), account="shop"))
        one = await stores.manage.usage(
            UsageQuery(by=("channel", "account"), key="k", since=MIDNIGHT, until=MIDNIGHT + MOMENT)
        )
        none = await stores.manage.usage(UsageQuery(since=LATER))

    (whole,) = all_of_it
    assert (whole.requests, whole.failed, whole.running, whole.images) == (8, 1, 1, 7)
    assert (whole.input_tokens, whole.output_tokens, whole.unknown_costs) == (5, 7, 5)
    assert (Decimal(whole.charged), Decimal(whole.cost)) == (Decimal("2.500000001"), Decimal("0.000000003"))
    assert (whole.account, whole.key, whole.model, whole.channel, whole.day) == (UNSET,) * 5
    assert [(row.day, row.requests) for row in by_day] == [("2024-10-03", 1), ("2024-10-04", 4), ("2024-10-05", 2)]
    assert {(row.key, row.model, row.requests) for row in by_key} == {
        ("a", "gpt-image-2", 2),
        ("b", "gpt-image-2", 2),
        ("k", None, 2),
        ("k", "gpt-image-2", 1),
    }
    assert {(row.channel, row.account, row.requests) for row in one} == {("openai", "shop", 1), (None, "other", 1)}
    assert none == ()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # no matter of the event loop, and many rows
async def test_too_many_rows_are_refused(database: str) -> None:
    """A report that nobody could read would stand in the way of others."""
    rows = [{**ROW, "id": f"gen_{number:06d}", "key": f"key-{number}"} for number in range(MOST + 1)]
    async with opened(database) as stores:
        work = Task(lambda transaction: transaction.connection.execute(USAGE.insert(), rows) and None, 1e12)
        await stores.writer.run(work)

        with pytest.raises(InvalidRequestError, match=f"more than {MOST} rows"):
            await stores.manage.usage(UsageQuery(by=("key",)))


async def test_a_store_that_cannot_be_read_is_a_503(tmp_path: Path) -> None:
    """Nothing is told of where it is."""
    async with opened(f"sqlite:///{tmp_path}/amux.db") as stores:
        broken = Task(lambda transaction: transaction.connection.execute(sa.text("DROP TABLE usage")) and None, 1e12)
        await stores.writer.run(broken)

        with pytest.raises(StorageUnavailableError, match="cannot be read at present") as caught:
            await stores.manage.usage(UsageQuery())

    assert caught.value.retry_after is not None


async def test_a_verb_whose_commit_nobody_heard_of_is_done_once(database: str) -> None:
    """A connection that breaks behind a commit makes no second key, and no second opening."""
    engine = open_engine(database)
    prepare(engine)
    cut: list[str] = []  # before which verbs

    @event.listens_for(engine, "commit")
    def committed(connection: sa.Connection) -> None:  # pyright: ignore[reportUnusedFunction]
        if cut:
            cut.clear()
            connection.connection.commit()
            raise OperationalError("COMMIT", {}, ConnectionError("cut"))

    writer = Writer(engine, clock=time.monotonic)
    writer.start()
    manager = SqlManager(engine, writer, lambda: START)
    try:
        cut.append("create")
        made = await manager.keys.create(KeyOrder(name="web", budget="1"))
        cut.append("roll")
        rolled = await manager.keys.roll(made.info.id, Roll())
        cut.append("open")
        account = await manager.accounts.create(AccountOrder(name="shop", balance="5"))
        cut.append("top up")
        topped = await manager.accounts.topup("shop", TopUp(amount="1"))
        keys = (await manager.keys.list()).data
    finally:
        await anyio.to_thread.run_sync(writer.stop, Task(partial(farewell, now=lambda: START), 0))
        engine.dispose()

    assert {info.id for info in keys} == {made.info.id, rolled.info.id}
    assert (Decimal(account.available), Decimal(topped.account.available)) == (5, 6)


async def test_a_budget_is_of_the_name_whatever_was_rolled(database: str) -> None:
    """Taken away and given again, it still knows what was spent."""
    async with opened(database) as stores:
        first = await stores.manage.keys.create(KeyOrder(name="web", account="shop", budget="1"))
        await use(stores, 1, DOLLAR, budget=first.info.id)
        second = await stores.manage.keys.roll(first.info.id, Roll())
        await stores.manage.keys.allow(second.info.id, KeyChange(budget=None))
        again = await stores.manage.keys.allow(second.info.id, KeyChange(budget="1"))

    assert again.budget is not None
    assert (Decimal(again.budget.spent), Decimal(again.budget.available)) == (1, 0)


async def test_a_key_cannot_be_rolled_into_the_past(database: str) -> None:
    """It would be dead at once, and its predecessor soon."""
    async with opened(database) as stores:
        made = await stores.manage.keys.create(KeyOrder(name="web"))
        with pytest.raises(InvalidRequestError) as caught:
            await stores.manage.keys.roll(made.info.id, Roll(expires=MIDNIGHT - MOMENT))

    assert caught.value.param == "expires"


async def test_history_goes_on_behind_the_longest_id(database: str) -> None:
    """The place where a page ended is always taken back."""
    account, longest = "a" * 64, "i" * 128
    async with opened(database) as stores:
        await stores.manage.accounts.create(AccountOrder(name=account, balance="1"))
        await stores.manage.accounts.topup(account, TopUp(amount="1", id=longest))
        await stores.manage.accounts.topup(account, TopUp(amount="1", id="j" * 128))
        entries = await whole_history(stores, account, limit=1)

    assert len(entries) == 3
