"""The ledger's long test: two hundred processes killed on each database, and millions of chances without them.

`--kills N` and `--operations N` say how much; a failure tells its seed.
"""

import argparse
import random
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio

from tests.databases import fresh_database, postgresql
from tests.stores.kills import kill_often
from tests.stores.test_simulation import simulate

PART = 100_000  # operations of one seed


def main() -> None:
    """Run it all, and say what was done."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="processes killed on each database")
    parser.add_argument("--operations", type=int, default=2_000_000, help="operations of the simulation")
    told = parser.parse_args()
    seed = random.SystemRandom().randrange(2**32)
    with TemporaryDirectory(ignore_cleanup_errors=True) as name, postgresql(Path(name) / "postgresql") as server:
        for url in (f"sqlite:///{name}/amux.db", fresh_database(server)):
            found = anyio.run(kill_often, url, told.kills, seed)
            say(f"{told.kills} processes killed on {url.partition(':')[0]}, seed {seed}: {found}")
    for part in range(told.operations // PART):
        simulate(seed + part, PART)
        say(f"{(part + 1) * PART:,} operations add up, seed {seed + part}")


def say(text: str) -> None:
    """Tell the person at the terminal."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
