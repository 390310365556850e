"""What `import amux_asgi` gives, and what it costs."""

import ast
import importlib.metadata
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import amux_asgi

PACKAGE = Path(amux_asgi.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
LONGEST = 0.25  # seconds of the processor, which are the clock's on a machine with nothing else to do
MOST = 45 * 1024  # KiB of the whole process, the interpreter's own 10 MiB among them
PROBE = """
import json, sys, time
known, begun = set(sys.modules), time.process_time()
import amux_asgi
seconds = time.process_time() - begun
loaded = sorted({name.partition(".")[0] for name in set(sys.modules) - known})
print(json.dumps({"seconds": seconds, "loaded": loaded, "status": open("/proc/self/status").read()}))
"""


def imported(folder: Path | None = None) -> dict[str, Any]:
    """Import the package in a fresh process, which coverage does not watch, and say what it cost.

    Its bytecode is kept in a folder, if one is given, as that of an installed package is.
    """
    env = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    if folder is not None:
        env.pop("PYTHONDONTWRITEBYTECODE", None)
        env["PYTHONPYCACHEPREFIX"] = str(folder)
    done = subprocess.run([sys.executable, "-c", PROBE], env=env, check=True, capture_output=True)
    return json.loads(done.stdout)


def test_the_import_is_quick(tmp_path: Path) -> None:
    """`import amux_asgi` takes at most a quarter of a second; a busy machine gets several tries."""
    quick = any(imported(tmp_path)["seconds"] <= LONGEST for _ in range(10))

    assert quick


def test_the_import_is_small() -> None:
    """A process that imported the package never held more than 45 MiB."""
    status = str(imported()["status"])  # not `getrusage`, which counts what was before the program began

    peak = re.search(r"VmHWM:\s+(\d+) kB", status)

    assert peak is not None
    assert int(peak[1]) <= MOST


def test_the_import_loads_no_extra() -> None:
    """A service that mounts the gateway pays for no server, command line or picture library."""
    heavy = extras()

    loaded = set(imported()["loaded"])

    assert {"PIL", "aiohttp", "rich", "typer", "uvicorn"} <= heavy
    assert loaded & heavy == set()


def test_all_names_are_there_and_sorted() -> None:
    """`__all__` is what the package offers, in order, each name once."""
    names = amux_asgi.__all__

    missing = [name for name in names if not hasattr(amux_asgi, name)]

    assert missing == []
    assert list(names) == sorted(set(names))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_says_what_it_is_for(path: Path) -> None:
    """The first line of every module is a sentence."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""

    first = text.partition("\n")[0]

    assert first.endswith((".", ":"))


def test_the_types_are_shipped() -> None:
    """`py.typed` tells type checkers to read the package."""
    assert (PACKAGE / "py.typed").exists()


def test_the_command_is_installed() -> None:
    """`amux-asgi` leads to a function."""
    (command,) = importlib.metadata.entry_points(group="console_scripts", name="amux-asgi")

    assert callable(command.load())


def extras() -> set[str]:
    """Name the modules of what only an extra installs, the tests' own among them."""
    told = importlib.metadata.requires("amux-asgi") or []
    names = {re.split(r"[^A-Za-z0-9._-]", one)[0] for one in told if "extra ==" in one} - {"amux-asgi"}
    return {
        module
        for module, owners in importlib.metadata.packages_distributions().items()
        if {owner.lower() for owner in owners} & names
    }
