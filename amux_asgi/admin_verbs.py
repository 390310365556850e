"""What the admin app can be asked: one table, which its routes and its OpenAPI document are made of."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from msgspec import Struct

from amux_asgi import manage_checks as checked
from amux_asgi.manage import (
    USUAL,
    AccountInfo,
    AccountOrder,
    Credit,
    Entry,
    KeyChange,
    KeyInfo,
    KeyOrder,
    Manager,
    NewKey,
    Page,
    Roll,
    ToppedUp,
    TopUp,
    UsageQuery,
    UsageRow,
)


class KeysQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which keys are listed; `after` is the page before's `next`."""

    account: str | None = None
    name: str | None = None
    after: str | None = None
    limit: int = USUAL


class AccountsQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which accounts are listed; `after` is the page before's `next`."""

    after: str | None = None
    limit: int = USUAL


class HistoryQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which lines are listed; `before` is the page before's `next`."""

    before: str | None = None
    limit: int = USUAL


class UsageAsked(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is added up: `by` some of account, key, model, channel, day, with commas between them.

    `since` and `until` are dates of UTC, or times with their offset.
    """

    by: str = "key,model,day"
    account: str | None = None
    key: str | None = None
    since: str | None = None
    until: str | None = None


class Usage(Struct, frozen=True):
    """What was used, a row a group."""

    data: tuple[UsageRow, ...]


class Asked(Struct, frozen=True):
    """One request, taken apart: the part of its path that varies, its query and its body, each of the verb's types."""

    name: str
    query: Any
    body: Any


class Verb(Struct, frozen=True, kw_only=True):
    """One verb: how it is asked, and what does it."""

    method: str
    path: str
    id: str
    summary: str
    answer: Any
    run: Callable[[Manager, Asked], Awaitable[Any]]
    status: int = 200
    query: type[Struct] | None = None
    body: type[Struct] | None = None


async def _usage(manager: Manager, asked: Asked) -> Usage:
    told: UsageAsked = asked.query
    query = UsageQuery(
        by=checked.groups(told.by),
        account=told.account,
        key=told.key,
        since=None if told.since is None else checked.moment(told.since, "since"),
        until=None if told.until is None else checked.moment(told.until, "until"),
    )
    return Usage(await manager.usage(query))


def _list_keys(manager: Manager, asked: Asked) -> Awaitable[Page[KeyInfo]]:
    told: KeysQuery = asked.query
    return manager.keys.list(account=told.account, name=told.name, after=told.after, limit=told.limit)


VERBS: Final = (
    Verb(
        method="GET",
        path="/keys",
        id="list_keys",
        summary="List keys, ordered by their ids",
        query=KeysQuery,
        answer=Page[KeyInfo],
        run=_list_keys,
    ),
    Verb(
        method="POST",
        path="/keys",
        id="create_key",
        summary="Make a key; it is shown this once",
        body=KeyOrder,
        status=201,
        answer=NewKey,
        run=lambda manager, asked: manager.keys.create(asked.body),
    ),
    Verb(
        method="GET",
        path="/keys/{name}",
        id="show_key",
        summary="Look a key up by its id",
        answer=KeyInfo,
        run=lambda manager, asked: manager.keys.show(asked.name),
    ),
    Verb(
        method="PATCH",
        path="/keys/{name}",
        id="allow_key",
        summary="Change what a key may do; what is left out stays",
        body=KeyChange,
        answer=KeyInfo,
        run=lambda manager, asked: manager.keys.allow(asked.name, asked.body),
    ),
    Verb(
        method="POST",
        path="/keys/{name}/revoke",
        id="revoke_key",
        summary="Let a key count no more, everywhere within a second",
        answer=KeyInfo,
        run=lambda manager, asked: manager.keys.revoke(asked.name),
    ),
    Verb(
        method="POST",
        path="/keys/{name}/roll",
        id="roll_key",
        summary="Replace a key by a new one that may do the same; it is shown this once",
        body=Roll,
        status=201,
        answer=NewKey,
        run=lambda manager, asked: manager.keys.roll(asked.name, asked.body),
    ),
    Verb(
        method="GET",
        path="/accounts",
        id="list_accounts",
        summary="List accounts, ordered by their names",
        query=AccountsQuery,
        answer=Page[AccountInfo],
        run=lambda manager, asked: manager.accounts.list(after=asked.query.after, limit=asked.query.limit),
    ),
    Verb(
        method="POST",
        path="/accounts",
        id="create_account",
        summary="Open an account; one whose use was only metered begins anew",
        body=AccountOrder,
        status=201,
        answer=AccountInfo,
        run=lambda manager, asked: manager.accounts.create(asked.body),
    ),
    Verb(
        method="GET",
        path="/accounts/{name}",
        id="show_account",
        summary="Look an account up",
        answer=AccountInfo,
        run=lambda manager, asked: manager.accounts.show(asked.name),
    ),
    Verb(
        method="POST",
        path="/accounts/{name}/topup",
        id="top_up_account",
        summary="Put money in, once for each id",
        body=TopUp,
        answer=ToppedUp,
        run=lambda manager, asked: manager.accounts.topup(asked.name, asked.body),
    ),
    Verb(
        method="PUT",
        path="/accounts/{name}/credit",
        id="credit_account",
        summary="Change how far below zero an account may go",
        body=Credit,
        answer=AccountInfo,
        run=lambda manager, asked: manager.accounts.credit(asked.name, asked.body),
    ),
    Verb(
        method="GET",
        path="/accounts/{name}/history",
        id="account_history",
        summary="List what was put in and what was spent, newest first",
        query=HistoryQuery,
        answer=Page[Entry],
        run=lambda manager, asked: manager.accounts.history(
            asked.name, before=asked.query.before, limit=asked.query.limit
        ),
    ),
    Verb(
        method="GET",
        path="/usage",
        id="usage",
        summary="Add up what was used",
        query=UsageAsked,
        answer=Usage,
        run=_usage,
    ),
)
"""In the order of the document."""


def paths() -> Mapping[str, Mapping[str, Verb]]:
    """Give the verbs of each path by their methods."""
    found: dict[str, dict[str, Verb]] = {}
    for verb in VERBS:
        found.setdefault(verb.path, {})[verb.method] = verb
    return found
