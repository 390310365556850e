"""Wallets: what is decided about one alone, without any database."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amux_asgi.errors import GatewayError, InvalidRequestError
from amux_asgi.wallets import (
    LARGEST,
    Opening,
    Wallet,
    account_wallet,
    budget_wallet,
    budgeted,
    credited,
    opened,
    refusal,
    topped_up,
    unheard,
    wallets_of,
)
from tests.any_wallet import CREDITS, assert_fits, wallets


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
        opened(unheard("account:a"), amount, credit)


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
    assert unheard("account:a").credit is None
    assert unheard("budget:a").credit == 0


def test_a_refusal_is_fit_for_a_client() -> None:
    """It names neither figures nor wallets."""
    error: GatewayError = refusal("account:secret-name")

    assert error.status == 429
    assert "secret-name" not in error.message


def test_an_account_that_is_limited_already_keeps_its_money() -> None:
    """A balance in the configuration opens what was only metered, and nothing else."""
    opening = Opening(wallet="account:a", amount=5)
    limited = Wallet(id="account:a", available=-40, captured=41, credit=50)

    assert opening.change(limited) == limited
    assert opening.change(Wallet(id="account:a", available=-1, captured=1)).available == 5
