"""Between a client and a server on a Unix socket: passes everything on, until told to cut or to hang."""

import socket
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

Cut = Literal["before", "after"]


class Shim:
    """What lies between.

    `cut = "before"`: the next COMMIT is not passed on, and its connection is cut; `"after"`: it is passed on, the
    server does it, and the connection is cut instead of its answer.
    """

    def __init__(self, listener: socket.socket, server: str) -> None:
        self.cut: Cut | None = None
        self.cuts = 0
        self.passing = threading.Event()
        self.passing.set()
        self._listener = listener
        self._server = server
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def close(self) -> None:
        """Cut everything."""
        self.passing.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for some in self._open:
            _cut(some)
        for thread in self._threads:
            thread.join()
        for some in self._open:
            some.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.socket(socket.AF_UNIX)
                server.connect(self._server)
                self._open += [client, server]
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
                client.sendall(data)
        _cut(client)


@contextmanager
def shim(folder: Path, server: str) -> Generator[Shim]:
    """Listen in a folder for what goes to the server's socket; left, all is cut."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(folder / Path(server).name))
    listener.listen(64)
    between = Shim(listener, server)
    try:
        yield between
    finally:
        between.close()


def _cut(some: socket.socket) -> None:
    with suppress(OSError):
        some.shutdown(socket.SHUT_RDWR)
