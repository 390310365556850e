"""A database that is opened when it is needed: for as long as a lifespan runs, otherwise for one piece of work."""

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, Protocol

from anyio.lowlevel import RunVar

from amux_asgi.errors import NotStartedError
from amux_asgi.keys import KeyStore, Principal
from amux_asgi.lifespans import Shared
from amux_asgi.manage import Manager
from amux_asgi.plugins import load
from amux_asgi.quota import Answer, Ledger, Order, Settlement
from amux_asgi.runtime import unix_ms
from amux_asgi.wallets import Wallet

STORE: Final = "amux_asgi.stores.sql"


class Stores(Protocol):
    """What is open of a database: the face of `amux_asgi.stores.sql.SqlStores`, whose extra may be missing."""

    @property
    def ledger(self) -> Ledger:
        """Its money."""
        ...

    @property
    def keys(self) -> KeyStore:
        """Its API keys."""
        ...

    @property
    def manage(self) -> Manager:
        """What an operator does to it."""
        ...


class Database:
    """A database by its URL.

    Constructing it opens nothing: safe before a fork, in several threads, on several loops one after the other.
    `clock` is monotonic, in seconds; `now` is Unix time in milliseconds. `ledger` is its money, which
    wants the lifespan, and `keys` are its API keys: both for middleware.

    Raises:
        ConfigError: the URL is none, or what it needs is not installed.
    """

    def __init__(
        self,
        url: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], int] = unix_ms,
    ) -> None:
        load(f"{STORE}.engine:open_engine")(url)  # refused here, not by the first request
        self.url = url
        self.clock = clock
        self.now = now
        self._open = load(f"{STORE}:open_store")
        self._shared: RunVar[Shared[Any]] = RunVar("amux_asgi database")
        self.ledger: Ledger = _Money(self)
        self.keys: KeyStore = _Keys(self)

    @asynccontextmanager
    async def lifespan(self, app: object = None) -> AsyncGenerator[None]:  # noqa: ARG002, a lifespan gets its app
        """Keep it open on this event loop until left; who enters while it is open, joins.

        Raises:
            ConfigError: it cannot be used.
        """
        async with self.opened():
            yield

    def current(self) -> Stores | None:
        """Give what is open on this event loop, if anything is."""
        shared = self._shared.get(None)
        return None if shared is None else shared.value

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[Any]:
        """Give what is open on this event loop, a `SqlStores`, or open it until everybody who uses it has left.

        Raises:
            ConfigError: it cannot be used.
        """
        shared = self._shared.get(None)
        if shared is None:
            shared = Shared(lambda: self._open(self.url, clock=self.clock, now=self.now))
            self._shared.set(shared)
        stores = await shared.enter()
        try:
            yield stores
        finally:
            await shared.leave()


class _Money:
    """The ledger of whatever is open on this event loop, for middleware that is made before anything is open."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def hold(self, order: Order) -> None:
        await self._open().hold(order)

    async def earn(self, order: Order, earned: int, images: int) -> None:
        await self._open().earn(order, earned, images)

    async def capture(self, order: Order, settlement: Settlement, answer: Answer | None = None) -> int:
        return await self._open().capture(order, settlement, answer)

    def release(self, order: Order, settlement: Settlement) -> None:
        self._open().release(order, settlement)

    async def get(self, wallet: str) -> Wallet | None:
        return await self._open().get(wallet)

    def _open(self) -> Ledger:
        stores = self._database.current()
        if stores is None:
            raise NotStartedError("the database was never opened: give its lifespan to the outermost app")
        return stores.ledger


class _Keys:
    """The keys likewise; without the lifespan, each look opens the database for itself."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def authenticate(self, key: str, peer: str | None = None) -> Principal:
        stores = self._database.current()
        if stores is not None:
            return await stores.keys.authenticate(key, peer)
        async with self._database.opened() as opened:
            principal: Principal = await opened.keys.authenticate(key, peer)
        return principal
