"""What the standalone server does when it is told to stop, or to read its configuration anew."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from itertools import chain
from pathlib import Path
from typing import Final

import httpx2  # noqa: TID251, the test's client
import pytest

from tests.app.test_money import rows
from tests.app.test_mounting import free_port
from tests.balancer import ask as look
from tests.balancer import balancer, is_ready
from tests.children import until
from tests.stub import Stub, upstream

KEY: Final = "signals-key-of-the-tests"
GOOD: Final = {"model": "m", "prompt": "a"}


def text(url: str, more: str = "", models: str = '"m"') -> str:
    return f"""
[gateway]
{more}
[[channels]]
name = "up"
adapter = "openai-compatible"
base_url = "{url}"
concurrency = 200
models = [{models}]
[[keys]]
name = "me"
key = "{KEY}"
"""


def ask(port: int) -> int:
    headers = {"authorization": f"Bearer {KEY}"}
    url = f"http://127.0.0.1:{port}/v1/images/generations"
    return httpx2.post(url, json=GOOD, headers=headers, timeout=60).status_code


def models(port: int) -> list[str]:
    answer = httpx2.get(f"http://127.0.0.1:{port}/v1/models", headers={"authorization": f"Bearer {KEY}"})
    return [model["id"] for model in answer.json()["data"]]


@contextmanager
def serving(file: Path, port: int, *options: str) -> Generator[subprocess.Popen[bytes]]:
    """Run the server until left, when it must have ended with 0 or does at SIGINT; it is ready when it is given."""
    command = [sys.executable, "-m", "amux_asgi", "serve", "--config", str(file), "--port", str(port), *options]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        until(lambda: is_ready(port) or process.poll() is not None)
        assert process.poll() is None
        try:
            yield process
        finally:
            process.send_signal(signal.SIGINT)
            process.wait()
        assert process.returncode == 0


@pytest.fixture
def stub() -> Generator[Stub]:
    with upstream() as running:
        yield running


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "amux.toml"


def test_sigterm_finishes_a_hundred_requests_and_is_not_ready_at_once(stub: Stub, file: Path) -> None:
    """Requests that come before the load balancer has noticed are served too (O01)."""
    file.write_text(text(f"{stub.url}/wait", 'drain = 5\ndatabase = "sqlite:///amux.db"'))
    port = free_port()

    with serving(file, port) as process, ThreadPoolExecutor(101) as pool:
        waiting = [pool.submit(ask, port) for _ in range(100)]
        stub.wait_for(100)
        process.send_signal(signal.SIGTERM)
        until(lambda: not is_ready(port))
        told = look(port, "/readyz")
        late = pool.submit(ask, port)
        stub.wait_for(101)
        stub.let_go()
        statuses = [answer.result() for answer in [*waiting, late]]
        process.wait()

    assert b'"code":"stopping"' in told
    assert b"\r\nconnection: close\r\n" in told
    assert statuses == [200] * 101
    database = f"sqlite:///{file.parent}/amux.db"
    assert rows(database, "SELECT state, count(*) FROM usage GROUP BY state") == [("captured", 101)]
    assert rows(database, "SELECT sum(held) FROM wallets") == [(0,)]


def test_a_rolling_restart_of_two_processes_fails_no_request(stub: Stub, file: Path) -> None:
    """Behind a load balancer that asks who is ready, and has turned away when a process ends (O05)."""
    file.write_text(text(stub.url, "drain = 100"))
    ports = (free_port(), free_port())
    seen: list[list[int | httpx2.HTTPError]] = [[], [], []]
    done = threading.Event()

    def client(answers: list[int | httpx2.HTTPError], port: int) -> None:
        while not done.is_set():
            try:
                answers.append(ask(port))
            except httpx2.HTTPError as error:
                answers.append(error)

    def end(process: subprocess.Popen[bytes], port: int) -> None:
        process.send_signal(signal.SIGTERM)
        until(lambda: not is_ready(port))
        before = [len(answers) for answers in seen]
        # The second one from now on comes by a connection that was made since.
        until(lambda: all(len(answers) > then + 1 for answers, then in zip(seen, before, strict=True)))
        process.send_signal(signal.SIGTERM)  # rather than to wait for all of the drain
        process.wait()

    with (
        serving(file, ports[0]) as first,
        serving(file, ports[1]) as second,
        balancer(ports) as port,
        ThreadPoolExecutor(3) as pool,
        ExitStack() as last,
    ):
        last.callback(done.set)
        clients = [pool.submit(client, answers, port) for answers in seen]
        end(first, ports[0])
        with serving(file, ports[0]):
            end(second, ports[1])
            with serving(file, ports[1]):
                done.set()
                wait(clients)

    assert set(chain.from_iterable(seen)) == {200}


@pytest.mark.parametrize("end", [[signal.SIGTERM, signal.SIGTERM], [signal.SIGINT]])
def test_who_is_in_a_hurry_does_not_wait_for_load_balancers(stub: Stub, file: Path, end: list[int]) -> None:
    """Ctrl-C, or a second SIGTERM."""
    file.write_text(text(stub.url, "drain = 100\ngrace = 300"))
    port = free_port()

    with serving(file, port) as process:
        for number in end:
            process.send_signal(number)
            until(lambda: not is_ready(port))
        process.wait(timeout=60)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_sighup_reads_the_configuration_anew(stub: Stub, file: Path, workers: str) -> None:
    """At once, in each worker, and none of them is replaced."""
    more = 'pictures = "file:pictures"\n'
    file.write_text(text(stub.url, more))
    port = free_port()

    with serving(file, port, "--workers", workers) as process:
        before = file.stat()
        file.write_text(text(stub.url, more, '"n"'))
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))  # so that nothing else sees the change
        process.send_signal(signal.SIGHUP)
        until(lambda: models(port) == ["n"])
        assert process.poll() is None
