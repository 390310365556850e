"""A database is open while somebody needs it, and only then."""

from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from amux_asgi import ConfigError
from amux_asgi.database import Database
from amux_asgi.errors import AuthenticationError, NotStartedError
from amux_asgi.keys import make_key
from amux_asgi.manage import KeyOrder
from amux_asgi.quota import Order, Settlement


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "amux.db"


async def spend(stores: Any, generation: str) -> None:
    order = Order(id=generation, account="a", key="k", amount=1, begun=1)
    await stores.ledger.hold(order)
    await stores.ledger.capture(order, Settlement(ended=2, charged=1))


def test_constructing_opens_nothing(path: Path) -> None:
    """A server may fork afterwards."""
    Database(f"sqlite:///{path}")

    assert not path.exists()


def test_a_url_that_is_none_is_refused_when_constructed() -> None:
    """Not by the first request."""
    with pytest.raises(ConfigError, match="the database is no URL"):
        Database("amux.db")


@pytest.mark.anyio
async def test_the_lifespan_keeps_it_open_for_all_who_enter(path: Path) -> None:
    """Two mounts in one app share one writer, until the last of them has left."""
    database = Database(f"sqlite:///{path}")

    async with database.lifespan(), database.opened() as first:
        async with database.lifespan(), database.opened() as second:
            pass
        await second.ledger.hold(Order(id="gen_1", account="a", key="k", amount=1, begun=1))

    assert first is second


@pytest.mark.anyio
async def test_without_a_lifespan_it_is_open_for_one_piece_of_work(path: Path) -> None:
    """What was written is there the next time."""
    database = Database(f"sqlite:///{path}")
    async with database.opened() as first:
        await spend(first, "gen_1")

    async with database.opened() as second:
        wallet = await second.ledger.get("account:a")

    assert first is not second
    assert wallet is not None
    assert (wallet.available, wallet.captured) == (-1, 1)


@pytest.mark.anyio
async def test_all_who_come_at_once_open_it_once(path: Path) -> None:
    """Also those who come while it is opened, and while it is closed; it is open for each of them."""
    database = Database(f"sqlite:///{path}")
    seen: list[Any] = []

    async def work(i: int) -> None:
        for turn in range(i % 4):
            await anyio.lowlevel.checkpoint()
            async with database.opened() as stores:
                await spend(stores, f"gen_{i}_{turn}")
                seen.append(stores)

    async with anyio.create_task_group() as tasks:
        for i in range(16):
            tasks.start_soon(work, i)

    async with database.opened() as stores:
        wallet = await stores.ledger.get("account:a")
    assert wallet is not None
    assert wallet.captured == 24 == len(seen)


@pytest.mark.anyio
async def test_it_stays_open_for_who_comes_while_the_only_user_leaves(path: Path) -> None:
    """The one who opened it does not close it under the other."""
    database = Database(f"sqlite:///{path}")
    left = anyio.Event()

    async def first() -> None:
        async with database.opened():
            pass
        left.set()

    async def second() -> None:
        async with database.opened() as stores:
            await left.wait()
            await stores.ledger.hold(Order(id="gen_1", account="a", key="k", amount=1, begun=1))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(first)
        await anyio.lowlevel.checkpoint()  # it has begun to open it
        tasks.start_soon(second)

    async with database.opened() as stores:
        assert await stores.ledger.get("account:a") is not None


@pytest.mark.anyio
async def test_its_ledger_and_keys_are_those_that_are_open(path: Path) -> None:
    """Middleware is made before anything is open; money wants the lifespan, keys can do without."""
    database = Database(f"sqlite:///{path}")
    order = Order(id="call_1", account="a", key="k", amount=10, begun=1)

    with pytest.raises(NotStartedError):
        await database.ledger.hold(order)
    async with database.opened() as stores:
        key = (await stores.manage.keys.create(KeyOrder(name="web"))).key
    assert (await database.keys.authenticate(key)).key == "web"
    async with database.lifespan():
        await database.ledger.hold(order)
        await database.ledger.earn(order, 3, 1)
        charged = await database.ledger.capture(order, Settlement(ended=2, charged=6))
        database.ledger.release(order, Settlement(ended=3))
        wallet = await database.ledger.get("account:a")
        with pytest.raises(AuthenticationError):
            await database.keys.authenticate(make_key())

    assert wallet is not None
    assert (charged, wallet.available, wallet.captured) == (6, -6, 6)
