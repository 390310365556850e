"""`amux-asgi accounts ...`: open accounts, put money in, and see what became of it."""

from typing import Annotated, Any, Final

import typer

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
from amux_asgi.manage import AccountInfo, AccountOrder, Credit, Entry, Manager, Page, TopUp, every

accounts: Final = typer.Typer(name="accounts", help="Accounts in the database.", no_args_is_help=True)

UNLIMITED: Final = "unlimited"
NEGATIVE: Final = {"ignore_unknown_options": True}  # so that "-5" is a sum

Name = Annotated[str, typer.Argument(help="The account's name.")]


@accounts.command()
def create(  # noqa: PLR0913, the options of a command
    name: Name,
    balance: Annotated[str, typer.Option(help="US dollars that it begins with.")] = "0",
    credit: Annotated[str, typer.Option(help="US dollars that it may go below zero, or 'unlimited'.")] = "0",
    *,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    database: DatabaseOption = None,
) -> None:
    """Open an account. One whose use was only metered so far begins anew."""
    order = AccountOrder(name=name, balance=balance, credit=_credit(credit))
    _show(run(where(config, database), lambda manager: manager.accounts.create(order)), as_json=as_json)


@accounts.command(context_settings=NEGATIVE)
def topup(  # noqa: PLR0913, the options of a command
    name: Name,
    amount: Annotated[str, typer.Argument(help="US dollars; below zero, a correction.")],
    note: Annotated[str, typer.Option(help="What it is for.")] = "",
    id_: Annotated[
        str | None, typer.Option("--id", help="Its name, as an invoice's number: the same one counts once.")
    ] = None,
    *,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    database: DatabaseOption = None,
) -> None:
    """Put money into an account."""
    told = TopUp(amount=amount, note=note, id=id_)
    done = run(where(config, database), lambda manager: manager.accounts.topup(name, told))
    if done.repeated:
        tell(f"{id_} had counted before, so nothing changed")
    if done.account.credit is None:
        tell("the account still spends without limit")
    if as_json:
        show_json(done)
    else:
        _show(done.account, as_json=False)


@accounts.command()
def credit(
    name: Name,
    amount: Annotated[str, typer.Argument(help="US dollars that it may go below zero, or 'unlimited'.")],
    *,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    database: DatabaseOption = None,
) -> None:
    """Change how far below zero an account may go."""
    told = Credit(credit=_credit(amount))
    _show(run(where(config, database), lambda manager: manager.accounts.credit(name, told)), as_json=as_json)


@accounts.command(name="list")
def list_(*, as_json: JsonOption = False, config: ConfigOption = None, database: DatabaseOption = None) -> None:
    """List all accounts."""

    async def work(manager: Manager) -> list[AccountInfo]:
        return [info async for info in every(manager.accounts.list)]

    found = run(where(config, database), work)
    if as_json:
        show_json(found)
        return
    show_table(
        ["name", "available", "held", "spent", "granted", "credit"],
        [(info.name, info.available, info.held, info.spent, info.granted, _credit_of(info)) for info in found],
        right=["available", "held", "spent", "granted", "credit"],
    )


@accounts.command()
def show(
    name: Name, *, as_json: JsonOption = False, config: ConfigOption = None, database: DatabaseOption = None
) -> None:
    """Show one account."""
    _show(run(where(config, database), lambda manager: manager.accounts.show(name)), as_json=as_json)


@accounts.command()
def history(  # noqa: PLR0913, the options of a command
    name: Name,
    limit: Annotated[int, typer.Option(help="How many lines.", min=1, max=1000)] = 50,
    before: Annotated[str | None, typer.Option(help="Go on from here: what the page before said.")] = None,
    *,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    database: DatabaseOption = None,
) -> None:
    """Show what was put in and what was spent, newest first."""
    found = run(where(config, database), lambda manager: manager.accounts.history(name, before=before, limit=limit))
    if as_json:
        show_json(found)
        return
    _show_history(found)


def _show_history(found: Page[Entry]) -> None:
    show_table(
        ["at", "amount", "what", "key", "model", "images", "id"],
        [
            (entry.at, entry.amount, _what(entry), entry.key, entry.model, entry.images, entry.id)
            for entry in found.data
        ],
        right=["amount", "images"],
    )
    if found.next is not None:
        tell(f"more with --before {found.next}")


def _what(entry: Entry) -> Any:  # noqa: ANN401, a text
    return entry.note if entry.kind == "grant" else entry.state if entry.held is None else f"{entry.held} held"


def _show(info: AccountInfo, *, as_json: bool) -> None:
    if as_json:
        show_json(info)
        return
    show_fields(
        [
            ("name", info.name),
            ("available", info.available),
            ("held", info.held),
            ("spent", info.spent),
            ("granted", info.granted),
            ("credit", _credit_of(info)),
        ]
    )


def _credit(text: str) -> str | None:
    return None if text == UNLIMITED else text


def _credit_of(info: AccountInfo) -> str:
    return UNLIMITED if info.credit is None else info.credit
