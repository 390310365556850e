"""The gateway behind a `QuotaMiddleware` of the host's: one of the two charges."""

from typing import Any

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
    QuotaMiddleware,
    combine_lifespans,
    fixed_keys,
    images_app,
    outer,
)
from tests.app.test_money import Upstream, made, rows, wallet
from tests.serve import serve

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
