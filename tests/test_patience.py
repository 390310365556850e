"""Work under a deadline, whose first step waits for nothing."""

import asyncio  # noqa: TID251, what only it has

import anyio
import pytest

from amux_asgi.patience import at_once, within

pytestmark = pytest.mark.anyio


async def test_work_that_never_waits_needs_no_time() -> None:
    """What is there is given, however little time there is."""

    async def work() -> str:
        return "there"

    assert await within(0, work()) == "there"


async def test_work_that_waits_ends_in_its_time() -> None:
    """Several waits, in scopes of its own that begin before the deadline does."""

    async def work() -> str:
        async with anyio.create_task_group() as tasks:
            with anyio.move_on_after(60):
                tasks.start_soon(anyio.lowlevel.checkpoint)
                for _ in range(3):
                    await anyio.lowlevel.checkpoint()
        return "done"

    assert await within(60, work()) == "done"


async def test_work_that_takes_too_long_is_cancelled() -> None:
    """It learns so where it waits, in whatever scopes, and the next work waits as ever."""
    ends: list[str] = []

    async def work() -> None:
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(anyio.sleep_forever)
                with anyio.CancelScope():
                    await anyio.sleep_forever()
        finally:
            ends.append("cancelled")

    assert await within(0, work()) is None
    assert ends == ["cancelled"]
    await anyio.lowlevel.checkpoint()


@pytest.mark.parametrize("waits", [0, 1, 2])
async def test_what_the_work_raises_is_raised(waits: int) -> None:
    """Whenever it does, also its own word for being late."""

    async def work() -> None:
        for _ in range(waits):
            await anyio.lowlevel.checkpoint()
        raise TimeoutError("mine")

    with pytest.raises(TimeoutError, match="mine"):
        await within(60, work())


async def test_who_is_cancelled_from_outside_ends() -> None:
    """A wait is left at once, and is no value."""
    ends: list[object] = []

    async def work() -> None:
        await anyio.sleep_forever()

    with anyio.move_on_after(0) as outer:
        ends.append(await within(60, work()))

    assert outer.cancelled_caught
    assert ends == []


async def test_what_is_there_is_taken_at_once() -> None:
    """It comes with no wait at all, or not."""

    async def work() -> str:
        return "there"

    assert await at_once(work()) == "there"


async def test_who_would_have_to_wait_gives_nothing() -> None:
    """The work is cancelled where it waits, and ends before anything else goes on."""
    ends: list[str] = []

    async def work() -> str:
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(anyio.sleep_forever)
                await anyio.Event().wait()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.lowlevel.checkpoint()
            ends.append("cancelled")
        return "never"

    assert await at_once(work()) is None
    assert ends == ["cancelled"]
    await anyio.lowlevel.checkpoint()


async def test_what_fails_at_once_fails() -> None:
    """Nothing is taken for a wait."""

    async def work() -> str:
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        await at_once(work())


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_what_the_work_waits_for_is_cancelled_too() -> None:
    """Another task does not go on for nobody; whoever has an answer all the same is heard."""
    tasks: list[asyncio.Task[None]] = []

    async def other() -> None:
        await asyncio.sleep(0)
        tasks.append(asyncio.create_task(anyio.sleep_forever()))
        await tasks[0]

    async def work() -> str:
        tasks.append(asyncio.create_task(anyio.sleep_forever()))
        try:
            await tasks[0]
        except asyncio.CancelledError:
            return "after all"
        return "never"

    assert await at_once(work()) == "after all"
    await asyncio.wait(tasks)
    assert tasks[0].cancelled()
    tasks.clear()
    assert await at_once(other()) is None
    assert tasks == []


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_who_is_cancelled_while_the_work_ends_is_cancelled() -> None:
    """It is not taken for the end of the work."""
    begun = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            begun.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(at_once(work()))
    await begun.wait()
    task.cancel()
    await asyncio.wait([task])

    assert task.cancelled()
