"""Whether the ledger answers."""

import anyio
import pytest

from amux_asgi.errors import StorageUnavailableError
from amux_asgi.pulse import Pulse
from amux_asgi.quota import MemoryLedger
from amux_asgi.wallets import Wallet

pytestmark = pytest.mark.anyio


class Asked(MemoryLedger):
    """A ledger that counts how often it is asked, is away, or never answers."""

    def __init__(self) -> None:
        super().__init__()
        self.times = 0
        self.away = False
        self.silent = False

    async def get(self, wallet: str) -> Wallet | None:
        self.times += 1
        await anyio.lowlevel.checkpoint()
        if self.silent:
            await anyio.sleep_forever()
        if self.away:
            raise StorageUnavailableError("away")
        return await super().get(wallet)


async def test_a_storm_of_probes_is_one_question_a_second() -> None:
    """Whoever asks within the second is told the same; also those who ask at once."""
    ledger, now = Asked(), [0.0]
    pulse = Pulse(ledger, clock=lambda: now[0])

    async with anyio.create_task_group() as tasks:
        for _ in range(100):
            tasks.start_soon(pulse.beats)
    at_once = ledger.times
    now[0] = 1.0
    await pulse.beats()

    assert (at_once, ledger.times) == (1, 2)


async def test_a_store_that_is_away_is_seen_and_so_is_its_return() -> None:
    """A second later."""
    ledger, now = Asked(), [0.0]
    pulse = Pulse(ledger, clock=lambda: now[0])
    seen: list[bool] = []

    for second, away in enumerate((False, True, False)):
        now[0], ledger.away = second, away
        seen.append(await pulse.beats())

    assert seen == [True, False, True]


async def test_a_store_that_does_not_answer_is_given_up() -> None:
    """A probe has an answer in time."""
    ledger = Asked()
    ledger.silent = True

    assert not await Pulse(ledger, clock=lambda: 0.0, patience=0).beats()
