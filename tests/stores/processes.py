"""Gateways of nothing but a ledger, in processes of their own: made by forking, so that many are cheap to kill.

`python -m tests.stores.processes URL` reads lines of JSON, forks a process for each, and tells its id; what the
processes say comes on the same pipe, one line each.
"""

import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio

from amux_asgi.errors import GatewayError
from amux_asgi.stores.sql import SqlStores
from amux_asgi.stores.sql.operation import Pace, Task
from tests.stores.world import QUICK, opened_store, order, paid

EACH = 3  # that a picture of a stream is worth
ROOT = Path(__file__).parents[2]


class Processes:
    """The processes of one test, and what they say."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._kept: list[list[str]] = []

    def start(self, what: str, **told: Any) -> int:
        """Start one, and give its process id."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"what": what, **told}) + "\n")
        self._process.stdin.flush()
        return int(self.hear("started")[1])

    def hear(self, *wanted: str) -> list[str]:
        """Wait for a line that begins with one of these words; what is heard before is kept."""
        for i, words in enumerate(self._kept):
            if words[0] in wanted:
                return self._kept.pop(i)
        while (words := self._line())[0] not in wanted:
            self._kept.append(words)
        return words

    def until(self, wanted: str) -> list[list[str]]:
        """Give all lines up to one that begins with this word, that one the last."""
        while not any(words[0] == wanted for words in self._kept):
            self._kept.append(self._line())
        lines, self._kept = self._kept, []
        return lines

    def _line(self) -> list[str]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "all processes have ended"
        return line.split()


@contextmanager
def processes(url: str) -> Generator[Processes]:
    """Be ready to start processes on a database; left, all are killed."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.stores.processes", url],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        with process:
            yield Processes(process)
            assert process.stdin is not None
            process.stdin.close()
            process.wait(20)
    finally:
        os.killpg(process.pid, signal.SIGKILL) if process.returncode is None else None


def say(*words: object) -> None:
    os.write(1, (" ".join(map(str, words)) + "\n").encode())  # at once and in one piece


async def hold_many(url: str, name: str, number: int) -> None:
    """Hold as often as told, all at once, and tell how many succeeded."""
    held: list[str] = []

    async def hold(row: str) -> None:
        try:
            await stores.ledger.hold(order(row))
            held.append(row)
        except GatewayError as error:
            if error.code != "insufficient_quota":
                say("failed", error.code)

    async with opened_store(url, Pace(patience=30)) as stores:
        async with anyio.create_task_group() as tasks:
            for i in range(number):
                tasks.start_soon(hold, f"gen_{name}_{i}")
        for row in held:
            await stores.ledger.capture(order(row), paid())
    say("held", len(held))


async def work(url: str, name: str, number: int, pace: float) -> None:
    """Hold and end one after the other in eight tasks, and tell of each step, until killed."""

    async def one(task: int) -> None:
        for i in range(number):
            row = order(f"gen_{name}_{task}_{i}", 10 + task)
            try:
                await stores.ledger.hold(row)
                say("h", row.id)
                for picture in range(i % 3):
                    await stores.ledger.earn(row, EACH * (picture + 1), picture + 1)
                    say("e", row.id, EACH * (picture + 1))
                if i % 4 == 3:
                    stores.ledger.release(row, paid(EACH * (i % 3)))
                else:
                    say("c", row.id, await stores.ledger.capture(row, paid(10)))
            except GatewayError as error:
                say("failed", error.code)

    async with opened_store(url, Pace(dead_after=pace)) as stores, anyio.create_task_group() as tasks:
        for task in range(8):
            tasks.start_soon(one, task)
    say("done")


async def wait_and_capture(url: str, charged: int) -> None:
    """Hold, be stopped, and capture when going on."""
    async with opened_store(url, QUICK) as stores:
        await stores.ledger.hold(order("gen_late"))
        say("holding")
        await be_stopped(stores)
        try:
            say("captured", await stores.ledger.capture(order("gen_late"), paid(charged)))
        except GatewayError as error:
            say("refused", error.status, error.code, error.retry)
        await stores.ledger.hold(order("gen_afterwards", 1))
        say("afterwards", await stores.ledger.capture(order("gen_afterwards", 1), paid(0)))


async def stream(url: str, totals: list[int], late: int) -> None:
    """Hold, earn so much in all with each picture, be killed or stopped, and try to earn more when going on."""
    row = order("gen_stream")
    async with opened_store(url, QUICK) as stores:
        await stores.ledger.hold(row)
        for pictures, total in enumerate(totals, 1):
            await stores.ledger.earn(row, total, pictures)
        say("holding")
        await be_stopped(stores)
        try:
            await stores.ledger.earn(row, late, len(totals) + 1)
        except GatewayError as error:
            say("refused", error.status, error.retry)
        say("captured", await stores.ledger.capture(row, paid(late)))


class Parking(Task[None]):
    """Keeps the writer's thread between two transactions: stopped within one, it would hold what others wait for."""

    abandoned = True  # so that it is only taken back, which is done by that thread

    def __init__(self) -> None:
        super().__init__(lambda _: None, deadline=0)
        self.parked = threading.Event()
        self.over = threading.Event()

    def undo(self) -> None:
        self.parked.set()
        self.over.wait()


async def be_stopped(stores: SqlStores) -> None:
    """Stop this process until another one lets it go on."""
    parking = Parking()
    stores.writer.put(parking)
    await anyio.to_thread.run_sync(parking.parked.wait)
    os.kill(os.getpid(), signal.SIGSTOP)
    parking.over.set()


async def fill_disk(url: str) -> None:
    """Hold while no file can grow, and when it can again."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    async with opened_store(url, Pace(patience=0.5)) as stores:
        await stores.ledger.hold(order("gen_before"))
        size, most = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, most))
        for i in range(3):
            begun = time.monotonic()
            try:
                await stores.ledger.hold(order(f"gen_full_{i}"))
            except GatewayError as error:
                say("refused", error.status, error.code, time.monotonic() - begun < 2)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, most))
        await stores.ledger.hold(order("gen_after"))
        say("captured", await stores.ledger.capture(order("gen_before"), paid()))
    say("done")


async def create(url: str) -> None:
    """Open a database that may not be there yet."""
    async with opened_store(url, Pace(patience=60, lock=60)) as stores:
        await stores.ledger.get("account:a")
    say("opened")


WHAT = {
    "hold": hold_many,
    "work": work,
    "late": wait_and_capture,
    "stream": stream,
    "full": fill_disk,
    "create": create,
}


def main() -> None:
    """Fork a process for each line."""
    for line in sys.stdin:
        told = json.loads(line)
        process = os.fork()
        if process == 0:
            sys.stdin.close()
            try:
                anyio.run(partial(WHAT[told.pop("what")], sys.argv[1], **told))
            except BaseException as exc:
                say("failed", repr(exc))
                raise
            finally:
                sys.stdout.flush()
            return
        say("started", process)


if __name__ == "__main__":
    main()
