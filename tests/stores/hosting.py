"""A store of hosted pictures, and a clock that stands still."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

import anyio
from anyio.lowlevel import checkpoint

from amux_asgi.build_pictures import pictures_of
from amux_asgi.config import Config, GatewayConfig
from amux_asgi.pictures import Pictures

START: Final = 1_800_000_000


class Time:
    """Unix time that stands until it is set; who sleeps waits until somebody wakes it."""

    def __init__(self) -> None:
        self.now = float(START)
        self.slept: list[float] = []
        self._woken = anyio.Event()

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await self._woken.wait()
        self._woken = anyio.Event()

    async def wake(self) -> None:
        """Let who sleeps work until it sleeps again."""
        with anyio.fail_after(20):
            while not self.slept:
                await checkpoint()
            before = len(self.slept)
            self._woken.set()
            while len(self.slept) == before:
                await checkpoint()


@asynccontextmanager
async def opened(url: str, time: Time, most: int = 1_000_000) -> AsyncGenerator[Pictures]:
    config = Config(gateway=GatewayConfig(pictures=url, pictures_max=most))
    async with pictures_of(config, now=time, sleep=time.sleep)() as pictures:
        yield pictures
