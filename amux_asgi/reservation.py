"""The reservation as a transition table: every ledger, whatever it keeps its rows in, decides with these functions."""

from collections.abc import Iterable, Mapping
from enum import Enum, StrEnum
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from amux_asgi.errors import InvalidRequestError, StorageUnavailableError
from amux_asgi.wallets import Wallet, refusal

DEAREST: Final = 10**18  # of one reservation: a thousand million dollars


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


def chargeable(charge: int, amount: int) -> int:
    """Bound a charge: nobody gains by a capture, and nobody pays more than was set aside."""
    return max(0, min(charge, amount))


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
