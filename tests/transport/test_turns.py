"""Large answers that come together leave others their turns."""

from collections import Counter

import anyio
import pytest
from starlette.types import Receive, Scope, Send

from amux_asgi.adapters._base import bearer
from amux_asgi.schema import ImagesResponse
from amux_asgi.transport.asgi import AsgiTransport
from amux_asgi.transport.carry import LARGE, Way, carry
from amux_asgi.wire import Flow, get

pytestmark = pytest.mark.anyio
MANY = 8


async def test_large_answers_are_worked_on_one_by_one() -> None:
    """However many end at once, others that wait for the event loop get it between two of them."""
    turn = 0
    worked: list[int] = []
    together = anyio.Event()
    sent = 0

    async def upstream(_scope: Scope, _receive: Receive, send: Send) -> None:
        nonlocal sent
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"a" * LARGE, "more_body": True})
        sent += 1
        if sent == MANY:
            together.set()
        await together.wait()
        await send({"type": "http.response.body", "body": b"a"})

    def flow() -> Flow:
        answer = yield get("http://a.example/v1/x")
        worked.append(turn)
        assert len(answer.body) == LARGE + 1
        return ImagesResponse(data=())

    async def count_turns() -> None:
        nonlocal turn
        while len(worked) < MANY:
            turn += 1
            await anyio.lowlevel.checkpoint()

    way = Way(
        transport=AsgiTransport(upstream),
        sign=bearer,
        credential="",
        base_url="http://a.example/v1",
        hosts=(),
        headers={},
        cap=2 * LARGE,
    )

    async def one() -> None:
        await carry(flow(), way, timeout=30)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(count_turns)
        for _ in range(MANY):
            tasks.start_soon(one)

    assert max(Counter(worked).values()) <= 2, worked  # of two turns, one may come before the count and one after it
