"""The standalone server holds what uvicorn alone does not: deadlines, sizes, strict framing, a clean end."""

import asyncio  # noqa: TID251, the server is asyncio's
import json
import platform
import re
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2  # noqa: TID251, the test's client
import pytest
from uvicorn import Config
from uvicorn.server import ServerState

from amux_asgi.protocol import HEAD_BYTES, PIECE, StrictProtocol
from tests.app.test_mounting import free_port
from tests.children import until
from tests.framing import SMUGGLING
from tests.server_app import make


class Serving:
    """A server in a process of its own, and what it said."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process = process
        self.port = port

    def said(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def say(self, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text)
        self.process.stdin.flush()

    def is_listening(self) -> bool:
        try:
            self.connect().close()
        except (ConnectionRefusedError, ConnectionResetError):
            return False
        return True

    def ask(self, data: bytes) -> bytes:
        """Send bytes, and give all that comes until the server closes."""
        with self.connect() as connection:
            with suppress(BrokenPipeError, ConnectionResetError):  # it may be refused before it is all sent
                connection.sendall(data)
            return received(connection)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)


def received(connection: socket.socket) -> bytes:
    pieces: list[bytes] = []
    try:
        while piece := connection.recv(65536):
            pieces.append(piece)
    except ConnectionResetError:
        pass
    return b"".join(pieces)


@contextmanager
def serving(**settings: Any) -> Generator[Serving]:
    """Run the server until left; it must end with code 0."""
    told: dict[str, Any] = {"port": free_port(), "head_timeout": 60, "write_timeout": 60, "grace": 20, **settings}
    code = f"from amux_asgi.server import *; serve('tests.server_app:make', ServerSettings(**{told!r}))"
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        running = Serving(process, told["port"])
        assert running.said() == "started"
        until(running.is_listening)  # which it does after the lifespan has begun
        try:
            yield running
        finally:
            process.send_signal(signal.SIGTERM)
            rest = process.communicate()[0].split("\n")
        assert process.returncode == 0
        assert "stopped" in rest


@pytest.fixture(scope="module")
def server() -> Generator[Serving]:
    with serving() as running:
        yield running


@pytest.fixture(scope="module")
def hasty() -> Generator[Serving]:
    """Its deadlines are short: only for those who mean to miss them."""
    with serving(head_timeout=0.5, write_timeout=0.5) as running:
        yield running


@pytest.mark.parametrize("name", SMUGGLING)
def test_a_request_with_two_meanings_is_refused_and_what_it_hides_is_not_run(server: Serving, name: str) -> None:
    """400 in our own form, and the connection is closed."""
    answer = server.ask(SMUGGLING[name])
    server.ask(b"GET /after HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")

    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1") == 1
    assert b"\r\nx-request-id: req_" in answer
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"].keys() == {"message", "type", "param", "code"}
    while (line := server.said()) != "GET /after":
        assert "hidden" not in line


@pytest.mark.parametrize(
    "head",
    [
        b"x: " + b"a" * HEAD_BYTES,
        b"".join(b"x%d: a\r\n" % i for i in range(101)).removesuffix(b"\r\n"),
        b"\r\n".join(b"x%d: %s" % (i, b"a" * 1000) for i in range(70)),
        b"x: " + b"a" * 10 * HEAD_BYTES,
    ],
    ids=["one long header", "101 headers", "many bytes in many headers", "a header without an end"],
)
def test_a_head_that_is_too_large_is_refused(server: Serving, head: bytes) -> None:
    """431, and the connection is closed."""
    answer = server.ask(b"GET / HTTP/1.1\r\n" + head + b"\r\n\r\n")

    assert answer.startswith(b"HTTP/1.1 431 ")
    assert b'"code":"invalid_http"' in answer


def test_a_long_address_is_refused(server: Serving) -> None:
    """It is part of the head."""
    assert server.ask(b"GET /" + b"a" * HEAD_BYTES + b" HTTP/1.1\r\nhost: x\r\n\r\n").startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize("begun", [b"", b"GET / HTTP/1.1\r\nhost: x\r\nx: "])
def test_a_head_that_does_not_come_is_given_up(hasty: Serving, begun: bytes) -> None:
    """Silent, or one byte now and then: closed at the deadline, without an answer."""
    assert hasty.ask(begun) == b""


def test_a_second_head_on_the_same_connection_has_its_own_deadline(hasty: Serving) -> None:
    """Keep-alive is no way around it."""
    with hasty.connect() as connection:
        connection.sendall(b"GET /one HTTP/1.1\r\nhost: x\r\n\r\n")
        answer = b""
        while not answer.endswith(b"127.0.0.1 http 0"):
            answer += connection.recv(1000)
        connection.sendall(b"GET /two HTTP/1.1\r\nx: ")
        assert received(connection) == b""


def test_who_waits_for_an_answer_is_not_given_up(hasty: Serving) -> None:
    """Some clients send a blank line behind a request, and it begins no head that would have to come soon."""
    with hasty.connect() as connection:
        connection.sendall(b"GET /held HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        while hasty.said() != "GET /held":
            pass
        connection.sendall(b"\r\n")
        later = hasty.ask(b"GET / HTTP/1.1\r\nx: ")
        hasty.say("go\n")

        assert later == b""
        assert received(connection).endswith(b"127.0.0.1 http 0")


def test_who_asks_for_a_websocket_gets_an_ordinary_answer(server: Serving) -> None:
    """No path is a websocket's."""
    asked = [b"GET /socket HTTP/1.1", b"host: x", b"connection: upgrade, close", b"upgrade: websocket"]

    answer = server.ask(b"\r\n".join([*asked, b"sec-websocket-version: 13", b"sec-websocket-key: eA==", b"", b""]))

    assert answer.startswith(b"HTTP/1.1 200 ")
    while server.said() != "GET /socket":
        pass


def test_requests_that_do_not_wait_for_answers_get_them_in_order(server: Serving) -> None:
    """All of one packet on one connection."""
    posts = [b"POST /%d HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % (i, i) + b"x" * i for i in (1, 2, 3)]

    answers = server.ask(b"".join([*posts, b"GET /4 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"]))
    asked = [server.said() for _ in range(4)]

    bodies = re.findall(rb"\r\n\r\n127\.0\.0\.1 http (\d)", answers)
    assert bodies == [b"1", b"2", b"3", b"0"]
    assert asked == ["POST /1", "POST /2", "POST /3", "GET /4"]


def test_many_connections_that_say_nothing_do_not_keep_others_waiting(server: Serving) -> None:
    """500 of them, and a good client is answered."""
    silent = [server.connect() for _ in range(500)]
    try:
        answer = httpx2.get(f"http://127.0.0.1:{server.port}/good")
    finally:
        for connection in silent:
            connection.close()

    assert answer.status_code == 200


def test_without_descriptors_nothing_breaks_and_all_comes_back() -> None:
    """More connections than it may have files: the rest waits or is dropped, and later ones are answered."""
    with serving() as server:
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (256, 256))
        with ExitStack() as stack:
            for _ in range(400):
                stack.enter_context(server.connect())
        answers = (server.ask(b"GET /after HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n") for _ in range(1_000))

        assert any(answer.startswith(b"HTTP/1.1 200 ") for answer in answers)  # it may still notice who has left


def test_a_reader_that_stalls_is_cut(hasty: Serving) -> None:
    """20 MB are not held for somebody who does not read them."""
    with hasty.connect() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(b"GET /big HTTP/1.1\r\nhost: x\r\n\r\n")
        while hasty.said() != "http.disconnect":
            pass
        got = len(received(connection))

    assert got < 20_000_000


class Line(asyncio.Transport):
    """A connection whose reader takes what the test says."""

    def __init__(self, ends: socket.socket) -> None:
        super().__init__({"socket": ends})
        self.unsent = 0
        self.cut = False

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def abort(self) -> None:
        self.cut = True


class Clock(asyncio.SelectorEventLoop):
    """A loop whose time is the test's."""

    now = 0.0

    def time(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.run_until_complete(asyncio.sleep(0))
        self.run_until_complete(asyncio.sleep(0))


@pytest.mark.parametrize(("left", "is_cut"), [(8 * PIECE, False), (8 * PIECE + 1, True), (9 * PIECE, True)])
def test_a_reader_must_take_a_share_of_what_waits_in_every_while(left: int, *, is_cut: bool) -> None:
    """A large answer is written at once, and one reads it slowly, but reads it."""
    loop, (here, there) = Clock(), socket.socketpair()
    with here, there, closing(loop):
        line = Line(here)
        options: dict[str, Any] = {"config": Config(make), "server_state": ServerState(), "app_state": {}}
        protocol = StrictProtocol(**options, _loop=loop, head_timeout=1000, write_timeout=60)
        protocol.connection_made(line)
        line.unsent = 10 * PIECE
        protocol.pause_writing()
        line.unsent = 9 * PIECE
        loop.wait(60)
        assert not line.cut

        line.unsent = left
        loop.wait(60)

        assert line.cut is is_cut
        protocol.resume_writing()
        loop.wait(60)
        assert line.cut is is_cut


def test_a_large_answer_arrives_whole_at_a_reader_that_reads(server: Serving) -> None:
    """Byte for byte."""
    assert httpx2.get(f"http://127.0.0.1:{server.port}/big").content == b"x" * 20_000_000


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc is told so")
def test_the_memory_of_a_large_answer_is_used_again() -> None:
    """The system need not clear 20 MB for the next one."""
    with serving() as running:

        def ask() -> None:
            httpx2.get(f"http://127.0.0.1:{running.port}/big")

        def faults() -> int:
            return int(Path(f"/proc/{running.process.pid}/stat").read_text().rpartition(")")[2].split()[7])

        ask()
        before = faults()
        ask()

        assert (faults() - before) * resource.getpagesize() < 10_000_000


@pytest.mark.parametrize("size", [1, 16, 4096])
def test_honest_chunks_of_any_size_are_accepted(server: Serving, size: int) -> None:
    """A body may come in small pieces."""
    body = [b"a" * size] * (50_000 // size)

    answer = httpx2.post(f"http://127.0.0.1:{server.port}/", content=iter(body))

    assert answer.text == f"127.0.0.1 http {len(b''.join(body))}"


def test_sigterm_finishes_what_runs() -> None:
    """All under way are answered, and the process ends with 0."""
    with ExitStack() as stack, serving() as server:
        asked = [stack.enter_context(server.connect()) for _ in range(100)]
        for connection in asked:
            connection.sendall(b"GET /held HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        for _ in asked:
            assert server.said() == "GET /held"
        server.process.send_signal(signal.SIGTERM)
        until(lambda: not server.is_listening())
        server.say("\n" * len(asked))
        answers = [received(connection) for connection in asked]

    assert {answer.partition(b"\r\n")[0] for answer in answers} == {b"HTTP/1.1 200 OK"}


def test_who_still_waits_when_the_grace_time_is_over_gets_an_error_of_ours() -> None:
    """Not uvicorn's plain text; an answer that has begun is cut off."""
    with ThreadPoolExecutor(2) as pool:
        with serving(grace=0) as server:
            url = f"http://127.0.0.1:{server.port}"
            begun = pool.submit(httpx2.get, f"{url}/begun", timeout=30)
            assert server.said() == "GET /begun"
            waiting = pool.submit(httpx2.get, f"{url}/waiting", timeout=30, headers={"x-request-id": "mine"})
            assert server.said() == "GET /waiting"
        answer, cut = waiting.result(), begun.exception()

    assert (answer.status_code, answer.headers["x-request-id"]) == (504, "mine")
    assert answer.headers["x-should-retry"] == "false"
    assert answer.json()["error"].keys() == {"message", "type", "param", "code"}
    assert isinstance(cut, httpx2.RemoteProtocolError)


@pytest.mark.parametrize(
    ("trusted", "headers", "client"),
    [
        ((), {"x-forwarded-for": "1.2.3.4", "x-forwarded-proto": "https"}, "127.0.0.1 http"),
        (("10.0.0.0/8",), {"x-forwarded-for": "1.2.3.4", "x-forwarded-proto": "https"}, "127.0.0.1 http"),
        (("127.0.0.0/8",), {"x-forwarded-for": "1.2.3.4", "x-forwarded-proto": "https"}, "1.2.3.4 https"),
        (("127.0.0.0/8",), {"x-forwarded-for": "6.6.6.6, 1.2.3.4, 127.0.0.9"}, "1.2.3.4 http"),
    ],
)
def test_only_trusted_proxies_say_who_the_client_is(
    trusted: tuple[str, ...], headers: dict[str, str], client: str
) -> None:
    """The right-most hop that is not trusted counts."""
    with serving(trusted_proxies=trusted) as server:
        answer = httpx2.get(f"http://127.0.0.1:{server.port}/", headers=headers)

    assert answer.text == f"{client} 0"
    assert "server" not in answer.headers


def test_workers_serve_side_by_side_and_end_together() -> None:
    """Each makes its own app."""
    with serving(workers=2) as server:
        assert server.said() == "started"
        statuses = {httpx2.get(f"http://127.0.0.1:{server.port}/").status_code for _ in range(10)}

    assert statuses == {200}
