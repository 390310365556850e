"""Look a host's name up once for all who ask at the same time: it takes a thread, of which there are few."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any, Final

KEPT: Final = 10.0  # seconds that addresses are believed

Addresses = list[Any]
"""As `getaddrinfo` gives them."""

LookUp = Callable[[str, int], Awaitable[Addresses]]


class Names:
    """The addresses of hosts. What cannot be found is looked up anew when somebody asks again."""

    def __init__(self, look_up: LookUp | None = None, *, kept: float = KEPT) -> None:
        """`kept` is in seconds, counted from when a look-up began."""
        self._loop = asyncio.get_running_loop()
        self._look_up = look_up or self._ask_system
        self._kept = kept
        self._found: dict[tuple[str, int], tuple[float, asyncio.Task[Addresses]]] = {}

    async def find(self, host: str, port: int) -> Addresses:
        """Give a host's addresses; who is cancelled leaves the others waiting.

        Raises:
            OSError: there are none.
            ValueError: the name cannot be one.
        """
        begun, looking = self._found.get((host, port), (0.0, None))
        if looking is None or (looking.done() and begun + self._kept <= self._loop.time()):
            looking = self._loop.create_task(self._find(host, port))
            looking.add_done_callback(_seen)
            self._found[host, port] = self._loop.time(), looking
        return await asyncio.shield(looking)

    async def _find(self, host: str, port: int) -> Addresses:
        try:
            return await self._look_up(host, port)
        except BaseException:
            del self._found[host, port]
            raise

    async def _ask_system(self, host: str, port: int) -> Addresses:
        return await self._loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)

    def close(self) -> None:
        """Call off what is looked up."""
        for _, looking in self._found.values():
            looking.cancel()


def _seen(looking: asyncio.Task[Addresses]) -> None:
    """Have asyncio not complain of a fault that nobody is left to hear of."""
    if not looking.cancelled():
        looking.exception()
