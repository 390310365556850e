"""Events come out of a stream whole, however it is cut, and whatever an event says it stays one event."""

import re
import tracemalloc
from collections.abc import Callable, Iterable, Iterator

import msgspec
import pytest
from hypothesis import example, given
from hypothesis.strategies import binary, integers, lists, one_of, sampled_from, text
from msgspec import Raw

from amux_asgi.errors import End, UpstreamTooLargeError
from amux_asgi.sse import HEARTBEAT, EventReader, ServerEvent, frame

MARK = b"\xef\xbb\xbf"  # of the byte order
ENDS = [b"\n", b"\r", b"\r\n"]
WORDS = [*ENDS, b"\n", b"data", b"data: ", b"data:", b"event: ", b"event", b"id: 1", b":", b" ", b"x", b"\xff", MARK]
STREAMS = one_of(lists(sampled_from(WORDS)).map(b"".join), binary())
Events = list[tuple[str, str]]
SAID: list[tuple[str, Events]] = [
    # The standard's own examples.
    ("data: This is the first message.\n\ndata: second\n\n", [("", "This is the first message."), ("", "second")]),
    ("data: YHOO\ndata: +2\ndata: 10\n\n", [("", "YHOO\n+2\n10")]),
    (": test\n\ndata: 1\nid: 1\n\ndata:2\nid\n\ndata:  3\n\n", [("", "1"), ("", "2"), ("", " 3")]),
    ("data\n\ndata\ndata\n\n", [("", ""), ("", "\n")]),
    ("data:test\n\ndata: test\n\n", [("", "test"), ("", "test")]),
    ("event: add\ndata: 73857293\n\ndata: 1\n\n", [("add", "73857293"), ("", "1")]),
    # The last name counts, and none is kept for the next event.
    ("event: a\nevent:b\ndata: 1\nevent\ndata: 2\nevent: c\n\n", [("c", "1\n2")]),
    ("event: a\nevent\ndata: 1\n\n", [("", "1")]),
    ("event: ping\n\ndata: 1\n\n", [("", "1")]),
    # What is no event.
    ("retry: 3000\n\nid: 1\n\n\n\n", []),
    ("Data: 1\ndata : 2\n data: 3\ndataset: 4\nevents: 5\na line of text\n:data: 6\n\n", []),
    ("\ufeff\ufeffdata: 1\n\n", []),
    # What only looks strange.
    ("data: a: b: c\n\n", [("", "a: b: c")]),
    ("\ufeffdata: \ufeff\u2028\x85\x0b\n\n", [("", "\ufeff\u2028\x85\x0b")]),
    ("\ufeff\ufeff\ndata: 1\n\n", [("", "1")]),
    ("\ufeff\ndata: 1\n\n", [("", "1")]),
    ("\n\ufeffdata: 1\n\n", []),
    ("\ufeffevent: a\ndata: 1\n\n", [("a", "1")]),
]
ODD = [
    "\n\ndata: {}",
    "\r\rdata: {}",
    "a\r\n\r\nevent: error\r\ndata: {}\r\n\r\n",
    "event: error",
    "\u2028event: error\u2028\u2028",
    "\u2029\x85\x0b\x0c\x1c\x1d\x1e\x00\x7f",
    "\\u2028 \\n",
    "\u2019\u201c\u2026中文提示Âé🏮",  # they begin with the same bytes as characters that end lines for some
    "\ufeffdata:",
    ": keep-alive",
]


def whole(stream: bytes) -> list[bytes]:
    return [stream]


def each_byte(stream: bytes) -> list[bytes]:
    return list(pieces(stream, 1))


def pieces(stream: bytes, size: int) -> Iterator[bytes]:
    return (stream[at : at + size] for at in range(0, len(stream), size))


def read(stream: Iterable[bytes], *, longest: int = 2**25) -> list[ServerEvent]:
    """Read a stream to its end."""
    reader = EventReader(longest=longest)
    events = [event for piece in stream for event in reader.feed(piece)]
    return events + reader.end()


def plainly(stream: bytes) -> Iterator[ServerEvent]:
    """Read a stream as the standard words it; blank lines end the last event."""
    name, data = b"", list[bytes]()
    for line in re.split(rb"\r\n|\n|\r", stream.removeprefix(MARK) + b"\n\n"):
        field, _, value = line.partition(b":")
        if not line:
            if data:
                yield ServerEvent(name.decode(errors="replace"), b"\n".join(data))
            name, data = b"", []
        elif field == b"data":
            data.append(value.removeprefix(b" "))
        elif field == b"event":
            name = value.removeprefix(b" ")


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("cut", [whole, each_byte])
@pytest.mark.parametrize(("stream", "events"), SAID)
def test_a_stream_says_what_the_standard_says(
    stream: str, events: Events, cut: Callable[[bytes], list[bytes]], end: bytes
) -> None:
    """With each kind of line end, in one piece and in pieces of one byte."""
    seen = read(cut(stream.encode().replace(b"\n", end)))

    assert [(event.name, event.data.decode()) for event in seen] == events


@given(STREAMS, lists(integers(0, 100)))
@example(b"data: 1\r\ndata: 2\r\n\r\n", [8, 8, 17, 19])
@example(b"data: 1\r\n\n", [8, 9])
@example(b"data: 1\rdata: 2\n\ndata: 3\r\n\n", [])
@example(b"event: \xff\ndata: \xff\n\n", [])
def test_any_stream_says_the_same_however_it_is_cut(stream: bytes, cuts: list[int]) -> None:
    """Between the bytes of a line end, of a field's name or of a mark, and with empty pieces."""
    places = [0, *sorted(cuts), len(stream)]
    cut = [stream[a:b] for a, b in zip(places, [*places[1:], len(stream)], strict=True)]

    events = list(plainly(stream))

    assert read(cut) == events
    assert read([stream]) == events
    assert read(each_byte(stream)) == events


@given(lists(STREAMS), integers(0, 20))
def test_nothing_is_raised_but_that_an_event_is_too_large(stream: list[bytes], longest: int) -> None:
    """Whatever bytes an upstream sends."""
    events: list[ServerEvent] = []
    try:
        events = read(stream, longest=longest)
    except UpstreamTooLargeError as error:
        assert error.end is End.UNKNOWN
    assert all(len(event.data) <= longest for event in events)


def test_an_event_is_given_as_soon_as_its_blank_line_is_there() -> None:
    """Its line end may be half of a longer one; the other half is no blank line of its own."""
    reader = EventReader(longest=100)

    assert list(reader.feed(b"event: a\r\ndata: 1\r\n")) == []
    assert list(reader.feed(b"\r")) == [ServerEvent("a", b"1")]
    assert list(reader.feed(b"")) == []
    assert list(reader.feed(b"\ndata: 2\n\ndata: 3\n\ndata: 4")) == [ServerEvent("", b"2"), ServerEvent("", b"3")]
    assert reader.end() == [ServerEvent("", b"4")]
    assert reader.end() == []


@pytest.mark.parametrize("cut", [whole, each_byte])
@pytest.mark.parametrize(
    ("stream", "size"),
    [
        (b"data: 12345\n\n", 11),
        (b"event: a\ndata: 12345\nid: 7\n\n", 24),
        (b": a comment that\n: never\n: ends\n", 29),
        (b"data\n" * 5, 20),
        (b"x" * 5000, 5000),
        (b"data: 1\n\n" * 9 + b"data: 12345\n\n", 11),
    ],
)
def test_an_event_may_be_just_so_long(stream: bytes, size: int, cut: Callable[[bytes], list[bytes]]) -> None:
    """All its lines together, comments too; what has no end is given up as soon as it is too long."""
    read(cut(stream), longest=size)

    with pytest.raises(UpstreamTooLargeError, match=f"larger than {size - 1} bytes"):
        read(cut(stream), longest=size - 1)


def test_what_comes_before_a_too_long_event_is_given() -> None:
    """Also of the same piece: a picture there may be paid for."""
    events = EventReader(longest=9).feed(b"data: 1\n\ndata: 2\n\ndata: 12345")

    assert [next(events), next(events)] == [ServerEvent("", b"1"), ServerEvent("", b"2")]
    with pytest.raises(UpstreamTooLargeError):
        next(events)


@pytest.mark.parametrize(("size", "piece"), [(2**24, 2**18), (2**24, 1460), (2**16, 1), (2**20, 1023)])
def test_a_long_event_comes_in_pieces_of_any_size(size: int, piece: int) -> None:
    """Sixteen megabytes of base64, or pieces of single bytes: each is touched once or twice, not again and again."""
    data = b"QUJDREVGR0g=" * (size // 12)
    stream = b"event: image\ndata: " + data + b"\n\ndata: next\n\n"

    assert read(pieces(stream, piece)) == [ServerEvent("image", data), ServerEvent("", b"next")]


@pytest.mark.parametrize(("size", "piece"), [(2**16, 2), (2**20, 700), (2**20, 2**16)])
def test_a_long_event_takes_twice_its_size(size: int, piece: int) -> None:
    """Its pieces and itself, at the moment it is put together; pieces of two bytes cost no more than large ones."""
    stream = b"data: " + b"x" * size + b"\n\n"

    peak = peak_of(lambda: read(pieces(stream, piece)))

    assert peak < 2.3 * size


def peak_of(work: Callable[[], object]) -> int:
    """Measure how much memory is taken at most, in bytes."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_an_event_is_written_in_three_lines() -> None:
    """Its name, its JSON, and a blank one; the picture is the string that it came as."""
    fields = {"type": "x.completed", "b64_json": Raw(b'"aGk="'), "usage": None}

    written = frame("x.completed", fields)

    assert written == b'event: x.completed\ndata: {"type":"x.completed","b64_json":"aGk=","usage":null}\n\n'


def test_a_comment_keeps_the_connection_alive_and_says_nothing() -> None:
    """Before, between and after events."""
    stream = b"".join([HEARTBEAT, frame("a", {}), HEARTBEAT, HEARTBEAT, frame("b", {}), HEARTBEAT])

    assert read([stream]) == [ServerEvent("a", b"{}"), ServerEvent("b", b"{}")]


@given(one_of(text(), sampled_from(ODD)), one_of(text(), sampled_from(ODD)))
@example("".join(ODD), "".join(ODD))
def test_no_text_makes_an_event_of_its_own(first: str, second: str) -> None:
    """Whatever a vendor or a client wrote stays inside its JSON string, also for who splits lines as Python does."""
    nested = msgspec.json.encode({second: [first]})
    fields = {first: second, "raw": Raw(nested), "picture": Raw(b'"aGk="'), "last": Raw(msgspec.json.encode(first))}

    written = bytes(frame("x", fields))

    [event] = read([written])
    assert event.name == "x"
    assert msgspec.json.decode(event.data) == msgspec.json.decode(msgspec.json.encode(fields))
    assert written.decode().splitlines() == ["event: x", "data: " + event.data.decode(), ""]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("said", [{"a": [1, 2.5e3, {"b": "x \u2028y\n"}], "c": {}}, [], {"é": "\u2019"}])
def test_json_that_came_in_many_lines_goes_out_in_one(said: object, end: bytes) -> None:
    """An upstream may write its JSON as for people; it keeps its meaning."""
    pretty = msgspec.json.format(msgspec.json.encode(said), indent=2).replace(b"\n", end) + end

    written = bytes(frame("x", {"usage": Raw(pretty), "after": "\u2019"}))

    [event] = read([written])
    assert msgspec.json.decode(event.data) == {"usage": said, "after": "\u2019"}
    assert len(written.decode().splitlines()) == 3


@pytest.mark.parametrize("character", [*range(0x20)])
def test_no_json_is_read_with_a_control_character_in_a_string(character: int) -> None:
    """So those that stand in JSON kept as it came are blanks between its parts, and may become others."""
    with pytest.raises(msgspec.DecodeError):
        msgspec.json.decode(b'{"a":{"b":"x%cy"}}' % character, type=dict[str, Raw])


def test_a_picture_is_copied_once() -> None:
    """Writing an event takes its size, and the room to grow that a buffer gives itself."""
    size = 2**22
    picture = Raw(b'"' + b"x" * size + b'"')

    peak = peak_of(lambda: frame("x", {"b64_json": picture, "prompt": "\u2019中"}))

    assert peak < 1.6 * size
