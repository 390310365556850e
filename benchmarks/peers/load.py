"""The load: wrk, or our own reader for streams and where there is no wrk."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import msgspec

from benchmarks.peers.contestants import Ask
from benchmarks.peers.figures import Load
from benchmarks.peers.reader import Errand

SCRIPT: Final = Path(__file__).with_name("load.lua")
PATIENCE: Final = 60  # seconds that wrk waits for an answer
ROOT: Final = Path(__file__).parents[2]


class LoadError(Exception):
    """The load itself failed."""


def load(ask: Ask, connections: int, seconds: float, *, wrk: Path | None, stream: bool = False) -> Load:
    """Keep so many connections busy for so many seconds.

    Raises:
        LoadError: it could not.
    """
    command = _reader(ask, connections, seconds) if wrk is None or stream else _wrk(wrk, ask, connections, seconds)
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    try:
        return read(done.stdout)
    except msgspec.DecodeError as exc:
        raise LoadError((done.stderr or done.stdout).strip()[-300:] or "the load said nothing") from exc


def read(said: str) -> Load:
    """Find the figures in what a load printed: its last line.

    Raises:
        msgspec.DecodeError: they are not there.
    """
    lines = said.strip().splitlines()
    return msgspec.json.decode(lines[-1] if lines else "", type=Load)


def _wrk(wrk: Path, ask: Ask, connections: int, seconds: float) -> list[str]:
    options = [
        "-t1",
        f"-c{connections}",
        f"-d{max(1, round(seconds))}s",
        "--timeout",
        f"{PATIENCE}s",
        "-s",
        f"{SCRIPT}",
    ]
    told = [f"{name}={value}" for name, value in ask.headers.items()]
    keys = [f"@{ask.keys}"] if ask.keys else []
    return [os.fspath(wrk), *options, ask.url, "--", ask.body, *told, *keys]


def _reader(ask: Ask, connections: int, seconds: float) -> list[str]:
    errand = Errand(
        url=ask.url,
        body=ask.body,
        headers=dict(ask.headers),
        keys=os.fspath(ask.keys) if ask.keys else None,
        connections=connections,
        seconds=seconds,
    )
    return [sys.executable, "-m", "benchmarks.peers.reader", msgspec.json.encode(errand).decode()]
