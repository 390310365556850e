"""`python3 -m benchmarks`: set up, then measure ourselves beside others. `--quick` and `--all` say how much.

A name runs one of the others, with its options: `python3 -m benchmarks ledger --rows 100000`. `--list` names them.
"""

import ast
import sys
from pathlib import Path

from examples._setup import environment, finish, say

HERE = Path(__file__).parent
DEFAULT = "peers"
EXTRAS = {DEFAULT: ("benchmarks", "bench")}  # its environment, and what that holds; the others have the tests'


def main() -> int:
    """Run the benchmarks that the command names, one after the other."""
    known = found()
    first = next((i for i, word in enumerate(sys.argv) if word.startswith("-")), len(sys.argv))
    told, options = sys.argv[1:first] or [DEFAULT], sys.argv[first:]
    if options == ["--list"]:
        for name, path in known.items():
            sys.stdout.write(f"{name:12} {(ast.get_docstring(ast.parse(path.read_text())) or '').splitlines()[0]}\n")
        return 0
    if unknown := [name for name in told if name not in known]:
        say(f"there is no benchmark {unknown[0]!r}; known are {', '.join(known)}")
        return 2
    return max(run(name, options) for name in told)


def found() -> dict[str, Path]:
    """Find the benchmarks: the files beside this one, and the folders that can be run."""
    files = {path.stem: path for path in HERE.glob("[!_]*.py")}
    folders = {path.parent.name: path for path in HERE.glob("*/__main__.py")}
    return dict(sorted({**files, **folders}.items()))


def run(name: str, options: list[str]) -> int:
    """Run one."""
    python = environment(*EXTRAS.get(name, ("tests", "test")))
    return finish([python, "-m", f"benchmarks.{name}", *options])


sys.exit(main())
