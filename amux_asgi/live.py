"""What the channels of a running gateway do now, for its operator: their places, and who rests for how long."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol

from msgspec import Struct

from amux_asgi.health import Row
from amux_asgi.places import PlacesState
from amux_asgi.routing import Channel


class ChannelState(Struct, frozen=True, kw_only=True):
    """One channel in one process; of credentials only the last four characters, and no address."""

    name: str
    adapter: str
    models: tuple[str, ...]  # as clients name them
    priority: int
    weight: int
    places: int
    taken: int
    waiting: int
    ways: tuple[Row, ...]  # by credential and by the upstream's name of the model


class Live(Protocol):
    """What runs channels; `ImagesApp` does."""

    def channels(self) -> list[ChannelState]:
        """Say what each does now."""
        ...


def states(
    channels: Iterable[Channel], places: Mapping[str, PlacesState], rows: Iterable[Row]
) -> Iterator[ChannelState]:
    """Put together what is known of each channel."""
    ways: dict[str, list[Row]] = {}
    for row in rows:
        ways.setdefault(row.channel, []).append(row)
    for channel in channels:
        now = places.get(channel.name, PlacesState(places=channel.concurrency, taken=0, waiting=0, oldest=0.0))
        yield ChannelState(
            name=channel.name,
            adapter=channel.adapter.name,
            models=tuple(channel.models),
            priority=channel.priority,
            weight=channel.weight,
            places=now.places,
            taken=now.taken,
            waiting=now.waiting,
            ways=tuple(ways.get(channel.name, ())),
        )
