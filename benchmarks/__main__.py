"""`python3 -m benchmarks`: set up, then measure. Names say which, the long ones only so.

Options go to each: `... ledger --rows 100000`.
"""

import subprocess
import sys
from pathlib import Path

from examples._setup import ROOT, environment, say


def main() -> int:
    """Run the benchmarks that the command names, one after the other."""
    known = sorted(path.stem for path in Path(__file__).parent.glob("[!_]*.py"))
    first = next((i for i, word in enumerate(sys.argv) if word.startswith("--")), len(sys.argv))
    told, options = sys.argv[1:first] or [name for name in known if not name.startswith("soak")], sys.argv[first:]
    if unknown := [name for name in told if name not in known]:
        say(f"there is no benchmark {unknown[0]!r}; known are {', '.join(known)}")
        return 2
    python = environment("tests", "test")
    commands = [[python, "-m", f"benchmarks.{name}", *options] for name in told]
    return max(subprocess.run(command, cwd=ROOT, check=False).returncode for command in commands)


sys.exit(main())
