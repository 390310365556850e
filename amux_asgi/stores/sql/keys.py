"""API keys in a database, as every process that serves sees them: a change counts everywhere within a second."""

from collections.abc import Callable
from typing import Final

import anyio
import sqlalchemy as sa

from amux_asgi.errors import AuthenticationError, StorageUnavailableError
from amux_asgi.keys import DISABLED, EXPIRED, Principal, digest_of, key_id_of, unknown_key
from amux_asgi.stores.sql.look_ups import TICK, Ask, Found, LookUps
from amux_asgi.stores.sql.operation import away

SURE: Final = 0.9  # seconds after a look in which its answer is taken for what is so
PATIENCE: Final = 3.0  # seconds that anybody waits for a look
HURRY: Final = 0.5  # seconds that somebody waits whose key was known at the last look
UNSEEN: Final = 60.0  # seconds after the last look in which it counts while there is none


class SqlKeys:
    """Keys that others may change at any time.

    A key that was shown before, and that no look has seen changed since, is let in without waiting for anything. When
    the last look is too long ago (the process stood still, or the database is slow), it is let in after the next one;
    and by the last one for a minute, if there is none because the database is away.
    """

    def __init__(
        self, engine: sa.Engine, *, clock: Callable[[], float], now: Callable[[], int], patience: float = PATIENCE
    ) -> None:
        """`engine` is for this alone; `clock` is monotonic, in seconds; `now` is Unix time in milliseconds."""
        self.look_ups: LookUps = LookUps(engine, clock=clock)
        self._clock = clock
        self._now = now
        self._patience = patience

    async def authenticate(self, key: str, peer: str | None = None) -> Principal:
        """Say whom the key stands for.

        Raises:
            AuthenticationError: nobody, or somebody whose key has expired or is disabled.
            RateLimitError: this client was wrong too often about keys that were never shown here in full.
            StorageUnavailableError: it cannot be looked up at present.
        """
        id_ = key_id_of(key)
        if id_ is None:
            raise unknown_key()
        digest = digest_of(key)
        found = self._known(id_, SURE)
        if found is None:
            found = await self._looked_up(id_, digest, peer)
        if found is None or not found.belongs_to(digest):
            raise unknown_key()
        return self._admitted(found)

    def _known(self, id_: str, longest: float) -> Found | None:
        """Give what is known of a key, if the last look was not longer ago than this, and saw no change."""
        found = self.look_ups.proven.get(id_)
        latest = self.look_ups.latest
        if found is None or found.revision != latest.revision or self._clock() - latest.at > longest:
            return None
        return found

    async def _looked_up(self, id_: str, digest: bytes, peer: str | None) -> Found | None:
        hurry = self._known(id_, UNSEEN) is not None
        try:
            return await self._asked(id_, digest, peer, min(self._patience, HURRY) if hurry else self._patience)
        except StorageUnavailableError:
            found = self._known(id_, UNSEEN)
            if found is None:
                raise
            return found

    async def _asked(self, id_: str, digest: bytes, peer: str | None, patience: float) -> Found | None:
        with anyio.move_on_after(patience):
            while True:
                ask = Ask(id_, digest, peer)
                found = await self.look_ups.find(ask)
                # Whoever heard of it late, because the event loop was held up, does not know what is so now.
                if found is None or self._clock() - ask.at <= TICK:
                    return found
        raise away("API keys cannot be looked up in time at present")

    def _admitted(self, found: Found) -> Principal:
        if found.disabled:
            raise AuthenticationError("the API key is disabled", code=DISABLED)
        if found.expires is not None and found.expires <= self._now():
            raise AuthenticationError("the API key has expired", code=EXPIRED)
        return found.principal
