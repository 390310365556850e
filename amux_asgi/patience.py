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


async def at_once(work: Coroutine[Any, Any, T]) -> T | None:
    """Give what the work gives without a wait; `None` if it would have to wait, and is then cancelled.

    On asyncio it is told so right where it is: a deadline that has passed takes four times as long, and the event loop.
    """
    if not on_asyncio():
        return await within(0, work)
    try:
        if (wait := work.send(None)) is not None:
            wait.cancel()  # as a task does that is cancelled: it may be another task
        wait = work.throw(asyncio.CancelledError())
    except StopIteration as ended:
        return ended.value
    except asyncio.CancelledError:
        return None
    return await _ending(work, wait)


async def _ending(work: Coroutine[Any, Any, T], wait: object) -> T | None:
    """See work to its end that was cancelled, and waits once more before it does so."""
    try:
        return await _rest(work, wait)
    except asyncio.CancelledError:
        if (task := asyncio.current_task()) is not None and task.cancelling():
            raise  # not only the work is cancelled
        return None


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
