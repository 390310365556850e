"""A small TCP load balancer: it sends each connection to a server that says it is ready."""

import socket
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress

from tests.children import until


def ask(port: int, path: str) -> bytes:
    """Ask a server, and give its whole answer; nothing if there is none."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
        return b"".join(iter(lambda: connection.recv(65536), b""))
    return b""


def is_ready(port: int) -> bool:
    return ask(port, "/readyz").startswith(b"HTTP/1.1 200 ")


@contextmanager
def balancer(ports: Sequence[int]) -> Generator[int]:
    """Give the port that it listens on while entered."""
    listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
    threads: list[threading.Thread] = []

    def accept() -> None:
        while True:
            try:
                client, _ = listening.accept()
            except OSError:
                return
            threads.append(threading.Thread(target=_serve, args=(client, ports)))
            threads[-1].start()

    accepting = threading.Thread(target=accept)
    accepting.start()
    try:
        yield listening.getsockname()[1]
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        for thread in [accepting, *threads]:
            thread.join()


def _serve(client: socket.socket, ports: Sequence[int]) -> None:
    with client:
        # One may have become ready, and the other no longer be, between the questions to the two.
        port = until(lambda: next(filter(is_ready, ports), None))
        with socket.create_connection(("127.0.0.1", port)) as server:
            back = threading.Thread(target=_copy, args=(server, client))
            back.start()
            _copy(client, server)
            back.join()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while piece := source.recv(65536):
            target.sendall(piece)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)
