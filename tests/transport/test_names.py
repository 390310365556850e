"""A name is looked up once for all who ask, and what one of them does concerns no other."""

import asyncio  # noqa: TID251, what is tested keeps tasks of asyncio's
import gc
from typing import Any

import anyio
import pytest

from amux_asgi.transport.names import Addresses, Names

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Books:
    """Answers look-ups when it is told to."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int]] = []
        self.open = anyio.Event()
        self.fault: Exception | None = None

    async def look_up(self, host: str, port: int) -> Addresses:
        self.asked.append((host, port))
        await self.open.wait()
        if self.fault is not None:
            raise self.fault
        return [host]


async def together(names: Names, books: Books, number: int) -> list[Any]:
    """Ask for one name several times at once."""
    async with asyncio.TaskGroup() as tasks:
        asking = [tasks.create_task(outcome(names)) for _ in range(number)]
        await anyio.wait_all_tasks_blocked()
        books.open.set()
    return [task.result() for task in asking]


async def outcome(names: Names) -> Any:
    try:
        return await names.find("a.example", 443)
    except OSError as exc:
        return exc


@pytest.mark.parametrize(("kept", "times"), [(60, 1), (0, 2)])
async def test_a_name_is_looked_up_once_for_all_and_for_a_while(kept: float, times: int) -> None:
    """Thousands may begin at once, and the threads that look up are few."""
    books = Books()
    names = Names(books.look_up, kept=kept)

    first = await together(names, books, 5)
    again = await names.find("a.example", 443)

    assert first == [["a.example"]] * 5
    assert again == ["a.example"]
    assert books.asked == [("a.example", 443)] * times


async def test_what_is_not_found_is_looked_up_anew() -> None:
    """All who waited hear of it, and who asks later has another chance."""
    books = Books()
    names = Names(books.look_up)
    books.fault = fault = OSError("no such name")

    first = await together(names, books, 3)
    books.fault = None

    assert first == [fault] * 3
    assert await names.find("a.example", 443) == ["a.example"]


@pytest.mark.parametrize("fault", [None, OSError("no such name")])
async def test_who_leaves_leaves_the_others_waiting(fault: Exception | None) -> None:
    """Also the last one takes nobody's answer along, and no fault is left over."""
    books, complaints = Books(), list[Any]()
    books.fault = fault
    asyncio.get_running_loop().set_exception_handler(lambda _loop, told: complaints.append(told))
    names = Names(books.look_up)
    with anyio.move_on_after(0):
        await names.find("a.example", 443)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(outcome, names)
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    books.open.set()
    await anyio.wait_all_tasks_blocked()
    gc.collect()

    assert (len(books.asked), complaints) == (1, [])


async def test_a_look_up_ends_with_its_transport() -> None:
    """Nothing is left running."""
    books = Books()
    names = Names(books.look_up)
    waiting = asyncio.ensure_future(names.find("a.example", 443))
    await anyio.wait_all_tasks_blocked()

    names.close()

    with pytest.raises(asyncio.CancelledError):
        await waiting
