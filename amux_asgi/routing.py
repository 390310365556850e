"""Which channels serve a model, and in which order: functions of the configuration, a turn and a source of chance."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import groupby
from typing import Any, Literal
from urllib.parse import urlsplit

from msgspec import Struct

from amux_asgi.adapters._base import Adapter
from amux_asgi.errors import ConfigError, End

EXTRA_ATTEMPTS = 2  # beyond the first
SHORTEST_SECRET = 8  # characters; shorter ones stand in ordinary words


class Channel(Struct, frozen=True, kw_only=True, eq=False):
    """One configured way to use an upstream.

    `models` leads from the client's name of a model to the upstream's; `timeout` is in seconds, for one attempt;
    `headers` are sent with every ask.
    """

    name: str
    adapter: Adapter
    base_url: str  # without a slash at its end
    models: Mapping[str, str]
    credentials: tuple[str, ...] = ()
    priority: int = 0  # higher first
    weight: int = 1  # share inside one priority
    timeout: float = 300
    unknown_fields: Literal["forward", "drop", "reject"] = "forward"
    on_unknown: Literal["stop", "retry"] = "stop"
    headers: Mapping[str, str] = {}
    options: Mapping[str, Any] = {}

    def secrets(self) -> Iterator[str]:
        """Give what a client must never see of it: credentials, headers, and where it is."""
        host = urlsplit(self.base_url).hostname or ""
        known = (*self.credentials, *self.headers.values(), host if "." in host else "")
        yield from (text for text in known if len(text) >= SHORTEST_SECRET)


class Candidate(Struct, frozen=True):
    """One attempt that could be made."""

    channel: Channel
    model: str  # the upstream's name
    credential: str  # empty where the upstream wants none


class Routes:
    """All channels, indexed by model, so that a look-up costs the same with one channel as with a thousand."""

    def __init__(self, channels: Iterable[Channel]) -> None:
        self.channels: tuple[Channel, ...] = tuple(channels)
        names = Counter(channel.name for channel in self.channels)
        if twice := [name for name, count in names.items() if count > 1]:
            raise ConfigError(f"two channels are named {twice[0]!r}; a channel's name must be its own")
        serving: dict[str, list[Channel]] = {}
        for channel in self.channels:
            for model in channel.models:
                serving.setdefault(model, []).append(channel)
        self._tiers = {model: _tiers(channels) for model, channels in serving.items()}

    @property
    def models(self) -> Iterable[str]:
        """Every model that a client can name, in the order of the configuration."""
        return self._tiers.keys()

    def candidates(self, model: str, *, turn: int, random: Callable[[], float]) -> Iterator[Candidate]:
        """Give what could be tried for a model, best first; nothing for a model that nobody serves.

        Higher priorities first; inside one, by chance and weight; of one channel every credential, beginning with the
        one whose `turn` it is.
        """
        for tier in self._tiers.get(model, ()):
            for channel in sorted(tier, key=lambda channel: random() ** (1 / channel.weight), reverse=True):
                credentials = channel.credentials or ("",)
                first = turn % len(credentials)
                for credential in credentials[first:] + credentials[:first]:
                    yield Candidate(channel, channel.models[model], credential)


def may_go_on(end: End | None, channel: Channel) -> bool:
    """Tell whether another attempt may follow one that ended so."""
    return end in (End.NEVER_SENT, End.REFUSED) or (end is End.UNKNOWN and channel.on_unknown == "retry")


def _tiers(channels: Iterable[Channel]) -> tuple[tuple[Channel, ...], ...]:
    ordered = sorted(channels, key=lambda channel: channel.priority, reverse=True)
    return tuple(tuple(tier) for _, tier in groupby(ordered, key=lambda channel: channel.priority))
