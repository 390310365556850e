"""Ledgers with money in them, and apps and clients that spend it."""

import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from threading import Event
from typing import Any, Final

import anyio
import sqlalchemy as sa
from starlette.types import Receive, Scope, Send

from amux_asgi import AuthMiddleware, ErrorMiddleware, KeyConfig, QuotaMiddleware, charge, fixed_keys
from amux_asgi.errors import StorageUnavailableError
from amux_asgi.quota import Answer, Ledger, MemoryLedger, Order, Settlement
from amux_asgi.stores.sql import SqlStores, open_store
from amux_asgi.stores.sql.operation import Task
from amux_asgi.stores.sql.schema import USAGE, WALLETS
from amux_asgi.wallets import Wallet, account_wallet
from tests.middleware.apps import KEY
from tests.middleware.vendor import PATIENCE, until

DOLLAR: Final = 10**9
CENT: Final = DOLLAR // 100
WALLET: Final = account_wallet("team")
BEARER: Final = f"Authorization: Bearer {KEY}"
KEYS: Final = fixed_keys([KeyConfig(name="team-key", key=KEY, account="team", passthrough=("*",))])


def in_memory(money: int = DOLLAR) -> MemoryLedger:
    """Make a ledger where the team has this much."""
    return MemoryLedger([Wallet(id=WALLET, available=money, credit=0)])


@asynccontextmanager
async def in_database(url: str, money: int = DOLLAR) -> AsyncGenerator[SqlStores]:
    """Open a database where the team has this much."""
    row = {"id": WALLET, "available": money, "held": 0, "captured": 0, "granted": money, "credit": 0}
    async with open_store(url, clock=time.monotonic, now=lambda: 1) as stores:
        await stores.writer.run(
            Task(lambda transaction: transaction.connection.execute(WALLETS.insert(), row), stores.writer.clock() + 10)
        )
        yield stores


async def usage(stores: SqlStores) -> list[dict[str, Any]]:
    """Read the usage rows, behind all that was asked for before."""
    question = sa.select(USAGE)
    work = Task(
        lambda transaction: [dict(row) for row in transaction.connection.execute(question).mappings()],
        stores.writer.clock() + 10,
    )
    return await stores.writer.run(work)


async def spent(ledger: Ledger, opening: int = DOLLAR) -> int:
    """Say what the team has spent; nothing may be held any more, and it adds up."""
    wallet = await ledger.get(WALLET)
    assert wallet is not None
    assert (wallet.held, wallet.granted) == (0, opening)
    return wallet.captured


class Broken(MemoryLedger):
    """A ledger that can write down one kind of thing no more."""

    def __init__(self, verb: str, error: Exception | None = None) -> None:
        super().__init__([Wallet(id=WALLET, available=DOLLAR, credit=0)])
        self.verb = verb
        self.error = error or StorageUnavailableError("the database cannot be written at present", retry_after=5)

    async def hold(self, order: Order) -> None:
        self._check("hold")
        await super().hold(order)

    async def capture(self, order: Order, settlement: Settlement, answer: Answer | None = None) -> int:
        self._check("capture")
        return await super().capture(order, settlement, answer)

    def _check(self, verb: str) -> None:
        if verb == self.verb:
            raise self.error


class Slow(MemoryLedger):
    """A ledger that writes a capture down when it is told to."""

    def __init__(self) -> None:
        super().__init__([Wallet(id=WALLET, available=DOLLAR, credit=0)])
        self.asked = anyio.Event()
        self.go_on = anyio.Event()

    async def capture(self, order: Order, settlement: Settlement, answer: Answer | None = None) -> int:
        self.asked.set()
        await self.go_on.wait()
        return await super().capture(order, settlement, answer)


class Shop:
    """An app that knows nothing of money but what it did cost; the path says how it answers."""

    def __init__(self) -> None:
        self.seen = 0
        self.arrived = Event()
        self.go_on = Event()
        self.left = Event()  # the client, as the app was told

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.seen += 1
        self.arrived.set()
        path: str = scope["path"]
        if path.startswith("/cost/"):
            charge(scope, path.removeprefix("/cost/"))
        if path == "/raise":
            raise ZeroDivisionError
        if path == "/nothing":
            return
        if path == "/waits":  # and hears nothing meanwhile
            await until(self.go_on)
        if path == "/listens":
            await self._listen(receive)
        status = int(path[1:]) if path[1:].isdecimal() else 200
        await send({"type": "http.response.start", "status": status, "headers": [(b"x-mine", b"1")]})
        await send({"type": "http.response.body", "body": b"one,", "more_body": True})
        if path == "/streams":
            await until(self.go_on)
        if path == "/breaks":
            await self._listen(receive)
            return
        await send({"type": "http.response.body", "body": b"two"})

    async def _listen(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.left.set()


def stack(app: Any, ledger: Ledger, **options: Any) -> Any:
    """Put errors, keys and money in front of an app."""
    told = options or {"price": "0.01"}
    return ErrorMiddleware(AuthMiddleware(QuotaMiddleware(app, ledger=ledger, **told), keys=KEYS))


class Client:
    """One connection that asks once."""

    def __init__(self, stream: anyio.abc.SocketStream) -> None:
        self._stream = stream
        self.got = b""

    async def read_until(self, wanted: bytes) -> None:
        with anyio.fail_after(PATIENCE):
            while wanted not in self.got:
                self.got += await self._stream.receive()

    async def read(self) -> tuple[int, bytes]:
        """Give status and body."""
        with anyio.fail_after(60):
            try:
                while True:
                    self.got += await self._stream.receive()
            except anyio.EndOfStream:
                head, _, body = self.got.partition(b"\r\n\r\n")
                return int(head.split(b" ")[1]), body


@asynccontextmanager
async def asking(url: str, path: str = "/", method: str = "GET", *headers: str) -> AsyncGenerator[Client]:
    """Ask; left, the connection is closed."""
    host, _, port = url.removeprefix("http://").partition(":")
    head = [f"{method} {path} HTTP/1.1", "Host: test", BEARER, "Connection: close", *headers]
    async with await anyio.connect_tcp(host, int(port)) as stream:
        await stream.send("\r\n".join((*head, "", "")).encode())
        yield Client(stream)


async def ask(url: str, path: str = "/", method: str = "GET", *headers: str) -> tuple[int, bytes]:
    """Ask, and give status and body."""
    async with asking(url, path, method, *headers) as client:
        return await client.read()
