"""What the `amux-asgi` command does (extra `cli`)."""

import os
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.table import Table

from amux_asgi.app import CONFIG_VARIABLE, images_app
from amux_asgi.build_limits import check_workers as check_limits
from amux_asgi.build_pictures import check_workers
from amux_asgi.commands_accounts import accounts
from amux_asgi.commands_channels import channels
from amux_asgi.commands_doctor import doctor
from amux_asgi.commands_keys import keys
from amux_asgi.commands_usage import usage
from amux_asgi.keys import make_key
from amux_asgi.plugins import load

commands: Final = typer.Typer(
    name="amux-asgi",
    help="The image-generation gateway, standalone.",
    add_completion=False,
    pretty_exceptions_enable=False,
)
commands.add_typer(keys)
commands.add_typer(accounts)
commands.command()(usage)
commands.command()(doctor)
commands.command()(channels)
console: Final = Console(highlight=False)

ConfigFile = Annotated[Path, typer.Option("--config", help="The configuration, a TOML file.", show_default=False)]
Host = Annotated[str, typer.Option(help="Address to listen on.")]
Port = Annotated[int, typer.Option(help="Port to listen on.", min=0, max=65_535)]
Workers = Annotated[int, typer.Option(help="Processes that serve.", min=1)]


@commands.command()
def serve(config: ConfigFile, host: Host = "127.0.0.1", port: Port = 8000, workers: Workers = 1) -> None:
    """Serve the gateway that a configuration describes."""
    read = images_app(config).config  # refused here, not in each worker
    check_workers(read, workers)
    check_limits(read, workers)
    told = read.gateway
    os.environ[CONFIG_VARIABLE] = os.fspath(config.resolve())
    server = _server()
    settings = server.ServerSettings(
        host=host,
        port=port,
        workers=workers,
        write_timeout=told.write_timeout,
        drain=min(told.drain, told.grace / 2),  # so that there is time to finish
        grace=told.grace,
        trusted_proxies=told.trusted_proxies,
    )
    server.serve("amux_asgi.app:from_environment", settings)


@commands.command()
def sandbox(host: Host = "127.0.0.1", port: Port = 8001) -> None:
    """Serve the sandbox upstream alone: it speaks OpenAI's protocol and paints. It is not a model."""
    load("amux_asgi.sandbox:app")  # says which extra is missing
    server = _server()
    server.serve("amux_asgi.commands:sandbox_app", server.ServerSettings(host=host, port=port, grace=5))


@commands.command()
def check(config: ConfigFile) -> None:
    """Read a configuration and say what would run."""
    told = images_app(config).config
    table = Table("channel", "adapter", "models", box=None)
    for channel in told.channels:
        names = [model if isinstance(model, str) else f"{model.name} -> {model.upstream}" for model in channel.models]
        table.add_row(channel.name, channel.adapter, ", ".join(names))
    console.print(table)
    console.print(f"keys: {', '.join(key.name for key in told.keys)}")


@commands.command()
def key() -> None:
    """Make a new API key and print it, for the configuration."""
    typer.echo(make_key())


@commands.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    *,
    version_: Annotated[bool, typer.Option("--version", help="Say which version this is.", is_eager=True)] = False,
) -> None:
    """Take the options that stand before a command."""
    if version_:
        typer.echo(f"amux-asgi {version('amux-asgi')}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


def sandbox_app() -> Any:  # noqa: ANN401, an ASGI app, loaded only where its extra is installed
    """Give the sandbox to a server."""
    return load("amux_asgi.sandbox:app")


def _server() -> Any:  # noqa: ANN401, a module whose extra may be missing
    return load("amux_asgi.server")
