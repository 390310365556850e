"""Money that may be spent: what is noted of each request, the port of a ledger, and its form in memory."""

from collections import OrderedDict
from collections.abc import Iterable
from random import getrandbits  # which lets no other thread in between, and is seeded anew after a fork
from typing import Final, Protocol, runtime_checkable

from msgspec import Struct

from amux_asgi.reservation import Line, State, Verb, earn, end, hold
from amux_asgi.wallets import Wallet, unheard, wallets_of

REMEMBERED: Final = 10_000  # ended reservations that the memory ledger knows


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
