"""`amux-asgi keys ...`: make, look at, change and end API keys, while gateways run."""

from datetime import datetime
from typing import Annotated, Any, Final

import typer
from msgspec import UNSET, UnsetType

from amux_asgi import manage_checks as checked
from amux_asgi.commands_base import (
    ConfigOption,
    DatabaseOption,
    JsonOption,
    run,
    show_fields,
    show_json,
    show_table,
    tell,
    where,
)
from amux_asgi.errors import ConfigError
from amux_asgi.manage import KeyChange, KeyInfo, KeyOrder, NewKey, Roll, every

keys: Final = typer.Typer(name="keys", help="API keys in the database.", no_args_is_help=True)

ALL: Final = "all"
NONE: Final = "none"
NEVER: Final = "never"

KeyId = Annotated[str, typer.Argument(help="The key's id, the 8 characters after 'amx_'.")]
Models = Annotated[list[str] | None, typer.Option("--models", help="A glob of models it may use; may be repeated.")]
Passthrough = Annotated[list[str] | None, typer.Option("--passthrough", help="A glob of passthroughs; likewise.")]
Networks = Annotated[list[str] | None, typer.Option("--networks", help="A network it may be used from; likewise.")]
Expires = Annotated[str | None, typer.Option("--expires", help="When it ends: a date of UTC, or a time with offset.")]
Budget = Annotated[str | None, typer.Option("--budget", help="US dollars that it may spend in its whole life.")]


@keys.command()
def create(  # noqa: PLR0913, the options of a command
    name: Annotated[str, typer.Argument(help="Whose use it is, in reports; shown to nobody else.")],
    *,
    account: Annotated[str | None, typer.Option("--account", help="Who pays; the key's name, if not given.")] = None,
    models: Models = None,
    passthrough: Passthrough = None,
    networks: Networks = None,
    expires: Expires = None,
    budget: Budget = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    database: DatabaseOption = None,
) -> None:
    """Make a key. It is printed once, alone on standard output."""
    order = KeyOrder(
        name=name,
        account=account,
        models=_some(models),
        passthrough=() if passthrough == [NONE] else tuple(passthrough or ()),
        networks=_some(networks),
        expires=None if expires is None else checked.moment(expires, "expires"),
        budget=budget,
    )
    place = where(config, database)
    if name in place.fixed_keys:
        raise ConfigError(f"the configuration has a key named {name!r} already; names must differ")
    _made(run(place, lambda manager: manager.keys.create(order)), as_json=as_json)


@keys.command(name="list")
def list_(
    account: Annotated[str | None, typer.Option("--account", help="Only those of this account.")] = None,
    *,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    database: DatabaseOption = None,
) -> None:
    """List all keys."""

    async def work(manager: Any) -> list[KeyInfo]:  # noqa: ANN401, a Manager
        return [info async for info in every(manager.keys.list, account=account)]

    found = sorted(run(where(config, database), work), key=lambda info: (info.name, info.created))
    if as_json:
        show_json(found)
        return
    show_table(
        ["id", "name", "account", "state", "models", "budget", "spent", "expires", "created"],
        [
            (
                info.id,
                info.name,
                info.account,
                info.state,
                info.models or ALL,
                info.budget and info.budget.granted,
                info.budget and info.budget.spent,
                info.expires,
                info.created,
            )
            for info in found
        ],
        right=["budget", "spent"],
    )


@keys.command()
def show(
    key: KeyId, *, as_json: JsonOption = False, config: ConfigOption = None, database: DatabaseOption = None
) -> None:
    """Show one key."""
    _show(run(where(config, database), lambda manager: manager.keys.show(key)), as_json=as_json)


@keys.command()
def revoke(
    key: KeyId, *, as_json: JsonOption = False, config: ConfigOption = None, database: DatabaseOption = None
) -> None:
    """Let a key count no more, everywhere within a second."""
    info = run(where(config, database), lambda manager: manager.keys.revoke(key))
    tell(f"revoked: {info.name} ({info.id})")
    if as_json:
        show_json(info)


@keys.command()
def roll(  # noqa: PLR0913, the options of a command
    key: KeyId,
    overlap: Annotated[float, typer.Option(help="Seconds that the old key lives on.")] = 3600,
    expires: Annotated[
        str | None, typer.Option("--expires", help="When the new key ends, or 'never'; as the old one, if not given.")
    ] = None,
    *,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    database: DatabaseOption = None,
) -> None:
    """Replace a key by a new one that may do the same. It is printed once, alone on standard output."""
    told = Roll(overlap=overlap, expires=_changed_time(expires))
    _made(run(where(config, database), lambda manager: manager.keys.roll(key, told)), as_json=as_json)
    tell(f"the old key {key} lives on for at most {overlap:g} seconds")


@keys.command()
def allow(  # noqa: PLR0913, the options of a command
    key: KeyId,
    *,
    models: Models = None,
    passthrough: Passthrough = None,
    networks: Networks = None,
    expires: Expires = None,
    budget: Budget = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    database: DatabaseOption = None,
) -> None:
    """Change what a key may do: each list is replaced as a whole.

    'all' stands for all models or networks, 'none' for no passthrough or no budget, 'never' for no end.
    """
    change = KeyChange(
        models=_changed(models),
        passthrough=() if passthrough == [NONE] else UNSET if passthrough is None else tuple(passthrough),
        networks=_changed(networks),
        expires=_changed_time(expires),
        budget=UNSET if budget is None else None if budget == NONE else budget,
    )
    if change == KeyChange():
        raise ConfigError("say what is to change: --models, --passthrough, --networks, --expires or --budget")
    _show(run(where(config, database), lambda manager: manager.keys.allow(key, change)), as_json=as_json)


def _made(made: NewKey, *, as_json: bool) -> None:
    if as_json:
        show_json(made)
    else:
        typer.echo(made.key)
    info = made.info
    tell(f"made: {info.name} ({info.id}), account {info.account}; this is the only time that the key is shown")
    if made.unlimited:
        tell(
            f"the account {info.account} spends without limit, its use is only metered; to limit it: amux-asgi "
            f"accounts create {info.account} --balance USD"
        )


def _show(info: KeyInfo, *, as_json: bool) -> None:
    if as_json:
        show_json(info)
        return
    budget = info.budget
    show_fields(
        [
            ("id", info.id),
            ("name", info.name),
            ("account", info.account),
            ("state", info.state),
            ("key", f"amx_{info.id}_...{info.last_four}"),
            ("models", info.models or ALL),
            ("passthrough", info.passthrough or NONE),
            ("networks", info.networks or ALL),
            ("budget", budget and f"{budget.granted} ({budget.spent} spent, {budget.held} held)"),
            ("expires", info.expires or NEVER),
            ("created", info.created),
        ]
    )


def _some(given: list[str] | None) -> tuple[str, ...] | None:
    return None if given in (None, [ALL]) else tuple(given or ())


def _changed(given: list[str] | None) -> tuple[str, ...] | UnsetType | None:
    return UNSET if given is None else None if given == [ALL] else tuple(given)


def _changed_time(given: str | None) -> datetime | UnsetType | None:
    return UNSET if given is None else None if given == NEVER else checked.moment(given, "expires")
