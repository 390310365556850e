"""The same request sent twice, over real sockets: one picture, one charge, one answer."""

import concurrent.futures
import socket
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import httpx2  # noqa: TID251, the test's client
import openai
import pytest
import sqlalchemy as sa
from starlette.types import ASGIApp, Receive, Scope, Send

from amux_asgi import ChannelConfig, Config, GatewayConfig, KeyConfig, PriceConfig, images_app
from tests.serve import serve
from tests.stub import Stub, upstream

KEY = "app-key-of-the-tests-01"
OTHER = "other-key-of-the-tests-1"
CENT = 10_000_000
ASK = {"model": "m", "prompt": "a lantern"}
ARRIVED = threading.Semaphore(0)


class Watched:
    """Tells the test which requests have arrived."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope."""
        if scope["type"] == "http":
            ARRIVED.release()
        await self._app(scope, receive, send)


@pytest.fixture
def stub() -> Generator[Stub]:
    while ARRIVED.acquire(blocking=False):
        pass  # those of the test before
    with upstream() as running:
        yield running


@contextmanager
def gateway(stub: Stub, database: str | None, script: str = "v1") -> Generator[httpx2.Client]:
    """Serve a gateway whose upstream plays this script, with a dollar for each of two accounts."""
    balance = None if database is None else "1"
    config = Config(
        gateway=GatewayConfig(database=database),
        channels=(
            ChannelConfig(
                name="up", adapter="openai-compatible", base_url=f"{stub.url}/{script}", models=("m", "gpt-image-2")
            ),
        ),
        keys=(
            KeyConfig(name="me", key=KEY, balance=balance),
            KeyConfig(name="other", key=OTHER, balance=balance),
        ),
        prices={"m": PriceConfig(image="0.01"), "gpt-image-2": PriceConfig(image="0.01")},
    )
    with (
        serve(Watched(images_app(config))) as url,
        httpx2.Client(base_url=url, headers={"authorization": f"Bearer {KEY}"}, timeout=60) as client,
    ):
        yield client


def ask(client: httpx2.Client, key: str | None = "k-1", **fields: Any) -> httpx2.Response:
    headers = {} if key is None else {"idempotency-key": key}
    return client.post("/v1/images/generations", json={**ASK, **fields}, headers=headers)


def leave(client: httpx2.Client, stub: Stub, *headers: str) -> None:
    """Ask, wait until the upstream works on it, hang up, and wait until the gateway knows."""
    url = client.base_url
    body = b'{"model":"m","prompt":"a lantern"}'
    head = [
        "POST /v1/images/generations HTTP/1.1",
        f"host: {url.host}",
        f"authorization: Bearer {KEY}",
        "content-type: application/json",
        f"content-length: {len(body)}",
        *headers,
    ]
    with socket.create_connection((url.host, url.port or 80)) as connection:
        connection.sendall("\r\n".join(head).encode() + b"\r\n\r\n" + body)
        stub.waiting.acquire()
    client.get("/healthz")  # whatever answers this has heard of the end of the other connection


def wallet(database: str, account: str = "me") -> tuple[float, float, float]:
    """Give what is available, held and captured, in cents."""
    engine = sa.create_engine(database.replace("postgresql://", "postgresql+psycopg://"), poolclass=sa.NullPool)
    with engine.connect() as connection:
        question = sa.text("SELECT available, held, captured FROM wallets WHERE id = :id")
        available, held, captured = connection.execute(question, {"id": f"account:{account}"}).one()
    return available / CENT, held / CENT, captured / CENT


def test_an_answer_is_said_again(stub: Stub, database: str) -> None:
    """Byte for byte, at no cost, and it says so; also after a restart."""
    with gateway(stub, database) as client:
        first, again = ask(client), ask(client)
    with gateway(stub, database) as client:
        later = ask(client)

    assert (first.content, "idempotent-replayed" in first.headers) == (again.content, False)
    assert (later.content, later.headers["idempotent-replayed"]) == (first.content, "true")
    assert again.headers["x-amux-cost"] == first.headers["x-amux-cost"] == "0.01"
    assert stub.posts == 1
    assert wallet(database) == (99, 0, 1)


def test_without_a_database_answers_are_kept_in_memory(stub: Stub) -> None:
    """For as long as the process lives."""
    with gateway(stub, None) as client:
        first, again = ask(client), ask(client)

    assert (first.content, again.headers["idempotent-replayed"], stub.posts) == (again.content, "true", 1)


def test_fifty_at_once_are_one(stub: Stub, database: str) -> None:
    """All get the first one's bytes."""
    with gateway(stub, database, "wait") as client, concurrent.futures.ThreadPoolExecutor(50) as threads:
        asked = [threads.submit(ask, client) for _ in range(50)]
        stub.waiting.acquire()
        stub.let_go()
        answers = [one.result() for one in asked]

    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    assert stub.posts == 1
    assert wallet(database) == (99, 0, 1)


def test_another_body_under_the_same_key_is_refused(stub: Stub, database: str) -> None:
    """Nobody is asked."""
    with gateway(stub, database) as client:
        ask(client)
        other = ask(client, prompt="a canal")

    assert (other.status_code, other.json()["error"]["code"]) == (422, "idempotency_mismatch")
    assert stub.posts == 1


def test_two_tenants_never_share_an_answer(stub: Stub, database: str) -> None:
    """The same key of another one is another key."""
    with gateway(stub, database) as client:
        ask(client)
        client.headers["authorization"] = f"Bearer {OTHER}"
        other = ask(client)

    assert "idempotent-replayed" not in other.headers
    assert stub.posts == 2
    assert (wallet(database), wallet(database, "other")) == ((99, 0, 1), (99, 0, 1))


@pytest.mark.parametrize("key", ["", "a" * 256, "é"])
def test_a_key_that_is_none_is_refused(stub: Stub, key: str) -> None:
    """A slip must not pay twice."""
    with gateway(stub, None) as client:
        headers = {b"idempotency-key": key.encode()}
        answer = client.post("/v1/images/generations", json=ASK, headers=headers)

    assert (answer.status_code, answer.json()["error"]["param"], stub.posts) == (400, "Idempotency-Key", 0)


def test_an_error_for_good_is_said_again_and_another_is_not(stub: Stub, database: str) -> None:
    """What a policy blocked stays blocked; a cut connection may be tried again under the same key."""
    with gateway(stub, database, "blocked") as client:
        blocked, again = ask(client), ask(client)
    with gateway(stub, database, "close") as client:
        cut = ask(client, "k-2")
    with gateway(stub, database) as client:
        made = ask(client, "k-2")

    assert (blocked.status_code, blocked.content) == (403, again.content)
    assert (again.headers["idempotent-replayed"], again.headers["x-should-retry"]) == ("true", "false")
    assert (cut.status_code, made.status_code) == (502, 200)
    assert stub.posts == 3
    assert wallet(database) == (99, 0, 1)


def test_who_left_finds_the_answer_under_the_key(stub: Stub, database: str) -> None:
    """The work went on, and was paid once."""
    with gateway(stub, database, "wait") as client:
        leave(client, stub, "idempotency-key: k-1")
        stub.let_go()
        answer = ask(client)

    assert (answer.status_code, stub.posts) == (200, 1)
    assert wallet(database) == (99, 0, 1)


def test_a_stock_sdk_that_lost_its_patience_gets_the_picture_by_its_own_retry(stub: Stub, database: str) -> None:
    """It times out, tries again by itself, and joins what it began: one ask, one charge."""
    with (
        gateway(stub, database, "wait") as client,
        openai.OpenAI(base_url=f"{client.base_url}/v1", api_key=KEY, timeout=1, max_retries=2) as sdk,
        concurrent.futures.ThreadPoolExecutor(1) as thread,
    ):
        asked = thread.submit(sdk.images.generate, model="gpt-image-2", prompt="a lantern")
        for _ in range(2):
            ARRIVED.acquire()
        stub.let_go()
        made = asked.result()

    assert made.data is not None
    assert stub.posts == 1
    assert wallet(database) == (99, 0, 1)


def test_a_second_request_of_a_stock_sdk_is_a_second_picture(stub: Stub, database: str) -> None:
    """Who asks again for the same on purpose, and has its first answer, gets another one."""
    first = {"x-stainless-retry-count": "0"}
    with gateway(stub, database) as client:
        for headers in (first, first, {"x-stainless-retry-count": "1"}):
            client.post("/v1/images/generations", json=ASK, headers=headers)

    assert stub.posts == 3


def test_who_left_without_a_key_finds_the_answer_by_its_retry(stub: Stub, database: str) -> None:
    """It had gone when the picture was ready, so nobody has seen it."""
    with gateway(stub, database, "wait") as client:
        leave(client, stub, "x-stainless-retry-count: 0")
        stub.let_go()
        headers = {"x-stainless-retry-count": "1", "content-type": "application/json"}
        body = b'{"model":"m","prompt":"a lantern"}'
        answer = client.post("/v1/images/generations", content=body, headers=headers)

    assert (answer.status_code, stub.posts) == (200, 1)
    assert wallet(database) == (99, 0, 1)
