"""`python3 -m tests`: set up, then check everything. `python3 -m tests -k word`: only the tests that match."""

import subprocess
import sys
import time
from pathlib import Path

from examples._setup import ROOT, environment, say

PATHS = ("amux_asgi", "tests", "examples", "benchmarks")


def main() -> int:
    """Run every step, also after one failed; the exit code says whether all passed."""
    python = environment("tests", "test")
    if sys.argv[1:]:
        return subprocess.run([python, "-m", "pytest", *sys.argv[1:]], cwd=ROOT, check=False).returncode
    failed = [name for name, command in steps(python) if not passes(name, command)]
    say("all steps passed" if not failed else f"failed: {', '.join(failed)}")
    return 1 if failed else 0


def steps(python: Path) -> list[tuple[str, list[str | Path]]]:
    """List what is run, in order."""
    tools = python.parent
    return [
        ("format", [tools / "ruff", "format", "--check", *PATHS]),
        ("lint", [tools / "ruff", "check", *PATHS]),
        ("types", [tools / "basedpyright", *PATHS]),
        ("type completeness", [tools / "basedpyright", "--verifytypes", "amux_asgi", "--ignoreexternal"]),
        ("clean coverage", [tools / "coverage", "erase"]),
        ("tests", [tools / "coverage", "run", "-m", "pytest"]),
        ("combine coverage", [tools / "coverage", "combine", "--quiet"]),
        ("coverage", [tools / "coverage", "report"]),
    ]


def passes(name: str, command: list[str | Path]) -> bool:
    """Run one step and say how long it took."""
    say(f"\n== {name}")
    begun = time.monotonic()
    code = subprocess.run(command, cwd=ROOT, check=False).returncode
    say(f"== {name}: {'passed' if code == 0 else 'FAILED'} in {time.monotonic() - begun:.1f} s")
    return code == 0


sys.exit(main())
