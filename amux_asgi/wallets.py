"""Wallets, and what is decided about one alone; money is nano-dollars (10^-9 USD), integers of 63 bits and a sign."""

from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from amux_asgi.errors import InvalidRequestError, QuotaError

LARGEST: Final = 2**63 - 1
_ACCOUNT: Final = "account:"
_BUDGET: Final = "budget:"


class Wallet(Struct, frozen=True, kw_only=True):
    """What may be spent: an account's money, or the budget of one key.

    `available + held + captured` is always what was ever put in. `credit` is how far below zero `available` may go;
    `None` is without limit.
    """

    id: str
    available: int = 0
    held: int = 0
    captured: int = 0
    credit: int | None = None

    def affords(self, amount: int) -> bool:
        """Tell whether this much may be spent now; what no column could hold is more than without limit."""
        lowest = -LARGEST if self.credit is None else -self.credit
        return self.available - amount >= lowest and self.held + self.captured + amount <= LARGEST

    @property
    def granted(self) -> int:
        """Give what was ever put in."""
        return self.available + self.held + self.captured


class Opening(Struct, frozen=True, kw_only=True):
    """A wallet that the configuration wants: an account's opening balance, or what a key may spend in its life."""

    wallet: str
    amount: int

    def change(self, wallet: Wallet) -> Wallet:
        """Decide what becomes of the wallet; an account that an operator has limited already is left alone."""
        if self.is_budget:
            return budgeted(wallet, self.amount)
        return opened(wallet, self.amount, 0) if wallet.credit is None else wallet

    @property
    def is_budget(self) -> bool:
        """Tell whether it follows the configuration; an opening balance is credited once."""
        return self.wallet.startswith(_BUDGET)


def wallets_of(account: str, budget: str | None) -> tuple[str, ...]:
    """Name the wallets of an account and of a key's own budget, in that order."""
    return (_ACCOUNT + account,) if budget is None else (_ACCOUNT + account, _BUDGET + budget)


def account_wallet(account: str) -> str:
    """Name the wallet that holds an account's money."""
    return _ACCOUNT + account


def budget_wallet(budget: str) -> str:
    """Name the wallet that is a key's own budget."""
    return _BUDGET + budget


def unheard(wallet: str) -> Wallet:
    """Give a wallet that nobody opened: an account spends without limit and is only metered, a budget is empty."""
    return Wallet(id=wallet, credit=0 if wallet.startswith(_BUDGET) else None)


def topped_up(wallet: Wallet, amount: int) -> Wallet:
    """Decide a top-up, or a correction downwards.

    Raises:
        InvalidRequestError: the sum is too large, or less would be left than is spent or held already.
    """
    after = replace(wallet, available=wallet.available + amount)
    if not -LARGEST <= after.granted <= LARGEST or not -LARGEST <= after.available <= LARGEST:
        raise InvalidRequestError("the sum is too large", param="amount")
    if amount < 0 and not after.affords(0):
        raise InvalidRequestError("more than that is spent or set aside already", param="amount")
    return after


def opened(wallet: Wallet, amount: int, credit: int | None) -> Wallet:
    """Decide the opening of an account.

    What it spent before, unlimited and only metered, is forgiven. What is set aside at that moment is set aside of the
    new money, as far as that goes, so that giving it back makes nobody richer than the amount.

    Raises:
        InvalidRequestError: no account can be opened with that.
    """
    if amount < 0:
        raise InvalidRequestError("an account cannot be opened below zero", param="amount")
    unlimited = credited(wallet, None)
    lowest = -LARGEST if credit is None else -credit
    after = topped_up(unlimited, max(amount - wallet.held, lowest) - wallet.available)
    return credited(after, credit)


def budgeted(wallet: Wallet, total: int) -> Wallet:
    """Decide what a key may spend in its whole life; never less than it spent or set aside already."""
    return topped_up(wallet, max(total, wallet.held + wallet.captured) - wallet.granted)


def credited(wallet: Wallet, credit: int | None) -> Wallet:
    """Decide how far below zero an account may go.

    Raises:
        InvalidRequestError: it is further below already, or that is no number for it.
    """
    if credit is not None and not 0 <= credit <= LARGEST:
        raise InvalidRequestError("a credit line is at least zero, and not endless", param="credit")
    after = replace(wallet, credit=credit)
    if not after.affords(0):
        raise InvalidRequestError("the account owes more than that already", param="credit")
    return after


def refusal(wallet: str) -> QuotaError:
    """Say which of the two does not suffice, without figures."""
    what = "this API key's budget" if wallet.startswith(_BUDGET) else "the account's balance"
    return QuotaError(f"{what} does not cover what this request could cost")
