"""The `amux-asgi` command without a process of its own: importing all of it takes longer than what most of it does."""

import io
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct

from amux_asgi.cli import main


class Done(Struct, frozen=True):
    """How it ended, and what it said."""

    returncode: int
    stdout: str
    stderr: str


def run(*arguments: str | Path, **environment: str) -> Done:
    """Run it to its end, on no event loop. What it does not catch is raised, so no traceback can hide in `stderr`."""
    bytes_out, bytes_err = io.BytesIO(), io.BytesIO()
    with (
        io.TextIOWrapper(bytes_out, encoding="utf-8", write_through=True) as out,
        io.TextIOWrapper(bytes_err, encoding="utf-8", write_through=True) as err,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name in [name for name in os.environ if name.startswith("AMUX_")]:
            patch.delenv(name)
        for name, value in environment.items():
            patch.setenv(name, value)
        patch.setattr(sys, "argv", ["amux-asgi", *map(str, arguments)])
        patch.setattr(sys, "excepthook", sys.excepthook)  # which the command replaces
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        try:
            main()
            code: Any = 0
        except SystemExit as ended:
            code = ended.code
        return Done(code or 0, bytes_out.getvalue().decode(), bytes_err.getvalue().decode())
