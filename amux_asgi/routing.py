"""Which channels serve a model, and in which order: functions of the configuration, a turn and a source of chance."""

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import accumulate, groupby
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from msgspec import Struct

from amux_asgi.adapters._base import Adapter, TokenFlow
from amux_asgi.errors import ConfigError
from amux_asgi.health import Seat
from amux_asgi.models import find
from amux_asgi.spec import ModelSpec

SHORTEST_SECRET = 8  # characters; shorter ones stand in ordinary words
FEW: Final = 8  # channels of one priority, which are simply sorted
MISSES: Final = 8  # draws of what was drawn before, after which the rest is sorted


class Channel(Struct, frozen=True, kw_only=True, eq=False):
    """One configured way to use an upstream.

    `models` leads from the client's name of a model to the upstream's, `rules` to the catalogue's where that is
    another; `timeout` is in seconds, for one attempt; `headers` are sent with every ask.
    """

    name: str
    adapter: Adapter
    base_url: str  # without a slash at its end
    models: Mapping[str, str]
    rules: Mapping[str, str] = {}
    credentials: tuple[str, ...] = ()
    priority: int = 0  # higher first
    weight: int = 1  # share inside one priority
    timeout: float = 300
    unknown_fields: Literal["forward", "drop", "reject"] = "forward"
    on_unknown: Literal["stop", "retry"] = "stop"
    rehost: bool = False  # its URLs are not shown to clients
    headers: Mapping[str, str] = {}
    concurrency: int = 64  # asks at once
    options: Any = None  # what the adapter declares them to be
    exchanges: Mapping[str, Callable[[int], TokenFlow]] = {}  # by the credential that a token stands for

    def secrets(self) -> Iterator[str]:
        """Give what a client must never see of it: credentials, headers, and where it is."""
        host = urlsplit(self.base_url).hostname or ""
        known = (*self.credentials, *self.headers.values(), host if "." in host else "")
        yield from (text for text in known if len(text) >= SHORTEST_SECRET)


Kind = tuple[str, str, str, str]  # the adapter, the upstream's model, the catalogue's, and what of unknown fields


class Candidate:
    """One attempt that could be made, and what is known of all that go this way: made once, and never changed.

    `model` is the upstream's name; `credential` is empty where the upstream wants none; `rules` is the catalogue's name
    of the model. Its health is known by its `seat`. `spec` is what the model takes through this channel, `None` if
    nobody knows; `streams` tells whether the model itself can be asked for a stream there, `forms` in which forms it
    can answer. Candidates of one `kind` are asked the same for a request.
    """

    def __init__(self, channel: Channel, model: str, credential: str, rules: str) -> None:
        adapter = channel.adapter
        self.channel: Channel = channel
        self.model: str = model
        self.credential: str = credential
        self.rules: str = rules
        self.seat: Seat = (channel.name, credential, model)
        self.spec: ModelSpec | None = _spec(rules, adapter.spec)
        self.streams: bool = adapter.hear is not None and (self.spec is None or "stream" in self.spec.fields)
        self.forms: tuple[str, ...] = _forms(adapter, self.spec)
        self.kind: Kind = (adapter.name, model, rules, channel.unknown_fields)


class Routes:
    """All channels, indexed by model, so that a look-up costs the same with one channel as with a thousand.

    `models` are all that a client can name, in the order of the configuration.
    """

    def __init__(self, channels: Iterable[Channel]) -> None:
        self.channels: tuple[Channel, ...] = tuple(channels)
        names = Counter(channel.name for channel in self.channels)
        if twice := [name for name, count in names.items() if count > 1]:
            raise ConfigError(f"two channels are named {twice[0]!r}; a channel's name must be its own")
        serving: dict[str, list[_Serving]] = {}
        for channel in self.channels:
            for model in channel.models:
                serving.setdefault(model, []).append(_serving(channel, model))
        self._tiers = {model: _tiers(all_of_them) for model, all_of_them in serving.items()}
        self.models: Collection[str] = self._tiers.keys()
        self._only = {model: ones[0].ways[0] for model, ones in serving.items() if len(ones) == len(ones[0].ways) == 1}

    def candidates(self, model: str, *, turn: int, random: Callable[[], float]) -> Iterator[Candidate]:
        """Give what could be tried for a model, best first; nothing for a model that nobody serves.

        Higher priorities first; inside one, by chance and weight; of one channel every credential, beginning with the
        one whose `turn` it is.
        """
        for tier in self._tiers.get(model, ()):
            for serving in tier.drawn(random):
                ways = serving.ways
                for i in range(turn, turn + len(ways)):
                    yield ways[i % len(ways)]

    def only(self, model: str) -> Candidate | None:
        """Give what serves a model alone; `None` where there is a choice, or nobody."""
        return self._only.get(model)

    def usual(self, model: str) -> Candidate:
        """Give what is tried first most often for a model that is served."""
        return max(self._tiers[model][0].serving, key=lambda one: one.channel.weight).ways[0]

    def groups(self) -> Iterator[tuple[Seat, ...]]:
        """Give, for each model, all that its health is known by."""
        for tiers in self._tiers.values():
            yield tuple(way.seat for tier in tiers for serving in tier.serving for way in serving.ways)


class _Serving(Struct, frozen=True):
    """A channel that serves a model, by each of its credentials."""

    channel: Channel
    ways: tuple[Candidate, ...]


class _Tier:
    """Channels of one priority that serve a model."""

    def __init__(self, serving: Iterable[_Serving]) -> None:
        self.serving: tuple[_Serving, ...] = tuple(serving)
        self._sums = tuple(accumulate(one.channel.weight for one in self.serving))

    def drawn(self, random: Callable[[], float]) -> Iterator[_Serving]:
        """Draw one after the other by weight; of many, only those cost anything that are asked for."""
        drawn: set[int] = set()
        misses = 0
        while len(self.serving) > FEW and misses < MISSES:
            index = bisect_right(self._sums, random() * self._sums[-1])
            if index in drawn:
                misses += 1  # most of the weight is drawn
                continue
            drawn.add(index)
            yield self.serving[index]
        left = [one for i, one in enumerate(self.serving) if i not in drawn]
        if len(left) > 1:
            left.sort(key=lambda one: random() ** (1 / one.channel.weight), reverse=True)
        yield from left


@lru_cache(4096)  # so that as many channels as serve a model share it
def _spec(rules: str, widened: Callable[[ModelSpec], ModelSpec] | None) -> ModelSpec | None:
    spec = find(rules)
    return spec if spec is None or widened is None else widened(spec)


def _forms(adapter: Adapter, spec: ModelSpec | None) -> tuple[str, ...]:
    if spec is not None and "response_format" not in spec.fields:
        return (spec.response_format,)
    return adapter.forms


def _serving(channel: Channel, model: str) -> _Serving:
    upstream = channel.models[model]
    rules = channel.rules.get(model, upstream)
    credentials = channel.credentials or ("",)
    return _Serving(channel, tuple(Candidate(channel, upstream, credential, rules) for credential in credentials))


def _tiers(serving: Iterable[_Serving]) -> tuple[_Tier, ...]:
    ordered = sorted(serving, key=lambda one: one.channel.priority, reverse=True)
    return tuple(_Tier(tier) for _, tier in groupby(ordered, key=lambda one: one.channel.priority))
