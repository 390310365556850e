"""The gateway behind a `QuotaMiddleware` of the host's: one of the two charges."""

import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import anyio
import httpx2  # noqa: TID251, the test's client
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Mount

from amux_asgi import (
    AuthMiddleware,
    ChannelConfig,
    Database,
    KeyConfig,
    PriceConfig,
    Principal,
    QuotaMiddleware,
    combine_lifespans,
    fixed_keys,
    images_app,
    outer,
)
from amux_asgi.stores.sql import open_store
from amux_asgi.wallets import Opening
from tests.app.test_money import CENT, Upstream, made, rows, wallet
from tests.app.test_twins import ask as ask_again
from tests.app.test_twins import leave
from tests.serve import serve
from tests.stub import Stub, upstream


@pytest.fixture
def stub() -> Generator[Stub]:
    with upstream() as running:
        yield running


KEY = "adopted-key-of-the-tests"
CHANNEL = ChannelConfig(name="up", adapter="openai-compatible", base_url="asgi://up/v1", models=("m",))


def ask(url: str, key: str | None) -> httpx2.Response:
    headers = {"authorization": f"Bearer {KEY}"} | ({} if key is None else {"idempotency-key": key})
    return httpx2.post(f"{url}/v1/images/generations", json={"model": "m", "prompt": "a"}, headers=headers)


@pytest.mark.parametrize(("told", "cents"), [({"price": "0.05"}, 15), ({"most": "0.50"}, 2)])
def test_what_an_outer_layer_holds_is_not_held_again(database: str, told: dict[str, Any], cents: int) -> None:
    """A fixed price is the price of each call; otherwise a picture costs what it did cost, and a replay nothing."""
    store = Database(database)
    upstream = Upstream(made(1))
    images = images_app(
        channels=[CHANNEL],
        prices={"m": PriceConfig(image="0.01")},
        database=store,
        authenticate=outer,
        apps={"up": upstream},
    )
    keys = fixed_keys([KeyConfig(name="me", key=KEY)])
    charged = [Middleware(AuthMiddleware, keys=keys), Middleware(QuotaMiddleware, ledger=store.ledger, **told)]
    app = Starlette(
        routes=[Mount("/v1", images, middleware=charged)], lifespan=combine_lifespans(store.lifespan, images.lifespan)
    )

    with serve(app) as url:
        answers = [ask(url, key) for key in ("k-1", "k-1", None)]

    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert ("idempotent-replayed" in answers[1].headers, upstream.asked) == (True, 2)
    assert wallet(database) == (-cents, 0, cents)
    assert {state for (state,) in rows(database, "SELECT state FROM usage")} <= {"captured", "released"}


@contextmanager
def charged(database: str, stub: Stub, budget: str | None = None, **told: Any) -> Generator[httpx2.Client]:
    """Serve a gateway behind an outer `QuotaMiddleware`; its upstream waits for the test."""
    store = Database(database)
    channel = ChannelConfig(name="up", adapter="openai-compatible", base_url=f"{stub.url}/wait", models=("m",))
    images = images_app(channels=[channel], prices={"m": PriceConfig(image="0.01")}, database=store, authenticate=outer)

    async def me(_connection: object) -> Principal:
        return Principal(account="me", key="me", budget=budget)

    layers = [Middleware(AuthMiddleware, authenticate=me), Middleware(QuotaMiddleware, ledger=store.ledger, **told)]
    app = Starlette(
        routes=[Mount("/v1", images, middleware=layers)], lifespan=combine_lifespans(store.lifespan, images.lifespan)
    )
    with serve(app) as url, httpx2.Client(base_url=url, timeout=60) as client:
        yield client


def test_who_left_and_comes_back_has_paid(database: str, stub: Stub) -> None:
    """Hanging up is no way to a free picture."""
    with charged(database, stub, most="0.50") as client:
        leave(client, stub, "idempotency-key: k-1")
        stub.let_go()
        again = ask_again(client, "k-1")

    assert (again.status_code, stub.posts) == (200, 1)
    assert wallet(database) == (-1, 0, 1)


def test_a_fixed_price_outside_is_all_that_a_key_with_a_budget_pays(database: str, stub: Stub) -> None:
    """The gateway holds nothing itself, so it asks no budget a second time."""

    async def give() -> None:
        async with open_store(database, clock=time.monotonic, now=lambda: 1) as stores:
            await stores.open_wallets([Opening(wallet="budget:b", amount=10 * CENT)])

    anyio.run(give)
    stub.let_go()
    with charged(database, stub, budget="b", price="0.05") as client:
        answer = ask_again(client, "k-1")

    assert answer.status_code == 200
    assert wallet(database, "budget:b") == (5, 0, 5)
