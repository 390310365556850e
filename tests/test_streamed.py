"""One stream as an answer, message by message."""

import math
from functools import partial
from typing import Any

import anyio
import pytest
from starlette.types import Message

from amux_asgi.errors import ContentPolicyError, GatewayError, RequestTimeoutError
from amux_asgi.events import Event, error_frame
from amux_asgi.sse import HEARTBEAT
from amux_asgi.streamed import PIECE, Pace, StreamAnswer
from amux_asgi.streams import Stream

pytestmark = pytest.mark.anyio

HEAD = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-store, no-transform"),
    (b"x-accel-buffering", b"no"),
    (b"x-a", b"b"),
]
SKETCH = Event("image_generation.partial_image", bytearray(b"event: s\ndata: {}\n\n"))
PICTURE = Event("image_generation.completed", bytearray(b"event: p\ndata: {}\n\n"))
NO = ContentPolicyError("no")
SOON = Pace(heartbeat=0.01)


class Server:
    """A server with one client, who takes so many messages, and then none or fails."""

    def __init__(self, *, takes: float = math.inf, fails: type[Exception] | None = None) -> None:
        self.sent: list[Message] = []
        self.bells: dict[bytes, anyio.Event] = {}
        self.gone = anyio.Event()
        self.left = 0
        self.stream = Stream(changes=(), count=lambda _: None, left=self._leave)
        self._takes = takes
        self._fails = fails
        self._asked = [{"type": "http.request"}]

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)

    async def receive(self) -> Message:
        if self._asked:
            return self._asked.pop()
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if len(self.sent) >= self._takes:
            if self._fails is not None:
                raise self._fails
            await anyio.sleep_forever()
        self.sent.append(message)
        self.bells.get(message.get("body", b""), anyio.Event()).set()

    async def serve(self, pace: Pace = Pace()) -> None:  # noqa: B008, it is frozen
        scope: dict[str, Any] = {"type": "http", "state": {}, "headers": []}
        await StreamAnswer(scope, self.receive, self.send, pace=pace).send(self.stream, lambda: (("x-a", "b"),))

    def _leave(self) -> None:
        self.left += 1


async def test_an_answer_has_its_head_its_events_and_an_end() -> None:
    """Large events go in pieces."""
    server = Server()
    large = Event("image_generation.completed", bytearray(b"x" * (2 * PIECE + 1)))
    for event in (SKETCH, PICTURE, large):
        server.stream.tell(event)
    server.stream.close(None, None)
    await server.serve()

    assert server.sent[0] == {"type": "http.response.start", "status": 200, "headers": HEAD}
    assert [len(message["body"]) for message in server.sent[3:]] == [PIECE, PIECE, 1, 0]
    assert server.body == SKETCH.frame + PICTURE.frame + large.frame
    assert [message["more_body"] for message in server.sent[1:]] == [True] * 5 + [False]
    assert server.left == 0


@pytest.mark.parametrize("fault", [None, NO])
async def test_who_asks_for_it_hears_a_last_word(fault: GatewayError | None) -> None:
    """Some clients wait for it, whatever came before."""
    server = Server()
    server.stream.tell(PICTURE)
    server.stream.close(None, fault)
    await server.serve(Pace(says_done=True))

    told = b"" if fault is None else bytes(error_frame(fault))
    assert server.body == bytes(PICTURE.frame) + told + b"data: [DONE]\n\n"
    assert not server.sent[-1]["more_body"]


async def test_comments_are_sent_while_nothing_comes() -> None:
    """They begin the answer."""
    server = Server()
    comment = server.bells[HEARTBEAT] = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(partial(server.serve, SOON))
        await comment.wait()
        server.stream.tell(PICTURE)
        server.stream.close(None, None)

    assert server.body.startswith(HEARTBEAT)
    assert server.body.endswith(HEARTBEAT + PICTURE.frame)


class Idle(Stream):
    """A stream in which nothing happens at first, three times as long as a comment takes."""

    idle = 3

    async def next(self, within: float = math.inf) -> Event | None:
        if self.idle:
            self.idle -= 1
            return None
        return await super().next(within)


async def test_where_a_picture_must_come_first_nothing_else_does() -> None:
    """No preview and no comment."""
    server = Server()
    server.stream = Idle(changes=(), count=lambda _: None, left=lambda: None)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(partial(server.serve, Pace(waits=True)))
        for event in (SKETCH, PICTURE, SKETCH):
            await anyio.wait_all_tasks_blocked()
            server.stream.tell(event)
        await anyio.wait_all_tasks_blocked()
        server.stream.close(None, None)

    assert server.body == PICTURE.frame + SKETCH.frame


@pytest.mark.parametrize("error", [NO, ValueError("a bug")])
async def test_what_fails_before_it_began_is_for_others_to_answer(error: Exception) -> None:
    """Nothing is sent."""
    server = Server()
    server.stream.close(None, error)
    with pytest.raises(type(error)):
        await server.serve()

    assert (server.sent, server.left) == ([], 0)


async def test_what_fails_later_is_the_last_event() -> None:
    """A bug of ours is raised besides, for the host."""
    expected, bug = Server(), Server()
    expected.stream.tell(PICTURE)
    bug.stream.tell(PICTURE)
    expected.stream.close(None, NO)
    bug.stream.close(None, ValueError("a bug"))
    await expected.serve()
    with pytest.raises(ValueError, match="a bug"):
        await bug.serve()

    assert expected.body == PICTURE.frame + error_frame(NO)
    assert b'"internal_error"' in bug.body
    assert b"a bug" not in bug.body
    assert expected.sent[-1] == bug.sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}


@pytest.mark.parametrize("began", [True, False])
async def test_who_leaves_ends_the_answer(*, began: bool) -> None:
    """A host hears of it as an error when nothing was answered: some cannot bear no answer."""
    server = Server()
    faults: list[GatewayError] = []

    async def serve() -> None:
        try:
            await server.serve()
        except GatewayError as error:
            faults.append(error)

    async with anyio.create_task_group() as tasks:
        if began:
            server.stream.tell(PICTURE)
        tasks.start_soon(serve)
        await anyio.wait_all_tasks_blocked()
        server.gone.set()

    assert [type(fault) for fault in faults] == ([] if began else [RequestTimeoutError])
    assert server.left == 1


def ends(stream: Stream, error: Exception | None) -> None:
    stream.tell(PICTURE)
    stream.close(None, error)


@pytest.mark.parametrize("fails", [None, OSError, ConnectionResetError])
@pytest.mark.parametrize(("takes", "error"), [(0, None), (1, None), (2, None), (2, NO), (3, NO)])
async def test_who_takes_nothing_any_more_is_left_alone(
    takes: int, error: Exception | None, fails: type[Exception] | None
) -> None:
    """At the head, in an event, at the end, or while an error is told; some servers say so by raising."""
    server = Server(takes=takes, fails=fails)
    ends(server.stream, error)
    await server.serve(Pace(write_timeout=0.01))

    assert len(server.sent) == takes


@pytest.mark.parametrize("takes", [2, 3])
async def test_a_bug_is_raised_whoever_reads(takes: int) -> None:
    """Also where its event cannot be sent."""
    server = Server(takes=takes)
    ends(server.stream, ValueError("a bug"))
    with pytest.raises(ValueError, match="a bug"):
        await server.serve(Pace(write_timeout=0.01))

    assert len(server.sent) == takes


async def test_a_slow_reader_misses_what_comes() -> None:
    """The job is told that nobody reads any more."""
    server = Server(takes=1)
    server.stream.tell(PICTURE)
    await server.serve(Pace(write_timeout=0.01))

    assert (server.left, server.stream.over) == (1, False)
