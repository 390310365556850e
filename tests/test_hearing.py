"""Listening to one ask's stream: what is told of it, and what it comes to."""

import tracemalloc
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from functools import partial
from itertools import pairwise
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amux_asgi.adapters import ADAPTERS
from amux_asgi.adapters._base import Fitted
from amux_asgi.adapters._openai_events import hear
from amux_asgi.asking import Choice, Sending, Sent
from amux_asgi.errors import End, GatewayError, UpstreamIncompleteError, UpstreamTooLargeError
from amux_asgi.hearing import Hearing
from amux_asgi.quota import Attempt
from amux_asgi.routing import Candidate, Channel
from amux_asgi.schema import GenerationRequest, ImagesResponse, Preview
from amux_asgi.transport.base import Incoming
from tests.stream_stub import event, failed, picture, sketch

pytestmark = pytest.mark.anyio

SECRET = "credential-of-the-channel"
CHANNEL = Channel(
    name="c", adapter=ADAPTERS["openai"], base_url="https://c.example", models={"m": "m"}, credentials=(SECRET,)
)
STREAM = (("content-type", "text/event-stream"),)
MIB = 2**20


class Told:
    """Notes what it is told; `begun` when it was anything."""

    begun = True

    def __init__(self) -> None:
        self.shown: list[int] = []
        self.made: list[bytes] = []
        self.missed: list[Exception] = []
        self.finishing = anyio.Event()
        self.may_finish: anyio.Event | None = None

    def show(self, preview: Preview, choice: Choice) -> None:
        assert choice.candidate.channel is CHANNEL
        self.shown.append(preview.index)

    async def finish(self, sent: Sent) -> None:
        self.finishing.set()
        if self.may_finish is not None:
            await self.may_finish.wait()
        self.made.append(bytes(sent.images.data[0].b64_json))

    def miss(self, error: Exception) -> None:
        self.missed.append(error)


class Ask:
    """One ask that is listened to."""

    def __init__(self, *, n: int = 1, previews: int = 2, most: int = MIB, counted: bool = True) -> None:
        self.told = Told()
        self.held = 0  # bytes
        self.attempts: list[Attempt] = []
        request = GenerationRequest(prompt="x", n=n, partial_images=previews, stream=True)
        choice = Choice(Candidate(CHANNEL, "m", SECRET, "m"), Fitted(request=request))
        sending = Sending(
            id="gen_1", request=request, first=choice, others=(), fits=lambda _: True, strict=False, hops=0,
            deadline=1e9, attempts=self.attempts, watch=self.told,
            grow=self._grow if counted else None, forget=self._forget if counted else None,
        )  # fmt: skip
        self.hearing = Hearing(hear, choice, sending, self.told, most=most)

    async def listen(self, pieces: Iterable[bytes], *, status: int = 200, **headers: str) -> Any:
        told = STREAM if not headers else tuple((name.replace("_", "-"), value) for name, value in headers.items())
        return await self.hear(chunks(pieces), status=status, headers=told)

    async def hear(
        self, pieces: AsyncGenerator[bytes], *, status: int = 200, headers: tuple[tuple[str, str], ...] = STREAM
    ) -> Any:
        async with aclosing(pieces):
            return await self.hearing.listen(Incoming(status=status, headers=headers, chunks=pieces))

    async def _grow(self, size: int) -> None:
        self.held += size

    def _forget(self, size: int) -> None:
        self.held -= size


async def chunks(pieces: Iterable[bytes]) -> AsyncGenerator[bytes]:
    for piece in pieces:
        yield piece


async def cut(*pieces: bytes) -> AsyncGenerator[bytes]:
    for piece in pieces:
        yield piece
    raise UpstreamIncompleteError("cut")


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (200, {"content_type": "application/json"}),
        (200, {"content_type": "text/event-stream", "content_encoding": "gzip"}),
        (200, {"x": "y"}),
        (500, {"content_type": "text/event-stream"}),
    ],
)
async def test_what_is_no_stream_is_left_alone(status: int, headers: dict[str, str]) -> None:
    """Not a byte is taken of it."""
    ask = Ask()

    assert await ask.listen([picture()], status=status, **headers) is None
    assert (ask.held, ask.told.made) == (0, [])


async def test_previews_are_shown_as_they_were_asked_for() -> None:
    """Each number once for each picture, none beyond; their bytes are held no more."""
    ask = Ask(n=2, previews=2)
    pictures = picture("YQ=="), picture("Yg==")
    numbers = (0, 1, 2, 0, 9, 0, 1, 1)
    answer = await ask.listen([*map(sketch, numbers), *pictures])

    assert ask.told.shown == [0, 1, 0, 1]
    assert ask.told.made == [b'"YQ=="', b'"Yg=="']
    assert len(answer.data) == 2
    assert ask.attempts == [Attempt(channel="c", end="billed")]
    frames = len(b"event: image_generation.partial_image\ndata: \n\n") * len(numbers)
    assert ask.held == frames + len(b"".join(pictures))


async def test_nobody_has_to_count() -> None:
    """The bytes of a stream are only looked at by who wants to."""
    ask = Ask(counted=False)
    await ask.listen([sketch() + picture()])

    assert (ask.told.shown, len(ask.told.made), ask.held) == ([0], 1, 0)


async def test_one_picture_too_many_is_cut_off_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever else is said after the last one is nobody's."""
    ask = Ask()
    await ask.listen([picture() + picture("Yg==") + sketch() + failed("x") + picture()])

    assert ask.told.made == [b'"aGVsbG8="']
    assert [record.message for record in caplog.records] == [
        "gen_1: the upstream made more than the 1 pictures asked; the rest is cut off"
    ]


async def test_a_failure_after_something_was_begun_may_have_been_paid() -> None:
    """A refusal before that goes elsewhere; a fault of the request stays one."""
    early = await Ask().listen([failed("x")])
    late = await Ask().listen([sketch(7), failed("x")])
    blocked = await Ask().listen([sketch(), failed("x", code="moderation_blocked")])
    none = await Ask().listen([event("image_generation.partial_failed", error={"message": "x"})])

    assert [error.end for error in (early, late, blocked, none)] == [
        End.REFUSED, End.UNKNOWN, End.FINAL, End.REFUSED,
    ]  # fmt: skip


async def test_why_some_will_not_come_is_told_without_secrets() -> None:
    """The words of a vendor that says our credential again."""
    lost = event("image_generation.partial_failed", error={"message": SECRET, "code": "content_filter"})
    ended, told = Ask(n=2), Ask(n=2)
    await ended.listen([picture(), lost])
    error = await told.listen([picture(), failed(SECRET, code="content_filter")])
    await told.hearing.rest(error)

    assert [str(getattr(missed, "message", "")) for missed in ended.told.missed + told.told.missed] == ["[hidden]"] * 2


async def test_what_was_made_before_a_cut_counts() -> None:
    """Also what was not handed on when the time was over: it is, afterwards."""
    ask = Ask(n=2)
    ask.told.may_finish = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask.hear, cut(picture()))
        await ask.told.finishing.wait()
        tasks.cancel_scope.cancel()
    assert ask.told.made == []
    ask.told.may_finish = None
    late = GatewayError("late")
    answer = await ask.hearing.rest(late)

    assert (ask.told.made, ask.told.missed) == ([b'"aGVsbG8="'], [late])
    assert len(answer.data) == 1


@pytest.mark.parametrize("n", [1, 2])
async def test_a_cut_is_one_only_before_the_last_picture(n: int) -> None:
    """What comes after it was to be nothing."""
    ask = Ask(n=n)
    if n == 1:
        assert isinstance(await ask.hear(cut(picture())), ImagesResponse)
    else:
        with pytest.raises(UpstreamIncompleteError):
            await ask.hear(cut(picture()))

    assert ask.told.made == [b'"aGVsbG8="']


@pytest.mark.parametrize("piece", [b": c\n" * 100, sketch(0, "a" * 500), b"data:\n"])
async def test_a_stream_has_a_most(piece: bytes) -> None:
    """As many bytes as its pictures and previews may have, whatever they are spent on."""
    ask = Ask(n=1, previews=1, most=1000)
    with pytest.raises(UpstreamTooLargeError):
        await ask.listen([piece] * 1000)

    assert ask.held <= 2000


async def test_a_picture_before_an_event_that_is_too_large_counts() -> None:
    """Though both came in one piece."""
    ask = Ask(n=2, most=1000)
    with pytest.raises(UpstreamTooLargeError):
        await ask.listen([picture() + picture("a" * 1000)])

    assert ask.told.made == [b'"aGVsbG8="']


VALID = b"".join(
    (
        b"\xef\xbb\xbf: hello\n\n",
        sketch(0).replace(b"\n", b"\r\n"),
        sketch(1).replace(b"event: image_generation.partial_image\n", b""),
        event("ping", note="\u2028\n"),
        picture("YQ=="),
        event("image_generation.partial_failed", error={"message": "x"}),
        sketch(0).replace(b"\n", b"\r"),
        picture("Yg==")[:-1],
    )
)


@settings(max_examples=60)
@given(cuts=st.lists(st.integers(0, len(VALID))))
def test_however_a_stream_is_cut_into_pieces_the_same_is_told(cuts: list[int]) -> None:
    """Also at the bytes of one character, between two line ends, and with pieces of none."""
    bounds = [0, *sorted(cuts), len(VALID)]
    pieces = [VALID[start:stop] for start, stop in pairwise(bounds)]
    ask = Ask(n=3)
    answer = anyio.run(partial(ask.listen, pieces))

    assert (ask.told.shown, ask.told.made) == ([0, 1, 0], [b'"YQ=="', b'"Yg=="'])
    assert [type(missed).__name__ for missed in ask.told.missed] == ["UpstreamError"]
    assert len(answer.data) == 2


async def test_previews_leave_no_memory_behind() -> None:
    """Of ten events of 4 MiB at most three are held: one that is read, as its pieces and whole, and the one before."""
    size = 4 * MIB
    data = sketch(0, "a" * size)

    def pieces() -> Iterable[bytes]:
        for _ in range(10):
            yield from (data[start : start + 65_536] for start in range(0, len(data), 65_536))

    ask = Ask(n=10, previews=1, most=5 * MIB)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        await ask.listen(pieces())
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()

    assert ask.told.shown == [0] * 10
    assert peak < 3 * size + MIB
