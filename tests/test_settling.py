"""What several parts of one generation cost together, and what is charged that was charged before."""

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amux_asgi.errors import StorageUnavailableError
from amux_asgi.pricing import Prices
from amux_asgi.quota import Attempt, MemoryLedger, Order, Settlement
from amux_asgi.settling import Settler, capture
from amux_asgi.wallets import Wallet

pytestmark = pytest.mark.anyio

ORDER = Order(id="gen_1", account="me", key="me", amount=100, begun=1)
SETTLER = Settler(Prices(), now=lambda: 7)
BILLED = Attempt(channel="one", end="billed")
REFUSED = Attempt(channel="one", end="refused")
UNKNOWN = Attempt(channel="one", end="unknown")


def ledger() -> MemoryLedger:
    return MemoryLedger([Wallet(id="account:me", available=1000, credit=0)])


def part(charged: int = 1, cost: int | None = 2, channel: str = "one") -> Settlement:
    return Settlement(ended=1, charged=charged, cost=cost, channel=channel, images=1, input_tokens=3, output_tokens=4)


@given(st.lists(st.builds(part, st.integers(0, 9), st.integers(0, 9)), min_size=1))
def test_parts_are_added_up(parts: list[Settlement]) -> None:
    """Each picture, token and nano-dollar once."""
    told = SETTLER.joined(parts, [BILLED])

    assert (told.charged, told.cost) == (sum(one.charged for one in parts), sum(one.cost or 0 for one in parts))
    assert (told.images, told.input_tokens, told.output_tokens) == (len(parts), 3 * len(parts), 4 * len(parts))
    assert (told.ended, told.channel, told.attempts) == (7, "one", (BILLED,))


@pytest.mark.parametrize(
    ("parts", "attempts", "cost"),
    [
        ([], [REFUSED], 0),
        ([], [BILLED], None),
        ([], [REFUSED, UNKNOWN], None),
        ([part()], [REFUSED, BILLED], 2),
        ([part()], [UNKNOWN, BILLED], None),
        ([part(), part(cost=None)], [BILLED], None),
    ],
)
def test_what_nobody_knows_is_not_added_up(parts: list[Settlement], attempts: list[Attempt], cost: int | None) -> None:
    """A vendor's price is the sum only if each is known, and nothing else may have been paid."""
    assert SETTLER.joined(parts, attempts).cost == cost


async def test_a_dearer_end_than_was_held_for_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """What was held is taken."""
    money = ledger()
    await money.hold(ORDER)

    await capture(money, ORDER, Settlement(ended=1, charged=101), None)

    assert "gen_1: undercharged" in caplog.text
    wallet = await money.get("account:me")
    assert wallet is not None
    assert wallet.captured == 100


@pytest.mark.parametrize(("before", "now"), [(10, 11), (0, 1)])
async def test_what_was_charged_before_for_less_is_not_charged_now(
    caplog: pytest.LogCaptureFixture, before: int, now: int
) -> None:
    """Somebody else ended it: what was told of since then is not paid, so it may not be delivered."""
    money = ledger()
    await money.hold(ORDER)
    await money.capture(ORDER, Settlement(ended=1, charged=before))
    caplog.set_level(logging.WARNING)

    with pytest.raises(StorageUnavailableError) as caught:
        await capture(money, ORDER, Settlement(ended=1, charged=now), None)

    assert (caught.value.retry, caplog.text) == (False, "")


async def test_what_was_charged_before_for_as_much_is_charged(caplog: pytest.LogCaptureFixture) -> None:
    """An end that is told again is the same end."""
    money = ledger()
    await money.hold(ORDER)

    for _ in range(2):
        await capture(money, ORDER, Settlement(ended=1, charged=10), None)

    assert caplog.text == ""
