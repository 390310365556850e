"""What runs on one event loop, with and without a lifespan."""

import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
import pytest

from amux_asgi.errors import NotStartedError, UpstreamTimeoutError
from amux_asgi.limit_store import Limits
from amux_asgi.quota import MemoryLedger
from amux_asgi.runtime import Runtime, Runtimes, in_memory
from amux_asgi.stores.pictures import in_memory as pictures_in_memory
from amux_asgi.transport.asgi import AsgiTransport
from amux_asgi.transport.base import Open, Transport
from amux_asgi.wiring import Line

pytestmark = pytest.mark.anyio


def runtimes_of(lines: dict[str, Line], *, grace: float = 1) -> Runtimes:
    pictures = pictures_in_memory(most=1000, now=lambda: 0.0)
    return Runtimes(lines, stores=in_memory(MemoryLedger()), pictures=pictures, limiter=Limits().opened, grace=grace)


class Opened:
    """A transport's life: how often it was opened, and how many are open."""

    def __init__(self) -> None:
        self.times = 0
        self.now = 0

    def opener(self) -> Open:
        @asynccontextmanager
        async def opening() -> AsyncGenerator[Transport]:
            self.times += 1
            self.now += 1
            yield AsgiTransport(nowhere)
            self.now -= 1

        return opening


async def nowhere(*_: object) -> None:
    await anyio.lowlevel.checkpoint()


async def channels(runtime: Runtime) -> list[str]:
    await anyio.lowlevel.checkpoint()
    return list(runtime.transports)


async def test_one_transport_serves_all_channels_of_its_kind() -> None:
    """Ten channels share one pool of connections, closed when the app stops."""
    opened = Opened()
    opener = opened.opener()
    runtimes = runtimes_of({"a": Line(opener), "b": Line(opener)})

    async with runtimes.running():
        assert await runtimes.run(channels) == ["a", "b"]
        assert await runtimes.run(channels) == ["a", "b"]

    assert (opened.times, opened.now) == (1, 0)


async def test_several_mounts_may_enter_the_same_lifespan() -> None:
    """Who enters a second time joins what runs."""
    opened = Opened()
    runtimes = runtimes_of({"a": Line(opened.opener())})

    async with runtimes.running() as first, runtimes.running() as second:
        assert first is second

    assert (opened.times, opened.now) == (1, 0)


async def test_stopping_waits_for_the_jobs_that_run() -> None:
    """A picture that is being made is finished before the connections close."""
    opened, go_on, begun = Opened(), anyio.Event(), anyio.Event()
    runtimes = runtimes_of({"a": Line(opened.opener())}, grace=60)
    made: list[int] = []

    async def work(_runtime: Runtime) -> None:
        begun.set()
        await go_on.wait()
        made.append(opened.now)

    async def live(stop: anyio.Event) -> None:
        async with runtimes.running():
            await stop.wait()
            go_on.set()

    async with anyio.create_task_group() as tasks:
        stop = anyio.Event()
        tasks.start_soon(live, stop)
        await anyio.wait_all_tasks_blocked()
        tasks.start_soon(runtimes.run, work)
        await begun.wait()
        stop.set()

    assert made == [1]
    assert opened.now == 0


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_without_a_lifespan_each_request_runs_alone_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    """A forgotten lifespan works, slower, with one warning that names the mend."""
    opened = Opened()
    runtimes = runtimes_of({"a": Line(opened.opener())})

    assert await runtimes.run(channels) == ["a"]
    assert await runtimes.run(channels) == ["a"]

    assert (opened.times, opened.now) == (2, 0)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "lifespan=images.lifespan" in caplog.text


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_without_a_lifespan_trio_is_told_the_mend() -> None:
    """Trio has no tasks that nobody owns."""
    with pytest.raises(NotStartedError, match=r"images\.lifespan"):
        await runtimes_of({}).run(channels)


async def test_what_is_raised_while_it_runs_comes_out_as_it_is() -> None:
    """Whoever wraps `except` around the lifespan finds the error itself."""
    with pytest.raises(ZeroDivisionError):
        async with runtimes_of({}).running():
            raise ZeroDivisionError


async def test_a_new_version_before_the_start_is_the_one_that_starts() -> None:
    """The one before is never opened."""
    old, new = Opened(), Opened()
    runtimes = runtimes_of({"a": Line(old.opener())})

    await runtimes.renew({"b": Line(new.opener())})
    async with runtimes.running():
        assert await runtimes.run(channels) == ["b"]

    assert (old.times, new.times) == (0, 1)


async def test_the_grace_time_is_one_also_for_a_server_that_waits_first() -> None:
    """What the server's own wait took is gone: a job that still runs then is cut off at once."""
    now = [0.0]
    pictures = pictures_in_memory(most=1000, now=lambda: 0.0)
    runtimes = Runtimes(
        {},
        stores=in_memory(MemoryLedger()),
        pictures=pictures,
        limiter=Limits().opened,
        grace=3600,
        clock=lambda: now[0],
    )
    ended: list[str] = []

    async def work(_runtime: Runtime) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append("cut")

    async def ask() -> None:
        with pytest.raises(UpstreamTimeoutError):
            await runtimes.run(work)

    async with anyio.create_task_group() as tasks, runtimes.running():
        tasks.start_soon(ask)
        await anyio.wait_all_tasks_blocked()
        runtimes.stop()
        now[0] = 3600
        runtimes.stop()  # told twice, it began with the first

    assert ended == ["cut"]
