"""Transports and places, from one version of a configuration to the next."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
import anyio.lowlevel
import pytest

from amux_asgi.transport.base import Open, Transport
from amux_asgi.wiring import Line, Lines, Wired, Wires
from tests.test_runtime import Opened

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def wires() -> AsyncGenerator[Wires]:
    async with anyio.create_task_group() as tasks:
        running = Wires(tasks.start, clock=lambda: 0.0)
        try:
            yield running
        finally:
            running.close()


@asynccontextmanager
async def used(running: Wires, lines: Lines) -> AsyncGenerator[Wired]:
    """Use a version while inside."""
    wired = await running.use(lines)
    try:
        yield wired
    finally:
        running.leave(wired)


async def test_a_channel_that_is_gone_is_closed_after_its_last_request() -> None:
    """Not before, and a new one is open by then."""
    old, new = Opened(), Opened()
    before, after = {"a": Line(old.opener())}, {"b": Line(new.opener())}

    async with wires() as running:
        await running.renew(before)
        async with used(running, before):
            await running.renew(after)
            while_used = (old.now, new.now)
        await anyio.wait_all_tasks_blocked()
        afterwards = (old.now, new.now)

    assert (while_used, afterwards) == ((1, 1), (0, 1))
    assert (old.now, new.now) == (0, 0)


async def test_a_channel_that_stays_keeps_its_connections_and_its_places() -> None:
    """Where there are more or fewer of them now, that is so for all who ask."""
    opened = Opened()
    opener = opened.opener()
    before = {"same": Line(opener, 2), "other": Line(opener, 2)}
    after = {"same": Line(opener, 2), "other": Line(opener, 3), "new": Line(opener, 2)}

    async with wires() as running:
        await running.renew(before)
        async with used(running, before) as old:
            await running.renew(after)
            async with used(running, after) as new:
                pass

    assert old.places["same"] is new.places["same"]
    assert old.places["other"] is new.places["other"]
    assert new.places["other"].snapshot().places == 3
    assert old.transports["same"] is new.transports["new"]
    assert opened.times == 1


async def test_a_late_request_of_an_old_version_opens_it_once_more() -> None:
    """It took the version before the reload, and begins after it."""
    old = Opened()
    before, after = {"a": Line(old.opener())}, {"a": Line(Opened().opener())}

    async with wires() as running:
        await running.renew(before)
        await running.renew(after)
        async with used(running, before) as first, used(running, before) as second:
            assert first is second
            assert old.now == 1

    assert (old.times, old.now) == (2, 0)


async def test_what_cannot_be_opened_leaves_what_is_open() -> None:
    """The one before goes on, and nothing of the new one stays open."""
    opened, half = Opened(), Opened()
    before = {"a": Line(opened.opener())}

    async with wires() as running:
        await running.renew(before)
        with pytest.raises(ZeroDivisionError):
            await running.renew({"b": Line(half.opener()), "a": before["a"], "c": Line(failing)})
        await anyio.wait_all_tasks_blocked()
        async with used(running, before):
            open_now = (opened.now, half.now)

    assert open_now == (1, 0)


async def test_two_first_requests_open_it_once() -> None:
    """The second waits for the first."""
    opened = Opened()
    lines = {"a": Line(opened.opener())}

    async def use(running: Wires) -> None:
        async with used(running, lines):
            await anyio.lowlevel.checkpoint()

    async with wires() as running, anyio.create_task_group() as tasks:
        tasks.start_soon(use, running)
        tasks.start_soon(use, running)

    assert opened.now == 0


@asynccontextmanager
async def failing() -> AsyncGenerator[Transport]:
    raise ZeroDivisionError
    yield  # pyright: ignore[reportUnreachable]


_: Open = failing
