"""What is passed through flows piece by piece, both ways, as long as both sides stay."""

from collections.abc import AsyncGenerator, Generator
from typing import Any

import anyio
import pytest
from starlette.types import Message, Scope

from amux_asgi import AuthMiddleware, KeyConfig, PassthroughMiddleware, fixed_keys
from amux_asgi.errors import UpstreamIncompleteError
from tests.middleware.apps import KEY, hello
from tests.middleware.vendor import Vendor, channel, passing, until
from tests.serve import serve

pytestmark = [
    pytest.mark.anyio,
    # httpcore leaves its own generators to the collector, which trio reports; the socket is closed all the same.
    pytest.mark.filterwarnings(
        "ignore:Exception ignored in. <async_generator object:pytest.PytestUnraisableExceptionWarning"
    ),
]

GONE: Message = {"type": "http.disconnect"}
COMPLETE: Message = {"type": "http.request"}


@pytest.fixture
def serving() -> Generator[tuple[Vendor, str]]:
    vendor = Vendor()
    with serve(vendor, lifespan="off") as url:
        yield vendor, url


class Client:
    """A client without a socket: sends what `sending` gives, and notes what comes back."""

    def __init__(self, sending: AsyncGenerator[Message]) -> None:
        self.got: list[Message] = []
        self.came = anyio.Event()  # a piece of an answer
        self._sending = sending

    async def ask(self, url: str, path: str, *, timeout: float = 30.0, max_body: int = 100, **scope: Any) -> None:
        """Call the passthrough until it returns."""
        passthrough = passing(channel(url, timeout=timeout), path, max_body=max_body)
        app = AuthMiddleware(
            PassthroughMiddleware(hello, [passthrough]),
            keys=fixed_keys([KeyConfig(name="team", key=KEY, passthrough=("*",))]),
        )
        headers = [(b"authorization", f"Bearer {KEY}".encode()), *scope.pop("headers", ())]
        asked: Scope = {"type": "http", "method": "POST", "path": "/v1/speech", "query_string": b"", **scope}
        await app({**asked, "headers": headers}, self._receive, self._send)

    async def _receive(self) -> Message:
        async for message in self._sending:
            return message
        await anyio.sleep_forever()
        raise AssertionError

    async def _send(self, message: Message) -> None:
        self.got.append(message)
        if message.get("body"):
            self.came.set()

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.got)


def piece(body: bytes, *, more: bool = True) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}


async def test_an_upload_leaves_as_it_comes(serving: tuple[Vendor, str]) -> None:
    """The vendor has the first piece before the client writes the second; empty pieces mean nothing."""
    vendor, url = serving

    async def sending() -> AsyncGenerator[Message]:
        yield piece(b"")
        yield piece(b"one")
        await until(vendor.arrived)
        yield piece(b"")
        yield piece(b"two", more=False)

    client = Client(sending())
    await client.ask(url, "/speech")

    (ask,) = vendor.asks
    assert (ask.body, ask.complete, client.got[0]["status"]) == (b"onetwo", True, 201)
    assert ask.header("transfer-encoding") == ["chunked"]


async def test_an_answer_is_handed_on_as_it_comes(serving: tuple[Vendor, str]) -> None:
    """The client has the first piece before the vendor writes the second."""
    vendor, url = serving

    async def sending() -> AsyncGenerator[Message]:
        yield COMPLETE
        await client.came.wait()
        vendor.go_on.set()
        yield COMPLETE  # not the leaving of the client, so nothing

    client = Client(sending())
    await client.ask(url, "/pieces")

    assert client.body == b"onetwo"
    assert not client.got[-1].get("more_body")


@pytest.mark.parametrize("path", ["/hang", "/pieces"])
async def test_a_client_that_leaves_takes_the_connection_to_the_vendor_with_it(
    serving: tuple[Vendor, str], path: str
) -> None:
    """Before the answer and in its midst: nobody pays for what nobody reads.

    The call is answered all the same, since a host's `BaseHTTPMiddleware` would raise without an answer.
    """
    vendor, url = serving

    async def sending() -> AsyncGenerator[Message]:
        yield COMPLETE
        if path == "/pieces":
            await client.came.wait()
        else:
            await until(vendor.arrived)
        yield GONE

    client = Client(sending())
    await client.ask(url, path)
    await until(vendor.left)

    assert client.got[0]["status"] == (408 if path == "/hang" else 200)
    assert client.body == b"one" or path == "/hang"


async def test_a_client_that_leaves_in_the_midst_of_its_request_ends_it(serving: tuple[Vendor, str]) -> None:
    """The vendor sees a request that was cut, not one that is complete."""
    vendor, url = serving

    async def sending() -> AsyncGenerator[Message]:
        yield piece(b"one")
        await until(vendor.arrived)
        yield GONE

    await Client(sending()).ask(url, "/speech")
    await until(vendor.left)

    (ask,) = vendor.asks
    assert (ask.body, ask.complete) == (b"one", False)


async def test_an_upload_that_grows_too_large_is_cut(serving: tuple[Vendor, str]) -> None:
    """Its length was not told, so it is found out under way."""
    vendor, url = serving

    async def sending() -> AsyncGenerator[Message]:
        yield piece(b"x" * 100)
        await until(vendor.arrived)
        yield piece(b"x")

    client = Client(sending())
    await client.ask(url, "/speech")
    await until(vendor.left)

    assert client.got[0]["status"] == 413
    assert not vendor.asks[0].complete


async def test_a_client_that_stalls_is_told_so(serving: tuple[Vendor, str]) -> None:
    """The vendor is not to blame for what did not arrive here."""
    vendor, url = serving

    async def sending() -> AsyncGenerator[Message]:
        yield piece(b"one")
        await anyio.sleep_forever()

    client = Client(sending())
    await client.ask(url, "/speech", timeout=1)
    await until(vendor.left)

    assert (client.got[0]["status"], b"request_timeout" in client.body) == (408, True)


async def test_a_vendor_that_stalls_is_left(serving: tuple[Vendor, str]) -> None:
    """It may have done the work, so a client that retries would pay twice."""
    vendor, url = serving

    async def sending() -> AsyncGenerator[Message]:
        yield COMPLETE

    client = Client(sending())
    await client.ask(url, "/hang", timeout=1)
    await until(vendor.left)

    assert (client.got[0]["status"], b"upstream_timeout" in client.body) == (504, True)
    assert (b"x-should-retry", b"false") in client.got[0]["headers"]


async def test_an_answer_that_breaks_off_cuts_the_clients_connection(serving: tuple[Vendor, str]) -> None:
    """It was raised for the server to see; the client cannot take half an answer for a whole one."""
    _, url = serving

    async def sending() -> AsyncGenerator[Message]:
        yield COMPLETE

    client = Client(sending())
    with pytest.raises(UpstreamIncompleteError):
        await client.ask(url, "/cut")

    assert client.got[-1]["more_body"]


async def test_a_length_that_was_told_is_told_on(serving: tuple[Vendor, str]) -> None:
    """A vendor that wants a length gets one."""
    vendor, url = serving

    async def sending() -> AsyncGenerator[Message]:
        yield piece(b"one", more=False)

    await Client(sending()).ask(url, "/speech", headers=[(b"content-length", b"3")])

    assert vendor.asks[0].header("content-length") == ["3"]
