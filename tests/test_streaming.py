"""What a stream tells and charges when the ledger, the limits or its reader get in its way."""

import asyncio  # noqa: TID251, without a lifespan only asyncio can carry a job
from collections.abc import Iterable
from typing import Any, Final

import anyio
import pytest
from msgspec.structs import replace
from starlette.types import ASGIApp
from trio.testing import MockClock

from amux_asgi import (
    ChannelConfig,
    GatewayError,
    GenerationRequest,
    ImagesApp,
    MemoryLedger,
    PriceConfig,
    Principal,
    anyone,
    images_app,
)
from amux_asgi.adapters.openai import COMPATIBLE
from amux_asgi.admission import parse_rule
from amux_asgi.errors import InvalidRequestError, NotStartedError, StorageUnavailableError, UpstreamTimeoutError
from amux_asgi.events import COMPLETED, Event
from amux_asgi.idempotency import Ask, Claim, Kind
from amux_asgi.planning import Terms
from amux_asgi.quota import Answer, Order, Settlement
from amux_asgi.streams import Stream
from amux_asgi.wallets import Wallet
from tests.paced import Paced, completed, failed, preview, whole

pytestmark = pytest.mark.anyio

CENT: Final = 10_000_000  # nano-dollars
DOLLAR: Final = 100 * CENT
CLOCK: Final = MockClock()
ME: Final = Principal(account="me", key="me")
KEYED: Final = Terms(ask=Ask(Claim("name", "fingerprint"), Kind.KEYED))


class Moody(MemoryLedger):
    """A ledger that fails when it is asked for the `earn`s and `capture`s of these numbers, from zero on."""

    def __init__(
        self, *, earn: Iterable[int] = (), capture: Iterable[int] = (), error: Exception | None = None
    ) -> None:
        super().__init__([Wallet(id="account:me", available=DOLLAR, credit=0)])
        self.earned: list[tuple[int, int]] = []
        self.captured: list[int] = []
        self.released: list[Settlement] = []
        self._fail = {"earn": frozenset(earn), "capture": frozenset(capture)}
        self._error = error or StorageUnavailableError("away", retry_after=5)

    async def earn(self, order: Order, earned: int, images: int) -> None:
        """Note it, or fail."""
        self.earned.append((earned, images))
        if len(self.earned) - 1 in self._fail["earn"]:
            raise self._error
        await super().earn(order, earned, images)

    async def capture(self, order: Order, settlement: Settlement, answer: Answer | None = None) -> int:
        """Charge, or fail."""
        self.captured.append(settlement.charged)
        if len(self.captured) - 1 in self._fail["capture"]:
            raise self._error
        return await super().capture(order, settlement, answer)

    def release(self, order: Order, settlement: Settlement) -> None:
        """Give back."""
        self.released.append(settlement)
        super().release(order, settlement)

    async def cents(self) -> tuple[float, float, float]:
        """Give what is available, held and captured."""
        wallet = await self.get("account:me")
        assert wallet is not None
        return wallet.available / CENT, wallet.held / CENT, wallet.captured / CENT


def app(up: ASGIApp, ledger: MemoryLedger, adapter: str = "openai-compatible", **options: Any) -> ImagesApp:
    """Make a gateway to it; a picture costs one cent or, if it is a good one, two."""
    channel = ChannelConfig(name="up", adapter=adapter, base_url="asgi://up/v1", models=("m",))
    table = {"any": {"low": "0.01", "high": "0.02"}}
    return images_app(
        channels=[channel], authenticate=anyone, prices={"m": PriceConfig(image=table)}, apps={"up": up},
        ledger=ledger, **options,
    )  # fmt: skip


def order(n: int = 3, **fields: Any) -> GenerationRequest:
    return GenerationRequest(model="m", prompt="a lantern", n=n, stream=True, **fields)


def picture(i: int, quality: str = "low") -> bytes:
    return completed(i, quality=quality)


async def rest(stream: Stream) -> tuple[list[Event], Exception | None]:
    """Read to the end: the finished pictures, and what came last."""
    told: list[Event] = []
    try:
        async for event in stream:
            told += [event] if event.type == COMPLETED else []
    except Exception as error:  # noqa: BLE001, whatever it ends with
        return told, error
    return told, None


def costs(events: Iterable[Event]) -> list[str]:
    return [event.fields()["x_amux"]["cost"] for event in events]


async def test_a_picture_that_cannot_be_noted_waits_for_the_end() -> None:
    """The ledger was away for one picture: it comes with the last one, and all are charged."""
    up, ledger = Paced(), Moody(earn=[1])
    images = app(up, ledger)
    async with images.lifespan():
        stream = images.gateway.stream(order(4), ME)
        asked = await up.asked()
        asked.say(picture(0), picture(1), picture(2))
        first = await anext(stream)
        asked.say(picture(3))
        asked.end()
        told, error = await rest(stream)

    assert error is None
    assert costs([first, *told]) == ["0.01", "0.02", "0.03", "0.04"]
    assert ledger.earned == [(CENT, 1), (2 * CENT, 2)]  # after a failure nothing is noted any more
    assert await ledger.cents() == (96, 0, 4)


async def test_pictures_that_wait_are_told_of_when_the_upstream_ends_early() -> None:
    """Then comes why there are no more."""
    up, ledger = Paced(), Moody(earn=[0])
    images = app(up, ledger)
    async with images.lifespan():
        stream = images.gateway.stream(order(), ME, KEYED)
        asked = await up.asked()
        asked.say(picture(0), picture(1), failed())
        told, error = await rest(stream)
        again, reason = await rest(images.gateway.stream(order(), ME, KEYED))

    assert (len(told), isinstance(error, GatewayError)) == (2, True)
    assert [event.frame for event in again] == [event.frame for event in told]
    assert str(reason) == str(error)
    assert await ledger.cents() == (98, 0, 2)


@pytest.mark.parametrize("ending", ["all", "cut"])
async def test_when_the_charge_fails_what_was_told_of_is_paid_all_the_same(ending: str) -> None:
    """The last picture is not told of; the charge is not tried twice, and the key gives the same again."""
    up, ledger = Paced(), Moody(capture=[0])
    images = app(up, ledger)
    async with images.lifespan():
        stream = images.gateway.stream(order(), ME, KEYED)
        asked = await up.asked()
        asked.say(picture(0), picture(1))
        if ending == "all":
            asked.say(picture(2))
            asked.end()
        asked.cut()
        told, error = await rest(stream)
        again, reason = await rest(images.gateway.stream(order(), ME, KEYED))

    assert isinstance(error, StorageUnavailableError)
    assert (costs(told), error.retry) == (["0.01", "0.02"], False)
    assert [event.frame for event in again] == [event.frame for event in told]
    assert (str(reason), len(up.asks), len(ledger.captured)) == (str(error), 1, 1)
    assert await ledger.cents() == (98, 0, 2)
    assert [(one.charged, one.images, one.cost) for one in ledger.released] == [(2 * CENT, 2, None)]


async def test_when_nothing_can_be_noted_nor_charged_nothing_is_told() -> None:
    """It is a plain error, and free."""
    up, ledger = Paced(), Moody(earn=[0], capture=[0])
    images = app(up, ledger)
    async with images.lifespan():
        stream = images.gateway.stream(order(2), ME, KEYED)
        asked = await up.asked()
        asked.say(picture(0), picture(1))
        asked.end()
        told, error = await rest(stream)
        again = images.gateway.stream(order(1), ME, KEYED)
        asked = await up.asked(2)
        asked.say(picture(0))
        asked.end()
        end = await rest(again)

    assert isinstance(error, StorageUnavailableError)
    assert (told, error.retry, end[1], len(end[0])) == ([], False, None, 1)
    assert await ledger.cents() == (99, 0, 1)


async def test_pictures_of_one_answer_are_told_of_together() -> None:
    """Each says what all of them cost, and no more than was held."""
    up, ledger = Paced(), Moody()
    at_once = replace(COMPATIBLE, name="at-once", hear=None)
    images = app(up, ledger, adapter="at-once", adapters=[at_once])
    async with images.lifespan():
        stream = images.gateway.stream(order(2, quality="low"), ME)
        (await up.asked()).answer(whole(0, 1, quality="high"))
        told, error = await rest(stream)

    assert (costs(told), error) == (["0.02", "0.02"], None)
    assert await ledger.cents() == (98, 0, 2)


class Slow(Moody):
    """A ledger that takes its time, and can be interrupted."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = anyio.Event()
        self.go_on = anyio.Event()

    async def earn(self, order: Order, earned: int, images: int) -> None:
        """Note it in the end."""
        self.begun.set()
        await self.go_on.wait()
        await super().earn(order, earned, images)


@pytest.mark.parametrize("anyio_backend", [("trio", {"clock": CLOCK})])
async def test_a_deadline_does_not_come_between_a_picture_and_its_price() -> None:
    """It is noted, told of and charged once."""
    up, ledger = Paced(), Slow()
    images = app(up, ledger)
    async with images.lifespan():
        stream = images.gateway.stream(order(), ME, Terms(timeout=30))
        asked = await up.asked()
        asked.say(picture(0))
        await ledger.begun.wait()
        CLOCK.jump(31)
        await anyio.wait_all_tasks_blocked()
        ledger.go_on.set()
        told, error = await rest(stream)

    assert isinstance(error, UpstreamTimeoutError)
    assert costs(told) == ["0.01"]
    assert await ledger.cents() == (99, 0, 1)


@pytest.mark.parametrize("gone", [False, True])
async def test_a_bug_costs_what_was_told_of(caplog: pytest.LogCaptureFixture, *, gone: bool) -> None:
    """Its reader hears of it, or the log; the key tells what was told, and that something broke."""
    up, ledger = Paced(), Moody(earn=[1], error=RuntimeError("a bug"))
    images = app(up, ledger)
    async with images.lifespan():
        stream = images.gateway.stream(order(), ME, KEYED)
        asked = await up.asked()
        asked.say(picture(0))
        await anext(stream)
        if gone:
            stream.leave()
        asked.say(picture(1))
        _, error = await rest(stream)
        await asked.left.wait()
        again, reason = await rest(images.gateway.stream(order(), ME, KEYED))

    assert isinstance(error, RuntimeError)
    assert ("a bug" in caplog.text) == gone
    assert (len(again), isinstance(reason, GatewayError)) == (1, True)
    assert await ledger.cents() == (99, 0, 1)


async def test_places_are_given_back_before_the_reader_knows_that_this_is_all() -> None:
    """Who has all pictures may ask again at once, although the upstream has not ended its stream."""
    up, ledger = Paced(), Moody()
    images = app(up, ledger)
    me = Principal(account="me", key="me", limits=(parse_rule("1 concurrent"),))
    async with images.lifespan():
        stream = images.gateway.stream(order(2), me)
        asked = await up.asked()
        asked.say(picture(0))
        await anext(stream)
        refused = await rest(images.gateway.stream(order(2), me))
        asked.say(picture(1))
        await rest(stream)
        again = images.gateway.stream(order(1), me)
        other = await up.asked(2)
        other.say(picture(0))
        made = await rest(again)
        asked.end()
        other.end()

    assert isinstance(refused[1], GatewayError)
    assert (refused[1].status, len(made[0]), made[1]) == (429, 1, None)


async def test_a_place_is_held_as_long_as_the_job_goes_on() -> None:
    """Also when the reader has left."""
    up = Paced()
    images = app(up, Moody())
    me = Principal(account="me", key="me", limits=(parse_rule("1 concurrent"),))
    async with images.lifespan():
        stream = images.gateway.stream(order(2), me)
        asked = await up.asked()
        stream.leave()
        _, refused = await rest(images.gateway.stream(order(2), me))
        asked.cut()
        await asked.left.wait()

    assert isinstance(refused, GatewayError)
    assert refused.status == 429


async def test_who_leaves_the_loop_early_pays_for_all() -> None:
    """The library's reader needs no goodbye: the job goes on without it."""
    up, ledger = Paced(), Moody()
    images = app(up, ledger)
    async with images.lifespan():
        stream = images.gateway.stream(order(partial_images=1), ME)
        asked = await up.asked()
        asked.say(preview(), picture(0), picture(1), picture(2))
        asked.end()
        async for _ in stream:
            break

    assert await ledger.cents() == (97, 0, 3)


async def test_a_stream_is_not_generated_and_what_is_streamed_is_a_stream() -> None:
    """`generate` says where streams are read; `stream` needs no `stream=True`."""
    up = Paced()
    images = app(up, Moody())
    async with images.lifespan():
        with pytest.raises(InvalidRequestError, match=r"Gateway\.stream\(\)"):
            await images.gateway.generate(order(), ME)
        stream = images.gateway.stream(GenerationRequest(model="m", prompt="a lantern"), ME)
        asked = await up.asked()
        asked.say(picture(0))
        asked.end()
        told, error = await rest(stream)

    assert (len(told), error, asked.fields["stream"]) == (1, None, True)
    assert told[0].read() == b"picture 0"


async def test_what_a_stream_is_refused_for_is_raised_at_once_or_where_it_is_read() -> None:
    """What the request says wrong, before anything begins; what there is no money for, as its first event."""
    up = Paced()
    images = app(up, MemoryLedger([Wallet(id="account:me", available=CENT, credit=0)]))
    async with images.lifespan():
        with pytest.raises(InvalidRequestError):
            images.gateway.stream(order(11), ME)
        told, error = await rest(images.gateway.stream(order(), ME))

    assert isinstance(error, GatewayError)
    assert (told, error.status, up.asks) == ([], 429, [])


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_without_a_lifespan_a_stream_is_carried_out_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    """On asyncio, which lets anybody start a task."""
    up, ledger = Paced(), Moody()
    others = asyncio.all_tasks()
    stream = app(up, ledger).gateway.stream(order(1), ME)
    asked = await up.asked()
    asked.say(picture(0))
    asked.end()
    told, error = await rest(stream)
    await asyncio.wait(asyncio.all_tasks() - others)

    assert (len(told), error) == (1, None)
    assert "lifespan" in caplog.text
    assert await ledger.cents() == (99, 0, 1)


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_on_trio_a_stream_needs_the_lifespan() -> None:
    """Said at once."""
    with pytest.raises(NotStartedError):
        app(Paced(), Moody()).gateway.stream(order(1), ME)
