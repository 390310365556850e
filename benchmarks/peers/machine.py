"""What a run was made on, for the head of its table."""

import os
import platform
import subprocess
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from examples._setup import ROOT


def machine(versions: Iterable[str], folder: Path, cores: tuple[int, ...]) -> list[str]:
    """Say it in lines."""
    where = f"load and upstream on core {cores[0]}, each contestant on core {cores[1]}"
    programs = [f"amux-asgi {version('amux-asgi')}{_commit()}", f"Python {platform.python_version()}", *versions]
    system = f"Linux {platform.release()}"
    return [
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {_processor()}, {os.cpu_count()} cores, {_ram()} GB, {system}",
        f"one worker each; {where if cores[0] != cores[1] else 'all on the one core there is'}",
        f"our database: SQLite on {_filesystem(folder)}, synchronous=FULL",
        ", ".join(programs),
        f"load average at the start: {os.getloadavg()[0]:.1f}",
    ]


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "processor unknown"
    )


def _ram() -> str:
    return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f}"


def _filesystem(folder: Path) -> str:
    """Find the kind of file system that holds a folder: that of the longest mount point above it."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines()]
    above = [mount for mount in mounts if folder.resolve().is_relative_to(mount[1])]
    return max(above, key=lambda mount: len(mount[1]))[2]


def _commit() -> str:
    told = subprocess.run(
        ["git", "describe", "--always", "--dirty"],  # noqa: S607, whichever git there is
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return f" ({told.stdout.strip()})" if told.returncode == 0 else ""
