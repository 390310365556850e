"""Which server carries the standalone gateway: what each one holds of faults.md, and what a request costs on it.

All serve the same app with the limits that their own options give. A request's cost is the server's processor time.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from rich.console import Console
from rich.table import Table

from tests.framing import SMUGGLING

LIMIT: Final = 5  # seconds that heads and readers are given
REQUESTS: Final = 20_000  # in one round, over 32 connections
CONNECTIONS: Final = 32
ROUNDS: Final = 5
GET: Final = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
OURS: Final = f"""
import sys
from amux_asgi.server import *
settings = ServerSettings(port=int(sys.argv[1]), head_timeout={LIMIT}, write_timeout={LIMIT})
serve("tests.server_app:make", settings)
"""
UVICORN: Final = ["-m", "uvicorn", "tests.server_app:app", "--no-access-log", "--log-level", "error"]
SERVERS: Final = {
    "amux-asgi serve": ["-c", OURS],
    "uvicorn, httptools": [*UVICORN, "--http", "httptools", "--loop", "uvloop", "--port"],
    "uvicorn, h11": [*UVICORN, "--http", "h11", "--loop", "uvloop", "--port"],
    "granian": [
        *["-m", "granian", "--interface", "asgi", "--no-ws", "--log-level", "error", "tests.server_app:app"],
        *["--http1-header-read-timeout", str(LIMIT * 1000), "--port"],
    ],
}


class Running:
    """One server in a process of its own, and the file that keeps what its app says."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, said: Path) -> None:
        self.process = process
        self.port = port
        self.said = said

    def connect(self) -> socket.socket:
        """Open a connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=LIMIT * 3)

    def ask(self, data: bytes) -> bytes:
        """Send, and give what comes until the server closes, or says nothing for a second."""
        answer = b""
        with self.connect() as connection, suppress(ConnectionError, TimeoutError):
            with suppress(ConnectionError):
                connection.sendall(data)
            connection.settimeout(1)
            while piece := connection.recv(65_536):
                answer += piece
        return answer


@contextmanager
def running(command: list[str]) -> Generator[Running]:
    """Serve until left."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with TemporaryDirectory() as folder, (Path(folder) / "said").open("wb") as said:
        process = subprocess.Popen(
            [sys.executable, *command, str(port)],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=said,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        server = Running(process, port, Path(folder) / "said")
        try:
            while process.poll() is None:
                with suppress(ConnectionRefusedError), server.connect():
                    break
            yield server
        finally:
            with suppress(ProcessLookupError):  # all of them may have ended
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def smuggling(server: Running) -> str:
    """H07: no request that hides in another one is run."""
    answers = [server.ask(data) for data in SMUGGLING.values()]
    refused = sum(answer.startswith(b"HTTP/1.1 400") and answer.count(b"HTTP/1.1") == 1 for answer in answers)
    return f"{refused} of {len(answers)} refused, {server.said.read_text().count('/hidden')} hidden ones run"


def heads(server: Running) -> str:
    """H06: a head of more than 64 KiB, or of more than 100 fields, is refused."""
    large = server.ask(b"GET / HTTP/1.1\r\nhost: x\r\nx: " + b"a" * 65_536 + b"\r\n\r\n")
    many = server.ask(b"GET / HTTP/1.1\r\nhost: x\r\n" + b"".join(b"x%d: a\r\n" % i for i in range(100)) + b"\r\n")
    return ", ".join(
        f"{name} {'refused' if answer.startswith(b'HTTP/1.1 4') else 'taken'}"
        for name, answer in (("64 KiB", large), ("101 fields", many))
    )


def slow_head(server: Running) -> str:
    """H01: a head that does not come is given up in time."""
    times: list[float] = []
    for begun in (b"", b"GET / HTTP/1.1\r\nhost: x\r\nx: "):
        start = time.monotonic()
        with server.connect() as connection, suppress(TimeoutError):
            connection.sendall(begun)
            connection.recv(1000)
            times.append(time.monotonic() - start)
    return ", ".join(f"closed after {seconds:.1f} s" for seconds in times) or "never closed"


def slow_reader(server: Running) -> str:
    """H03: a reader that stalls is cut."""
    with server.connect() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(b"GET /big HTTP/1.1\r\nhost: x\r\n\r\n")
        start = time.monotonic()
        while time.monotonic() - start < LIMIT * 2:
            if connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) or not open_connections(server):
                return f"cut after {time.monotonic() - start:.1f} s"
            time.sleep(0.1)
    return "kept"


def open_connections(server: Running) -> int:
    """Count the connections that the server's side holds, from the kernel's own table."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]]
    return sum(row[1].endswith(f":{server.port:04X}") and row[3] == "01" for row in rows)


def draining(server: Running) -> str:
    """O01: SIGTERM with a hundred requests under way: all are answered, exit code 0."""

    def held() -> bool:
        with server.connect() as connection, suppress(ConnectionError, TimeoutError):
            connection.sendall(b"GET /held HTTP/1.1\r\nhost: x\r\n\r\n")
            return connection.recv(1000).startswith(b"HTTP/1.1 200")
        return False

    with ThreadPoolExecutor(100) as pool:
        asked = [pool.submit(held) for _ in range(100)]
        time.sleep(1)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(1)
        if server.process.stdin is not None:
            with suppress(BrokenPipeError):
                server.process.stdin.write(b"\n" * 100)
        answered = sum(one.result() for one in asked)
    try:
        code: object = server.process.wait(LIMIT * 2)
    except subprocess.TimeoutExpired:
        code = "never"
    return f"{answered} of 100 answered, exit {code}"


CHECKS: Final[dict[str, Callable[[Running], str]]] = {
    "H07 smuggling": smuggling,
    "H06 heads": heads,
    "H01 slow head": slow_head,
    "H03 slow reader": slow_reader,
    "O01 SIGTERM": draining,
}


def cost(server: Running) -> tuple[float, float]:
    """Give requests a second, and the server's microseconds of processor time for each."""
    before, start = processor_time(server.process.pid), time.monotonic()
    load(server)
    seconds = time.monotonic() - start
    return REQUESTS / seconds, (processor_time(server.process.pid) - before) / REQUESTS * 1e6


def load(server: Running) -> None:
    """Keep 32 connections busy; each asks again when it is answered."""
    connections = [server.connect() for _ in range(CONNECTIONS)]
    for _ in range(REQUESTS // CONNECTIONS):
        for connection in connections:
            connection.sendall(GET)
        for connection in connections:
            connection.recv(4096)
    for connection in connections:
        connection.close()


def processor_time(pid: int) -> float:
    """Sum the seconds of a process and of its children (granian serves in a child)."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    own = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    return own + sum(processor_time(int(child)) for child in children)


def main() -> None:
    """Print one table: what holds, and what it costs beside the first of the list."""
    table = Table("", *SERVERS, title="Servers", show_lines=True)
    for name, check in CHECKS.items():
        row: list[str] = []
        for command in SERVERS.values():
            with running(command) as server:
                row.append(check(server))
        table.add_row(name, *row)
    measured: dict[str, list[tuple[float, float]]] = {name: [] for name in SERVERS}
    for _ in range(ROUNDS):  # interleaved, so that the machine's mood is everybody's
        for name, command in SERVERS.items():
            with running(command) as server:
                measured[name].append(cost(server))
    best = {name: (max(rate for rate, _ in runs), min(micro for _, micro in runs)) for name, runs in measured.items()}
    base = best["uvicorn, httptools"]
    table.add_row("requests/s", *(f"{rate:,.0f} ({rate / base[0]:.2f}x)" for rate, _ in best.values()))
    table.add_row("processor time", *(f"{micro:.0f} us ({micro / base[1]:.2f}x)" for _, micro in best.values()))
    Console(width=150).print(table)


if __name__ == "__main__":
    main()
