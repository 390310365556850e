"""Streams over real sockets, one event at a time: who waits for whom, who may leave, and what a slow reader gets."""

from collections.abc import Generator

import anyio
import pytest

from amux_asgi import GenerationRequest, Principal
from tests.serve import serve
from tests.stream_stub import Cut, Gate, failed, flood, picture, sketch
from tests.streaming import ASK, CENT, COST, PATH, End, Line, Stage, Watched, asking, paid, staged

LARGE = "a" * 2**24  # 16 MiB of base64
COMMENT = b": keep-alive\n\n"


def chunks(answer: bytes) -> bytes:
    """Give the body of a whole answer in chunks."""
    at = answer.index(b"\r\n\r\n") + 4
    body = bytearray()
    while size := int(answer[at : (start := answer.index(b"\r\n", at) + 2)], 16):
        body += answer[start : start + size]
        at = start + size + 2
    return bytes(body)


@pytest.fixture(params=["direct", "aiohttp", "httpx2"])
def stage(request: pytest.FixtureRequest) -> Generator[Stage]:
    with staged(transport=request.param) as stage:
        yield stage


@pytest.fixture
def quick() -> Generator[Stage]:
    """Give a gateway that says soon that it is still there, and cuts readers soon."""
    with staged(heartbeat=0.05, write_timeout=0.3) as stage:
        yield stage


def test_each_event_is_there_before_the_next_leaves_the_upstream(stage: Stage) -> None:
    """And nothing is kept back: not the head, not the last event."""
    first, second, third = Gate(stage.stub), Gate(stage.stub), Gate(stage.stub)
    stage.play(sketch(0), first, sketch(1), second, picture(), third)
    with serve(stage.images) as url:
        line = Line(url, partial_images=2)
        head, _, _ = line.until(sketch(0)).partition(b"\r\n\r\n")
        first.open()
        line.until(sketch(1))
        second.open()
        told = line.rest()
        third.open()

    lines = head.lower().split(b"\r\n")
    assert lines[0] == b"http/1.1 200 ok"
    assert {
        b"content-type: text/event-stream", b"cache-control: no-store, no-transform", b"x-accel-buffering: no",
    } <= set(lines)  # fmt: skip
    assert picture(**COST) in told
    assert stage.books.ends.get() == paid()


def test_a_picture_is_charged_before_its_event_is_sent(stage: Stage) -> None:
    """Of several the first ones are noted, the last one settles all."""
    gate = Gate(stage.stub)
    stage.play(picture(), gate, picture())
    with serve(stage.images) as url:
        line = Line(url, n=2)
        line.until(picture(**COST))
        earned = list(stage.books.earned)
        gate.open()
        told = line.rest()

    assert earned == [(CENT, 1)]
    assert picture(x_amux={"attempts": 1, "cost": "0.02"}) in told
    assert stage.books.ends.get() == paid(2)
    assert stage.wallet() == (98, 0, 2)


def test_while_nothing_comes_a_comment_says_that_it_goes_on(quick: Stage) -> None:
    """It begins the answer too; then a failure is an event, since the status was said."""
    begun, failing = Gate(quick.stub), Gate(quick.stub)
    quick.play(begun, sketch(), failing, failed("x"))
    with serve(quick.images) as url:
        line = Line(url, partial_images=1)
        before = line.until(COMMENT * 1)
        begun.open()
        between = line.until(sketch())
        line.taken.clear()
        line.until(COMMENT)
        failing.open()
        told = line.rest()

    assert b"text/event-stream" in before.lower()
    assert between.count(b"event:") == 1
    assert failed("the upstream failed") in told
    assert quick.books.ends.get() == End(0, ("unknown",), 0)


def test_what_fails_after_a_comment_goes_elsewhere_all_the_same(quick: Stage) -> None:
    """Nothing of the picture has been told yet."""
    gate = Gate(quick.stub)
    quick.play(gate, failed("x"))
    with serve(quick.images) as url:
        line = Line(url)
        line.until(COMMENT)
        gate.open()
        told = line.rest()

    assert picture(x_amux={"attempts": 2, "cost": "0.01"}) in told
    assert quick.books.ends.get() == End(CENT, ("refused", "billed"), 1)


@pytest.mark.parametrize("after", range(6))
def test_whoever_leaves_pays_once_and_finds_the_picture_again(stage: Stage, after: int) -> None:
    """U15: before the head, after each event and inside one; the upstream is heard to its end, and asked once."""
    gates = [Gate(stage.stub) for _ in range(4)]
    half = len(picture()) // 2
    steps = [gates[0], sketch(0), gates[1], sketch(1), gates[2], picture()[:half], gates[3], picture()[half:]]
    marks = [b"", b"\r\n\r\n", sketch(0)[:40], sketch(0), sketch(1), picture(**COST)]
    stage.play(*steps)
    with serve(stage.images) as url:
        line = Line(url, partial_images=2, headers={"idempotency-key": "once"})
        for gate in gates if after == 5 else gates[: (after > 0) + (after == 4)]:
            gate.open()
        if after:
            line.until(marks[after])
        else:
            gates[0].wait()
        line.leave()
        for gate in gates:
            gate.open()
        end = stage.books.ends.get()
        again = Line(url, partial_images=2, headers={"idempotency-key": "once"}).rest()

    assert end == paid()
    assert b"idempotent-replayed: true" in again
    assert chunks(again) == picture(**COST)
    assert stage.wallet() == (99, 0, 1)
    stage.all_left(posts=1)
    assert stage.tape.sent == len(sketch(0) + sketch(1) + picture())


@pytest.mark.parametrize(("n", "steps"), [(1, (sketch(), Cut.STALL)), (2, (picture(), Cut.STALL))])
def test_the_deadline_cuts_a_stream_and_what_was_told_is_paid(stage: Stage, n: int, steps: tuple[bytes, Cut]) -> None:
    """U02 and U04: the socket is closed, and nobody is asked again."""
    stage.play(*steps)
    with asking(stage.images) as client:
        answer = client.post(
            PATH, json={**ASK, "n": n, **({"partial_images": 1} if n == 1 else {})}, headers={"x-amux-timeout": "1.2"}
        )
        end = stage.books.ends.get()

    assert stage.stub.left.get() == "stalled"
    assert b'"code":"upstream_timeout"' in answer.content.split(b"event: ")[2]
    assert answer.content.startswith(sketch() if n == 1 else picture(**COST))
    assert end == (End(0, ("unknown",), 0) if n == 1 else paid())
    stage.all_left(posts=1)


def test_who_reads_nothing_is_cut_and_the_job_never_waits(quick: Stage) -> None:
    """H03: the picture is charged and kept, and the same key gives it."""
    quick.play(sketch(0, LARGE), sketch(1, LARGE), picture(LARGE))
    watched = Watched(quick.images)
    with serve(watched) as url:
        line = Line(url, buffer=4096, partial_images=2, headers={"idempotency-key": "slow"})
        end = quick.books.ends.get()
        quick.all_left(posts=1)
        watched.done.acquire()
        told = line.rest()
        again = Line(url, partial_images=2, headers={"idempotency-key": "slow"}).rest()

    assert end == paid()
    assert len(told) < len(LARGE)
    assert chunks(again) == picture(LARGE, **COST)


def test_events_of_sixteen_megabytes_arrive_whole(stage: Stage) -> None:
    """As previews and as pictures."""
    gate = Gate(stage.stub)
    stage.play(sketch(0, LARGE), gate, picture(LARGE))
    with serve(stage.images) as url:
        line = Line(url, partial_images=1)
        line.until(sketch()[-20:])
        gate.open()
        told = line.rest()

    assert chunks(told) == sketch(0, LARGE) + picture(LARGE, **COST)
    assert stage.books.ends.get() == paid()


@pytest.mark.parametrize(
    "piece", [b": " + b"c" * 2**14 + b"\n\n", b"data: " + b"x" * 2**14, sketch(0, "a" * 2**14), b"\n" * 2**14]
)
def test_two_gigabytes_are_cut_at_the_bound(piece: bytes) -> None:
    """U05: as comments, as one event, as previews and as empty lines."""
    with staged(max_answer=2**16) as stage, asking(stage.images) as client:
        stage.play()
        stage.stub.scripts["/tape"] = flood(piece)
        answer = client.post(PATH, json={**ASK, "partial_images": 1})
        stage.stub.left.get()

    assert b'"upstream_too_large"' in answer.content
    assert stage.stub.most < 2**24
    assert stage.books.ends.get() == End(0, ("unknown",), 0)


@pytest.mark.anyio
async def test_without_http_it_is_the_same_stream() -> None:
    """What is kept for a reader who does not read is counted: pictures, byte for byte; of previews there is one."""
    counted: list[int] = []
    with staged(transport="httpx2") as stage:
        gate = Gate(stage.stub)
        stage.play(sketch(0), gate, sketch(1), picture(), sketch(0), sketch(1), picture("Yg=="))
        async with stage.images.lifespan():
            stream = stage.images.gateway.stream(
                GenerationRequest(model="m", prompt="x", n=2, partial_images=2),
                Principal(account="me", key="me"),
                count=counted.append,
            )
            first = await anext(stream)
            gate.open()
            end = await anyio.to_thread.run_sync(stage.books.ends.get)
            rest = [event async for event in stream]

    assert first.frame == sketch(0)
    assert [event.frame for event in rest] == [
        picture(**COST), sketch(1), picture("Yg==", x_amux={"attempts": 1, "cost": "0.02"}),
    ]  # fmt: skip
    assert counted == [len(rest[0].frame), len(rest[2].frame)]
    assert end == paid(2)
