"""Guessing made slow: how often one client may be wrong about API keys in a minute."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from amux_asgi.errors import RateLimitError

FAILURES: Final = 20  # in a window, for each client
WINDOW: Final = 60.0  # seconds
CLIENTS: Final = 10_000  # that are remembered; beyond, whoever failed longest ago is forgotten


class Throttle:
    """Counts failures, by whom they are of. One thread writes, any may read.

    `clock` is monotonic, in seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._failures: OrderedDict[str, tuple[float, ...]] = OrderedDict()

    def left(self, client: str) -> int:
        """Say how many failures more there may be now."""
        return FAILURES - len(self._recent(client))

    def failed(self, client: str) -> None:
        """Count a failure."""
        self._failures[client] = (*self._recent(client), self._clock())[-FAILURES:]
        self._failures.move_to_end(client)
        if len(self._failures) > CLIENTS:
            self._failures.popitem(last=False)

    def refusal(self, client: str) -> RateLimitError | None:
        """Refuse a client for as long as it was wrong too often, and say how long that is."""
        recent = self._recent(client)
        if len(recent) < FAILURES:
            return None
        wait = max(recent[0] + WINDOW - self._clock(), 0)
        return RateLimitError("too many API keys that are not valid came from your address", retry_after=wait)

    def _recent(self, client: str) -> tuple[float, ...]:
        since = self._clock() - WINDOW
        return tuple(at for at in self._failures.get(client, ()) if at > since)
