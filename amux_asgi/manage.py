"""What an operator does to keys and accounts, and learns of their use: the words, and the ports that do it.

Sums are US dollars as decimal strings, exact, with at most 9 decimals; where `null` is allowed for a credit, it is
without limit. Times have their offset.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime
from typing import Annotated, Any, Final, Generic, Literal, Protocol, TypeVar

from msgspec import UNSET, Meta, Struct, UnsetType

T = TypeVar("T")
MOST_AT_ONCE: Final = 1000  # rows of one page
USUAL: Final = 100
LONGEST_OVERLAP: Final = 366 * 86_400  # seconds that a rolled key may live on

Name = Annotated[str, Meta(extra_json_schema={"pattern": "^[A-Za-z0-9._-]{1,64}$"})]
Dollars = Annotated[str, Meta(extra_json_schema={"pattern": r"^-?[0-9]{1,10}(\.[0-9]{1,9})?$"})]
Sum = Annotated[str, Meta(extra_json_schema={"pattern": r"^[0-9]{1,9}(\.[0-9]{1,9})?$"})]
Time = Annotated[datetime, Meta(tz=True)]
Group = Literal["account", "key", "model", "channel", "day"]


class KeyOrder(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A key to be made. `models` and `passthrough` are globs; `None` allows all models, all networks.

    `budget` is what the key may spend in its whole life, out of the account's money. The account is the key's name, if
    not given.
    """

    name: Name
    account: Name | None = None
    models: tuple[str, ...] | None = None
    passthrough: tuple[str, ...] = ()
    networks: tuple[str, ...] | None = None
    expires: Time | None = None
    budget: Sum | None = None


class KeyChange(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a key may do from now on; what is not given stays. `None` is: all, for ever, without a budget of its own."""

    models: tuple[str, ...] | UnsetType | None = UNSET
    passthrough: tuple[str, ...] | UnsetType = UNSET
    networks: tuple[str, ...] | UnsetType | None = UNSET
    expires: Time | UnsetType | None = UNSET
    budget: Sum | UnsetType | None = UNSET


class Roll(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a key is replaced: the old one lives on for `overlap` seconds; the new one expires as the old one did."""

    overlap: Annotated[float, Meta(extra_json_schema={"minimum": 0, "maximum": LONGEST_OVERLAP})] = 3600
    expires: Time | UnsetType | None = UNSET


class Budget(Struct, frozen=True, kw_only=True):
    """A key's own budget: `granted` is `available`, `held` by requests that run, and `spent`."""

    granted: Dollars
    available: Dollars
    held: Dollars
    spent: Dollars


class KeyInfo(Struct, frozen=True, kw_only=True):
    """A key, without the key. Keys that replaced each other share their name and budget."""

    id: str
    name: str
    account: str
    state: Literal["active", "expired", "revoked"]
    last_four: str
    models: tuple[str, ...] | None
    passthrough: tuple[str, ...]
    networks: tuple[str, ...] | None
    budget: Budget | None
    expires: datetime | None
    created: datetime


class NewKey(Struct, frozen=True, kw_only=True):
    """A key that was made, shown this once. `unlimited` tells that its account's use is only metered."""

    key: str
    unlimited: bool
    info: KeyInfo


class AccountOrder(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An account to be opened; `credit` is how far below zero it may go."""

    name: Name
    balance: Sum = "0"
    credit: Sum | None = "0"


class TopUp(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Money for an account, or a correction downwards. The same `id` counts once for it."""

    amount: Dollars
    note: str = ""
    id: Annotated[str, Meta(extra_json_schema={"pattern": "^[A-Za-z0-9._-]{1,128}$"})] | None = None


class Credit(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How far below zero an account may go."""

    credit: Sum | None


class AccountInfo(Struct, frozen=True, kw_only=True):
    """An account: `granted` is `available`, `held` by requests that run, and `spent`."""

    name: str
    granted: Dollars
    available: Dollars
    held: Dollars
    spent: Dollars
    credit: Dollars | None


class ToppedUp(Struct, frozen=True, kw_only=True):
    """What came of a top-up; `repeated` tells that its id had counted before, so that nothing changed."""

    repeated: bool
    account: AccountInfo


class Entry(Struct, frozen=True, kw_only=True):
    """One line of an account's history.

    `amount` is above zero for money put in, below for what a request was charged: all of them add up to what is
    available and held.
    """

    at: datetime
    kind: Literal["grant", "usage"]
    id: str
    amount: Dollars
    note: str | None = None
    state: Literal["held", "captured", "released", "swept"] | None = None
    held: Dollars | None = None
    key: str | None = None
    model: str | None = None
    channel: str | None = None
    images: int | None = None
    request_id: str | None = None


class UsageQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to add up: requests that began from `since` on and before `until`, by these things; days are UTC's."""

    by: tuple[Group, ...] = ("key", "model", "day")
    account: str | None = None
    key: str | None = None
    since: Time | None = None
    until: Time | None = None


class UsageRow(Struct, frozen=True, kw_only=True):
    """What one group came to. It has the fields that were asked for.

    `failed` ended without a picture and cost nothing; `running` have not ended. `cost` is the vendors' price, as far
    as it is known: `unknown_costs` counts the requests where nobody knows.
    """

    account: str | UnsetType = UNSET
    key: str | UnsetType = UNSET
    model: str | UnsetType | None = UNSET
    channel: str | UnsetType | None = UNSET
    day: str | UnsetType = UNSET
    requests: int
    failed: int
    running: int
    images: int
    input_tokens: int
    output_tokens: int
    charged: Dollars
    cost: Dollars
    unknown_costs: int


class Page(Struct, Generic[T], frozen=True):
    """Some of many; `next` leads on from here, `None` at the end."""

    data: tuple[T, ...]
    next: str | None = None


class Keys(Protocol):
    """The port for keys: each change counts everywhere within a second.

    Every verb that changes raises `InvalidRequestError` for what cannot be, `NotFoundError` for a key that is none, and
    `StorageUnavailableError`.
    """

    async def create(self, order: KeyOrder) -> NewKey:
        """Make a key; its name must be new."""
        ...

    async def list(
        self, *, account: str | None = None, name: str | None = None, after: str | None = None, limit: int = USUAL
    ) -> Page[KeyInfo]:
        """List keys, ordered by their ids."""
        ...

    async def show(self, key: str) -> KeyInfo:
        """Look one up by its id."""
        ...

    async def revoke(self, key: str) -> KeyInfo:
        """Let it count no more, for ever."""
        ...

    async def roll(self, key: str, roll: Roll) -> NewKey:
        """Replace it by another one that may do the same."""
        ...

    async def allow(self, key: str, change: KeyChange) -> KeyInfo:
        """Change what it may do; a budget, for all keys of its name."""
        ...


class Accounts(Protocol):
    """The port for accounts; raises as `Keys` does."""

    async def create(self, order: AccountOrder) -> AccountInfo:
        """Open an account; one that was only metered so far begins anew, what it spent is forgiven."""
        ...

    async def list(self, *, after: str | None = None, limit: int = USUAL) -> Page[AccountInfo]:
        """List accounts, ordered by their names."""
        ...

    async def show(self, name: str) -> AccountInfo:
        """Look one up."""
        ...

    async def topup(self, name: str, topup: TopUp) -> ToppedUp:
        """Put money in, once for each id; an account without limit stays so."""
        ...

    async def credit(self, name: str, credit: Credit) -> AccountInfo:
        """Change how far below zero it may go."""
        ...

    async def history(self, name: str, *, before: str | None = None, limit: int = USUAL) -> Page[Entry]:
        """List what was put in and what was spent, newest first."""
        ...


class Manager(Protocol):
    """All verbs."""

    @property
    def keys(self) -> Keys:
        """Those of keys."""
        ...

    @property
    def accounts(self) -> Accounts:
        """Those of accounts."""
        ...

    async def usage(self, query: UsageQuery) -> tuple[UsageRow, ...]:
        """Add up what was used.

        Raises:
            InvalidRequestError: these would be too many rows.
        """
        ...


async def every(ask: Callable[..., Awaitable[Page[T]]], **told: Any) -> AsyncIterator[T]:  # noqa: ANN401, whatever it takes
    """Ask for page after page."""
    after: str | None = None
    while True:
        page = await ask(**told, limit=MOST_AT_ONCE, after=after)
        for one in page.data:
            yield one
        if page.next is None:
            return
        after = page.next
