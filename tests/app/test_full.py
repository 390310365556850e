"""More than the gateway may hold: 503 before anything is paid, and what is paid comes in under the bound."""

import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Generator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path

import httpx2  # noqa: TID251, the test's client
import pytest

from amux_asgi import ChannelConfig, Config, GatewayConfig, KeyConfig, MemoryLedger, images_app
from tests.app.test_mounting import free_port
from tests.children import listens, until
from tests.serve import serve
from tests.stub import Reader, Stub, Writer, upstream, whole

KEYS = ("first-key-of-the-tests", "second-key-of-the-tests")
ASK = {"model": "m", "prompt": "a lantern"}
PATH = "/v1/images/generations"
PICTURE = b"A" * 20_000_000
MIB = 2**20


@pytest.fixture
def stub() -> Generator[Stub]:
    with upstream(scripts={"/large": large}) as running:
        yield running


async def large(_stub: Stub, _reader: Reader, writer: Writer) -> None:
    writer.write(whole(b'{"created":1,"data":[{"b64_json":"%s"}]}' % PICTURE))
    await writer.drain()


@contextmanager
def serving(stub: Stub, *, path: str = "/wait", concurrency: int = 64, most: int = 2**30) -> Generator[str]:
    channel = ChannelConfig(
        name="c", adapter="openai-compatible", base_url=stub.url + path, models=("m",), concurrency=concurrency
    )
    config = Config(
        gateway=GatewayConfig(max_in_flight=most),
        channels=(channel,),
        keys=tuple(KeyConfig(name=key, key=key) for key in KEYS),
    )
    with serve(images_app(config, ledger=MemoryLedger())) as url:
        yield url


def ask(url: str, key: int = 0, timeout: str | None = None) -> httpx2.Response:
    told = {"authorization": f"Bearer {KEYS[key]}"} | ({} if timeout is None else {"x-amux-timeout": timeout})
    return httpx2.post(url + PATH, json=ASK, headers=told, timeout=60)


def test_beyond_the_bytes_in_flight_nothing_is_held_or_sent(stub: Stub) -> None:
    """503 with the time to wait; another key still has its share, and when all is over there is room."""
    with serving(stub, most=4 * MIB) as url, ThreadPoolExecutor(5) as pool:
        waiting = [pool.submit(ask, url) for _ in range(4)]
        stub.wait_for(4)
        refused = ask(url)
        waiting.append(pool.submit(ask, url, 1))
        stub.wait_for(5)
        stub.let_go()
        statuses = [answer.result().status_code for answer in waiting]
        later = ask(url)

    assert_overloaded(refused)
    assert (statuses, later.status_code, stub.posts) == ([200] * 5, 200, 6)


def test_a_full_line_is_told_at_once_and_another_key_is_still_let_in(stub: Stub) -> None:
    """One place, one who waits, the next is refused; the upstream never sees more than one."""
    with serving(stub, concurrency=1) as url, ThreadPoolExecutor(4) as pool:
        first = pool.submit(ask, url)
        stub.wait_for(1)
        two = [pool.submit(ask, url) for _ in range(2)]
        refused = wait(two, return_when=FIRST_COMPLETED)[0].pop()
        other = pool.submit(ask, url, 1)
        stub.let_go()
        statuses = [answer.result().status_code for answer in (first, *two, other) if answer is not refused]

    assert_overloaded(refused.result())
    assert (statuses, stub.posts) == ([200] * 3, 3)


def test_what_a_full_channel_cannot_take_goes_to_the_next(stub: Stub) -> None:
    """At once, and it is no attempt."""
    channels = tuple(
        ChannelConfig(
            name=name,
            adapter="openai-compatible",
            base_url=f"{stub.url}/{path}",
            models=("m",),
            priority=-i,
            concurrency=1,
        )
        for i, (name, path) in enumerate({"full": "wait", "free": "ok"}.items())
    )
    config = Config(channels=channels, keys=tuple(KeyConfig(name=key, key=key) for key in KEYS))
    with serve(images_app(config, ledger=MemoryLedger())) as url, ThreadPoolExecutor(3) as pool:
        first = pool.submit(ask, url)
        stub.wait_for(1)
        two = [pool.submit(ask, url) for _ in range(2)]
        elsewhere = wait(two, return_when=FIRST_COMPLETED)[0].pop().result()
        stub.let_go()
        statuses = [answer.result().status_code for answer in (first, *two)]

    assert (statuses, stub.posts) == ([200] * 3, 3)
    assert elsewhere.headers["x-amux-attempts"] == "1"


@pytest.mark.parametrize("told", ["0", "-1", "soon", "1e3", "", "1,5"])
def test_a_time_that_is_none_is_refused(stub: Stub, told: str) -> None:
    """400 that names the header."""
    with serving(stub) as url:
        answer = ask(url, timeout=told)

    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "x-amux-timeout")


def test_a_client_says_how_long_it_waits(stub: Stub) -> None:
    """504 when its time is over; less than a second is not worth asking."""
    with serving(stub, path="/hang") as url:
        begun = time.monotonic()
        answer = ask(url, timeout="1.5")
        took = time.monotonic() - begun
        hasty = ask(url, timeout="0.5")

    assert (answer.status_code, answer.headers["x-should-retry"]) == (504, "false")
    assert (hasty.status_code, "x-should-retry" in hasty.headers) == (504, False)
    assert took >= 1.5
    assert stub.posts == 1


def test_a_request_that_there_is_no_room_for_is_not_read_to_its_end(stub: Stub) -> None:
    """503, and the connection is closed."""

    def pieces() -> Generator[bytes]:
        for _ in range(500):
            yield b" " * 1000

    with serving(stub, most=40_000) as url:
        answer = httpx2.post(
            url + PATH,
            content=pieces(),
            headers={"authorization": f"Bearer {KEYS[0]}", "content-type": "application/json"},
        )

    assert_overloaded(answer)
    assert answer.headers["connection"] == "close"


def test_many_large_answers_stay_within_the_bound(stub: Stub) -> None:
    """Nothing that was paid is lost, and the process never grows beyond it; once they are known, less are let in."""
    port = free_port()
    with (
        subprocess.Popen([sys.executable, "-m", "tests.full_server", str(port), stub.url + "/large"]) as process,
        ThreadPoolExecutor(16) as pool,
    ):
        try:
            url = f"http://127.0.0.1:{port}"
            until(lambda: listens(port))
            base = peak(process.pid)
            answers = [answer.result() for answer in [pool.submit(size, url) for _ in range(16)]]
            answers += [answer.result() for answer in [pool.submit(size, url) for _ in range(16)]]
            most = peak(process.pid)
        finally:
            process.terminate()

    statuses = Counter(status for status, _ in answers)
    assert statuses.keys() == {200, 503}
    assert statuses[200] == stub.posts > 16
    assert all(length > len(PICTURE) for status, length in answers if status == 200)
    assert most - base < 256 * MIB


def assert_overloaded(answer: httpx2.Response) -> None:
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "overloaded")
    assert 1 <= int(answer.headers["retry-after"]) <= 60
    assert not answer.headers.keys() & {"x-should-retry", "x-amux-attempts"}


def size(url: str) -> tuple[int, int]:
    with httpx2.stream("POST", url + PATH, json=ASK, timeout=120) as answer:
        return answer.status_code, sum(len(piece) for piece in answer.iter_raw())


def peak(pid: int) -> int:
    """Give the most memory that a process ever had, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) * 1024
