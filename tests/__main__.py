"""`python3 -m tests`: set up, then check everything. `python3 -m tests -k word`: only the tests that match."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from examples._setup import ROOT, environment

PATHS = [name for name in ("amux_asgi", "tests", "examples", "benchmarks") if (ROOT / name).exists()]
MEMORY = Path("/dev/shm")  # noqa: S108, a folder of our own is made in it
ROOM = 2 * 2**30  # bytes for each processor, whose tests have a PostgreSQL of their own


def main() -> int:
    """Run every step, also after one failed; the exit code says whether all passed."""
    python = environment("tests", "test")
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # hundreds of processes would compile all our code, each anew
    if sys.argv[1:]:
        return subprocess.run([python, "-m", "pytest", *sys.argv[1:]], cwd=ROOT, check=False).returncode
    # The check of type completeness asks whichever `python` comes first.
    os.environ["PATH"] = os.pathsep.join([str(python.parent), os.environ.get("PATH", os.defpath)])
    begun = time.monotonic()
    with folder_in_memory():
        done = [run(name, command) for name, command in steps(python)]
    failed = [name for name, passed in done if not passed]
    heading(f"{len(done) - len(failed)} of {len(done)} steps passed in {time.monotonic() - begun:.0f} s")
    if failed:
        heading(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


@contextmanager
def folder_in_memory() -> Generator[None]:
    """Keep temporary files in memory while entered, where Linux has room for them: databases wait for their disk a lot.

    A container that was given little memory to share keeps them on its disk.
    """
    if not MEMORY.is_dir() or shutil.disk_usage(MEMORY).free < ROOM * (os.cpu_count() or 1):
        yield
        return
    with tempfile.TemporaryDirectory(dir=MEMORY, prefix="amux-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o711)  # PostgreSQL, which does not run as root, finds its own folder inside
        os.environ["TMPDIR"] = folder
        yield


def steps(python: Path) -> list[tuple[str, list[str | Path]]]:
    """List what is run, in order. The README's blocks and the examples are run by the tests."""
    tools = python.parent
    return [
        ("format", [tools / "ruff", "format", "--check", *PATHS]),
        ("lint", [tools / "ruff", "check", *PATHS]),
        ("types", [tools / "basedpyright", *PATHS]),
        ("type completeness", [tools / "basedpyright", "--verifytypes", "amux_asgi", "--ignoreexternal"]),
        ("clean coverage", [tools / "coverage", "erase"]),
        ("tests", [tools / "coverage", "run", "-m", "pytest", "-n", "auto"]),
        ("combine coverage", [tools / "coverage", "combine", "--quiet"]),
        ("coverage", [tools / "coverage", "report"]),
        ("work a request", [python, "-m", "benchmarks.floor", "--quick"]),
    ]


def run(name: str, command: list[str | Path]) -> tuple[str, bool]:
    """Run one step, and say how it went and how long it took."""
    heading(name)
    begun = time.monotonic()
    code = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, check=False).returncode
    heading(f"{name}: {'passed' if code == 0 else 'FAILED'} in {time.monotonic() - begun:.1f} s")
    return name, code == 0


def heading(text: str) -> None:
    """Say it where the steps' own output goes, so that the two stay in order."""
    sys.stdout.write(f"== {text}\n")
    sys.stdout.flush()


sys.exit(main())
