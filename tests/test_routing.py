"""Which channel is tried for a model, and in which order."""

from collections import Counter
from collections.abc import Callable
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


def test_of_many_channels_the_first_ones_cost_no_more_than_of_few() -> None:
    """Only those are drawn that are asked for."""
    routes = Routes([channel(str(i)) for i in range(1000)])
    draws: list[float] = []

    def random() -> float:
        draws.append(Random(len(draws)).random())
        return draws[-1]

    first = [candidate for candidate, _ in zip(routes.candidates("m", turn=0, random=random), range(3), strict=False)]

    assert len(set(names(first))) == 3
    assert len(draws) < 10


@pytest.mark.parametrize("random", [Random(3).random, lambda: 0.5, lambda: 0.0])
def test_each_of_many_channels_comes_once(random: Callable[[], float]) -> None:
    """Whatever chance does."""
    routes = Routes([channel(str(i), weight=1 + (i == 5) * 10_000) for i in range(100)])

    found = names(list(routes.candidates("m", turn=0, random=random)))

    assert sorted(found) == sorted(str(i) for i in range(100))
    assert routes.usual("m").channel.name == "5"


def test_weights_share_out_the_places_of_many_channels() -> None:
    """The first two places go as by drawing without putting back."""
    routes = Routes([channel(str(i), weight=40 if i < 2 else 1) for i in range(22)])
    random = Random(5).random
    firsts = [names(list(routes.candidates("m", turn=0, random=random)))[:2] for _ in range(4000)]

    heavy_first = sum(first in {"0", "1"} for first, _ in firsts) / 4000
    heavy_then = Counter(second in {"0", "1"} for first, second in firsts if first in {"0", "1"})

    assert heavy_first == pytest.approx(80 / 100, abs=0.03)
    assert heavy_then[True] / heavy_then.total() == pytest.approx(40 / 60, abs=0.04)
