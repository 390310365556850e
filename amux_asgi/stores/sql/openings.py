"""The wallets that a configuration wants, made or brought up to date when a store is opened."""

import secrets
from collections.abc import Iterable

from amux_asgi.stores.sql.ledger import Change
from amux_asgi.stores.sql.writer import PATIENCE, Writer
from amux_asgi.wallets import Opening


async def open_wallets(writer: Writer, openings: Iterable[Opening], *, at: int) -> None:
    """Credit opening balances, each once whoever starts how often, and let budgets follow the configuration.

    Raises:
        StorageUnavailableError: it could not be written.
    """
    for opening in openings:
        # A balance is known by its wallet, and credited once; a budget may change any number of times.
        name = f"{opening.wallet}:{secrets.token_hex(8)}" if opening.is_budget else f"opening:{opening.wallet}"
        note = "budget" if opening.is_budget else "opening balance"
        deadline = writer.clock() + PATIENCE
        await writer.run(Change(name, opening.wallet, opening.change, note=note, at=at, deadline=deadline))
