"""Make an environment inside the clone, with the standard library alone: how both commands begin."""

import hashlib
import os
import subprocess
import sys
import threading
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OLDEST = (3, 11)


def environment(name: str, extra: str) -> Path:
    """Give the interpreter of the environment `.venv-NAME`, which holds this package and one of its extras.

    Made on first use and whenever pyproject.toml or Python changed; a half-made one is made anew.
    """
    if sys.version_info < OLDEST:
        sys.exit(f"this needs Python {OLDEST[0]}.{OLDEST[1]} or newer; this is {sys.version.split()[0]}")
    folder = ROOT / f".venv-{name}"
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    stamp = folder / "made-of"
    wanted = hashlib.sha256(
        (ROOT / "pyproject.toml").read_bytes() + sys.version.encode() + str(folder).encode()
    ).hexdigest()
    if stamp.exists() and python.exists() and stamp.read_text() == wanted:
        return python
    say(f"making {folder.name} (once; later runs begin at once)")
    if not (stamp.exists() and python.exists()):
        venv.create(folder, with_pip=True, clear=True)
    stamp.unlink(missing_ok=True)
    install(python, f"{ROOT}[{extra}]")
    stamp.write_text(wanted)
    return python


def install(python: Path, requirement: str) -> None:
    """Install with pip, and show that something happens."""
    log = python.parents[1] / "install.log"
    done = threading.Event()
    ticker = threading.Thread(target=_tick, args=(done,), daemon=True)
    ticker.start()
    command = [python, "-m", "pip", "install", "--disable-pip-version-check", "--upgrade", "-e", requirement]
    with log.open("w") as output:
        code = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, check=False).returncode
    done.set()
    ticker.join()
    if code:
        lines = [line for line in log.read_text().splitlines() if "ERROR" in line] or ["see the log"]
        sys.exit(f"pip could not install what is needed: {lines[0]}\nthe whole log: {log}")


def say(text: str) -> None:
    """Tell the person at the terminal."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def _tick(done: threading.Event) -> None:
    seconds = 0
    while not done.wait(2):
        seconds += 2
        sys.stderr.write(f"\r  installing ... {seconds} s")
        sys.stderr.flush()
    if seconds:
        sys.stderr.write("\n")
