"""Programs that are started on a core of their own, and what the kernel knows about them. Linux only."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

TICKS: Final = os.sysconf("SC_CLK_TCK")
PATIENCE: Final = 120  # seconds until a program must listen
REST: Final = 0.25  # seconds; whoever works for less than a tenth of them has done what was asked
LONGEST_REST: Final = 30  # seconds


class FailedError(Exception):
    """A program ended, or did not listen in time; the message says what it said last."""


def free_port() -> int:
    """Find a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


@contextmanager
def on_cores(cores: set[int]) -> Generator[None]:
    """Start what is started here on these cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def running(
    command: Sequence[str | Path], port: int, log: Path, *, cores: set[int], variables: Mapping[str, str] | None = None
) -> Generator[int]:
    """Run a program that listens until left, and give its process id.

    Raises:
        FailedError: it does not listen.
    """
    with on_cores(cores), log.open("wb") as said:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            env={**os.environ, **(variables or {})},
            cwd=log.parent,
            start_new_session=True,
        )
    try:
        _await_port(process, port, log)
        yield process.pid
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _await_port(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    last = time.monotonic() + PATIENCE
    while time.monotonic() < last and process.poll() is None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    words = log.read_text(errors="replace").strip().splitlines() or ["it said nothing"]
    raise FailedError(f"it does not listen: {words[-1][:200]}")


def tree(pid: int) -> Iterator[int]:
    """List a process and all that it started."""
    yield pid
    for thread in _there(Path(f"/proc/{pid}/task")):
        for child in _text(thread / "children").split():
            yield from tree(int(child))


def processor_seconds(pid: int) -> float:
    """Sum the processor time of a process and of what it started."""
    fields = [_text(Path(f"/proc/{one}/stat")).rpartition(")")[2].split() for one in tree(pid)]
    return sum(int(told[11]) + int(told[12]) for told in fields if told) / TICKS


def memory(pid: int, what: str) -> int:
    """Sum the bytes that are resident (`VmRSS`), or were at the worst moment (`VmHWM`)."""
    lines = [line.split() for one in tree(pid) for line in _text(Path(f"/proc/{one}/status")).splitlines()]
    return sum(int(line[1]) * 1024 for line in lines if line and line[0] == f"{what}:")


def forget_peak(pid: int) -> None:
    """Let the worst moment be now."""
    for one in tree(pid):
        with suppress(OSError):
            Path(f"/proc/{one}/clear_refs").write_text("5")


def settle(pid: int) -> None:
    """Wait until a process rests: some go on working for clients that have left."""
    last = time.monotonic() + LONGEST_REST
    while time.monotonic() < last:
        before = processor_seconds(pid)
        time.sleep(REST)
        if processor_seconds(pid) - before < REST / 10:
            return


def _there(folder: Path) -> list[Path]:
    with suppress(OSError):
        return list(folder.iterdir())
    return []


def _text(path: Path) -> str:
    with suppress(OSError):  # it may just have ended
        return path.read_text(encoding="ascii", errors="replace")
    return ""
