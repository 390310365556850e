"""Streams on every server that a team may have: what it sends it sends at once, and whoever leaves breaks nothing."""

import os
import socket
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Final

import httpx2  # noqa: TID251, the test's client
import pytest
from msgspec import Struct

from tests.app.stream_app import BREAKS, LARGE, LATE
from tests.app.stream_client import COMMENT, COMPLETED, PREVIEW, asked, get, let_go, streaming
from tests.app.test_mounting import free_port

GRANIAN: Final = ("granian", "--interface", "asgi", "--host", "127.0.0.1", "--port")


class Host(Struct, frozen=True):
    """A server's command, whose last argument takes the port or the address, and what it is asked by."""

    command: tuple[str, ...]
    http2: bool = False
    cuts: bool = True  # whom it cannot write to


SERVERS: Final = {
    "the standalone one": Host(("tests.app.stream_app",)),
    "uvicorn with h11": Host(("uvicorn", "--http", "h11", "--port")),
    "uvicorn with httptools": Host(("uvicorn", "--http", "httptools", "--port")),
    "hypercorn": Host(("hypercorn", "--bind")),
    "hypercorn on trio": Host(
        ("hypercorn", "--worker-class", "trio", "--bind"), cuts=False
    ),  # it lets no write be given up
    "hypercorn with HTTP/2": Host(("hypercorn", "--bind"), http2=True),
    "granian": Host((*GRANIAN[:3], "--http", "1", *GRANIAN[3:])),
    "granian with HTTP/2": Host((*GRANIAN[:3], "--http", "2", *GRANIAN[3:]), http2=True),
}


@contextmanager
def running(server: Host, log: IO[str]) -> Generator[str]:
    """Run a server until it listens; give its URL."""
    port = free_port()
    address = f"127.0.0.1:{port}" if server.command[-1] == "--bind" else str(port)
    command = [sys.executable, "-m", *server.command, address, "tests.app.stream_app:app"]
    told = {**os.environ, "PYTHONPATH": os.fspath(Path.cwd())}
    with subprocess.Popen(command, env=told, stdout=log, stderr=log) as process:
        try:
            listen(port, process)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def listen(port: int, process: subprocess.Popen[bytes]) -> None:
    """Try to connect until it listens: each try fails at once."""
    while process.poll() is None:
        with suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
            return
    raise AssertionError("the server ended")


@pytest.mark.parametrize("name", SERVERS)
def test_streams_are_the_same_on_every_server(name: str, tmp_path: Path) -> None:
    """Events as they come, comments while none comes, errors as events, and a job that goes on when its reader left."""
    server = SERVERS[name]
    log = tmp_path / "log"

    with log.open("w") as said, running(server, said) as url:
        if server.cuts:
            stalled(url, http2=server.http2)
        told_as_it_comes(url, http2=server.http2)
        kept_alive(url, http2=server.http2)
        broken(url, http2=server.http2)
        left(url, http2=server.http2)

    text = log.read_text()
    assert not any(word in text for word in ("Traceback", "Error")), text


def stalled(url: str, *, http2: bool) -> None:
    """A reader that takes nothing is cut after `write_timeout`, and notices."""
    with streaming(url, LARGE, http2=http2) as reading:
        reading.until(PREVIEW.encode())
        let_go(url, http2=http2)
        get(f"{url}/ended", http2=http2)
        with pytest.raises(httpx2.RemoteProtocolError):
            reading.to_the_end()

    assert reading.events == [PREVIEW]


def told_as_it_comes(url: str, *, http2: bool) -> None:
    """The first event is here before the upstream has sent the second."""
    with streaming(url, http2=http2) as reading:
        reading.until(b"\n\n")
        assert reading.events == [PREVIEW]
        let_go(url, http2=http2)
        reading.to_the_end()

    headers = reading.answer.headers
    assert (headers["content-type"], headers["x-accel-buffering"]) == ("text/event-stream", "no")
    assert "no-transform" in headers["cache-control"]
    assert reading.events == [PREVIEW, COMPLETED]
    assert reading.text.endswith(b"\n\n")


def kept_alive(url: str, *, http2: bool) -> None:
    """A comment begins what has no event yet, and stands between events that take their time."""
    with streaming(url, LATE, http2=http2) as reading:
        reading.until(COMMENT, times=2)
        assert reading.events == []
        let_go(url, http2=http2)
        reading.until(PREVIEW.encode())
        reading.until(COMMENT, times=reading.text.count(COMMENT) + 1)
        let_go(url, http2=http2)
        reading.to_the_end()

    assert reading.events == [PREVIEW, COMPLETED]


def broken(url: str, *, http2: bool) -> None:
    """An error is the last event."""
    with streaming(url, BREAKS, http2=http2) as reading:
        reading.until(PREVIEW.encode())
        let_go(url, http2=http2)
        reading.to_the_end()

    assert reading.events == [PREVIEW, "error"]
    assert b'"code":"upstream_error"' in reading.text


def left(url: str, *, http2: bool) -> None:
    """Who asks again with the same idempotency key gets the picture that was made meanwhile."""
    key = {"idempotency-key": "left-1"}
    before = asked(url, http2=http2)
    with streaming(url, http2=http2, headers=key) as reading:
        reading.until(PREVIEW.encode())
    let_go(url, http2=http2)
    with streaming(url, http2=http2, headers=key) as again:
        again.to_the_end()

    assert again.answer.headers["idempotent-replayed"] == "true"
    assert again.events == [COMPLETED]
    assert asked(url, http2=http2) == before + 1
