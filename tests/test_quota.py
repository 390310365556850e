"""Money that may be spent, as a ledger in memory keeps it."""

import pytest

from amux_asgi.errors import QuotaError, StorageUnavailableError
from amux_asgi.quota import REMEMBERED, Ledger, MemoryLedger, Order, Settlement
from amux_asgi.wallets import Wallet


def order(amount: int = 10, *, id: str = "gen_1", budget: str | None = None) -> Order:  # noqa: A002, a row's id
    return Order(id=id, account="a", key="k", amount=amount, begun=1, budget=budget)


@pytest.mark.anyio
async def test_memory_remembers_the_first_end_only() -> None:
    """L22 and L10: cheaper than the hold gives the rest back; a second end tells the first."""
    ledger = MemoryLedger([Wallet(id="account:a", available=100, credit=0)])
    await ledger.hold(order(10))

    first = await ledger.capture(order(10), Settlement(ended=2, charged=6))
    second = await ledger.capture(order(10), Settlement(ended=3, charged=9))
    ledger.release(order(10), Settlement(ended=4))

    assert isinstance(ledger, Ledger)
    assert (first, second) == (6, 6)
    assert await ledger.get("account:a") == Wallet(id="account:a", available=94, captured=6, credit=0)
    assert await ledger.get("account:b") is None


@pytest.mark.anyio
async def test_memory_gives_back_what_was_released() -> None:
    """And refuses what is not there."""
    ledger = MemoryLedger([Wallet(id="account:a", available=10, credit=0)])
    await ledger.hold(order(10))
    with pytest.raises(QuotaError):
        await ledger.hold(order(1, id="gen_2"))

    ledger.release(order(10), Settlement(ended=2))
    late = await ledger.capture(order(10), Settlement(ended=2, charged=5))

    assert late == 0
    assert await ledger.get("account:a") == Wallet(id="account:a", available=10, credit=0)


@pytest.mark.anyio
async def test_memory_charges_a_stream_for_what_was_delivered() -> None:
    """A release gives back everything but that; what it did cost, if a capture tells; what ended earns no more."""
    ledger = MemoryLedger([Wallet(id="account:a", available=100, credit=0)])
    for name in ("gen_1", "gen_2", "gen_3"):
        await ledger.hold(order(10, id=name))
        await ledger.earn(order(10, id=name), 4, 1)

    ledger.release(order(10, id="gen_1"), Settlement(ended=2, charged=4))
    charged = await ledger.capture(order(10, id="gen_2"), Settlement(ended=2, charged=7))
    ledger.release(order(10, id="gen_3"), Settlement(ended=2))

    for name in ("gen_1", "gen_2", "gen_3", "gen_unheard"):
        with pytest.raises(StorageUnavailableError):
            await ledger.earn(order(10, id=name), 5, 2)
    assert charged == 7
    assert await ledger.get("account:a") == Wallet(id="account:a", available=89, captured=11, credit=0)


@pytest.mark.anyio
async def test_memory_is_bounded() -> None:
    """What ended long ago is forgotten, and ending it again does nothing."""
    ledger = MemoryLedger()
    for i in range(REMEMBERED + 2):
        await ledger.hold(order(1, id=f"gen_{i}"))
        await ledger.capture(order(1, id=f"gen_{i}"), Settlement(ended=1, charged=1))

    again = await ledger.capture(order(1, id="gen_0"), Settlement(ended=1, charged=1))

    wallet = await ledger.get("account:a")
    assert again == 0
    assert wallet is not None
    assert (wallet.available, wallet.held, wallet.captured) == (-REMEMBERED - 2, 0, REMEMBERED + 2)
