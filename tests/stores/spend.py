"""A gateway's part in a test of two processes: spend an account's money, a cent at a time, until all is captured."""

import sys
import time

import anyio

from amux_asgi.errors import QuotaError
from amux_asgi.quota import Order, Settlement
from amux_asgi.stores.sql import open_store

CENT = 10_000_000


def milliseconds() -> int:
    return time.time_ns() // 1_000_000


async def main(database: str, account: str, captures: int) -> None:
    async with open_store(database, clock=time.monotonic, now=milliseconds) as stores:
        refused = 0
        for number in range(captures):
            order = Order(id=f"gen_{number:06d}", account=account, key="web", amount=2 * CENT, begun=milliseconds())
            while True:
                try:
                    await stores.ledger.hold(order)
                    break
                except QuotaError:
                    refused += 1
                    if refused == 1:
                        sys.stdout.write("the money is gone\n")
                        sys.stdout.flush()
            done = Settlement(ended=milliseconds(), charged=CENT, images=1)
            await stores.ledger.capture(order, done)


if __name__ == "__main__":
    anyio.run(main, sys.argv[1], sys.argv[2], int(sys.argv[3]))
