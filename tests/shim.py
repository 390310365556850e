"""Between a client and a server: passes everything on, until told to cut, to be slow, to hang or to lead elsewhere."""

import socket
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

Cut = Literal["before", "after"]
Place = str | int  # the path of a Unix socket, or a port of this machine


class Shim:
    """What lies between.

    `cut = "before"`: the next COMMIT is not passed on, and its connection is cut; `"after"`: it is passed on, the
    server does it, and the connection is cut instead of its answer. While `passing` is cleared, nothing passes.
    """

    def __init__(self, listener: socket.socket, server: Place) -> None:
        self.cut: Cut | None = None
        self.cuts = 0
        self.passing = threading.Event()
        self.passing.set()
        self.delay = 0.0  # seconds, of each piece of an answer
        self.slow = 0  # pieces that were held up
        self.most: int | None = None  # bytes of an answer, after which the connection is cut
        self._listener = listener
        self._server = server
        self._open: list[socket.socket] = []
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    @property
    def url(self) -> str:
        """Tell a client of Redis where it listens, if it does at a port."""
        return f"redis://127.0.0.1:{self._listener.getsockname()[1]}"

    def lead_to(self, server: Place) -> None:
        """Lead elsewhere from now on; what is connected is cut."""
        self._server = server
        self._cut_all()

    def close(self) -> None:
        """Cut everything."""
        self.passing.set()
        self._ended.set()
        _cut(self._listener)
        self._listener.close()
        self._threads[0].join()  # so that nothing is opened any more
        self._cut_all()
        for thread in self._threads:
            thread.join()
        for some in self._open:
            some.close()

    def _cut_all(self) -> None:
        for some in list(self._open):
            _cut(some)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._open.append(client)
                try:
                    server = _connected(self._server)
                except OSError:
                    _cut(client)
                    continue
                self._open.append(server)
                pair = [
                    threading.Thread(target=self._there, args=(client, server)),
                    threading.Thread(target=self._back, args=(server, client)),
                ]
                self._threads += pair
                for thread in pair:
                    thread.start()

    def _there(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(65_536):
                self.passing.wait()
                if self.cut and b"COMMIT" in data:
                    if self.cut == "after":
                        _cut(client)  # before the server can answer
                        server.sendall(data)
                    self.cut = None
                    self.cuts += 1
                    break
                server.sendall(data)
        _cut(client)
        with suppress(OSError):
            server.shutdown(socket.SHUT_WR)  # what was sent is still read

    def _back(self, server: socket.socket, client: socket.socket) -> None:
        with suppress(OSError):
            while data := server.recv(65_536):
                self.passing.wait()
                if self.delay:
                    self.slow += 1
                    self._ended.wait(self.delay)
                client.sendall(data[: self.most])
                if self.most is not None:
                    break
        _cut(client)


@contextmanager
def shim(folder: Path, server: str) -> Generator[Shim]:
    """Listen in a folder for what goes to the server's Unix socket; left, all is cut."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(folder / Path(server).name))
    listener.listen(64)
    with _lying(listener, server) as between:
        yield between


@contextmanager
def network(port: int) -> Generator[Shim]:
    """Listen at a port of its own for what goes to another; left, all is cut."""
    with _lying(socket.create_server(("127.0.0.1", 0)), port) as between:
        yield between


@contextmanager
def _lying(listener: socket.socket, server: Place) -> Generator[Shim]:
    between = Shim(listener, server)
    try:
        yield between
    finally:
        between.close()


def _connected(place: Place) -> socket.socket:
    if isinstance(place, int):
        return socket.create_connection(("127.0.0.1", place))
    some = socket.socket(socket.AF_UNIX)
    try:
        some.connect(place)
    except OSError:
        some.close()
        raise
    return some


def _cut(some: socket.socket) -> None:
    with suppress(OSError):
        some.shutdown(socket.SHUT_RDWR)
