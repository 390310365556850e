"""A process that begins a generation under an idempotency key, and is killed: `claimant.py URL taken|captured`."""

import sys
import time

import anyio

from amux_asgi.quota import Order, Settlement
from amux_asgi.stores.sql import open_store
from tests.claimants import answer_of, keyed, work

ORDER = Order(id="gen_killed", account="alice", key="laptop", amount=10, begun=1)


async def main(url: str, until: str) -> None:
    """Go as far as asked, say so, and wait to be killed."""
    async with open_store(url, clock=time.monotonic, now=lambda: 1) as stores:
        mine = await work(stores.claims, keyed())
        await stores.ledger.hold(ORDER)
        if until == "captured":
            answer = answer_of(mine, b"of the killed")
            await stores.ledger.capture(ORDER, Settlement(ended=2, charged=6), mine.with_capture(answer))
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await anyio.sleep_forever()


if __name__ == "__main__":
    anyio.run(main, sys.argv[1], sys.argv[2])
