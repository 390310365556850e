"""The standalone gateway dies by SIGKILL: the sum adds up, and nobody pays twice."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx2  # noqa: TID251, the test's client
import pytest
import sqlalchemy as sa

from amux_asgi.stores.sql import open_store
from amux_asgi.stores.sql.operation import Pace
from tests.app.test_mounting import asked_until_it_listens, free_port
from tests.stub import Stub, upstream

CENT = 10_000_000
KEY = "crash-key-of-the-tests-1"
CONFIG = """
[gateway]
database = "{database}"

[[channels]]
name = "up"
adapter = "openai-compatible"
base_url = "{upstream}"
models = ["m"]

[[keys]]
name = "me"
key = "crash-key-of-the-tests-1"
balance = "1"

[prices.m]
image = "0.01"
"""


@pytest.fixture
def stub() -> Generator[Stub]:
    with upstream() as running:
        yield running


class Server:
    """A standalone gateway in a process of its own."""

    def __init__(self, process: subprocess.Popen[bytes], url: str) -> None:
        self.process = process
        self.url = url

    def ask(self, key: str) -> httpx2.Response:
        """Ask for a picture under an idempotency key."""
        headers = {"authorization": f"Bearer {KEY}", "idempotency-key": key}
        body = {"model": "m", "prompt": "a lantern"}
        return httpx2.post(f"{self.url}/v1/images/generations", json=body, headers=headers, timeout=60)

    def ask_and_be_cut_off(self, key: str) -> threading.Thread:
        """Ask likewise, in the background, and expect no answer."""

        def run() -> None:
            with pytest.raises(httpx2.TransportError):
                self.ask(key)

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    def kill(self) -> None:
        """Kill it at once."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@contextmanager
def serving(folder: Path, database: str, base_url: str) -> Generator[Server]:
    config = folder / "amux.toml"
    config.write_text(CONFIG.format(database=database, upstream=base_url))
    port = free_port()
    command = [sys.executable, "-m", "amux_asgi", "serve", "--config", config, "--port", str(port)]
    with subprocess.Popen(command) as process:
        try:
            asked_until_it_listens(f"http://127.0.0.1:{port}")
            yield Server(process, f"http://127.0.0.1:{port}")
        finally:
            process.kill()


def rows(database: str, question: str) -> list[tuple[Any, ...]]:
    engine = sa.create_engine(database.replace("postgresql://", "postgresql+psycopg://"), poolclass=sa.NullPool)
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(sa.text(question))]


def wallet(database: str) -> tuple[float, float, float]:
    """Give what is available, held and captured, in cents."""
    ((available, held, captured),) = rows(database, "SELECT available, held, captured FROM wallets")
    return available / CENT, held / CENT, captured / CENT


def sweep(database: str) -> None:
    """Be another process, which finds out that one is dead."""

    async def run() -> None:
        pace = Pace(dead_after=0.3)
        async with open_store(database, clock=time.monotonic, now=lambda: 1, pace=pace) as stores:
            with anyio.fail_after(30):
                while rows(database, "SELECT 1 FROM usage WHERE state = 'held'"):
                    await stores.ledger.get("account:me")

    anyio.run(run)


def test_killed_while_the_upstream_works(tmp_path: Path, database: str, stub: Stub) -> None:
    """The money comes back, nobody knows what it cost upstream, and the same key may be used again: one charge."""
    with serving(tmp_path, database, f"{stub.url}/wait") as server:
        cut_off = server.ask_and_be_cut_off("k-1")
        stub.waiting.acquire()
        held = wallet(database)
        server.kill()
        cut_off.join()
    sweep(database)
    swept = wallet(database), rows(database, "SELECT state, charged, cost FROM usage")
    with serving(tmp_path, database, f"{stub.url}/v1") as server:
        again = server.ask("k-1")

    assert held == (99, 1, 0)
    assert swept == ((100, 0, 0), [("swept", 0, None)])
    assert (again.status_code, "idempotent-replayed" in again.headers) == (200, False)
    assert wallet(database) == (99, 0, 1)
    assert stub.posts == 2


def test_killed_after_the_charge(tmp_path: Path, database: str, stub: Stub) -> None:
    """What was charged is delivered: the same key gets the very bytes, and nobody is asked again."""
    with serving(tmp_path, database, f"{stub.url}/v1") as server:
        first = server.ask("k-1")
        server.kill()
    with serving(tmp_path, database, f"{stub.url}/v1") as server:
        again = server.ask("k-1")

    assert (again.content, again.headers["idempotent-replayed"]) == (first.content, "true")
    assert wallet(database) == (99, 0, 1)
    assert stub.posts == 1


def test_killed_under_load_again_and_again(tmp_path: Path, database: str, stub: Stub) -> None:
    """Whatever it was doing: opening = available + held + captured, and nothing stays held."""
    for delay in range(3):
        with serving(tmp_path, database, f"{stub.url}/v1") as server:
            threads = [threading.Thread(target=_hammer, args=(server, f"{delay}-{i}")) for i in range(8)]
            for thread in threads:
                thread.start()
            stub.wait_for(stub.posts + 1 + 3 * delay)
            server.kill()
            for thread in threads:
                thread.join()
    sweep(database)

    available, held, captured = wallet(database)
    ((charged,),) = rows(database, "SELECT SUM(charged) FROM usage")
    assert (available + captured, held) == (100, 0)
    assert captured == charged / CENT
    assert captured <= stub.posts


def _hammer(server: Server, name: str) -> None:
    """Ask until nobody answers any more."""
    try:
        for i in range(1000):
            server.ask(f"{name}-{i}")
    except httpx2.TransportError:
        pass
