"""What any server serves in the tests of money: a shop behind keys and a price, with its money in a database."""

import os
import sys
import time
from contextlib import AsyncExitStack
from typing import Any

import anyio
from starlette.types import Receive, Scope, Send

from amux_asgi import AuthMiddleware, QuotaMiddleware
from amux_asgi.runtime import unix_ms
from amux_asgi.stores.sql import open_store
from tests.middleware.bank import KEYS, WALLET, Shop

opened: dict[str, Any] = {}


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Serve it, and say when a call has come and when it has ended."""
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
        return
    try:
        await opened["app"](scope, receive, send)
    finally:
        with anyio.CancelScope(shield=True):
            await opened["ledger"].get(WALLET)  # behind everything that was asked for before
        say("ended")


async def lifespan(receive: Receive, send: Send) -> None:
    async with AsyncExitStack() as stack:
        await receive()
        stores = await stack.enter_async_context(open_store(os.environ["MONEY"], clock=time.monotonic, now=unix_ms))
        opened["ledger"] = stores.ledger
        opened["app"] = AuthMiddleware(QuotaMiddleware(arriving, ledger=stores.ledger, price="0.01"), keys=KEYS)
        await send({"type": "lifespan.startup.complete"})
        await receive()
    await send({"type": "lifespan.shutdown.complete"})


async def arriving(scope: Scope, receive: Receive, send: Send) -> None:
    say("arrived")
    await Shop()(scope, receive, send)


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
