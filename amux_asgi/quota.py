"""Money that may be spent: the reservation as a transition table, the port of a ledger, and its form in memory.

Everything is in nano-dollars (10^-9 USD), as integers of 63 bits and a sign. The decisions are plain functions; every
ledger, whatever it keeps its rows in, decides with them.
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from enum import Enum, StrEnum
from random import getrandbits  # which lets no other thread in between, and is seeded anew after a fork
from typing import Final, Protocol, runtime_checkable

from msgspec import Struct
from msgspec.structs import replace

from amux_asgi.errors import InvalidRequestError, QuotaError, StorageUnavailableError

LARGEST: Final = 2**63 - 1
DEAREST: Final = 10**18  # of one reservation: a thousand million dollars
_ACCOUNT: Final = "account:"
_BUDGET: Final = "budget:"
REMEMBERED: Final = 10_000  # ended reservations that the memory ledger knows


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


class State(StrEnum):
    """How a reservation stands."""

    HELD = "held"
    CAPTURED = "captured"
    RELEASED = "released"
    SWEPT = "swept"  # released by another process, because its own was dead


class Verb(StrEnum):
    """What can be done to a reservation."""

    CAPTURE = "capture"
    RELEASE = "release"
    SWEEP = "sweep"
    REVOKE = "revoke"  # take a capture back whose success nobody heard of, so that nothing was delivered for it

    @property
    def tells(self) -> bool:
        """Tell whether it says what is to be charged; for the others, what was earned until then is."""
        return self in _TELLING


# Members of enums are looked up once: until Python 3.12 that takes longer than what is decided by them.
_TELLING: Final = (Verb.CAPTURE, Verb.RELEASE)
HELD: Final = State.HELD
_CAPTURED: Final = State.CAPTURED


class Step(Enum):
    """What that does to the wallets."""

    TAKE = "take the charge of what was held, give the rest back"
    CHARGE = "charge afresh, if it can be paid"
    REFUND = "give back what was taken beyond the charge"


TRANSITIONS: Final[Mapping[tuple[State, Verb], tuple[Step, State]]] = {
    (State.HELD, Verb.CAPTURE): (Step.TAKE, State.CAPTURED),
    (State.HELD, Verb.RELEASE): (Step.TAKE, State.RELEASED),
    (State.HELD, Verb.SWEEP): (Step.TAKE, State.SWEPT),
    (State.HELD, Verb.REVOKE): (Step.TAKE, State.RELEASED),
    (State.SWEPT, Verb.CAPTURE): (Step.CHARGE, State.CAPTURED),
    (State.CAPTURED, Verb.REVOKE): (Step.REFUND, State.RELEASED),
}
"""How a reservation stands afterwards if nothing is charged for it; whatever is charged for is captured.

Whatever is not here changes nothing: the first end of a reservation is its only one.
"""
_TAKE: Final = Step.TAKE
_CHARGE: Final = Step.CHARGE


class Line(Struct, frozen=True):
    """One reservation as a ledger has it.

    `earned` is what the pictures are worth that a stream delivered so far, and `images` how many they are.
    """

    state: State
    amount: int
    charged: int = 0
    earned: int = 0
    images: int = 0


class Attempt(Struct, frozen=True, kw_only=True):
    """How one attempt at an upstream ended: `end` is "billed" or what `errors.End` calls it."""

    channel: str
    end: str
    code: str | None = None


class Order(Struct, frozen=True, kw_only=True):
    """What a reservation is for. `amount` is the most it can cost; `begun` is in milliseconds of Unix time."""

    id: str
    account: str
    key: str
    amount: int
    begun: int
    budget: str | None = None  # the key's own, beside the account's money
    model: str | None = None
    request_id: str | None = None

    @property
    def wallets(self) -> tuple[str, ...]:
        """Name the wallets that pay, the account's first."""
        return wallets_of(self.account, self.budget)


class Settlement(Struct, frozen=True, kw_only=True):
    """What came of it: our price, the vendor's (`None` where nobody knows), and the facts of the usage row.

    `ended` is in milliseconds of Unix time.
    """

    ended: int
    charged: int = 0
    cost: int | None = 0
    channel: str | None = None
    attempts: tuple[Attempt, ...] = ()
    images: int = 0
    input_tokens: int = 0
    output_tokens: int = 0


class Answer(Struct, frozen=True, kw_only=True):
    """What is kept to be said again under an idempotency key; `expires` is in milliseconds of Unix time."""

    claim: str
    body: bytes
    expires: int
    facts: bytes = b""  # JSON of whatever else the reply was made of


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


@runtime_checkable
class Ledger(Protocol):
    """The port that knows money. What a verb reports is durable when it returns."""

    async def hold(self, order: Order) -> None:
        """Set the most that it can cost aside; an account that was never heard of may spend without limit.

        Raises:
            QuotaError: the account or the key's budget does not cover it.
            StorageUnavailableError: it could not be written down, so nothing was set aside.
        """
        ...

    async def earn(self, order: Order, earned: int, images: int) -> None:
        """Note what a stream is worth, in all, with the pictures that are about to be delivered, and how many they are.

        Nothing is taken yet, and each call replaces what the one before it noted. Should the process die, so much is
        charged. To be called by one at a time, and after it raised only to be followed by an end.

        Raises:
            StorageUnavailableError: it was not noted, so the picture may not be delivered.
        """
        ...

    async def capture(self, order: Order, settlement: Settlement, answer: Answer | None = None) -> int:
        """Take what it did cost, at most what was held, and keep the answer with it; tell what was charged.

        Whatever was earned before, it is this that counts. Of a reservation that was captured before, what was charged
        then.

        Raises:
            StorageUnavailableError: nothing was charged, so nothing may be delivered.
        """
        ...

    def release(self, order: Order, settlement: Settlement) -> None:
        """Give everything back but the charge; needs no waiting, so it can stand in a `finally`."""
        ...

    async def get(self, wallet: str) -> Wallet | None:
        """Look a wallet up; `None` for one that was never heard of."""
        ...


def fresh_id(prefix: str, now: int) -> str:
    """Name a reservation: by its time (ms of Unix time), so that new rows lie side by side, and 64 random bits."""
    return prefix + (now << 64 | getrandbits(64)).to_bytes(14, "big").hex()


def wallets_of(account: str, budget: str | None) -> tuple[str, ...]:
    """Name the wallets of an account and of a key's own budget, in that order."""
    return (_ACCOUNT + account,) if budget is None else (_ACCOUNT + account, _BUDGET + budget)


def account_wallet(account: str) -> str:
    """Name the wallet that holds an account's money."""
    return _ACCOUNT + account


def budget_wallet(budget: str) -> str:
    """Name the wallet that is a key's own budget."""
    return _BUDGET + budget


def hold(wallets: Iterable[Wallet], amount: int) -> tuple[Wallet, ...]:
    """Decide a hold: all wallets set the amount aside, or none does.

    Raises:
        QuotaError: one of them cannot.
        InvalidRequestError: it is no amount that anything could cost.
    """
    if not 0 <= amount <= DEAREST:
        raise InvalidRequestError("what this request could cost cannot be accounted for")
    wallets = tuple(wallets)
    for wallet in wallets:
        if not wallet.affords(amount):
            raise refusal(wallet.id)
    return tuple([_moved(wallet, -amount, amount, 0) for wallet in wallets])


def earn(line: Line, earned: int, images: int) -> Line:
    """Decide that a stream has earned so much in all, at most what is held, with so many pictures.

    Raises:
        StorageUnavailableError: nothing is held any more.
    """
    if line.state is not HELD:
        raise _too_late()
    return replace(line, earned=chargeable(earned, line.amount), images=images)


def end(line: Line, verb: Verb, charge: int, wallets: Iterable[Wallet]) -> tuple[Line, tuple[Wallet, ...]] | None:
    """Decide an end of a reservation; `None` if it changes nothing.

    `charge` is what a verb that tells it wants, and what it gets between zero and what was held.

    Raises:
        StorageUnavailableError: the reservation was swept, and the wallets no longer cover the charge.
    """
    transition = TRANSITIONS.get((line.state, verb))
    if transition is None:
        return None
    step, uncharged = transition
    charge = chargeable(charge, line.amount) if verb.tells else _left(line)
    after = Line(_CAPTURED if charge else uncharged, line.amount, charge, line.earned, line.images)
    if after == line:
        return None
    if step is _TAKE:
        return after, tuple([_taken(wallet, line.amount, charge) for wallet in wallets])
    if step is _CHARGE:
        afresh = tuple(wallets)
        if not all(wallet.affords(charge) for wallet in afresh):
            raise _too_late()
        return after, tuple(_charged(wallet, charge) for wallet in afresh)
    return after, tuple(_charged(wallet, charge - line.charged) for wallet in wallets)  # a refund


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


def chargeable(charge: int, amount: int) -> int:
    """Bound a charge: nobody gains by a capture, and nobody pays more than was set aside."""
    return max(0, min(charge, amount))


def refusal(wallet: str) -> QuotaError:
    """Say which of the two does not suffice, without figures."""
    what = "this API key's budget" if wallet.startswith(_BUDGET) else "the account's balance"
    return QuotaError(f"{what} does not cover what this request could cost")


def _left(line: Line) -> int:
    """Say what is charged where nobody tells: what was delivered, but never more than was taken already."""
    return line.earned if line.state is HELD else min(line.earned, line.charged)


def _too_late() -> StorageUnavailableError:
    return StorageUnavailableError(
        "the gateway was away for too long to charge for this, so it is not delivered", retry=False
    )


def _taken(wallet: Wallet, amount: int, charge: int) -> Wallet:
    return _moved(wallet, amount - charge, -amount, charge)


def _charged(wallet: Wallet, charge: int) -> Wallet:
    return _moved(wallet, -charge, 0, charge)


def _moved(wallet: Wallet, available: int, held: int, captured: int) -> Wallet:
    """Add to each of the three."""
    return Wallet(
        id=wallet.id,
        available=wallet.available + available,
        held=wallet.held + held,
        captured=wallet.captured + captured,
        credit=wallet.credit,
    )


_NEVER: Final = Line(State.RELEASED, 0)


class MemoryLedger:
    """A ledger that lasts as long as its process; never waits, so each verb is one indivisible step."""

    def __init__(self, wallets: Iterable[Wallet] = ()) -> None:
        self._wallets = {wallet.id: wallet for wallet in wallets}
        self._held: dict[str, Line] = {}
        self._ended: OrderedDict[str, Line] = OrderedDict()

    async def hold(self, order: Order) -> None:
        """Set the most that it can cost aside.

        Raises:
            QuotaError: the account or the key's budget does not cover it.
        """
        for wallet in hold(self._of(order), order.amount):
            self._wallets[wallet.id] = wallet
        self._held[order.id] = Line(State.HELD, order.amount)

    async def earn(self, order: Order, earned: int, images: int) -> None:
        """Note what a stream is worth so far.

        Raises:
            StorageUnavailableError: nothing is held any more.
        """
        self._held[order.id] = earn(self._line(order), earned, images)

    async def capture(self, order: Order, settlement: Settlement, answer: Answer | None = None) -> int:  # noqa: ARG002, kept by the claims in memory
        """Take what it did cost, at most what was held; tell what was charged."""
        return self._end(order, Verb.CAPTURE, settlement.charged)

    def release(self, order: Order, settlement: Settlement) -> None:
        """Give everything back but the charge."""
        self._end(order, Verb.RELEASE, settlement.charged)

    async def get(self, wallet: str) -> Wallet | None:
        """Look a wallet up; `None` for one that was never heard of."""
        return self._wallets.get(wallet)

    def _of(self, order: Order) -> tuple[Wallet, ...]:
        return tuple(self._wallets.get(name) or unheard(name) for name in order.wallets)

    def _line(self, order: Order) -> Line:
        return self._held.get(order.id) or self._ended.get(order.id, _NEVER)

    def _end(self, order: Order, verb: Verb, charge: int) -> int:
        line = self._line(order)
        ended = end(line, verb, charge, self._of(order))
        if ended is None:
            return line.charged
        after, wallets = ended
        self._wallets.update((wallet.id, wallet) for wallet in wallets)
        del self._held[order.id]
        self._ended[order.id] = after
        if len(self._ended) > REMEMBERED:
            self._ended.popitem(last=False)
        return after.charged
