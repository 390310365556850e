"""Receiving a request's body."""

from collections.abc import Iterable

import anyio
import pytest
from starlette.types import Message, Receive

from amux_asgi.errors import RequestTimeoutError, RequestTooLargeError, UnsupportedMediaTypeError
from amux_asgi.receive import receive_json

pytestmark = pytest.mark.anyio

JSON = (b"content-type", b"application/json")


def receiving(*pieces: bytes, left: bool = False) -> Receive:
    """Arrange a client that sends pieces, and stays (`left=False`) or leaves before the last one."""
    messages: Iterable[Message] = [
        {"type": "http.request", "body": piece, "more_body": left or i < len(pieces) - 1}
        for i, piece in enumerate(pieces)
    ]
    waiting = iter(messages)

    async def receive() -> Message:
        await anyio.lowlevel.checkpoint()
        return next(waiting, {"type": "http.disconnect"})

    return receive


async def take(receive: Receive, *headers: tuple[bytes, bytes], longest: int = 10, timeout: float = 60) -> bytes:
    return await receive_json({"type": "http", "headers": headers}, receive, longest=longest, timeout=timeout)


@pytest.mark.parametrize("pieces", [(b"{}",), (b"{", b"}"), (b"", b"{}", b""), (b"0123456789",), (b"01234", b"56789")])
async def test_a_body_arrives_in_any_pieces(pieces: tuple[bytes, ...]) -> None:
    """One piece or many, up to the very limit."""
    assert await take(receiving(*pieces), JSON) == b"".join(pieces)


@pytest.mark.parametrize(
    "value",
    [
        b"application/json",
        b"APPLICATION/JSON",
        b"application/json; charset=utf-8",
        b'application/json;charset="UTF-8"',
        b"application/json; foo=bar",
    ],
)
async def test_json_is_recognised_in_every_spelling(value: bytes) -> None:
    """Media types have no case."""
    assert await take(receiving(b"{}"), (b"content-type", value)) == b"{}"


@pytest.mark.parametrize(
    "headers",
    [
        (),
        ((b"content-type", b"text/plain"),),
        ((b"content-type", b"application/json; charset=utf-16"),),
        ((b"content-type", b"application/jsonp"),),
        (JSON, (b"content-encoding", b"gzip")),
        (JSON, (b"content-encoding", b"identity, gzip")),
    ],
)
async def test_anything_but_plain_json_is_refused(headers: tuple[tuple[bytes, bytes], ...]) -> None:
    """Missing, other, otherwise encoded or compressed."""
    with pytest.raises(UnsupportedMediaTypeError):
        await take(receiving(b"{}"), *headers)


@pytest.mark.parametrize("said", [b"11", b"9" * 5000])
async def test_a_body_that_says_it_is_too_large_is_not_received(said: bytes) -> None:
    """The client is not even asked to send it."""

    async def receive() -> Message:
        raise AssertionError("nothing may be received")

    with pytest.raises(RequestTooLargeError):
        await take(receive, JSON, (b"content-length", said))


@pytest.mark.parametrize("pieces", [(b"01234567890",), (b"01234", b"56789", b"0")])
async def test_a_body_that_turns_out_too_large_is_cut_off(pieces: tuple[bytes, ...]) -> None:
    """However it says nothing, or less."""
    with pytest.raises(RequestTooLargeError):
        await take(receiving(*pieces), JSON, (b"content-length", b"no number"))


async def test_a_body_that_takes_too_long_is_given_up() -> None:
    """One byte now and then holds nothing open for ever."""

    async def receive() -> Message:
        await anyio.sleep_forever()
        raise AssertionError

    with pytest.raises(RequestTimeoutError):
        await take(receive, JSON, timeout=0)


async def test_a_server_that_waited_too_long_is_understood() -> None:
    """It may have a limit of its own, and say so in Python's word."""

    async def receive() -> Message:
        raise TimeoutError

    with pytest.raises(RequestTimeoutError):
        await take(receive, JSON)


async def test_a_client_that_leaves_in_the_middle_sends_nothing_on() -> None:
    """Half a request is none."""
    with pytest.raises(RequestTimeoutError):
        await take(receiving(b"{", left=True), JSON)


async def test_a_body_that_is_there_is_read_without_a_wait() -> None:
    """No time is left to it, and it needs none; too large it is refused as any other."""

    async def receive() -> Message:
        return {"type": "http.request", "body": b"{}"}

    assert await take(receive, JSON, timeout=0) == b"{}"
    with pytest.raises(RequestTooLargeError):
        await take(receive, JSON, timeout=0, longest=1)


async def test_pieces_may_come_at_any_time() -> None:
    """Some are there, some are waited for, and a wait that fails is the reader's to end."""
    bell, ended = anyio.Event(), anyio.Event()
    messages = iter([b"{", b'"a":1', b"}"])

    async def receive() -> Message:
        piece = next(messages)
        if piece != b"{":
            await bell.wait()
        return {"type": "http.request", "body": piece, "more_body": piece != b"}"}

    async def stuck() -> Message:
        try:
            await anyio.sleep_forever()
        finally:
            ended.set()
        raise AssertionError

    async def ring() -> None:
        bell.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ring)
        assert await take(receive, JSON) == b'{"a":1}'
    with anyio.move_on_after(0):
        await take(stuck, JSON)
    assert ended.is_set()
