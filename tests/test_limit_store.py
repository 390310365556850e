"""Where limits are counted is said by a URL, opened with the app, and shared by all who name it."""

import subprocess
import sys
from pathlib import Path

import pytest

from amux_asgi import ConfigError, Limits, rules
from amux_asgi.admission import Hit
from amux_asgi.errors import NotStartedError, RateLimitError
from tests.limit_stores import store
from tests.limits.clocks import Clock

pytestmark = pytest.mark.anyio
HIT = [Hit(rule=rules("4 concurrent")[0], scope="key:a")]


async def test_memory_needs_no_lifespan() -> None:
    """It is there from the beginning, on any event loop, and the same before, within and after a lifespan."""
    limits = Limits(nodes=2, clock=Clock())

    first = await limits.admit(HIT)
    async with limits.lifespan(), limits.opened() as limiter:
        await limiter.admit(HIT)
        with pytest.raises(RateLimitError):
            await limits.admit(HIT)
    limits.release(first.lease)
    limits.release(None)

    assert (await limits.admit(HIT)).standings[0].left == 0
    assert limits.place != Limits().place


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_store_is_open_while_anybody_uses_it(tmp_path: Path) -> None:
    """Two mounts share one; after the last has left, nothing is open, and a late release is no trouble."""
    with store(tmp_path) as server:
        limits = Limits(server.url)
        async with limits.lifespan(), limits.lifespan():
            admitted = await limits.admit(HIT)
            other = await limits.admit(HIT)
            limits.release(admitted.lease)
        limits.release(other.lease)

        with pytest.raises(NotStartedError, match="its lifespan"):
            await limits.admit(HIT)

        assert server.ask("ZCARD", "amux:{limits}:key:a:concurrent:0") == 1
        assert limits.place == server.url


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_a_store_wants_asyncio() -> None:
    """Said when the app starts."""
    with pytest.raises(ConfigError, match="on asyncio only"):
        async with Limits("redis://127.0.0.1:1").lifespan():
            pass


async def test_a_release_before_anything_was_opened_is_no_trouble() -> None:
    """There is nothing to be given back."""
    Limits("redis://127.0.0.1:1").release("unknown")


def test_a_url_that_is_none_is_refused_at_once() -> None:
    """Not by the first request."""
    with pytest.raises(ConfigError, match=r"known are memory://, redis://"):
        Limits("mongodb://host")


def test_the_extra_that_is_missing_is_named() -> None:
    """Memory needs none."""
    code = "import sys; sys.modules['redis'] = None; from amux_asgi import Limits; Limits(); Limits('valkey://host')"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert 'redis is not installed: pip install "amux-asgi[redis]"' in done.stderr


def test_what_counts_in_memory_loads_no_library_for_stores() -> None:
    """A process of its own saves 1.7 MB."""
    code = "import sys; from amux_asgi import Limits; Limits(); print('limits' in sys.modules)"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "False\n"
