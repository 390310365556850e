"""What a stream's reader still has to be told."""

import logging

import anyio
import pytest

from amux_asgi.errors import ContentPolicyError, GatewayError, UpstreamTimeoutError
from amux_asgi.events import Event, error_frame
from amux_asgi.generation import Streamed
from amux_asgi.jobs import Outcome
from amux_asgi.streams import Stream

pytestmark = pytest.mark.anyio

SOON = 0.01  # seconds
MADE = Streamed(id="gen_1", body=b"", images=1, changes=(), channel="c", attempts=1, cost=1)


class Reader:
    """A stream, and what it tells of its reader."""

    def __init__(self) -> None:
        self.counted: list[int] = []
        self.left = 0
        self.stream = Stream(changes=(), count=self.counted.append, left=self._leave)

    def _leave(self) -> None:
        self.left += 1


def sketch(data: bytes) -> Event:
    return Event("image_generation.partial_image", bytearray(b"event: sketch\ndata: " + data))


def picture(data: bytes) -> Event:
    return Event("image_generation.completed", bytearray(b"event: image_generation.completed\ndata: %b\n\n" % data))


def ended(value: Streamed | None = None, error: Exception | None = None) -> Outcome[Streamed]:
    outcome = Outcome[Streamed]()
    outcome.value, outcome.error = None if value is None else (value,), error
    return outcome


async def test_a_reader_in_time_is_told_everything() -> None:
    """And then that this is all."""
    stream = Reader().stream
    told: list[Event] = []

    async def read() -> None:
        told.extend([event async for event in stream])

    events = [sketch(b"1"), sketch(b"2"), picture(b"1"), sketch(b"3"), picture(b"2")]
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read)
        for event in events:
            await anyio.wait_all_tasks_blocked()
            stream.tell(event)
        await anyio.wait_all_tasks_blocked()
        stream.close(MADE, None)

    assert told == events
    assert (stream.made, stream.over) == (MADE, True)


async def test_a_late_reader_misses_previews_and_no_picture() -> None:
    """The newest preview is kept; pictures are counted, previews are not."""
    reader = Reader()
    for event in (sketch(b"1"), picture(b"1"), sketch(b"22"), sketch(b"333"), picture(b"2")):
        reader.stream.tell(event)
    reader.stream.end(ended(MADE))

    assert [event async for event in reader.stream] == [picture(b"1"), sketch(b"333"), picture(b"2")]
    assert reader.counted == [len(picture(b"1").frame)] * 2
    assert reader.left == 0


async def test_who_waits_for_a_while_hears_nothing_when_nothing_comes() -> None:
    """And goes on."""
    stream = Reader().stream

    assert await stream.next(SOON) is None
    assert not stream.over
    stream.tell(sketch(b"1"))
    assert await stream.next(SOON) == sketch(b"1")
    stream.end(ended(MADE))
    assert stream.over
    assert await stream.next() is None


async def test_what_went_wrong_is_told_last_and_once() -> None:
    """Pictures come before."""
    stream = Reader().stream
    stream.tell(picture(b"1"))
    stream.close(MADE, ContentPolicyError("no"))
    stream.end(ended(MADE))  # the first word counts

    assert await anext(stream) == picture(b"1")
    assert not stream.over
    with pytest.raises(ContentPolicyError):
        await anext(stream)
    assert stream.over
    with pytest.raises(StopAsyncIteration):
        await anext(stream)


async def test_a_job_that_is_cut_off_ends_the_stream() -> None:
    """Its reader does not wait for ever."""
    stream = Reader().stream
    stream.end(ended())

    with pytest.raises(UpstreamTimeoutError):
        await anext(stream)


async def test_for_who_has_left_nothing_is_kept() -> None:
    """Nor counted."""
    reader = Reader()
    reader.stream.tell(picture(b"1"))
    reader.stream.leave()
    reader.stream.tell(picture(b"2"))
    reader.stream.end(ended(MADE))

    assert [event async for event in reader.stream] == []
    assert (len(reader.counted), reader.left) == (1, 1)


@pytest.mark.parametrize("leaves", [True, False])
async def test_a_bug_that_no_reader_hears_of_is_told_to_the_operator(
    caplog: pytest.LogCaptureFixture, *, leaves: bool
) -> None:
    """Because the reader had left, or had all of it."""
    stream = Reader().stream
    if leaves:
        stream.leave()
    else:
        stream.close(MADE, None)
    stream.end(ended(error=ValueError("a bug")))
    stream.end(ended(error=ContentPolicyError("no bug")))

    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "ValueError: a bug" in caplog.text


async def test_a_bug_reaches_a_reader_who_waits(caplog: pytest.LogCaptureFixture) -> None:
    """Who tells the operator."""
    stream = Reader().stream
    stream.end(ended(error=ValueError("a bug")))

    with pytest.raises(ValueError, match="a bug"):
        await anext(stream)
    assert caplog.records == []


async def test_what_was_kept_is_said_again_byte_for_byte() -> None:
    """Pictures, and the error that came instead of the others."""
    reader = Reader()
    kept = b"".join((picture(b'{"a":1}').frame, picture(b'{"b":2}').frame, error_frame(ContentPolicyError("no"))))
    made = Streamed(id="gen_1", body=kept, images=2, changes=(), channel="c", attempts=1, cost=1, replayed=True)
    reader.stream.say_again(made)

    assert await anext(reader.stream) == picture(b'{"a":1}')
    assert await anext(reader.stream) == picture(b'{"b":2}')
    with pytest.raises(GatewayError, match="no") as caught:
        await anext(reader.stream)
    assert (caught.value.code, reader.stream.made) == ("moderation_blocked", made)
    assert error_frame(caught.value) == error_frame(ContentPolicyError("no"))
