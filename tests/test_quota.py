"""Money that may be spent: what is decided, without any database."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amux_asgi import quota
from amux_asgi.errors import GatewayError, InvalidRequestError, QuotaError, StorageUnavailableError
from amux_asgi.quota import (
    DEAREST,
    LARGEST,
    REMEMBERED,
    Ledger,
    MemoryLedger,
    Opening,
    Order,
    Settlement,
    State,
    Verb,
    Wallet,
    account_wallet,
    budget_wallet,
    budgeted,
    chargeable,
    credited,
    opened,
    topped_up,
    wallets_of,
)

AMOUNTS = st.integers(0, DEAREST) | st.integers(0, 100)
CREDITS = st.none() | st.integers(0, LARGEST) | st.just(0)


@st.composite
def wallets(draw: st.DrawFn) -> Wallet:
    """Make any wallet that may exist."""
    credit = draw(CREDITS)
    held = draw(st.integers(0, LARGEST) | st.integers(0, 100))
    captured = draw(st.integers(0, LARGEST - held) | st.just(0))
    available = draw(st.integers(-(LARGEST if credit is None else credit), LARGEST - held - captured))
    return Wallet(id="account:a", available=available, held=held, captured=captured, credit=credit)


def assert_fits(wallet: Wallet) -> None:
    """Hold a wallet against what the columns can keep and their checks let through."""
    assert all(-LARGEST <= number <= LARGEST for number in (wallet.available, wallet.granted))
    assert 0 <= wallet.held <= LARGEST
    assert 0 <= wallet.captured <= LARGEST
    assert wallet.held + wallet.captured <= LARGEST
    assert wallet.credit is None or wallet.available >= -wallet.credit


def order(amount: int = 10, *, id: str = "gen_1", budget: str | None = None) -> Order:  # noqa: A002, a row's id
    return Order(id=id, account="a", key="k", amount=amount, begun=1, budget=budget)


@given(wallets(), AMOUNTS, st.sampled_from((Verb.CAPTURE, Verb.RELEASE, Verb.SWEEP, Verb.REVOKE)), st.data())
def test_nothing_that_a_reservation_lives_through_changes_the_sum(
    wallet: Wallet, amount: int, verb: Verb, data: st.DataObject
) -> None:
    """What was put in is what is there, set aside and taken: to the nano-dollar, up to the largest number."""
    try:
        (held,) = quota.hold([wallet], amount)
    except QuotaError:
        return
    assert_fits(held)
    charge = data.draw(st.integers(0, amount))

    ended = quota.end(State.HELD, verb, amount, charge, [held])

    assert ended is not None
    state, (after,) = ended
    assert_fits(after)
    assert after.granted == held.granted == wallet.granted
    assert after.held == wallet.held
    assert after.captured == wallet.captured + (charge if state is State.CAPTURED else 0)


@given(wallets(), AMOUNTS)
def test_a_capture_after_a_sweep_and_its_taking_back_leave_no_trace(wallet: Wallet, charge: int) -> None:
    """Charged afresh and refunded is as it was; if it cannot be paid it is said, and nothing changes."""
    try:
        charged = quota.end(State.SWEPT, Verb.CAPTURE, charge, charge, [wallet])
    except StorageUnavailableError as error:
        assert error.retry is False
        assert not wallet.affords(charge)
        return
    assert charged is not None
    state, (after,) = charged
    assert_fits(after)

    refunded = quota.end(state, Verb.REVOKE, charge, charge, [after])

    assert refunded == (State.RELEASED, (wallet,))


@pytest.mark.parametrize("verb", list(Verb))
@pytest.mark.parametrize("state", list(State))
def test_a_reservation_has_one_end(state: State, verb: Verb) -> None:
    """L22: whatever comes after the first end changes nothing, save that a capture may be taken back."""
    before = Wallet(id="account:a", available=90, held=10, captured=10)

    ended = quota.end(state, verb, 10, 10, [before])

    assert (ended is None) == ((state, verb) not in quota.TRANSITIONS)
    if state in (State.CAPTURED, State.RELEASED) and verb is not Verb.REVOKE:
        assert ended is None


@pytest.mark.parametrize("charge", [-1, 11])
def test_nobody_is_charged_more_than_was_set_aside_or_less_than_nothing(charge: int) -> None:
    """A price that went wrong is no gift and no robbery."""
    wallet = Wallet(id="account:a", available=0, held=10)

    with pytest.raises(ValueError, match="cannot be taken"):
        quota.end(State.HELD, Verb.CAPTURE, 10, charge, [wallet])

    assert 0 <= chargeable(charge, 10) <= 10


@pytest.mark.parametrize("amount", [-1, DEAREST + 1])
def test_what_nothing_can_cost_is_not_held(amount: int) -> None:
    """A negative amount would be a top-up."""
    wallet = Wallet(id="account:a", credit=None)

    with pytest.raises(InvalidRequestError):
        quota.hold([wallet], amount)


def test_all_wallets_pay_or_none() -> None:
    """L08: a key's budget and the account's money are set aside together."""
    account, budget = Wallet(id="account:a", available=100, credit=0), Wallet(id="budget:b", available=9, credit=0)

    with pytest.raises(QuotaError, match="this API key's budget"):
        quota.hold([account, budget], 10)
    with pytest.raises(QuotaError, match="the account's balance"):
        quota.hold([account], 101)

    assert [wallet.held for wallet in quota.hold([account, budget], 9)] == [9, 9]


@given(wallets(), st.integers(-2 * LARGEST, 2 * LARGEST))
def test_a_top_up_is_exact_or_refused(wallet: Wallet, amount: int) -> None:
    """Neither too much for a column, nor less than is spent already."""
    try:
        after = topped_up(wallet, amount)
    except InvalidRequestError as error:
        assert error.param == "amount"
        return

    assert_fits(after)
    assert after.granted == wallet.granted + amount


@pytest.mark.parametrize("amount", [LARGEST, -5])
def test_a_top_up_has_bounds(amount: int) -> None:
    """A sum that no column holds is refused, and a correction below what is left."""
    wallet = Wallet(id="account:a", available=4, captured=1, credit=0)

    with pytest.raises(InvalidRequestError):
        topped_up(wallet, amount)


@given(wallets(), st.integers(-5, 2 * LARGEST), CREDITS | st.integers(-5, 2 * LARGEST))
def test_an_opened_account_has_what_it_was_opened_with(wallet: Wallet, amount: int, credit: int | None) -> None:
    """What was only metered is forgiven; what is set aside is set aside of the new money, so that none is made."""
    try:
        after = opened(wallet, amount, credit)
    except InvalidRequestError as error:
        assert error.param in ("amount", "credit")
        return

    assert_fits(after)
    assert (after.held, after.captured, after.credit) == (wallet.held, wallet.captured, credit)
    assert after.available + after.held == amount or after.available == -(LARGEST if credit is None else credit or 0)


@given(wallets(), st.integers(-5, 2 * LARGEST))
def test_a_budget_is_never_less_than_was_spent(wallet: Wallet, total: int) -> None:
    """Lowering it below that leaves nothing to spend."""
    try:
        after = budgeted(wallet, total)
    except InvalidRequestError:
        assert total > LARGEST
        return

    assert_fits(after)
    assert after.granted == max(total, after.held + after.captured)


@given(wallets(), CREDITS | st.integers(-5, 2 * LARGEST))
def test_a_credit_line_covers_what_is_owed(wallet: Wallet, credit: int | None) -> None:
    """It cannot be shortened below the debt."""
    try:
        after = credited(wallet, credit)
    except InvalidRequestError as error:
        assert error.param == "credit"
        return

    assert_fits(after)


@pytest.mark.parametrize(("amount", "credit"), [(-1, 0), (1, -1), (1, LARGEST + 1), (LARGEST + 1, 0)])
def test_an_account_is_not_opened_with_nonsense(amount: int, credit: int) -> None:
    """Below zero, with a negative line, or with more than a column holds."""
    with pytest.raises(InvalidRequestError):
        opened(quota.unheard("account:a"), amount, credit)


def test_a_credit_line_is_not_shortened_below_the_debt() -> None:
    """Who owes five needs a line of five."""
    wallet = Wallet(id="account:a", available=-5, captured=5, credit=9)

    with pytest.raises(InvalidRequestError, match="owes more"):
        credited(wallet, 4)

    assert credited(wallet, 5).credit == 5


def test_wallets_have_names_that_cannot_be_mistaken() -> None:
    """An account and a budget of one name are two."""
    assert wallets_of("a", None) == ("account:a",)
    assert wallets_of("a", "a") == (account_wallet("a"), budget_wallet("a"))
    assert quota.unheard("account:a").credit is None
    assert quota.unheard("budget:a").credit == 0


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


def test_a_refusal_is_fit_for_a_client() -> None:
    """It names neither figures nor wallets."""
    error: GatewayError = quota.refusal("account:secret-name")

    assert error.status == 429
    assert "secret-name" not in error.message


def test_an_account_that_is_limited_already_keeps_its_money() -> None:
    """A balance in the configuration opens what was only metered, and nothing else."""
    opening = Opening(wallet="account:a", amount=5)
    limited = Wallet(id="account:a", available=-40, captured=41, credit=50)

    assert opening.change(limited) == limited
    assert opening.change(Wallet(id="account:a", available=-1, captured=1)).available == 5
