"""What differs by event loop: anyio does it for all of them, asyncio itself for a fraction of the work."""

import asyncio  # noqa: TID251, the one place where a request's tasks know about it
from collections.abc import Callable, Coroutine
from functools import cache
from math import inf
from typing import Any, Protocol

import anyio
from anyio.lowlevel import checkpoint, current_token

from amux_asgi.errors import NotStartedError


class Spawn(Protocol):
    """Starts a task that nobody awaits, with a function and its arguments."""

    def __call__(self, work: Callable[..., Coroutine[Any, Any, None]], /, *args: Any) -> object: ...  # noqa: ANN401, D102, the function's


class Bell(Protocol):
    """What one task waits for, and is rung once."""

    def ring(self) -> None:
        """Let it go on."""
        ...

    async def wait(self, within: float = inf) -> None:
        """Wait until it was rung, or for so many seconds."""
        ...


def on_asyncio() -> bool:
    """Tell whether the running event loop is asyncio's."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def loop_here() -> object:
    """Tell event loops apart; asyncio is asked first: each request asks twice, and anyio takes ten times as long."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return current_token().native_token


def spawn_here() -> Spawn:
    """Give what starts a task without a task group, which takes thrice as long.

    Raises:
        NotStartedError: only asyncio can do that.
    """
    if not on_asyncio():
        raise NotStartedError("the gateway was never started: give images.lifespan to the outermost app")
    return _spawn


def soon_here() -> Callable[[Callable[[], None]], object]:
    """Give what has a function run in the next turn of this event loop."""
    native: Any = loop_here()
    return native.call_soon if on_asyncio() else native.run_sync_soon


def bell_here() -> Bell:
    """Give a bell of this event loop."""
    try:
        return _FutureBell(asyncio.get_running_loop().create_future())
    except RuntimeError:
        return _EventBell()


async def turn() -> None:
    """Let all others have a turn."""
    await (asyncio.sleep(0) if on_asyncio() else checkpoint())


def scope_here() -> anyio.CancelScope:
    """Give a scope to be entered on this event loop, which ends when it is cancelled."""
    return _asyncio_scope()() if on_asyncio() else anyio.CancelScope()


def move_on_after(seconds: float) -> anyio.CancelScope:
    """Give a scope to be entered now, which is left after so many seconds."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return anyio.move_on_after(seconds)
    return _asyncio_scope()(deadline=loop.time() + seconds)


@cache
def _asyncio_scope() -> type[anyio.CancelScope]:
    """Give the class of anyio's scopes on asyncio: to find it takes anyio as long as to enter and leave a scope."""
    return type(anyio.CancelScope())


class _FutureBell:
    __slots__ = ("_future",)

    def __init__(self, future: asyncio.Future[None]) -> None:
        self._future = future

    def ring(self) -> None:
        if not self._future.done():  # who waited may have left
            self._future.set_result(None)

    async def wait(self, within: float = inf) -> None:
        if within == inf:
            await self._future
            return
        timer = asyncio.get_running_loop().call_later(within, self.ring)
        try:
            await self._future
        finally:
            timer.cancel()


class _EventBell:
    def __init__(self) -> None:
        self._event = anyio.Event()

    def ring(self) -> None:
        self._event.set()

    async def wait(self, within: float = inf) -> None:
        with anyio.move_on_after(within):
            await self._event.wait()


_loose: set[asyncio.Task[None]] = set()  # the event loop itself keeps only weak references


def _spawn(work: Callable[..., Coroutine[Any, Any, None]], /, *args: Any) -> None:  # noqa: ANN401, the function's
    task = asyncio.get_running_loop().create_task(work(*args))
    _loose.add(task)
    task.add_done_callback(_loose.discard)
