"""The gateway carries out with what is installed, or with what the configuration names."""

import subprocess
import sys
from collections.abc import Generator
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any

import httpx  # noqa: TID251, a client of the caller's own
import httpx2  # noqa: TID251, the same
import pytest

from amux_asgi import ChannelConfig, ConfigError, GenerationRequest, Principal, anyone, images_app
from tests.stub import Stub, upstream

PROGRAM = """
import sys
if "without" in sys.argv:
    sys.modules["aiohttp"] = sys.modules["httptools"] = None  # as if they were not installed
import anyio
from amux_asgi import *

url, transport, loop = sys.argv[1:4]
channel = ChannelConfig(name="stub", adapter="openai-compatible", base_url=url, models=("m",))
images = images_app(
    Config(gateway=GatewayConfig(transport=transport), channels=(channel,)), authenticate=anyone
)

async def main():
    async with images.lifespan():
        made = await images.gateway.generate(
            GenerationRequest(model="m", prompt="x"), Principal(account="a", key="k")
        )
    print(len(made.images.data), next((name for name in ("aiohttp", "httptools") if sys.modules.get(name)), "httpx2"))

anyio.run(main, backend=loop)
"""


@pytest.fixture(scope="module")
def stub() -> Generator[Stub]:
    with upstream() as running:
        yield running


def carried(stub: Stub, *told: str) -> subprocess.CompletedProcess[str]:
    """Make a picture in a fresh process."""
    command = [sys.executable, "-c", PROGRAM, f"{stub.url}/v1", *told]
    return subprocess.run(command, check=False, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("told", "by"),
    [
        (["auto", "asyncio"], "httptools"),
        (["auto", "trio"], "httpx2"),
        (["auto", "asyncio", "without"], "httpx2"),
        (["httpx2", "asyncio"], "httpx2"),
        (["aiohttp", "asyncio"], "aiohttp"),
        (["direct", "asyncio"], "httptools"),
    ],
    ids=" ".join,
)
def test_the_transport_is_the_one_that_was_chosen(stub: Stub, told: list[str], by: str) -> None:
    """It is our own where httptools is installed and can run, otherwise httpx2; what is named is taken."""
    done = carried(stub, *told)

    assert done.stdout.split() == ["1", by], done.stderr


def test_a_transport_that_is_not_installed_is_missed_at_once(stub: Stub) -> None:
    """Not at the first request."""
    done = carried(stub, "aiohttp", "asyncio", "without")

    assert done.returncode == 1
    assert "amux-asgi[fast]" in done.stderr


@pytest.mark.anyio
@pytest.mark.parametrize("library", [httpx, httpx2])
async def test_a_client_of_ones_own_carries(stub: Stub, library: Any) -> None:
    """It says its own name to the upstream, and is still open afterwards."""
    jar = CookieJar(DefaultCookiePolicy(allowed_domains=[]))
    channel = ChannelConfig(name="stub", adapter="openai-compatible", base_url=f"{stub.url}/v1", models=("m",))
    async with library.AsyncClient(cookies=jar, headers={"x-own": "mine"}, trust_env=False) as client:
        images = images_app(channels=[channel], authenticate=anyone, transport=client)
        async with images.lifespan():
            await images.gateway.generate(GenerationRequest(model="m", prompt="x"), Principal(account="a", key="k"))
        closed = client.is_closed

    assert b"x-own: mine" in stub.requests[-1].lower()
    assert not closed


def test_a_client_that_cannot_carry_is_refused() -> None:
    """When constructed."""
    channel = ChannelConfig(name="stub", adapter="openai-compatible", base_url="http://127.0.0.1:9", models=("m",))
    synchronous: Any = httpx2.Client

    with synchronous() as client, pytest.raises(ConfigError, match="AsyncClient"):
        images_app(channels=[channel], authenticate=anyone, transport=client)
