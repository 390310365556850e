"""The same stream asked for twice, over real sockets: the pictures are made once, paid once, and told the same."""

import concurrent.futures
import json
import socket
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import anyio
import httpx2  # noqa: TID251, the test's client
import openai
import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from amux_asgi import ChannelConfig, Config, GatewayConfig, KeyConfig, PriceConfig, images_app
from tests.app import test_money
from tests.app.test_twins import wallet
from tests.paced import Paced, completed, failed, preview
from tests.serve import serve
from tests.stub import Reader, Stub, Writer, sending, upstream

KEY: Final = "key-of-the-tests-000001"
PATH: Final = "/v1/images/generations"
ASK: Final = {"model": "m", "prompt": "a lantern", "n": 2, "stream": True, "partial_images": 1}
BODY: Final = json.dumps(ASK).encode()
HEAD: Final = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
ARRIVED = threading.Semaphore(0)
OVER = threading.Semaphore(0)


async def silent(stub: Stub, _reader: Reader, writer: Writer) -> None:
    """Say nothing until the test says so, then all."""
    stub.waiting.release()
    await stub.release.wait()
    writer.write(HEAD + preview() + completed(0) + completed(1))
    await writer.drain()
    writer.close()


async def halting(stub: Stub, _reader: Reader, writer: Writer) -> None:
    """Tell of one picture, and of the other when the test says so."""
    writer.write(HEAD + preview() + completed(0))
    await writer.drain()
    stub.waiting.release()
    await stub.release.wait()
    writer.write(completed(1))
    await writer.drain()
    writer.close()


SCRIPTS: Final = {
    "/silent": silent,
    "/halting": halting,
    "/whole": sending(HEAD + preview() + completed(0) + completed(1)),
    "/failing": sending(HEAD + preview() + completed(0) + failed("moderation_blocked")),
    "/blocked": sending(HEAD + preview() + failed("moderation_blocked")),
    "/broken": sending(HEAD + preview()),
}


class Watched:
    """Tells the test which requests have arrived, and which are over."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        ARRIVED.release()
        try:
            await self._app(scope, receive, send)
        finally:
            OVER.release()


@pytest.fixture
def stub() -> Generator[Stub]:
    for count in (ARRIVED, OVER):
        while count.acquire(blocking=False):
            pass  # those of the test before
    with upstream(scripts=SCRIPTS) as running:
        yield running


@contextmanager
def gateway(stub: Stub, database: str | None, script: str) -> Generator[httpx2.Client]:
    """Serve a gateway whose upstream plays this script, with a dollar for its one account."""
    config = Config(
        gateway=GatewayConfig(database=database),
        channels=(
            ChannelConfig(
                name="up", adapter="openai-compatible", base_url=f"{stub.url}/{script}", models=("m", "gpt-image-2")
            ),
        ),
        keys=(KeyConfig(name="me", key=KEY, balance=None if database is None else "1"),),
        prices={"m": PriceConfig(image="0.01"), "gpt-image-2": PriceConfig(image="0.01")},
    )
    headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
    with (
        serve(Watched(images_app(config))) as url,
        httpx2.Client(base_url=url, headers=headers, timeout=60) as client,
    ):
        yield client


@pytest.fixture
def sqlite(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/amux.db"


KEYED: Final = {"idempotency-key": "k-1"}
AGAIN: Final = {"x-stainless-retry-count": "1"}


def ask(client: httpx2.Client, headers: dict[str, str] | None = None, body: bytes = BODY) -> httpx2.Response:
    return client.post(PATH, content=body, headers=KEYED if headers is None else headers)


def leave(client: httpx2.Client, stub: Stub, header: str, *, after: bytes) -> None:
    """Ask, read until this has come, hang up, and wait until the gateway has noticed."""
    url = client.base_url
    lines = [
        f"POST {PATH} HTTP/1.1",
        f"host: {url.host}",
        f"authorization: Bearer {KEY}",
        "content-type: application/json",
        f"content-length: {len(BODY)}",
        header,
    ]
    with socket.create_connection((url.host, url.port or 80)) as connection:
        connection.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + BODY)
        stub.waiting.acquire()
        seen = b""
        while after not in seen:
            seen += connection.recv(65_536)
    OVER.acquire()


def finished(content: bytes) -> bytes:
    """Take the previews out."""
    parts = content.removesuffix(b"\n\n").split(b"\n\n")
    return b"".join(part + b"\n\n" for part in parts if b"partial_image\n" not in part)


def test_a_stream_is_said_again(stub: Stub, database: str) -> None:
    """Its pictures byte for byte, at no cost; also after a restart. Previews are gone: nobody pays to keep them."""
    with gateway(stub, database, "whole") as client:
        first, again = ask(client), ask(client)
    with gateway(stub, database, "whole") as client:
        later = ask(client)

    assert first.content.count(b"event: image_generation.partial_image") == 1
    assert again.content == later.content == finished(first.content)
    assert again.content.count(b"event: image_generation.completed") == 2
    assert ("idempotent-replayed" in first.headers, again.headers["idempotent-replayed"]) == (False, "true")
    assert again.headers["content-type"] == "text/event-stream"
    assert stub.posts == 1
    assert wallet(database) == (98, 0, 2)


def test_a_stream_that_failed_after_a_picture_is_said_again(stub: Stub, sqlite: str) -> None:
    """The picture that was paid, and the error behind it."""
    with gateway(stub, sqlite, "failing") as client:
        first, again = ask(client), ask(client)

    assert again.content == finished(first.content)
    assert [part.partition(b"\n")[0] for part in again.content.split(b"\n\n") if part] == [
        b"event: image_generation.completed",
        b"event: error",
    ]
    assert stub.posts == 1
    assert wallet(sqlite) == (99, 0, 1)


def test_a_stream_that_failed_for_good_before_any_picture_is_an_error_again(stub: Stub, sqlite: str) -> None:
    """First behind the preview, then plainly; what may get well is tried again."""
    with gateway(stub, sqlite, "blocked") as client:
        first, again = ask(client), ask(client)
    with gateway(stub, sqlite, "broken") as client:
        cut = ask(client, {"idempotency-key": "k-2"})
    with gateway(stub, sqlite, "whole") as client:
        made = ask(client, {"idempotency-key": "k-2"})

    assert (first.status_code, first.content.count(b"event: error\n")) == (200, 1)
    assert (again.status_code, again.json()["error"]["code"]) == (403, "moderation_blocked")
    assert (cut.content.count(b"event: error\n"), made.content.count(b".completed\n")) == (1, 2)
    assert stub.posts == 3
    assert wallet(sqlite) == (98, 0, 2)


def test_many_at_once_are_one(stub: Stub, database: str) -> None:
    """One makes the pictures, the others wait for its end and are told the same."""
    with gateway(stub, database, "halting") as client, concurrent.futures.ThreadPoolExecutor(10) as threads:
        asked = [threads.submit(ask, client) for _ in range(10)]
        stub.waiting.acquire()
        for _ in asked:
            ARRIVED.acquire()
        stub.let_go()
        answers = [one.result() for one in asked]

    assert {answer.status_code for answer in answers} == {200}
    assert len({finished(answer.content) for answer in answers}) == 1
    assert sorted("idempotent-replayed" in answer.headers for answer in answers) == [False] + [True] * 9
    assert stub.posts == 1
    assert wallet(database) == (98, 0, 2)


def test_a_twin_waits_as_long_as_it_has_time(stub: Stub, sqlite: str) -> None:
    """Then it is told to come back."""
    with gateway(stub, sqlite, "silent") as client, concurrent.futures.ThreadPoolExecutor(1) as thread:
        asked = thread.submit(ask, client)
        stub.waiting.acquire()
        late = ask(client, {**KEYED, "x-amux-timeout": "0.05"})
        stub.let_go()
        made = asked.result()

    assert (late.status_code, late.json()["error"]["code"]) == (409, "idempotency_in_progress")
    assert made.content.count(b".completed\n") == 2


@pytest.mark.parametrize("fields", [{"n": 1}, {"stream": False}])
def test_another_body_under_the_same_key_is_refused(stub: Stub, sqlite: str, fields: dict[str, Any]) -> None:
    """A stream and an answer in one are not the same either."""
    with gateway(stub, sqlite, "whole") as client:
        ask(client)
        other = ask(client, body=json.dumps(ASK | fields).encode())

    assert (other.status_code, other.json()["error"]["code"]) == (422, "idempotency_mismatch")
    assert stub.posts == 1


@pytest.mark.parametrize(("script", "after"), [("silent", b""), ("halting", b".completed\n")])
@pytest.mark.parametrize(("first", "second"), [("idempotency-key: k-1", KEYED), ("x-stainless-retry-count: 0", AGAIN)])
@pytest.mark.parametrize("is_over", [False, True])
def test_who_left_finds_the_pictures(  # noqa: PLR0913, PLR0917, when who left, and came back
    stub: Stub, sqlite: str, script: str, after: bytes, first: str, second: dict[str, str], *, is_over: bool
) -> None:
    """Before anything came or between two events, by its key or as a stock SDK's retry, while it runs and later."""
    with gateway(stub, sqlite, script) as client, concurrent.futures.ThreadPoolExecutor(1) as thread:
        leave(client, stub, first, after=after)
        if is_over:
            stub.let_go()
            stub.closed.acquire()
        while ARRIVED.acquire(blocking=False):
            pass
        asked = thread.submit(ask, client, second)
        ARRIVED.acquire()
        stub.let_go()
        answer = asked.result()

    assert (answer.status_code, answer.headers["idempotent-replayed"]) == (200, "true")
    assert answer.content.count(b".completed\n") == 2
    assert stub.posts == 1
    assert wallet(sqlite) == (98, 0, 2)


def test_a_stock_sdk_that_lost_its_patience_gets_the_pictures_by_its_own_retry(stub: Stub, sqlite: str) -> None:
    """It times out before the first event, tries again by itself, and joins what it began."""
    with (
        gateway(stub, sqlite, "silent") as client,
        openai.OpenAI(base_url=f"{client.base_url}/v1", api_key=KEY, timeout=1, max_retries=2) as sdk,
        concurrent.futures.ThreadPoolExecutor(1) as thread,
    ):

        def read() -> list[str]:
            return [event.type for event in sdk.images.generate(model="gpt-image-2", prompt="x", n=2, stream=True)]

        asked = thread.submit(read)
        for _ in range(2):
            ARRIVED.acquire()
        stub.let_go()
        told = asked.result()

    assert told == ["image_generation.completed"] * 2
    assert stub.posts == 1
    assert wallet(sqlite) == (98, 0, 2)


def test_a_stream_that_was_read_to_its_end_is_not_said_to_others(stub: Stub, sqlite: str) -> None:
    """Who asks again for the same on purpose gets other pictures."""
    with gateway(stub, sqlite, "whole") as client:
        for count in "001":
            ask(client, {"x-stainless-retry-count": count})

    assert stub.posts == 3
    assert wallet(sqlite) == (94, 0, 6)


class Reading:
    """A client in this process that reads up to the picture of this number, and then leaves."""

    def __init__(self, *, until: int, count: int) -> None:
        self.begun = anyio.Event()
        self.content = b""
        self._until = until
        self._asked = False
        self.scope: Scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": PATH,
            "raw_path": PATH.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [
                (b"authorization", f"Bearer {KEY}".encode()),
                (b"content-type", b"application/json"),
                (b"x-stainless-retry-count", b"%d" % count),
            ],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
            "state": {},
        }

    async def receive(self) -> Message:
        """Say the request, and that it has left when it has."""
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": BODY}
        await self.begun.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Take what comes, but for the picture at which it leaves."""
        body = message.get("body", b"")
        if body.count(b".completed\n") + self.content.count(b".completed\n") == self._until:
            self.begun.set()
            await anyio.sleep_forever()
        self.content += body


@pytest.mark.anyio
@pytest.mark.parametrize("until", [1, 2])
async def test_who_leaves_while_a_picture_is_on_its_way_finds_it(until: int) -> None:
    """Also when it is the last one, and all else is over."""
    up = Paced()
    images = test_money.gateway(None, up, keys=[KeyConfig(name="me", key=KEY)])
    first, second = Reading(until=until, count=0), Reading(until=9, count=1)
    async with images.lifespan(), anyio.create_task_group() as tasks:
        tasks.start_soon(images, first.scope, first.receive, first.send)
        asked = await up.asked()
        asked.say(completed(0), completed(1))
        asked.end()
        await first.begun.wait()
        await asked.left.wait()
        await anyio.wait_all_tasks_blocked()
        await images(second.scope, second.receive, second.send)

    assert second.content.count(b".completed\n") == 2
    assert len(up.asks) == 1
