"""Each server treats a client that leaves in its own way; what it costs is the same."""

import os
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

import anyio
import pytest

from tests.app.test_mounting import free_port
from tests.children import listens, until
from tests.middleware.bank import CENT, ask, asking, in_database, spent

pytestmark = pytest.mark.anyio

COMMANDS: Final = {
    "uvicorn": ["uvicorn", "--host", "127.0.0.1", "--port"],
    "granian": ["granian", "--interface", "asgi", "--host", "127.0.0.1", "--port"],
    "hypercorn": ["hypercorn", "--worker-class", "asyncio", "--bind"],
    "hypercorn on trio": ["hypercorn", "--worker-class", "trio", "--bind"],
}


@contextmanager
def running(server: str, database: str) -> Generator[tuple[str, IO[str]]]:
    """Run a server; give its URL, and what the app in it says."""
    port = free_port()
    address = f"127.0.0.1:{port}" if COMMANDS[server][-1] == "--bind" else str(port)
    command = [sys.executable, "-m", *COMMANDS[server], address, "tests.middleware.charged_server:app"]
    told = {**os.environ, "MONEY": database, "PYTHONPATH": os.fspath(Path.cwd())}
    with subprocess.Popen(command, env=told, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{port}", process.stdout
        finally:
            process.terminate()


def hear(said: IO[str], wanted: str) -> None:
    """Read until the app has said it; servers say other things."""
    assert any(line.strip() == wanted for line in said), f"the server ended without {wanted!r}"


async def answered(url: str) -> int:
    """Ask as soon as it listens."""
    await anyio.to_thread.run_sync(until, lambda: listens(int(url.rpartition(":")[2])))
    return (await ask(url))[0]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("server", COMMANDS)
async def test_what_a_client_that_leaves_pays_is_the_same_on_every_server(server: str, database: str) -> None:
    """Nothing before the answer began, all of it after that."""
    async with in_database(database) as stores:
        with running(server, database) as (url, said):
            assert await answered(url) == 200
            hear(said, "ended")
            paid = [await spent(stores.ledger)]
            async with asking(url, "/listens"):
                await anyio.to_thread.run_sync(hear, said, "arrived")
            await anyio.to_thread.run_sync(hear, said, "ended")
            paid.append(await spent(stores.ledger))
            async with asking(url, "/breaks") as client:
                await client.read_until(b"one,")
            await anyio.to_thread.run_sync(hear, said, "ended")
            paid.append(await spent(stores.ledger))

    assert paid == [CENT, CENT, 2 * CENT]
