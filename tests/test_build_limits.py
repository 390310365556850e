"""Limits in the configuration: what works, and what cannot is refused with its place."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from amux_asgi import Config, GatewayConfig, KeyConfig, LimitsConfig, rules
from amux_asgi.admitting import Rulebook
from amux_asgi.build_keys import keys_of
from amux_asgi.build_limits import check_workers, limits_of, rules_of
from amux_asgi.config import load
from amux_asgi.errors import ConfigError
from tests.limits.clocks import Clock
from tests.test_config import CHANNEL, KEY

GOOD = """
[gateway]
limits = "redis://127.0.0.1:1"
nodes = 3
[limits]
gateway = ["600 requests/minute"]
account = ["9 concurrent"]
key = ["60 requests/minute"]
[limits.models]
"m" = ["40 megapixels/minute"]
"""
pytestmark = pytest.mark.anyio


def now() -> datetime:
    return datetime(2026, 1, 1, tzinfo=UTC)


def written(folder: Path, text: str) -> Path:
    path = folder / "amux.toml"
    path.write_text(text)
    return path


async def test_limits_are_read(tmp_path: Path) -> None:
    """Where they are counted, everybody's rules, and a key's own."""
    other = KEY.replace('"k"', '"b"').replace("012", "999")

    told = load(written(tmp_path, GOOD + CHANNEL + KEY + "limits = ['1 images/day']\n" + other))

    assert rules_of(told) == Rulebook(
        gateway=rules("600 requests/minute"),
        account=rules("9 concurrent"),
        key=rules("60 requests/minute"),
        models={"m": rules("40 megapixels/minute")},
    )
    assert limits_of(told, Clock()).place == "redis://127.0.0.1:1"
    own = [key.limits for key in told.keys]
    principals = [await keys_of(told, now).authenticate(key.key) for key in told.keys]
    assert own == [("1 images/day",), None]
    assert [principal.limits for principal in principals] == [rules("1 images/day"), None]


@pytest.mark.parametrize(
    ("text", "start", "part"),
    [
        ("[gateway]\nnodes = 0\n" + CHANNEL, "amux.toml:2: [gateway.nodes] ", "from 1 to"),
        ("[gateway]\nnodes = 1001\n" + CHANNEL, "amux.toml:2: [gateway.nodes] ", "from 1 to"),
        ("[gateway]\nlimits = 'memory'\n" + CHANNEL, "amux.toml:2: [gateway.limits] ", "known are memory://, redis://"),
        ("[gateway]\nlimits = 'redis://'\n" + CHANNEL, "amux.toml:2: [gateway.limits] ", "is no limits' store"),
        ("limits = 5\n", "amux.toml:1: [limits] ", "write it as [limits]"),
        ("[limits]\nkeys = []\n", "amux.toml:2: [limits.keys] ", "do you mean 'key'?"),
        (CHANNEL + "[limits]\nkey = ['60 requests']\n", "amux.toml:7: [limits.key] ", "60 requests/minute"),
        (CHANNEL + "[limits]\naccount = ['x']\n", "amux.toml:7: [limits.account] ", "is no limit"),
        (CHANNEL + "[limits]\ngateway = ['0 concurrent']\n", "amux.toml:7: [limits.gateway] ", "from 1 to"),
        (CHANNEL + "[limits.models]\nm = ['x']\n", "amux.toml:7: [limits.models.m] ", "is no limit"),
        (CHANNEL + "[limits.models]\nn = []\n", "amux.toml:7: [limits.models.n] ", "no channel serves"),
        (CHANNEL + KEY + "limits = ['x']\n", "amux.toml:9: [keys.0.limits] ", "is no limit"),
    ],
)
def test_what_cannot_work_is_refused_with_its_place(tmp_path: Path, text: str, start: str, part: str) -> None:
    """File, line, key, reason: on one line."""
    with pytest.raises(ConfigError) as caught:
        build(written(tmp_path, text))

    message = str(caught.value).removeprefix(f"{tmp_path}/")
    assert message.startswith(start)
    assert part in message
    assert "\n" not in message


def build(path: Path) -> None:
    config = load(path)
    limits_of(config, Clock())
    rules_of(config)
    keys_of(config, now)


@pytest.mark.parametrize(
    ("told", "workers", "refused"),
    [
        ({}, 2, False),
        ({"limits": LimitsConfig(gateway=("1 concurrent",))}, 1, False),
        ({"limits": LimitsConfig(gateway=("1 concurrent",))}, 2, True),
        ({"limits": LimitsConfig(account=("1 concurrent",))}, 2, True),
        ({"limits": LimitsConfig(key=("1 concurrent",))}, 2, True),
        ({"limits": LimitsConfig(models={"m": ("1 concurrent",)})}, 2, True),
        ({"keys": (KeyConfig(name="a", key="k", limits=("1 concurrent",)),)}, 2, True),
        ({"limits": LimitsConfig(key=("1 concurrent",)), "gateway": GatewayConfig(nodes=2)}, 2, False),
        ({"limits": LimitsConfig(key=("1 concurrent",)), "gateway": GatewayConfig(nodes=2)}, 3, True),
        ({"limits": LimitsConfig(key=("1 concurrent",)), "gateway": GatewayConfig(limits="redis://h")}, 2, False),
    ],
)
def test_workers_that_count_apart_must_know_how_many_they_are(told: Any, workers: int, *, refused: bool) -> None:
    """Otherwise each of them would admit all of a limit."""
    config = Config(**told)

    if not refused:
        check_workers(config, workers)
        return
    with pytest.raises(ConfigError, match=f"say nodes = {workers}"):
        check_workers(config, workers)
