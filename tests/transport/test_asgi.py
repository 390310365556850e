"""An app in this process as an upstream."""

from collections.abc import AsyncGenerator

import anyio
import pytest
from starlette.types import Receive, Scope, Send

from amux_asgi.errors import End, GatewayError, UpstreamBadResponseError, UpstreamIncompleteError, UpstreamTooLargeError
from amux_asgi.transport.asgi import AsgiTransport
from amux_asgi.transport.base import Progress
from amux_asgi.transport.carry import exchange
from amux_asgi.wire import HttpRequest, HttpResponse

pytestmark = pytest.mark.anyio

START = {"type": "http.response.start", "status": 201, "headers": [(b"X-Name", b"value")]}


async def ask(app: object, *, body: bytes = b"hello", cap: int = 1000) -> HttpResponse:
    transport = AsgiTransport(app)  # pyright: ignore[reportArgumentType]  some of these apps are broken on purpose
    request = HttpRequest(method="POST", url="asgi://some.app/a%20b/c?x=1", headers=(("x-sent", "1"),), body=body)
    return await exchange(transport, request, Progress(), cap=cap)


async def test_an_app_sees_a_request_and_its_answer_is_given() -> None:
    """Path, query, headers and body as over a socket."""
    seen: Scope = {}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.update(scope)
        message = await receive()
        await send(START)
        await send({"type": "http.response.body", "body": message["body"], "more_body": True})
        await send({"type": "http.response.body", "body": b"!"})

    answer = await ask(app)

    assert (answer.status, answer.headers, answer.body) == (201, {"x-name": "value"}, b"hello!")
    assert (seen["method"], seen["path"], seen["raw_path"], seen["query_string"]) == (
        "POST",
        "/a b/c",
        b"/a%20b/c",
        b"x=1",
    )
    assert {(b"host", b"some.app"), (b"content-length", b"5"), (b"x-sent", b"1")} <= set(seen["headers"])


async def dies(_scope: Scope, _receive: Receive, _send: Send) -> None:
    raise ValueError("bug")


async def silent(_scope: Scope, receive: Receive, _send: Send) -> None:
    await receive()


async def dies_in_the_middle(_scope: Scope, _receive: Receive, send: Send) -> None:
    await send(START)
    await send({"type": "http.response.body", "body": b"half", "more_body": True})
    raise ValueError("bug")


async def stops_in_the_middle(_scope: Scope, _receive: Receive, send: Send) -> None:
    await send(START)


@pytest.mark.parametrize(
    ("app", "error"),
    [
        (dies, UpstreamBadResponseError),
        (silent, UpstreamBadResponseError),
        (dies_in_the_middle, UpstreamIncompleteError),
        (stops_in_the_middle, UpstreamIncompleteError),
    ],
)
async def test_an_app_that_fails_is_an_upstream_that_fails(app: object, error: type[GatewayError]) -> None:
    """An app may do anything once it is called, so nothing is ever "never sent"."""
    with pytest.raises(error) as caught:
        await ask(app)

    assert caught.value.end is End.UNKNOWN


async def test_an_app_that_says_too_much_is_stopped() -> None:
    """It is held back while nobody reads, and cancelled at the cap."""
    said = 0
    stopped = False

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        nonlocal said, stopped
        await send(START)
        try:
            while True:
                await send({"type": "http.response.body", "body": b"x" * 100, "more_body": True})
                said += 100
        finally:
            stopped = True

    with pytest.raises(UpstreamTooLargeError):
        await ask(app)

    assert stopped
    assert said <= 1200


async def test_an_app_that_waits_for_the_client_to_leave_is_cancelled_when_the_answer_is_read() -> None:
    """`receive` gives the request once; then it waits."""
    ended = anyio.Event()

    async def app(_scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(START)
        await send({"type": "http.response.body", "body": b""})
        try:
            await receive()
        finally:
            ended.set()

    answer = await ask(app)

    assert answer.body == b""
    assert ended.is_set()


async def test_a_body_can_be_streamed_up() -> None:
    """Pieces arrive as they come, then the end."""
    received: list[bytes] = []

    async def app(_scope: Scope, receive: Receive, send: Send) -> None:
        more = True
        while more:
            message = await receive()
            received.append(message["body"])
            more = message["more_body"]
        await send(START)
        await send({"type": "http.response.body", "body": b"done"})

    async def pieces() -> AsyncGenerator[bytes]:
        yield b"one"
        await anyio.lowlevel.checkpoint()
        yield b"two"

    request = HttpRequest(method="POST", url="asgi://some.app/")
    async with AsgiTransport(app).send(request, Progress(), body=pieces()) as incoming:
        body = b"".join([piece async for piece in incoming.chunks])

    assert (received, body) == ([b"one", b"two", b""], b"done")
