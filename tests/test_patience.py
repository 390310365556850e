"""Work under a deadline, whose first step waits for nothing."""

import anyio
import pytest

from amux_asgi.patience import within

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
