"""Money in a database."""

import time

import pytest

from amux_asgi.quota import Order, Settlement
from amux_asgi.stores.sql import open_store
from amux_asgi.wallets import account_wallet

pytestmark = pytest.mark.anyio


async def test_what_was_captured_is_gone_and_the_rest_is_back(database: str) -> None:
    """Ten were set aside, six were taken."""
    async with open_store(database, clock=time.monotonic, now=lambda: 1) as stores:
        order = Order(id="gen_1", account="a", key="k", amount=10, begun=1)
        await stores.ledger.hold(order)

        charged = await stores.ledger.capture(order, Settlement(ended=2, charged=6))

        wallet = await stores.ledger.get(account_wallet("a"))
    assert charged == 6
    assert wallet is not None
    assert (wallet.available, wallet.held, wallet.captured) == (-6, 0, 6)
