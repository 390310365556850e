"""Whether the ledger answers: asked at most once a second, however many want to know."""

from collections.abc import Callable
from typing import Final

import anyio

from amux_asgi.errors import GatewayError
from amux_asgi.quota import Ledger
from amux_asgi.wallets import account_wallet

FRESH: Final = 1.0  # seconds that an answer is good for
PATIENCE: Final = 2.0  # seconds; load balancers ask again after about that
NOBODY: Final = account_wallet("")  # no account has this name


class Pulse:
    """Of one event loop."""

    def __init__(self, ledger: Ledger, *, clock: Callable[[], float], patience: float = PATIENCE) -> None:
        """`clock` is monotonic, in seconds, as `patience` is."""
        self._ledger = ledger
        self._clock = clock
        self._patience = patience
        self._until: float | None = None
        self._answers = False
        self._turn = anyio.Lock()

    async def beats(self) -> bool:
        """Tell whether the ledger can be asked."""
        async with self._turn:
            if self._until is None or self._clock() >= self._until:
                self._answers = await self._asked()
                self._until = self._clock() + FRESH
            return self._answers

    async def _asked(self) -> bool:
        with anyio.move_on_after(self._patience):
            try:
                await self._ledger.get(NOBODY)
            except GatewayError:
                return False
            return True
        return False
