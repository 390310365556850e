"""`amux-asgi doctor`: what may go wrong with a configuration, before it does. Asks no vendor, so it costs nothing."""

from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated

import anyio
import typer

from amux_asgi.adapters import ADAPTERS
from amux_asgi.app import images_app
from amux_asgi.build_channels import channels_of
from amux_asgi.build_prices import prices_of
from amux_asgi.commands_base import JsonOption, show_json, show_table
from amux_asgi.doctor import Finding, Way, findings
from amux_asgi.doctor_stores import database_findings, limit_findings, picture_findings
from amux_asgi.errors import ConfigError


def doctor(
    config: Annotated[Path, typer.Option("--config", help="The configuration, a TOML file.", show_default=False)],
    host: Annotated[str, typer.Option(help="Address that it will listen on.")] = "127.0.0.1",
    workers: Annotated[int, typer.Option(help="Processes that will serve.", min=1)] = 1,
    *,
    as_json: JsonOption = False,
) -> None:
    """Look for what is wrong or forgotten; exit code 1 if something is wrong. Asks no vendor, changes nothing."""
    found = list(_findings(config, Way(host=host, workers=workers)))
    if as_json:
        show_json(found)
    else:
        show_table(("check", "state", "what"), [(one.check, one.state, one.message) for one in found])
    if any(one.state == "wrong" for one in found):
        raise typer.Exit(1)


def _findings(file: Path, way: Way) -> Iterator[Finding]:
    try:
        told = images_app(file).config
    except ConfigError as exc:
        yield Finding("configuration", "wrong", str(exc))
        return
    yield Finding("configuration", "ok", f"it can work; channels: {len(told.channels)}, keys: {len(told.keys)}")
    yield from database_findings(told)
    yield from anyio.run(partial(picture_findings, told, way.workers))
    yield from anyio.run(partial(limit_findings, told, way.workers))
    yield from findings(told, channels_of(told, ADAPTERS), prices_of(told), way, datetime.now(UTC).date())
