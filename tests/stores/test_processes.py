"""Several processes on one database: killed, stopped, at once; the sums add up."""

import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest
import sqlalchemy as sa

from amux_asgi.stores.sql.schema import ANSWERS, OWNERS
from tests.stores.kills import RICH, kill_often
from tests.stores.processes import ROOT, processes
from tests.stores.world import QUICK, give, opened_store, order, paid, rows, states, sums

pytestmark = pytest.mark.anyio
KILLS = 10
FAR = 2**52  # milliseconds since 1970


@pytest.fixture
def anyio_backend() -> str:
    """The processes are what matters here, not the event loop."""
    return "asyncio"


async def test_killed_anywhere_everything_adds_up(database: str) -> None:
    """L01, L02, L03, L05: what was told to be captured is, and whatever else was held is given back."""
    seed = random.SystemRandom().randrange(2**32)

    told = await kill_often(database, KILLS, seed)

    assert told.captured <= told.taken, seed
    assert told.available + told.taken == RICH, seed


async def test_two_processes_share_the_money_exactly(database: str) -> None:
    """L09: a thousand asked by each of two at once, money for a hundred."""
    async with opened_store(database, QUICK) as stores:
        await give(stores, 1000)
    with processes(database) as children:
        for name in "xy":
            children.start("hold", name=name, number=1000)

        held = [int(children.hear("held")[1]) for _ in range(2)]

    assert sum(held) == 100
    assert sums(database) == (0, 0, 1000)


@pytest.mark.parametrize(("money", "expected", "left"), [(20, "captured 7", 13), (12, "refused 503", 4)])
async def test_a_process_that_was_stopped_too_long_is_charged_afresh(
    database: str, money: int, expected: str, left: int
) -> None:
    """L23: its hold is given back; its late capture is paid only if there is money, and it goes on."""
    async with opened_store(database, QUICK) as stores:
        await give(stores, money)
        with processes(database) as children:
            child = children.start("late", charged=7)
            children.hear("holding")
            owner = await claims(database)
            with anyio.fail_after(60):
                while sums(database)[1]:
                    await stores.ledger.get("account:a")
            assert states(database)["gen_late"] == "swept"
            if expected.startswith("refused"):
                await stores.ledger.hold(order("gen_other", 8))
                await stores.ledger.capture(order("gen_other", 8), paid(8))
            os.kill(child, signal.SIGCONT)

            told = children.hear("captured", "refused")

            assert " ".join(told).startswith(expected)
            assert children.hear("afterwards") == ["afterwards", "0"]
    assert sums(database)[0] == left
    assert [name for name, _ in rows(database, sa.select(OWNERS.c.id, OWNERS.c.dead))] == []
    assert owner is not None
    assert rows(database, sa.select(ANSWERS.c.claim)) == [("finished",)]


async def claims(database: str) -> str:
    """Let the process that works on something have claimed an answer too, and have finished another."""
    from_rows = rows(database, sa.text("SELECT owner FROM usage WHERE id = 'gen_late'"))
    owner = str(from_rows[0][0])
    engine_rows = [
        {"claim": "open", "fingerprint": "", "owner": owner, "body": None, "facts": None, "expires": FAR},
        {"claim": "finished", "fingerprint": "", "owner": owner, "body": b"1", "facts": b"", "expires": FAR},
    ]
    write(database, ANSWERS.insert(), engine_rows)
    return owner


def write(database: str, statement: sa.Executable, values: Any) -> None:
    """Write behind the ledger's back."""
    engine = sa.create_engine(database.replace("postgresql:", "postgresql+psycopg:"))
    with engine.begin() as connection:
        connection.execute(statement, values)
    engine.dispose()


async def test_many_can_make_the_tables_at_once(database: str) -> None:
    """Twenty-four processes start on a database that is empty."""
    with processes(database) as children:
        for _ in range(24):
            children.start("create")

        told = [children.hear("opened", "failed") for _ in range(24)]

    assert told == [["opened"]] * 24


async def test_a_full_disk_is_said_at_once_and_gets_well(tmp_path: Path) -> None:
    """L24: 503, and works again without a restart. A limit of the process stands in for the disk's end."""
    url = f"sqlite:///{tmp_path}/amux.db"
    async with opened_store(url, QUICK) as stores:
        await give(stores, 100)
    with processes(url) as children:
        children.start("full")

        told = children.until("done")

    ends = [" ".join(words) for words in told if words[0] != "started"]
    assert ends == ["refused 503 storage_unavailable True"] * 3 + ["captured 10", "done"]
    assert sums(url) == (90, 0, 10)
    assert states(url) == {"gen_before": "captured", "gen_after": "swept"}


@pytest.mark.skipif(shutil.which("strace") is None, reason="counts flushes with strace")
def test_each_commit_is_flushed(tmp_path: Path) -> None:
    """As many flushes to the disk as commits, at least: a cut of power loses nothing that was told."""
    program = (
        "import anyio, sys\n"
        "from tests.stores.world import *\n"
        "async def main():\n"
        "    async with opened_store(sys.argv[1]) as stores:\n"
        "        for i in range(10):\n"
        "            await stores.ledger.hold(order(f'gen_{i}'))\n"
        "            await stores.ledger.capture(order(f'gen_{i}'), paid())\n"
        "anyio.run(main)\n"
    )
    counts = tmp_path / "counts"
    tracing = ["strace", "-f", "-c", "-e", "trace=fsync,fdatasync", "-o", counts]

    done = subprocess.run(
        [*tracing, sys.executable, "-c", program, f"sqlite:///{tmp_path}/amux.db"], cwd=ROOT, check=False
    )

    if done.returncode:
        pytest.skip("this system lets nobody trace")
    lines = [line.split() for line in counts.read_text().splitlines()]
    assert sum(int(line[3]) for line in lines if line and line[-1] in ("fsync", "fdatasync")) >= 20
