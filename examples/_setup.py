"""Make an environment inside the clone, with the standard library alone: how both commands begin."""

import hashlib
import os
import signal
import subprocess
import sys
import threading
import venv
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

OLDEST = (3, 11)
if sys.version_info < OLDEST:  # said here, before anything that an older Python could not read
    sys.exit(f"this needs Python {OLDEST[0]}.{OLDEST[1]} or newer; this is {sys.version.split()[0]}")

ROOT = Path(__file__).resolve().parents[1]


def environment(name: str, extra: str) -> Path:
    """Give the interpreter of the environment `.venv-NAME`, which holds this package and one of its extras.

    Made on first use. When pyproject.toml changed it is brought up to date; when Python or the place of the clone
    changed, or the making was cut off, it is made anew. Ends the program with the reason when that fails.
    """
    folder = ROOT / f".venv-{name}"
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    stamp = folder / "made-of"
    wanted = [_digest(sys.version.encode() + os.fsencode(folder)), _digest((ROOT / "pyproject.toml").read_bytes())]
    made = stamp.read_text().split() if stamp.exists() and python.exists() else []
    if made == wanted:
        return python
    say(f"making {folder.name} (once; later runs begin at once)")
    if made[:1] != wanted[:1]:  # its scripts hold the path of their interpreter
        _create(folder)
    stamp.unlink(missing_ok=True)
    pip = [python, "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--upgrade"]
    install([*pip, "-e", f"{ROOT}[{extra}]"], folder / "install.log")
    stamp.write_text("\n".join(wanted))
    return python


def install(command: Sequence[str | Path], log: Path) -> None:
    """Run an installer, and show that something happens. Ends the program with the reason when it fails."""
    done = threading.Event()
    ticker = threading.Thread(target=_tick, args=(done,), daemon=True)
    ticker.start()
    try:
        with log.open("w") as output:
            code = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False
            ).returncode
    finally:
        done.set()
        ticker.join()
    if code:
        lines = [line for line in log.read_text().splitlines() if "error" in line.lower()] or ["no reason was given"]
        sys.exit(f"what is needed could not be installed (is there a network?): {lines[0]}\nthe whole log: {log}")


def finish(command: Sequence[str | Path]) -> int:
    """Run to the end; Ctrl+C reaches the command too, which ends in its own time, and SIGTERM is handed on."""
    with subprocess.Popen(command) as process:

        def hand_on(_number: int, _frame: FrameType | None) -> None:
            process.terminate()

        signal.signal(signal.SIGTERM, hand_on)
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:
                continue


def say(text: str) -> None:
    """Tell the person at the terminal."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _create(folder: Path) -> None:
    try:
        venv.create(folder, with_pip=True, clear=True, symlinks=os.name != "nt")
    except subprocess.CalledProcessError:
        sys.exit("this Python cannot make environments; install its venv package (python3-venv on Debian and Ubuntu)")
    except OSError as exc:
        sys.exit(f"{folder.name} cannot be made: {exc}")


def _tick(done: threading.Event) -> None:
    pace = 2 if sys.stderr.isatty() else 20  # seconds; a log needs fewer lines than a terminal
    end = "" if sys.stderr.isatty() else "\n"
    seconds = 0
    while not done.wait(pace):
        seconds += pace
        sys.stderr.write(f"\r  installing ... {seconds} s{end}")
        sys.stderr.flush()
    if seconds and not end:
        sys.stderr.write("\n")
