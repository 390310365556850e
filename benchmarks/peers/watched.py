"""Our gateway, and how long its event loop is held up: `python -m benchmarks.peers.watched CONFIG PORT`.

A clock on the loop rings every millisecond; what it is late is what everybody else waits. `/held-up` tells since the
last question, in seconds: the longest time, the most processor time that the loop's thread took in one, and how often
it was longer than 20 ms.
"""

import asyncio  # noqa: TID251, what is watched
import os
import sys
import time
from typing import Final

import msgspec
from starlette.types import Receive, Scope, Send

from amux_asgi.app import CONFIG_VARIABLE, ImagesApp, from_environment
from amux_asgi.server import ServerSettings, serve

EVERY: Final = 0.001  # seconds
LONG: Final = 0.02  # seconds


class Watched:
    """The app, with a clock beside it."""

    def __init__(self, app: ImagesApp) -> None:
        self._app = app
        self._longest = 0.0
        self._work = 0.0
        self._often = 0
        self._due = 0.0
        self._used = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope."""
        if scope["type"] == "lifespan":
            self._wind()
        if scope.get("path") != "/held-up":
            await self._app(scope, receive, send)
            return
        told = msgspec.json.encode({"longest": self._longest, "work": self._work, "often": self._often})
        self._longest, self._work, self._often = 0.0, 0.0, 0
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": told})

    def _wind(self) -> None:
        self._due = time.perf_counter() + EVERY
        self._used = time.thread_time()
        asyncio.get_running_loop().call_later(EVERY, self._ring)

    def _ring(self) -> None:
        late = time.perf_counter() - self._due
        self._longest = max(self._longest, late)
        self._work = max(self._work, time.thread_time() - self._used)
        self._often += late > LONG
        self._wind()


def app() -> Watched:
    """Make it, as a worker of the server does."""
    return Watched(from_environment())


if __name__ == "__main__":
    os.environ[CONFIG_VARIABLE] = sys.argv[1]
    serve("benchmarks.peers.watched:app", ServerSettings(port=int(sys.argv[2]), grace=1))
