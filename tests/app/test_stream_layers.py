"""Streams inside our own middleware: limits and money to their end, and errors in the form that is still possible."""

from collections.abc import Callable
from typing import Any, Final

import anyio
import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from amux_asgi import (
    AuthMiddleware,
    ErrorMiddleware,
    KeyConfig,
    LimitMiddleware,
    Limits,
    PriceConfig,
    QuotaMiddleware,
    fixed_keys,
    outer,
)
from amux_asgi.quota import Ledger, MemoryLedger
from amux_asgi.wallets import Wallet, account_wallet
from tests.app.stream_app import BREAKS, KEY, LATE, LINGERS, Upstream, host, images
from tests.app.stream_client import COMPLETED, PREVIEW, let_go, streaming
from tests.middleware.bank import CENT, DOLLAR, Broken
from tests.serve import serve

ME: Final = KeyConfig(name="stream", key=KEY)
WALLET: Final = account_wallet("stream")
PRICES: Final = {"gpt-image-2": PriceConfig(image="0.02")}


def guarded(upstream: Upstream, ledger: Ledger | None = None, *, heartbeat: float = 0.25, **quota: Any) -> ASGIApp:
    """Put errors, keys, limits and, if told, money in front of the gateway."""
    ledger = ledger or MemoryLedger()
    limits = Limits()
    app = images(
        upstream, heartbeat=heartbeat, keys=None, authenticate=outer, limiter=limits, ledger=ledger, prices=PRICES
    )
    inner: ASGIApp = QuotaMiddleware(app, ledger=ledger, **quota) if quota else app
    inner = LimitMiddleware(inner, rules=["1 concurrent"], limiter=limits)
    return host(upstream, ErrorMiddleware(AuthMiddleware(inner, keys=fixed_keys([ME]))), app)


def funded() -> MemoryLedger:
    return MemoryLedger([Wallet(id=WALLET, available=DOLLAR, credit=0)])


def money(ledger: MemoryLedger) -> tuple[int, int]:
    """Say what is held, and what was spent."""
    wallet = anyio.run(ledger.get, WALLET)
    assert wallet is not None
    return wallet.held, wallet.captured


def status(url: str) -> int:
    with streaming(url) as reading:
        return reading.answer.status_code


def by_a_layer() -> ASGIApp:
    return guarded(Upstream())


def by_the_gateway() -> ASGIApp:
    upstream = Upstream()
    app = images(upstream, keys=[KeyConfig(name="stream", key=KEY, limits=("1 concurrent",))])
    return host(upstream, app, app)


@pytest.mark.parametrize("build", [by_a_layer, by_the_gateway])
def test_a_place_is_held_to_the_end_of_a_stream_and_no_longer(build: Callable[[], ASGIApp]) -> None:
    """`1 concurrent`: a second stream at once is a 429; whoever has read one to its end may ask again at once."""
    seen: list[int] = []

    with serve(build()) as url:
        for _ in range(3):
            with streaming(url, LINGERS) as reading:
                reading.until(PREVIEW.encode())
                seen.append(status(url))
                let_go(url)
                reading.to_the_end()
            seen.append(len(reading.events))

    assert seen == [429, 2] * 3


def test_where_a_layer_lets_the_gateway_charge_a_stream_costs_its_pictures() -> None:
    """The most is given back when the gateway holds for itself; an error before a picture costs nothing."""
    ledger = funded()

    with serve(guarded(Upstream(), ledger, most="0.50")) as url:
        with streaming(url) as reading:
            reading.until(PREVIEW.encode())
            held = money(ledger)
            let_go(url)
            reading.to_the_end()
        with streaming(url, BREAKS) as broken:
            broken.until(PREVIEW.encode())
            let_go(url)
            broken.to_the_end()

    assert (held, money(ledger)) == ((2 * CENT, 0), (0, 2 * CENT))
    assert b'"x_amux":{"attempts":1,"cost":"0.02"}' in reading.text
    assert broken.events == [PREVIEW, "error"]


def test_behind_a_fixed_price_a_stream_begins_with_a_finished_picture() -> None:
    """It is charged when the answer begins: no comment and no preview before; what fails until then costs nothing."""
    ledger = funded()

    with serve(guarded(Upstream(), ledger, heartbeat=0.001, price="0.05")) as url:
        let_go(url)
        with streaming(url) as reading:
            reading.to_the_end()
        spent = money(ledger)
        let_go(url)
        with streaming(url, BREAKS) as broken:
            broken.to_the_end()

    assert reading.events == [COMPLETED]
    assert reading.text.startswith(b"event: image_generation.completed")
    assert (broken.answer.status_code, broken.answer.headers["content-type"]) == (502, "application/json")
    assert (spent, money(ledger)) == ((0, 5 * CENT), (0, 5 * CENT))


def test_an_error_has_the_form_that_is_still_possible() -> None:
    """JSON with a status before the stream began, an event after; the request's id is the same everywhere."""
    headers = {"x-request-id": "mine-1"}

    with serve(guarded(Upstream())) as url:
        with streaming(url, partial_images=4) as early:
            early.to_the_end()
        with streaming(url, BREAKS, headers=headers) as late:
            late.until(PREVIEW.encode())
            let_go(url)
            late.to_the_end()

    assert (early.answer.status_code, early.answer.headers["content-type"]) == (400, "application/json")
    assert (late.answer.status_code, late.answer.headers["x-request-id"]) == (200, "mine-1")
    assert late.text.endswith(b"\n\n")
    assert late.events == [PREVIEW, "error"]


@pytest.mark.parametrize("prompt", ["a lantern", LATE])
def test_a_bug_of_ours_ends_a_stream_with_an_error_and_is_reported(prompt: str) -> None:
    """As everywhere: the client is told nothing of it, the host's error reporting all; no picture was given away."""
    reported: list[Exception] = []
    app = guarded(Upstream(), Broken("capture", ZeroDivisionError()))

    async def reporting(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await app(scope, receive, send)
        except Exception as exc:
            reported.append(exc)
            raise

    with serve(reporting, log_level="critical") as url, streaming(url, prompt) as reading:
        for _ in range(2 if prompt == LATE else 1):
            let_go(url)
        reading.to_the_end()

    assert reading.events == [PREVIEW, "error"]
    assert b'"code":"internal_error"' in reading.text
    assert [type(exc) for exc in reported] == [ZeroDivisionError]
