"""Calls of any app are charged, over real sockets, in memory and in real databases."""

from collections import Counter
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
import websockets
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from amux_asgi import AuthMiddleware, ErrorMiddleware, Ledger, QuotaMiddleware, charge
from tests.middleware.apps import BEARER, shouting
from tests.middleware.bank import (
    CENT,
    DOLLAR,
    KEYS,
    Broken,
    Shop,
    ask,
    asking,
    in_database,
    in_memory,
    spent,
    stack,
    usage,
)
from tests.middleware.vendor import until
from tests.serve import serve

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str | None:
    """Say where the money is: a database, or nowhere but in memory."""
    if request.param == "memory":
        return None
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/amux.db"
    return request.getfixturevalue("reused_database").fresh()


@pytest.fixture
async def ledger(place: str | None, anyio_backend: str) -> AsyncGenerator[Ledger]:  # noqa: ARG001, on its event loop
    """Give a ledger of each kind where the team has a dollar."""
    if place is None:
        yield in_memory()
        return
    async with in_database(place) as stores:
        yield stores.ledger


def code_of(body: bytes) -> str:
    return str(msgspec.json.decode(body)["error"]["code"])


async def test_a_thousand_at_once_with_money_for_a_hundred(ledger: Ledger) -> None:
    """Exactly a hundred are answered, the app saw no other, and nothing is left."""
    shop = Shop()
    answers: Counter[tuple[int, str]] = Counter()

    async def one(url: str) -> None:
        status, body = await ask(url)
        answers[status, "" if status == 200 else code_of(body)] += 1

    with serve(stack(shop, ledger), lifespan="off") as url:
        async with anyio.create_task_group() as tasks:
            for _ in range(1000):
                tasks.start_soon(one, url)

    assert answers == {(200, ""): 100, (429, "insufficient_quota"): 900}
    assert (shop.seen, await spent(ledger)) == (100, DOLLAR)


async def test_what_is_no_success_costs_nothing(ledger: Ledger) -> None:
    """An error answer, an exception, no answer at all."""
    with serve(stack(Shop(), ledger), lifespan="off", log_level="critical") as url:
        answers = [await ask(url, path) for path in ("/404", "/500", "/raise", "/nothing")]

    assert [status for status, _ in answers] == [404, 500, 500, 500]
    assert await spent(ledger) == 0


async def test_what_is_one_costs_its_price(ledger: Ledger) -> None:
    """Whatever the method; the answer is the app's own."""
    with serve(stack(Shop(), ledger), lifespan="off") as url:
        for call in (("/", "GET"), ("/", "HEAD"), ("/304", "GET"), ("/307", "POST")):
            async with asking(url, *call) as client:
                await client.read()
            assert b"x-mine: 1" in client.got

    assert await spent(ledger) == 4 * CENT


async def test_an_app_may_say_what_a_call_did_cost(ledger: Ledger) -> None:
    """Never more than was held is taken; what is not said is not charged."""
    charged: list[int] = []

    with serve(stack(Shop(), ledger, most="0.30"), lifespan="off") as url:
        for path in ("/cost/0.02", "/cost/0.1", "/cost/7", "/cost/0", "/"):
            status, _ = await ask(url, path)
            assert status == 200
            charged.append(await spent(ledger) - sum(charged))

    assert charged == [2 * CENT, 10 * CENT, 30 * CENT, 0, 0]


async def test_the_most_must_be_there_also_for_what_is_cheap(ledger: Ledger) -> None:
    """Nobody knows before what it will cost."""
    shop = Shop()

    with serve(stack(shop, ledger, most="1.01"), lifespan="off") as url:
        status, body = await ask(url, "/cost/0.01")

    assert (status, code_of(body), shop.seen, await spent(ledger)) == (429, "insufficient_quota", 0, 0)


async def test_an_answer_streams_and_is_paid_before_its_first_byte(ledger: Ledger) -> None:
    """The client has the first piece while the app makes the second, and by then it is charged."""
    shop = Shop()

    with serve(stack(shop, ledger), lifespan="off") as url:
        async with asking(url, "/streams") as client:
            await client.read_until(b"one,")
            paid = await spent(ledger)
            shop.go_on.set()
            _, body = await client.read()

    assert b"two" in body
    assert (paid, await spent(ledger)) == (CENT, CENT)


async def test_a_client_that_leaves_in_the_middle_of_an_answer_has_paid(ledger: Ledger) -> None:
    """It began, so it was delivered as far as the client wanted it."""
    shop = Shop()

    with serve(stack(shop, ledger), lifespan="off") as url:
        async with asking(url, "/breaks") as client:
            await client.read_until(b"one,")
        await until(shop.left)

    assert await spent(ledger) == CENT


@pytest.mark.parametrize("layers", [0, 2])
async def test_a_client_that_leaves_before_the_answer_pays_nothing(ledger: Ledger, layers: int) -> None:
    """Also where the app hears nothing of it, and answers; also below layers that wrap what is received."""
    shop = Shop()
    app = stack(shop, ledger)
    for _ in range(layers):
        app = BaseHTTPMiddleware(app, dispatch=also)

    with serve(noticing(app, shop), lifespan="off", log_level="critical") as url:
        async with asking(url, "/waits", "POST", "Content-Length: 0"):
            await until(shop.arrived)

    assert (shop.go_on.is_set(), await spent(ledger)) == (True, 0)


async def test_an_app_that_is_told_of_it_may_answer_all_the_same(ledger: Ledger) -> None:
    """Nobody pays for what nobody reads."""
    shop = Shop()

    with serve(stack(shop, ledger), lifespan="off") as url:
        async with asking(url, "/listens"):
            await until(shop.arrived)
        await until(shop.left)

    assert await spent(ledger) == 0


def noticing(app: Any, shop: Shop) -> Any:
    """Let the shop go on when the server has noticed that the client left, without telling anybody."""

    async def outer(scope: Scope, receive: Receive, send: Send) -> None:
        async with anyio.create_task_group() as tasks:

            async def watch() -> None:
                while (await receive())["type"] != "http.disconnect":
                    pass
                shop.go_on.set()

            tasks.start_soon(watch)
            await app(scope, receive, send)

    return outer


@pytest.mark.parametrize("path", ["/waits", "/streams"])
async def test_a_call_that_is_cancelled_is_settled(ledger: Ledger, path: str) -> None:
    """Servers cancel: before the answer began it costs nothing, after that it is paid."""
    shop, begun = Shop(), anyio.Event()
    scope = {
        "type": "http",
        "method": "GET",
        "path": path,
        "headers": [(b"authorization", BEARER["authorization"].encode())],
    }

    async def send(_message: Any) -> None:
        await anyio.lowlevel.checkpoint()
        begun.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stack(shop, ledger), scope, anyio.sleep_forever, send)
        await (until(shop.arrived) if path == "/waits" else begun.wait())
        tasks.cancel_scope.cancel()

    assert await spent(ledger) == (0 if path == "/waits" else CENT)


async def slowly(_request: Request) -> StreamingResponse:
    async def pieces() -> AsyncGenerator[bytes]:
        for piece in (b"one,", b"two"):
            await anyio.lowlevel.checkpoint()
            yield piece * 1000

    return StreamingResponse(pieces())


async def fails(_request: Request) -> Response:
    return Response(status_code=404)


async def also(request: Request, call_next: RequestResponseEndpoint) -> Response:
    return await call_next(request)


def parented(ledger: Ledger) -> Starlette:
    """Put the usual middleware of a host around and inside."""
    middleware = [
        Middleware(GZipMiddleware, minimum_size=1),
        Middleware(BaseHTTPMiddleware, dispatch=also),
        Middleware(ErrorMiddleware),
        Middleware(AuthMiddleware, keys=KEYS),
        Middleware(QuotaMiddleware, ledger=ledger, price="0.01"),
        Middleware(BaseHTTPMiddleware, dispatch=also),
        Middleware(GZipMiddleware, minimum_size=1),
    ]
    return Starlette(routes=[Route("/", slowly), Route("/fails", fails)], middleware=middleware)


async def test_it_works_among_starlettes_own_middleware(ledger: Ledger) -> None:
    """Below and above `BaseHTTPMiddleware` and `GZipMiddleware`."""
    with serve(parented(ledger), lifespan="off") as url:
        status, body = await ask(url)
        missing, _ = await ask(url, "/fails")

    assert (status, missing, body.count(b"one,"), body.count(b"two")) == (200, 404, 1000, 1000)
    assert await spent(ledger) == CENT


async def test_an_answer_that_cannot_be_charged_is_not_delivered_there_either() -> None:
    """The 503 stands in its place, and nothing of it leaks."""
    ledger = Broken("capture")

    with serve(parented(ledger), lifespan="off", log_level="critical") as url:
        status, body = await ask(url)

    assert (status, code_of(body), await spent(ledger)) == (503, "storage_unavailable", 0)


@pytest.mark.parametrize(("verb", "seen"), [("hold", 0), ("capture", 1)])
async def test_what_cannot_be_written_down_is_a_503(verb: str, seen: int) -> None:
    """Before the app sees the call, or in the place of its answer; nothing is charged."""
    shop, ledger = Shop(), Broken(verb)

    with serve(stack(shop, ledger), lifespan="off") as url:
        async with asking(url) as client:
            status, body = await client.read()

    assert (status, code_of(body), shop.seen, await spent(ledger)) == (503, "storage_unavailable", seen, 0)
    assert b"one" not in client.got
    assert b"x-mine" not in client.got
    assert b"retry-after: 5" in client.got


async def test_the_usage_row_tells_whose_call_it_was(place: str | None) -> None:
    """Every call leaves a row, charged or not, under an id that begins with its time."""
    if place is None:
        pytest.skip("memory keeps no rows")
    async with in_database(place) as stores:
        moments = iter(range(1_800_000_000_000, 1_800_000_001_000))
        told: dict[str, Any] = {"price": "0.01", "now": lambda: next(moments)}
        with serve(stack(Shop(), stores.ledger, **told), lifespan="off") as url:
            await ask(url, "/", "GET", "X-Request-Id: mine")
            await ask(url, "/500")
        good, bad = sorted(await usage(stores), key=lambda row: row["begun"])

    assert good["id"].startswith(f"call_{1_800_000_000_000:012x}")
    assert {**good, "id": "", "owner": ""} == {
        "id": "",
        "owner": "",
        "state": "captured",
        "account": "team",
        "key": "team-key",
        "budget": None,
        "amount": CENT,
        "charged": CENT,
        "cost": None,
        "model": None,
        "channel": None,
        "request_id": "mine",
        "attempts": None,
        "images": 0,
        "input_tokens": 0,
        "output_tokens": 0,
        "begun": 1_800_000_000_000,
        "ended": 1_800_000_000_001,
        "earned": 0,
    }
    assert (bad["state"], bad["charged"], bad["ended"]) == ("released", 0, 1_800_000_000_003)


@pytest.mark.parametrize("inner", [{"price": "0.30"}, {"most": "0.90"}])
async def test_two_layers_charge_once(ledger: Ledger, inner: dict[str, Any]) -> None:
    """The outer fixed price is the price."""
    app = stack(QuotaMiddleware(Shop(), ledger=ledger, **inner), ledger)

    with serve(app, lifespan="off") as url:
        status, _ = await ask(url, "/cost/0.20")

    assert (status, await spent(ledger)) == (200, CENT)


async def test_an_inner_fixed_price_is_reported_to_the_outer_layer(ledger: Ledger) -> None:
    """It would be free otherwise."""
    app = stack(QuotaMiddleware(Shop(), ledger=ledger, price="0.30"), ledger, most="0.50")

    with serve(app, lifespan="off") as url:
        good, bad = await ask(url), await ask(url, "/500")

    assert (good[0], bad[0], await spent(ledger)) == (200, 500, 30 * CENT)


async def talk(url: str) -> str:
    async with websockets.connect(url.replace("http", "ws"), additional_headers=BEARER) as talking:
        await talking.send("hello")
        return str(await talking.recv())


async def refuse(scope: Scope, _receive: Receive, send: Send) -> None:
    charge(scope, "0.20")
    await send({"type": "websocket.close", "code": 4000})


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_websocket_is_charged_when_it_is_accepted(ledger: Ledger) -> None:
    """Once, however long it talks; refused by the app, it costs nothing."""
    with (
        serve(stack(shouting, ledger), lifespan="off") as url,
        serve(stack(refuse, ledger, most="0.50"), lifespan="off") as refusing,
    ):
        heard = await talk(url)
        with pytest.raises(websockets.InvalidStatus):
            await talk(refusing)

    assert (heard, await spent(ledger)) == ("HELLO", CENT)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize(("verb", "status", "code"), [("capture", 503, b"storage_unavailable"), ("", 429, b"quota")])
async def test_a_websocket_that_cannot_be_charged_is_refused(verb: str, status: int, code: bytes) -> None:
    """With the same words as HTTP, where the server can."""
    ledger = Broken(verb) if verb else in_memory(0)

    with serve(stack(shouting, ledger), lifespan="off") as url, pytest.raises(websockets.InvalidStatus) as caught:
        await talk(url)

    assert caught.value.response.status_code == status
    assert code in (caught.value.response.body or b"")
