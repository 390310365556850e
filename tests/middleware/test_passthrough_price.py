"""A passthrough with a price is charged for what the vendor answers, over real sockets and in real databases."""

from collections.abc import Generator
from typing import Any

import anyio
import pytest
from starlette.types import Message, Scope

from amux_asgi import AuthMiddleware, KeyConfig, Ledger, PassthroughMiddleware, QuotaMiddleware, fixed_keys
from amux_asgi.errors import UpstreamIncompleteError
from tests.middleware.apps import KEY, call, hello
from tests.middleware.bank import BEARER, CENT, KEYS, Broken, in_database, in_memory, spent, usage
from tests.middleware.vendor import Vendor, channel, passing, until
from tests.serve import serve

pytestmark = [
    pytest.mark.anyio,
    # httpcore leaves its own generators to the collector, which trio reports; the socket is closed all the same.
    pytest.mark.filterwarnings(
        "ignore:Exception ignored in. <async_generator object:pytest.PytestUnraisableExceptionWarning"
    ),
]

SCOPE: dict[str, Any] = {
    "type": "http",
    "method": "POST",
    "path": "/v1/speech",
    "query_string": b"",
    "headers": [(b"authorization", BEARER.partition(": ")[2].encode())],
}
COMPLETE: Message = {"type": "http.request"}


@pytest.fixture
def serving() -> Generator[tuple[Vendor, str]]:
    vendor = Vendor()
    with serve(vendor, lifespan="off") as url:
        yield vendor, url


def priced(url: str, ledger: Ledger, path: str = "/speech", **outer: Any) -> Any:
    """Pass to a path of the vendor's for a cent."""
    passthrough = passing(channel(url), path, price="0.01", unmetered=False)
    app: Any = PassthroughMiddleware(hello, [passthrough], ledger=ledger)
    return AuthMiddleware(QuotaMiddleware(app, ledger=ledger, **outer) if outer else app, keys=KEYS)


async def test_what_the_vendor_answers_is_charged(serving: tuple[Vendor, str], database: str) -> None:
    """A refusal costs nothing; the usage row names the channel."""
    async with in_database(database) as stores:
        good = await call(priced(serving[1], stores.ledger), SCOPE, COMPLETE)
        bad = await call(priced(serving[1], stores.ledger, "/500"), SCOPE, COMPLETE)
        paid = await spent(stores.ledger)
        rows = await usage(stores)

    assert (good[0]["status"], bad[0]["status"], paid) == (201, 502, CENT)
    assert {(row["state"], row["channel"], row["charged"]) for row in rows} == {
        ("captured", "vendor", CENT),
        ("released", "vendor", 0),
    }


async def test_an_answer_that_never_came_costs_nothing(serving: tuple[Vendor, str]) -> None:
    """Nobody is there."""
    ledger = in_memory()
    with serve(hello, lifespan="off") as gone:
        pass

    sent = await call(priced(gone, ledger), SCOPE, COMPLETE)

    assert (sent[0]["status"], await spent(ledger)) == (502, 0)
    assert serving[0].asks == []


async def test_an_answer_that_breaks_off_stays_charged(serving: tuple[Vendor, str]) -> None:
    """It had begun; the server cuts the connection."""
    ledger = in_memory()

    with pytest.raises(UpstreamIncompleteError):
        await call(priced(serving[1], ledger, "/cut"), SCOPE, COMPLETE)

    assert await spent(ledger) == CENT


async def test_who_cannot_pay_or_may_not_is_refused_before_the_vendor_hears_of_it(serving: tuple[Vendor, str]) -> None:
    """And whom the passthrough is not for learns that, not what it costs."""
    other = fixed_keys([KeyConfig(name="other", key=KEY)])
    poor = in_memory(CENT - 1)
    passthrough = passing(channel(serving[1]), price="0.01", unmetered=False)
    forbidden = AuthMiddleware(PassthroughMiddleware(hello, [passthrough], ledger=poor), keys=other)

    refused = await call(priced(serving[1], poor), SCOPE, COMPLETE)
    not_theirs = await call(forbidden, SCOPE, COMPLETE)

    assert (refused[0]["status"], not_theirs[0]["status"], serving[0].asks) == (429, 403, [])
    assert await spent(poor, CENT - 1) == 0


async def test_what_cannot_be_charged_is_not_delivered(serving: tuple[Vendor, str]) -> None:
    """The vendor was asked, the client gets a 503."""
    ledger = Broken("capture")

    sent = await call(priced(serving[1], ledger), SCOPE, COMPLETE)

    assert ([message.get("status") for message in sent], len(serving[0].asks)) == ([503, None], 1)
    assert b"storage_unavailable" in sent[1]["body"]
    assert await spent(ledger) == 0


async def test_a_client_that_leaves_while_the_vendor_works_pays_nothing(serving: tuple[Vendor, str]) -> None:
    """The connection to the vendor goes with it."""
    vendor, url = serving
    ledger = in_memory()
    asked = [COMPLETE]

    async def receive() -> Message:
        if asked:
            return asked.pop()
        await until(vendor.arrived)
        return {"type": "http.disconnect"}

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    scope: Scope = {**SCOPE}
    await priced(url, ledger, "/hang")(scope, receive, send)
    await until(vendor.left)

    assert (sent[0]["status"], await spent(ledger)) == (408, 0)


@pytest.mark.parametrize(
    ("outer", "charged"), [({"price": "0.05"}, 5 * CENT), ({"most": "0.05"}, CENT), ({"most": "0.005"}, CENT // 2)]
)
async def test_an_outer_layer_is_told_the_price_and_nothing_is_counted_twice(
    serving: tuple[Vendor, str], outer: dict[str, str], charged: int
) -> None:
    """Its own fixed price is the price."""
    ledger = in_memory()

    sent = await call(priced(serving[1], ledger, **outer), SCOPE, COMPLETE)

    assert (sent[0]["status"], await spent(ledger)) == (201, charged)


async def test_a_hundred_at_once_with_money_for_ten(serving: tuple[Vendor, str]) -> None:
    """The vendor is asked ten times."""
    ledger = in_memory(10 * CENT)
    app = priced(serving[1], ledger)
    statuses: list[int] = []

    async def one() -> None:
        statuses.append((await call(app, {**SCOPE}, COMPLETE))[0]["status"])

    async with anyio.create_task_group() as tasks:
        for _ in range(100):
            tasks.start_soon(one)

    assert (statuses.count(201), statuses.count(429), len(serving[0].asks)) == (10, 90, 10)
    assert await spent(ledger, 10 * CENT) == 10 * CENT
