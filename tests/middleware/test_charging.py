"""What a call may live through while it is charged, told without sockets."""

import asyncio  # noqa: TID251, servers cancel in its own way
import logging
from typing import Any

import anyio
import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from amux_asgi import ConfigError, Ledger, Principal, QuotaMiddleware, charge
from amux_asgi.pricing import dollars, parse_dollars
from amux_asgi.quota import Answer, MemoryLedger, Order, Settlement, fresh_id
from amux_asgi.scope import PRINCIPAL, reservation_of
from tests.middleware.apps import call, hello
from tests.middleware.bank import CENT, Broken, Slow, in_memory, spent

pytestmark = pytest.mark.anyio

TEAM = Principal(account="team", key="team-key")
HTTP: dict[str, Any] = {"type": "http", "method": "GET", PRINCIPAL: TEAM}
WEBSOCKET: dict[str, Any] = {"type": "websocket", PRINCIPAL: TEAM}
START: Message = {"type": "http.response.start", "status": 200, "headers": []}
END: Message = {"type": "http.response.body", "body": b"all"}
COMPLETE: Message = {"type": "http.request"}
GONE: Message = {"type": "http.disconnect"}


def priced(app: Any, ledger: Ledger, price: str = "0.01") -> QuotaMiddleware:
    return QuotaMiddleware(app, ledger=ledger, price=price)


def statuses(sent: list[Message]) -> list[int]:
    return [message["status"] for message in sent if message["type"] == "http.response.start"]


async def answers(_scope: Scope, _receive: Receive, send: Send) -> None:
    await send(START)
    await send(END)


async def reads(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await answers(scope, receive, send)


@pytest.mark.parametrize(
    ("app", "received"), [(answers, [COMPLETE, GONE]), (answers, [GONE]), (reads, [COMPLETE, GONE])]
)
async def test_a_client_that_left_gets_no_answer_of_the_apps(app: ASGIApp, received: list[Message]) -> None:
    """So that nothing goes out unpaid, whatever a layer in between believes."""
    ledger = in_memory()

    sent = await call(priced(app, ledger), HTTP, *received)

    assert (statuses(sent), await spent(ledger)) == ([408], 0)


async def test_what_comes_while_the_answer_is_charged_reaches_the_app() -> None:
    """An app may answer before it reads."""
    body = b""

    async def early(_scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal body
        await send(START)
        for _ in range(3):
            body += (await receive()).get("body", b"")
        await send(END)

    ledger = in_memory()
    pieces: list[Message] = [
        {"type": "http.request", "body": piece, "more_body": piece != b"c"} for piece in (b"a", b"b", b"c")
    ]
    sent = await call(priced(early, ledger), HTTP, *pieces)

    assert (body, statuses(sent), await spent(ledger)) == (b"abc", [200], CENT)


async def test_only_one_receives_at_a_time() -> None:
    """A server's message that two wait for could reach the wrong one."""
    receivers = most = 0
    messages = [COMPLETE]

    async def receive() -> Message:
        nonlocal receivers, most
        receivers += 1
        most = max(most, receivers)
        try:
            if messages:
                return messages.pop()
            await anyio.sleep_forever()
            raise AssertionError
        finally:
            receivers -= 1

    async def once(receive: Receive) -> None:
        await receive()

    async def listens(scope: Scope, receive: Receive, send: Send) -> None:
        async with anyio.create_task_group() as tasks:
            if scope["path"] == "/before":
                await receive()
                tasks.start_soon(once, receive)
                await anyio.wait_all_tasks_blocked()
            else:
                tasks.start_soon(once, receive)
            await send(START)
            tasks.start_soon(once, receive)
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    ledger = in_memory()
    for path in ("/before", "/beside"):
        messages[:] = [COMPLETE]
        await priced(listens, ledger)({**HTTP, "path": path, "headers": []}, receive, send)

    assert (statuses(sent), most, await spent(ledger)) == ([200, 200], 1, 2 * CENT)


async def test_a_body_that_is_not_read_is_left_alone() -> None:
    """Looking for it could ask the client to send it."""
    ledger = in_memory()
    scope = {**HTTP, "headers": [(b"content-length", b"5")]}

    sent = await call(priced(answers, ledger), scope, GONE)

    assert (statuses(sent), await spent(ledger)) == ([200], CENT)


async def test_a_receiver_that_fails_tells_nothing() -> None:
    """It says nothing of the client, and the answer is there."""
    sent: list[Message] = []

    async def receive() -> Message:
        raise RuntimeError

    async def send(message: Message) -> None:
        sent.append(message)

    await priced(answers, in_memory())({**HTTP, "headers": []}, receive, send)

    assert statuses(sent) == [200]


async def test_an_app_whose_answer_is_withheld_is_told_that_the_client_left() -> None:
    """So that an endless answer ends; it may go on sending, and nothing of it goes out."""
    heard: list[str] = []

    async def endless(_scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send(START)
            while True:
                await send({**END, "more_body": True})
        except OSError:
            heard.append((await receive())["type"])
        await send(END)

    sent = await call(priced(endless, Broken("capture")), HTTP)

    assert (statuses(sent), heard) == ([503], ["http.disconnect"])
    assert len(sent) == 2


async def test_a_bug_in_the_ledger_is_raised_and_costs_nothing() -> None:
    """The host sees it."""
    ledger = Broken("capture", ZeroDivisionError())

    with pytest.raises(ZeroDivisionError):
        await call(priced(answers, ledger), HTTP)

    assert await spent(ledger) == 0


async def test_an_exception_after_the_answer_began_is_raised() -> None:
    """The server cuts the connection; what began is paid."""

    async def breaks(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send(START)
        raise ZeroDivisionError

    ledger = in_memory()
    with pytest.raises(ZeroDivisionError):
        await call(priced(breaks, ledger), HTTP)

    assert await spent(ledger) == CENT


async def test_an_answer_that_a_stray_task_gives_too_late_is_not_delivered() -> None:
    """When the app returned without one, the call was over and released."""
    ledger = Slow()
    late: list[BaseException] = []
    sent: list[Message] = []

    async with anyio.create_task_group() as tasks:

        async def stray(send: Send) -> None:
            try:
                await send(START)
            except OSError as exc:
                late.append(exc)

        async def hasty(_scope: Scope, _receive: Receive, send: Send) -> None:
            tasks.start_soon(stray, send)
            await ledger.asked.wait()

        sent += await call(priced(hasty, ledger), HTTP)
        ledger.go_on.set()

    assert (sent, len(late), await spent(ledger)) == ([], 1, 0)


async def test_a_cancellation_while_the_call_is_charged_ends_it_once() -> None:
    """Nothing stays held."""
    ledger = Slow()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call, priced(answers, ledger), HTTP)
        await ledger.asked.wait()
        tasks.cancel_scope.cancel()

    assert await spent(ledger) == 0


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_task_that_the_server_cancels_is_settled() -> None:
    """As asyncio's servers do it: the exception comes at any await."""
    ledger, working = in_memory(), asyncio.Event()

    async def works(_scope: Scope, _receive: Receive, _send: Send) -> None:
        working.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(call(priced(works, ledger), HTTP))
    await working.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert await spent(ledger) == 0


async def test_whom_nobody_named_gets_401() -> None:
    """An `AuthMiddleware` belongs in front."""
    ledger = in_memory()

    sent = await call(priced(answers, ledger), {"type": "http", "method": "GET"})

    assert (statuses(sent), await spent(ledger)) == ([401], 0)


async def test_a_keys_own_budget_counts_too() -> None:
    """It has none left, while the account has."""
    ledger = in_memory()
    principal = Principal(account="team", key="team-key", budget="team-key")

    sent = await call(priced(answers, ledger), {**HTTP, PRINCIPAL: principal})

    assert (statuses(sent), await spent(ledger)) == ([429], 0)
    assert b"budget" in sent[1]["body"]


async def test_only_lifespan_passes_unasked() -> None:
    """It costs nothing; what nobody knows does not pass."""
    seen: list[str] = []

    async def app(scope: Scope, _receive: Receive, _send: Send) -> None:
        seen.append(scope["type"])

    await call(priced(app, in_memory()), {"type": "lifespan"})
    with pytest.raises(NotImplementedError, match="'webtransport'"):
        await call(priced(app, in_memory()), {"type": "webtransport"})

    assert seen == ["lifespan"]


async def test_a_websocket_whose_client_left_is_not_charged() -> None:
    """As far as the app was told."""

    async def accepts(_scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await receive()
        await send({"type": "websocket.accept"})

    ledger = in_memory()
    left: Message = {"type": "websocket.disconnect"}
    sent = await call(priced(accepts, ledger), WEBSOCKET, {"type": "websocket.connect"}, left)

    assert sent == [{"type": "websocket.close", "code": 1008, "reason": "request_timeout"}]
    assert await spent(ledger) == 0


async def test_the_hosts_access_log_learns_what_it_did_cost() -> None:
    """Under the id that the usage row has."""
    scope: dict[str, Any] = {**HTTP, "state": {}}

    await call(priced(answers, in_memory(), "0.015"), scope)

    facts = scope["state"]["amux"]
    assert facts["charged"] == "0.015"
    assert facts["call"].startswith("call_")


async def test_what_was_dearer_than_the_most_is_told_to_the_operator(caplog: pytest.LogCaptureFixture) -> None:
    """So that `most` can be raised."""

    async def dear(scope: Scope, _receive: Receive, send: Send) -> None:
        charge(scope, "0.30")
        await send(START)

    ledger = in_memory()
    with caplog.at_level(logging.WARNING, "amux_asgi"):
        await call(QuotaMiddleware(dear, ledger=ledger, most="0.25"), HTTP)

    assert await spent(ledger) == 25 * CENT
    assert "undercharged: it did cost 0.3, and 0.25 was held" in caplog.text


async def test_a_cost_that_cannot_be_counted_is_an_error_of_the_apps() -> None:
    """No amount, below zero, after the answer began, or with nobody to charge: never free without a word."""
    caught: list[str] = []

    async def wrong(scope: Scope, _receive: Receive, send: Send) -> None:
        for text in ("free", "-0.01"):
            with pytest.raises(ValueError, match=text):
                charge(scope, text)
        charge(scope, "0.01")
        charge(scope, "0.02")
        await send(START)
        with pytest.raises(RuntimeError, match="before its answer begins"):
            charge(scope, "0.03")
        caught.append("all")

    ledger = in_memory()
    await call(QuotaMiddleware(wrong, ledger=ledger, most="0.50"), HTTP)
    with pytest.raises(RuntimeError, match="nothing in front of this app charges"):
        charge({**HTTP}, "0.01")

    assert (caught, await spent(ledger)) == (["all"], 2 * CENT)


async def test_an_inner_app_finds_what_is_held_for_it() -> None:
    """It may report all that its usage row should say; only the price is the outer app's if that is fixed."""
    said = Settlement(ended=0, charged=7, cost=5, channel="vendor", images=2)
    kept: list[tuple[Order, Settlement]] = []

    class Noting(MemoryLedger):
        async def capture(self, order: Order, settlement: Settlement, answer: Answer | None = None) -> int:
            kept.append((order, settlement))
            return await super().capture(order, settlement, answer)

    async def inner(scope: Scope, _receive: Receive, send: Send) -> None:
        reservation = reservation_of(scope)
        assert reservation is not None
        assert reservation.fixed
        reservation.report(said)
        await send(START)

    await call(QuotaMiddleware(inner, ledger=Noting(), price="0.01", now=lambda: 9), HTTP)

    ((order, settlement),) = kept
    assert (order.account, order.key, order.amount, order.begun) == ("team", "team-key", CENT, 9)
    assert settlement == Settlement(ended=9, charged=CENT, cost=5, channel="vendor", images=2)


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({}, "in one way"),
        ({"price": "0.01", "most": "0.50"}, "in one way"),
        ({"price": "0"}, "above zero"),
        ({"most": "0.00"}, "above zero"),
        ({"price": "-1"}, "'-1'"),
        ({"price": "cheap"}, "'cheap'"),
        ({"price": ""}, "''"),
        ({"price": "0.0000000001"}, "0.0000000001"),
        ({"price": "1000000001"}, "1000000001"),
    ],
)
def test_a_price_that_cannot_be_is_refused_when_made(told: dict[str, Any], message: str) -> None:
    """Not when the first call comes."""
    with pytest.raises(ConfigError, match=message):
        QuotaMiddleware(hello, ledger=MemoryLedger(), **told)


@pytest.mark.parametrize(
    ("text", "nano", "written"), [("0.01", CENT, "0.01"), ("3", 300 * CENT, "3"), ("0.000000001", 1, "0.000000001")]
)
def test_money_is_read_and_written_exactly(text: str, nano: int, written: str) -> None:
    """To the nano-dollar."""
    assert (parse_dollars(text), dollars(nano), dollars(-nano)) == (nano, written, f"-{written}")


def test_ids_are_in_the_order_of_their_times() -> None:
    """So that new rows lie side by side; two of one moment differ."""
    ids = [fresh_id("call_", now) for now in (0, 1, 1_800_000_000_000, 1_800_000_000_001)]

    assert ids == sorted(ids)
    assert fresh_id("call_", 1) != fresh_id("call_", 1)


async def test_what_is_handed_over_is_given_back_at_once_and_the_app_charges_for_it() -> None:
    """Handed over twice is handed over once; the answer goes out, and nothing is captured here."""
    ledger = in_memory()
    free: list[int] = []

    async def inner(scope: Scope, _receive: Receive, send: Send) -> None:
        reservation = reservation_of(scope)
        assert reservation is not None
        for _ in range(2):
            reservation.hand_over()
        wallet = await ledger.get("account:team")
        free.append(0 if wallet is None else wallet.available)
        await send(START)
        await send(END)

    sent = await call(QuotaMiddleware(inner, ledger=ledger, most="0.50"), HTTP, COMPLETE)

    assert (free, statuses(sent), await spent(ledger)) == ([100 * CENT], [200], 0)
