"""What tests of whole streams share: a gateway with scripted upstreams behind it, and books that tell of every end."""

import json
import queue
import socket
import threading
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any, Final

import anyio
import httpx2  # noqa: TID251, the test's client
from msgspec import Struct
from starlette.types import ASGIApp, Receive, Scope, Send

from amux_asgi import ChannelConfig, Config, GatewayConfig, ImagesApp, KeyConfig, MemoryLedger, PriceConfig, images_app
from amux_asgi.quota import Answer, Order, Settlement
from amux_asgi.wallets import Wallet
from tests.serve import serve
from tests.stream_stub import HEAD, Step, Tape, picture
from tests.stub import Stub, upstream

PATH: Final = "/v1/images/generations"
SECRET: Final = "the-credential-of-the-channel"
KEY: Final = "stream-key-of-the-tests-1"
ASK: Final[dict[str, Any]] = {"model": "m", "prompt": "a lantern", "stream": True}
NOW: Final = 1_800_000_000  # seconds of Unix time
CENT: Final = 10_000_000  # nano-dollars
COST: Final[dict[str, Any]] = {"x_amux": {"attempts": 1, "cost": "0.01"}}
WALLET: Final = "account:me"


class End(Struct, frozen=True):
    """How a reservation ended: what was charged, and how each attempt ended."""

    charged: int  # nano-dollars
    attempts: tuple[str, ...]
    images: int


class Books(MemoryLedger):
    """A ledger that tells of every end; one dollar is in it."""

    def __init__(self) -> None:
        super().__init__([Wallet(id=WALLET, available=100 * CENT, credit=0)])
        self.ends: queue.SimpleQueue[End] = queue.SimpleQueue()
        self.earned: list[tuple[int, int]] = []  # nano-dollars in all, and for how many pictures

    async def earn(self, order: Order, earned: int, images: int) -> None:
        await super().earn(order, earned, images)
        self.earned.append((earned, images))

    async def capture(self, order: Order, settlement: Settlement, answer: Answer | None = None) -> int:
        charged = await super().capture(order, settlement, answer)
        self._tell(charged, settlement)
        return charged

    def release(self, order: Order, settlement: Settlement) -> None:
        super().release(order, settlement)
        self._tell(settlement.charged, settlement)

    def _tell(self, charged: int, settlement: Settlement) -> None:
        attempts = tuple(attempt.end for attempt in settlement.attempts)
        self.ends.put(End(charged, attempts, settlement.images))


class Clock:
    """A clock that can be put on, so that upstreams that failed have rested."""

    def __init__(self) -> None:
        self.ahead = 0.0  # seconds

    def __call__(self) -> float:
        return time.monotonic() + self.ahead


class Stage(Struct, frozen=True):
    """A gateway with two upstreams, the second asked where the first refuses, and what came of it all."""

    images: ImagesApp
    stub: Stub
    books: Books
    tape: Tape
    second: Tape
    clock: Clock

    def play(self, *steps: Step, head: bytes = HEAD) -> None:
        """Say what the first upstream plays from now on."""
        self.tape.steps, self.tape.head = steps, head
        self.stub.requests.clear()
        while not self.books.ends.empty():  # of a test that failed
            self.books.ends.get()
        while self.stub.closed.acquire(blocking=False):
            pass
        self.clock.ahead += 3600

    def wallet(self) -> tuple[int, int, int]:
        """Give what is available, held and captured, in cents."""
        wallet = anyio.run(self.books.get, WALLET)
        assert wallet is not None
        return wallet.available // CENT, wallet.held // CENT, wallet.captured // CENT

    def all_left(self, posts: int) -> None:
        """Wait until every connection to the upstream is closed, and see that there were so many, one POST each."""
        for _ in range(posts):
            self.stub.closed.acquire()
        assert (self.stub.open, self.stub.posts) == (0, posts)


@contextmanager
def staged(**gateway: Any) -> Generator[Stage]:
    """Make a gateway whose pictures cost a cent each; the options are those of `[gateway]`."""
    tape, second = Tape(), Tape(picture())
    with upstream(scripts={"/tape": tape.play, "/second": second.play}) as stub:
        books, clock = Books(), Clock()
        channels = [
            ChannelConfig(
                name=name, adapter="openai-compatible", base_url=f"{stub.url}/{name}", credentials=(SECRET,),
                models=("m",), priority=-i,
            )
            for i, name in enumerate(("tape", "second"))
        ]  # fmt: skip
        images = images_app(
            Config(gateway=GatewayConfig(**gateway)),
            channels=channels,
            keys=[KeyConfig(name="me", key=KEY)],
            prices={"m": PriceConfig(image="0.01")},
            ledger=books,
            clock=clock,
            now=lambda: datetime.fromtimestamp(NOW, tz=UTC),
        )
        yield Stage(images, stub, books, tape, second, clock)


def paid(images: int = 1) -> End:
    """Say how it ended with pictures, asked for once."""
    return End(images * CENT, ("billed",), images)


@contextmanager
def asking(images: ImagesApp) -> Generator[httpx2.Client]:
    """Serve it, and give a client with its key."""
    with (
        serve(images) as url,
        httpx2.Client(base_url=url, headers={"authorization": f"Bearer {KEY}"}, timeout=60) as client,
    ):
        yield client


class Watched:
    """An app that tells when it is done with a request."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.done = threading.Semaphore(0)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope."""
        await self._app(scope, receive, send)
        if scope["type"] == "http":
            self.done.release()


class Line:
    """A client on a bare socket, which takes as much as a test says and leaves when it says."""

    def __init__(self, url: str, *, buffer: int | None = None, headers: Mapping[str, str] = {}, **fields: Any) -> None:
        """Ask; `buffer` is how many bytes the system may take before somebody reads them."""
        host, port = url.removeprefix("http://").split(":")
        self._socket = socket.socket()
        if buffer is not None:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self._socket.connect((host, int(port)))
        body = json.dumps({**ASK, **fields}).encode()
        told = {"authorization": f"Bearer {KEY}", "content-type": "application/json", **headers}
        lines = [f"POST {PATH} HTTP/1.1", "host: x", "connection: close", f"content-length: {len(body)}"]
        head = "\r\n".join([*lines, *(f"{name}: {value}" for name, value in told.items())])
        self._socket.sendall(head.encode() + b"\r\n\r\n" + body)
        self.taken = bytearray()

    def until(self, mark: bytes) -> bytes:
        """Read until these bytes have come; give all that came."""
        seen = 0
        while self.taken.find(mark, seen) < 0:
            seen = max(0, len(self.taken) - len(mark))
            piece = self._socket.recv(65_536)
            assert piece, self.taken
            self.taken += piece
        return bytes(self.taken)

    def rest(self) -> bytes:
        """Read to the end; give all that came."""
        with suppress(ConnectionError):
            while piece := self._socket.recv(65_536):
                self.taken += piece
        self.leave()
        return bytes(self.taken)

    def leave(self) -> None:
        """Close the connection, whatever has not been read."""
        self._socket.close()
