"""Which channel is tried for a model, and in which order."""

from collections import Counter
from random import Random

import pytest

from amux_asgi.adapters import ADAPTERS
from amux_asgi.errors import ConfigError
from amux_asgi.routing import Candidate, Channel, Routes


def channel(
    name: str,
    *,
    priority: int = 0,
    weight: int = 1,
    credentials: tuple[str, ...] = (),
    models: dict[str, str] | None = None,
) -> Channel:
    return Channel(
        name=name,
        adapter=ADAPTERS["openai-compatible"],
        base_url="https://upstream.example/v1",
        models=models or {"m": "m"},
        priority=priority,
        weight=weight,
        credentials=credentials,
    )


def names(candidates: list[Candidate]) -> list[str]:
    return [candidate.channel.name for candidate in candidates]


def test_higher_priorities_come_first() -> None:
    """A channel of the lower tier is only reached when the upper ones are used up."""
    routes = Routes([channel("low", priority=-1), channel("high", priority=10), channel("middle")])

    assert names(list(routes.candidates("m", turn=0, random=Random(1).random))) == ["high", "middle", "low"]


def test_weights_share_out_the_first_place() -> None:
    """Inside a tier, a channel of weight 3 comes first three times as often as one of weight 1."""
    routes = Routes([channel("one"), channel("three", weight=3)])
    random = Random(7)

    first = Counter(next(routes.candidates("m", turn=0, random=random.random)).channel.name for _ in range(4000))

    assert first["three"] / first["one"] == pytest.approx(3, rel=0.15)


def test_credentials_take_turns() -> None:
    """Each request begins with the next credential; the others follow before another channel."""
    routes = Routes([channel("a", credentials=("x", "y", "z"))])

    orders = ["".join(c.credential for c in routes.candidates("m", turn=turn, random=lambda: 0.5)) for turn in range(4)]

    assert orders == ["xyz", "yzx", "zxy", "xyz"]


def test_a_model_is_known_by_the_clients_name_and_asked_by_the_upstreams() -> None:
    """Mapping a model changes what the upstream is asked, and nothing else."""
    routes = Routes([channel("a", models={"pretty": "vendor/ugly-1"}), channel("b", models={"other": "other"})])

    assert [c.model for c in routes.candidates("pretty", turn=0, random=lambda: 0.5)] == ["vendor/ugly-1"]
    assert list(routes.candidates("vendor/ugly-1", turn=0, random=lambda: 0.5)) == []
    assert list(routes.models) == ["pretty", "other"]


def test_two_channels_of_one_name_are_refused() -> None:
    """A name in a log must mean one channel."""
    with pytest.raises(ConfigError, match="'a'"):
        Routes([channel("a"), channel("b"), channel("a")])
