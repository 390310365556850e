"""What the standalone server does when it is told to stop, or to read its configuration anew."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
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
    """Run the server until left, when it must have ended with 0 or does at SIGTERM; it is ready when it is given."""
    command = [sys.executable, "-m", "amux_asgi", "serve", "--config", str(file), "--port", str(port), *options]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        until(lambda: is_ready(port) or process.poll() is not None)
        assert process.poll() is None
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
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
    file.write_text(text(f"{stub.url}/wait", 'drain = 2\ndatabase = "sqlite:///amux.db"'))
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
    """Behind a load balancer that asks who is ready (O05)."""
    file.write_text(text(stub.url, "drain = 1"))
    ports = (free_port(), free_port())
    done = threading.Event()

    def client(port: int) -> list[int]:
        seen: list[int] = []
        while not done.is_set():
            seen.append(ask(port))
        return seen

    with (
        serving(file, ports[0]) as first,
        serving(file, ports[1]) as second,
        balancer(ports) as port,
        ThreadPoolExecutor(3) as pool,
    ):
        clients = [pool.submit(client, port) for _ in range(3)]
        first.send_signal(signal.SIGTERM)
        first.wait()
        with serving(file, ports[0]):
            second.send_signal(signal.SIGTERM)
            second.wait()
            with serving(file, ports[1]):
                done.set()
                statuses = [status for each in clients for status in each.result()]

    assert set(statuses) == {200}


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
