"""Processes that are killed while they work, and what must be true afterwards."""

import os
import random
import signal
from typing import Final, NamedTuple

import anyio
import sqlalchemy as sa

from amux_asgi.stores.sql.schema import OWNERS, USAGE
from tests.stores.processes import EACH, processes
from tests.stores.world import QUICK, give, opened_store, rows, states, sums

RICH: Final = 10_000_000


class Told(NamedTuple):
    """What an account has left, what was taken of it, and how much of that the processes were told."""

    available: int
    taken: int
    captured: int


async def kill_often(database: str, kills: int, seed: int) -> Told:
    """Kill one process after the other at points by chance, sweep, and hold what they said against what is there."""
    chance = random.Random(seed)
    held: set[str] = set()
    captured: dict[str, int] = {}
    earned: dict[str, int] = {}
    async with opened_store(database, QUICK) as stores:
        await give(stores, RICH)
    with processes(database) as children:
        for kill in range(kills):
            child = children.start("work", name=f"{kill}", number=10_000, pace=30)
            told = [children.hear("h", "c", "e") for _ in range(chance.randrange(1, 60))]
            os.kill(child, signal.SIGKILL)
            children.start("create")
            told += [line for line in children.until("opened") if line[0] in "hce"]
            held |= {line[1] for line in told if line[0] == "h"}
            captured |= {line[1]: int(line[2]) for line in told if line[0] == "c"}
            earned |= {line[1]: int(line[2]) for line in told if line[0] == "e"}

    await _sweep(database)

    available, still, taken = sums(database)
    found = states(database)
    assert still == 0, seed
    assert all(found[row] == "captured" for row in captured), seed
    assert all(found[row] in ("captured", "released", "swept") for row in held), seed
    assert set(found.values()) <= {"captured", "released", "swept"}, seed
    charges = _charges(database)
    assert all(charges[row] in (told, told + EACH, 10) for row, told in earned.items()), seed
    return Told(available, taken, sum(captured.values()))


def _charges(database: str) -> dict[str, int]:
    """Tell what each reservation was charged: what was captured, or else what was earned."""
    found = rows(database, sa.select(USAGE.c.id, USAGE.c.state, USAGE.c.charged, USAGE.c.earned))
    for row, state, charged, earned in found:
        assert charged in (earned, 10), row
        assert state == "captured" or not charged, row
    return {row: charged for row, _, charged, _ in found}


async def _sweep(database: str) -> None:
    """Wait until nobody else has anything."""
    async with opened_store(database, QUICK) as stores:
        with anyio.fail_after(60):
            while len(rows(database, sa.select(OWNERS.c.id))) > 1 or sums(database)[1]:
                await stores.ledger.get("account:a")
