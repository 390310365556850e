"""Upstreams that refuse, fail or are gone, over real sockets."""

import socket
import time
from collections.abc import Generator
from random import Random

import anyio
import httpx2  # noqa: TID251, the test's client
import pytest

from amux_asgi import (
    ChannelConfig,
    Config,
    GatewayConfig,
    GatewayError,
    GenerationRequest,
    ImagesApp,
    MemoryLedger,
    Principal,
    anyone,
    images_app,
)
from tests.serve import serve
from tests.stub import Reader, Script, Stub, Writer, sending, upstream, whole

BUSY = b'{"error":{"message":"busy"}}'
FAILED = b'{"error":{"message":"failed"}}'
NO_KEY = b'{"error":{"message":"key of the team at vendor.example"}}'
ME = Principal(account="me", key="me")


def refusing(status: str, body: bytes, *headers: str) -> Script:
    return sending(whole(body, status, "connection: close", *headers))


def flaky(random: Random) -> Script:
    """Fail half of the time."""

    async def script(_stub: Stub, _reader: Reader, writer: Writer) -> None:
        failed = whole(FAILED, "500 Internal Server Error")
        writer.write(failed if random.random() < 0.5 else whole())
        await writer.drain()

    return script


@pytest.fixture
def stub() -> Generator[Stub]:
    scripts = {
        "/limited": refusing("429 Too Many Requests", BUSY, "retry-after: 7"),
        "/no-key": refusing("401 Unauthorized", NO_KEY),
        "/not-this": refusing("403 Forbidden", NO_KEY),
        "/failed": refusing("500 Internal Server Error", FAILED),
        "/flaky": flaky(Random(3)),
    }
    with upstream(scripts=scripts) as running:
        yield running


def served(stub: Stub, *paths: str, keys: int = 1) -> ImagesApp:
    """Make a gateway with a channel for each path of the upstream, asked in that order; `gone` is where nobody is."""
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        gone = f"http://127.0.0.1:{nobody.getsockname()[1]}"
    channels = tuple(
        ChannelConfig(
            name=f"c{i}",
            adapter="openai",
            base_url=gone if path == "gone" else f"{stub.url}/{path}",
            credentials=tuple(f"sk-{path}-{key}" for key in range(keys)),
            models=("m",),
            priority=-i,
        )
        for i, path in enumerate(paths)
    )
    return images_app(
        Config(gateway=GatewayConfig(reveal=("attempts", "channel")), channels=channels),
        authenticate=anyone,
        ledger=MemoryLedger(),
    )


def post(url: str) -> httpx2.Response:
    return httpx2.post(f"{url}/v1/images/generations", json={"model": "m", "prompt": "a lantern"}, timeout=30)


@pytest.mark.parametrize(
    ("path", "status", "code", "wait"),
    [
        ("gone", 502, "upstream_unreachable", None),
        ("limited", 429, "rate_limit_exceeded", 7),
        ("no-key", 502, "upstream_auth_failed", None),
        ("not-this", 502, "upstream_auth_failed", None),
        ("failed", 502, "upstream_error", None),
    ],
)
def test_the_next_serves_and_without_a_next_the_client_hears_why(
    stub: Stub, path: str, status: int, code: str, wait: int | None
) -> None:
    """U01, U16, U17, L21: over real sockets."""
    with serve(served(stub, path, "good")) as url:
        helped = post(url)
    with serve(served(stub, path, keys=2)) as url:
        alone = post(url)

    assert (helped.status_code, helped.headers["x-amux-attempts"], helped.headers["x-amux-channel"]) == (200, "2", "c1")
    assert (alone.status_code, alone.json()["error"]["code"], alone.headers["x-amux-attempts"]) == (status, code, "2")
    assert int(alone.headers.get("retry-after", 0)) == (wait or 0)
    assert "vendor.example" not in alone.text


def test_when_nobody_answers_any_more_clients_hear_so_at_once(stub: Stub) -> None:
    """U23: 503 with a time, in less than the 50 ms that a busy test machine needs for anything."""
    with serve(served(stub, "gone", "failed")) as url, httpx2.Client(base_url=url) as client:
        answers = [_timed(client) for _ in range(30)]

    last = answers[-5:]
    assert {answer.status_code for answer, _ in last} == {503}
    assert {answer.json()["error"]["code"] for answer, _ in last} == {"upstream_unavailable"}
    assert all(1 <= int(answer.headers["retry-after"]) <= 8 for answer, _ in last)
    assert min(took for _, took in last) < 0.05


def _timed(client: httpx2.Client) -> tuple[httpx2.Response, float]:
    begun = time.perf_counter()
    answer = client.post("/v1/images/generations", json={"model": "m", "prompt": "a lantern"})
    return answer, time.perf_counter() - begun


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # no matter of the event loop, and many asks
async def test_an_upstream_that_fails_half_of_the_time_gets_no_storm_of_retries(stub: Stub) -> None:
    """U22: as fast as twenty clients can."""
    images = served(stub, "flaky", "flaky")
    ended: list[bool] = []

    async def asked() -> bool:
        try:
            await images.gateway.generate(GenerationRequest(model="m", prompt="a lantern"), ME)
        except GatewayError:
            return False
        return True

    async def client() -> None:
        ended.extend([await asked() for _ in range(30)])

    async with images.lifespan(), anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(client)

    assert len(ended) == 600
    assert stub.posts <= 1.2 * 600
    assert sum(ended) >= 250
