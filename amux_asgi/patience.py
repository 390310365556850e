"""Work that seldom has to wait, under a deadline that costs something only where it does wait."""

import asyncio  # noqa: TID251, where this can be quicker
from collections.abc import Coroutine, Generator
from functools import partial
from types import coroutine
from typing import Any, TypeVar

import anyio

from amux_asgi.runtime import on_asyncio

T = TypeVar("T")


async def within(seconds: float, work: Coroutine[Any, Any, T]) -> T | None:
    """Give what the work gives; `None` if it still waits after so many seconds, and is then cancelled.

    On asyncio it takes its first step outside of any deadline: that of anyio takes several times as long as receiving a
    body that is there. One of asyncio's may begin later, in whatever scopes the work has opened by then.
    """
    if not on_asyncio():
        with anyio.move_on_after(seconds):
            return await work
        return None
    try:
        wait = work.send(None)
    except StopIteration as ended:
        return ended.value
    deadline = asyncio.timeout(seconds)
    try:
        async with deadline:
            return await _rest(work, wait)
    except TimeoutError:
        if deadline.expired():
            return None
        raise  # the work's own


@coroutine
def _rest(work: Coroutine[Any, Any, T], wait: object) -> Generator[Any, Any, T]:
    """Do what an `await` does, of work that has begun: hand each wait to the event loop, and back what comes of it."""
    while True:
        try:
            step = partial(work.send, (yield wait))
        except BaseException as exc:  # noqa: BLE001, raised where it waits, as a cancellation is
            step = partial(work.throw, exc)
        try:
            wait = step()
        except StopIteration as ended:
            return ended.value
