"""`python3 -m benchmarks`: set up, then measure. A name runs one benchmark: `python3 -m benchmarks servers`."""

import subprocess
import sys
from pathlib import Path

from examples._setup import ROOT, environment, say


def main() -> int:
    """Run the benchmarks that the command names, one after the other."""
    known = sorted(path.stem for path in Path(__file__).parent.glob("[!_]*.py"))
    told = sys.argv[1:] or known
    if unknown := [name for name in told if name not in known]:
        say(f"there is no benchmark {unknown[0]!r}; known are {', '.join(known)}")
        return 2
    python = environment("tests", "test")
    return max(subprocess.run([python, "-m", f"benchmarks.{name}"], cwd=ROOT, check=False).returncode for name in told)


sys.exit(main())
