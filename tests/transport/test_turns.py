"""Turns of an event loop are shared out by bytes, so that large answers that come together leave others theirs."""

from collections import Counter

import anyio
import pytest
from starlette.types import Receive, Scope, Send

from amux_asgi.adapters._base import bearer
from amux_asgi.loops import turn
from amux_asgi.schema import ImagesResponse
from amux_asgi.transport.asgi import AsgiTransport
from amux_asgi.transport.carry import Way, carry
from amux_asgi.turns import MOST, Turns
from amux_asgi.wire import Flow, get

pytestmark = pytest.mark.anyio
MANY = 8


async def shares(*sizes: int) -> list[list[int]]:
    """Take so many bytes each, all at once, and tell who had them in which turn."""
    turns, worked = Turns(), list[list[int]]()

    async def take(number: int) -> None:
        await turns.take(sizes[number])
        worked[-1].append(number)

    async with anyio.create_task_group() as tasks:
        worked.append([])
        for number in range(len(sizes)):
            tasks.start_soon(take, number)
        while sum(map(len, worked)) < len(sizes):
            await turn()
            worked.append([])
    return [numbers for numbers in worked if numbers]


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ((1, 1, 1), [[0, 1, 2]]),
        ((MOST, 1, 1), [[0], [1, 2]]),
        ((MOST - 1, 1, 1), [[0, 1], [2]]),
        ((1, MOST, 1), [[0], [1], [2]]),
        ((1, 3 * MOST, 1), [[0], [1], [2]]),
        ((3 * MOST, 3 * MOST), [[0], [1]]),
        ((MOST // 2,) * 5, [[0, 1], [2, 3], [4]]),
    ],
)
@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # trio begins its tasks in any order
async def test_a_turn_has_so_many_bytes_in_the_order_of_asking(
    sizes: tuple[int, ...], expected: list[list[int]]
) -> None:
    """What is more than a turn has goes alone, and nobody passes it by."""
    assert await shares(*sizes) == expected


async def test_who_leaves_holds_up_nobody() -> None:
    """A share of one that was cancelled is lost, and the next one is given."""
    turns, got = Turns(), list[int]()
    await turns.take(MOST)

    async def leave() -> None:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await turns.take(MOST)

    async def stay() -> None:
        await turns.take(1)
        got.append(1)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(leave)
        tasks.start_soon(stay)

    assert got == [1]


async def test_large_answers_are_worked_on_one_by_one() -> None:
    """However many end at once, others that wait for the event loop get it between two of them."""
    number = 0
    worked: list[int] = []
    together = anyio.Event()
    sent = 0

    async def upstream(_scope: Scope, _receive: Receive, send: Send) -> None:
        nonlocal sent
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"a" * MOST, "more_body": True})
        sent += 1
        if sent == MANY:
            together.set()
        await together.wait()
        await send({"type": "http.response.body", "body": b"a"})

    def flow() -> Flow:
        answer = yield get("http://a.example/v1/x")
        worked.append(number)
        assert len(answer.body) == MOST + 1
        return ImagesResponse(data=())

    async def count_turns() -> None:
        nonlocal number
        while len(worked) < MANY:
            number += 1
            await anyio.lowlevel.checkpoint()

    way = Way(
        transport=AsgiTransport(upstream),
        sign=bearer,
        credential="",
        base_url="http://a.example/v1",
        hosts=(),
        headers={},
        cap=2 * MOST,
    )

    async def one() -> None:
        await carry(flow(), way, timeout=30)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(count_turns)
        for _ in range(MANY):
            tasks.start_soon(one)

    assert max(Counter(worked).values()) <= 2, worked  # of two turns, one may come before the count and one after it
