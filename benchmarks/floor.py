"""How much work a request is: instructions that its process runs, counted by valgrind's callgrind, not timed.

The count hardly depends on the machine or on what else it does, so a few per cent more are news. Counted is the app as
an ASGI server calls it, with an upstream that answers at once. `--quick` leaves out what takes long to begin, and
`--accept` prints the table for this file. Without valgrind, or for another Python than those known, nothing is held
against anybody.
"""

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from os import environ
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Final

from examples._setup import ROOT

REQUESTS: Final = 64  # that are counted, as `_floor` has them
TOLERANCE: Final = 0.08  # of a count: new versions of what is installed change it a little
GROWTH: Final = 0.05  # of a request's work, however many there are of what it does not ask for
GROWS: Final = {"keys": "limits", "models": "bare"}  # 100,000 by 1, and 1,000 by 1
QUICK: Final = (("bare", "limits", "models"), ("full", "stream"))
LONG: Final = (("bare", "limits", "models", "keys"), ("full", "stream", "picture"))
BASELINES: Final[Mapping[str, Mapping[str, int]]] = {
    "3.11": {
        "bare": 810,
        "limits": 905,
        "models": 816,
        "keys": 912,
        "full": 1350,
        "stream": 2332,
        "picture": 10662,
    },
}
"""By Python's version: thousands of instructions a request."""


class Child:
    """A process that is counted, and does as it is told."""

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        self._process = process
        self._folder = folder
        self._dumps = 0

    def count(self, case: str) -> int:
        """Give thousands of instructions that a request of a case takes."""
        self._tell(case, "ready")
        self._control("instrumentation on")
        self._tell("go", "done")
        self._control("instrumentation off")
        self._control("dump")  # which begins again from zero
        self._write("end")
        self._dumps += 1
        return round(counted((self._folder / f"out.{self._dumps}").read_text()) / REQUESTS / 1000)

    def _tell(self, word: str, answer: str) -> None:
        self._write(word)
        if _pipe(self._process.stdout).readline().strip() != answer:
            self._process.kill()
            raise SystemExit(f"what is counted ended: {(self._folder / 'err').read_text()[-2000:]}")

    def _write(self, word: str) -> None:
        pipe = _pipe(self._process.stdin)
        pipe.write(f"{word}\n")
        pipe.flush()

    def _control(self, order: str) -> None:
        command = ["vgdb", f"--pid={self._process.pid}", *order.split()]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@contextmanager
def started() -> Generator[Child]:
    """Start what is counted; nothing is, yet."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        valgrind = ["valgrind", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={folder / 'out'}"]
        with (
            (folder / "err").open("w") as err,
            subprocess.Popen(
                [*valgrind, sys.executable, "-m", "benchmarks._floor"],
                cwd=ROOT,
                env={**environ, "PYTHONHASHSEED": "0"},  # the order of sets is work too
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=err,
                text=True,
            ) as process,
        ):
            yield Child(process, folder)


def counts(groups: Sequence[Sequence[str]]) -> dict[str, int]:
    """Count cases, each group in a process of its own beside the others."""
    with ThreadPoolExecutor() as threads:
        return {case: count for found in threads.map(_group, groups) for case, count in found.items()}


def counted(dump: str) -> int:
    """Read how many instructions one of callgrind's files tells of."""
    found = re.search(r"^totals: (\d+)", dump, re.MULTILINE)
    if found is None:
        raise ValueError("that is no file of callgrind's")
    return int(found[1])


def faults(found: Mapping[str, int], known: Mapping[str, int]) -> list[str]:
    """Say what is more than it may be."""
    return [
        *(
            f"{case}: {found[case]:,} thousand instructions a request, {found[case] / known[case] - 1:+.1%}"
            for case in found
            if case in known and found[case] > known[case] * (1 + TOLERANCE)
        ),
        *(
            f"{case}: {found[case] / found[few] - 1:+.1%} of what a request is with few; it must not grow with them"
            for case, few in GROWS.items()
            if case in found and found[case] > found[few] * (1 + GROWTH)
        ),
    ]


def table(found: Mapping[str, int]) -> str:
    """Write counts as they stand in this file."""
    return "".join(f"        {case!r}: {count},\n".replace("'", '"') for case, count in found.items())


def main() -> int:
    """Count, and tell what is more than it was."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--accept", action="store_true")
    told = parser.parse_args()
    if not (shutil.which("valgrind") and shutil.which("vgdb")):
        print("skipped: valgrind is not installed, which counts instructions")
        return 0
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    found, known = counts(QUICK if told.quick else LONG), BASELINES.get(version, {})
    if told.accept:
        print(f'    "{version}": {{\n{table(found)}    }},')
        return 0
    for case, count in found.items():
        print(f"{case:12} {count:8,} thousand instructions a request; known are {known.get(case, 'none')}")
    wrong = faults(found, known)
    print("\n".join(wrong) or ("no more than there were" if known else f"nothing is known of Python {version}"))
    return 1 if wrong else 0


def _group(cases: Sequence[str]) -> dict[str, int]:
    with started() as child:
        return {case: child.count(case) for case in cases}


def _pipe(pipe: IO[str] | None) -> IO[str]:
    if pipe is None:
        raise ValueError("a process without this pipe")
    return pipe


if __name__ == "__main__":
    sys.exit(main())
