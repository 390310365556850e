"""What a stream costs whom: the whole gateway on real databases, read from outside between its events."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import pytest
from msgspec.structs import replace

from amux_asgi import (
    ChannelConfig,
    GatewayError,
    GenerationRequest,
    ImagesApp,
    KeyConfig,
    ModelConfig,
    PriceConfig,
    anyone,
    images_app,
)
from amux_asgi.adapters.openai import COMPATIBLE
from amux_asgi.errors import QuotaError
from amux_asgi.events import Event
from amux_asgi.idempotency import URL_LIFE, Ask, Claim, Kind
from amux_asgi.planning import Terms
from amux_asgi.streams import Stream
from tests.app.test_money import CENT, ME, gateway, rows, wallet
from tests.paced import USAGE, Paced, completed, failed, preview, whole

pytestmark = pytest.mark.anyio

KEYED: Final = Terms(ask=Ask(Claim("name", "fingerprint"), Kind.KEYED))
ONE_BY_ONE: Final = replace(COMPATIBLE, name="one-by-one", max_images=1, hear=None)
OnUnknown = Literal["retry", "stop"]


@pytest.fixture
def sqlite(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/amux.db"


def order(n: int = 3, **fields: Any) -> GenerationRequest:
    return GenerationRequest(model="m", prompt="a lantern", n=n, stream=True, **fields)


THEIRS: Final = 5 * 5_000 + 196 * 30_000  # what the vendor takes for each of these


def counted(i: int) -> bytes:
    """Write the event of a finished picture whose tokens are told."""
    return completed(i, usage=USAGE, size="1024x1024", quality="low")


def small(n: int = 3) -> GenerationRequest:
    return order(n, size="1024x1024", quality="low")


def of_openai(database: str, up: Paced, **options: Any) -> ImagesApp:
    """Make a gateway to a model whose vendor's prices are known; ours is a cent for each picture."""
    model = ModelConfig(name="m", upstream="gpt-image-2")
    channels = [ChannelConfig(name="up", adapter="openai-compatible", base_url="asgi://up/v1", models=(model,))]
    return gateway(database, up, channels=channels, **options)


def cost(event: Event) -> str:
    return event.fields()["x_amux"]["cost"]


async def rest(stream: Stream) -> tuple[int, GatewayError | None]:
    """Read to the end: how many finished pictures, and what came last."""
    told = 0
    try:
        async for event in stream:
            told += event.type == "image_generation.completed"
    except GatewayError as error:
        return told, error
    return told, None


def usage(database: str, columns: str = "state, charged, images") -> list[tuple[Any, ...]]:
    return rows(database, f"SELECT {columns} FROM usage ORDER BY id")  # noqa: S608, a test's own columns


def attempts(database: str) -> list[list[str]]:
    return [[one["end"] for one in msgspec.json.decode(told)] for (told,) in usage(database, "attempts")]


async def test_each_picture_is_earned_before_it_is_told_of(database: str) -> None:
    """The most is held before the first byte; with the last picture all is charged, and the answer is kept."""
    up = Paced()
    images = gateway(database, up)
    async with images.lifespan():
        stream = images.gateway.stream(order(), ME, KEYED)
        asked = await up.asked()
        held = wallet(database)
        seen: list[tuple[Any, ...]] = []
        costs: list[str] = []
        for i in range(3):
            asked.say(preview(), completed(i))
            costs.append(cost(await anext(stream)))
            seen += rows(database, "SELECT state, charged, earned, images FROM usage")
        ((body,),) = rows(database, "SELECT body FROM answers")
        asked.end()
        end = await rest(stream)

    assert held == (97, 3, 0)
    assert seen == [("held", 0, CENT, 1), ("held", 0, 2 * CENT, 2), ("captured", 3 * CENT, 2 * CENT, 3)]
    assert costs == ["0.01", "0.02", "0.03"]
    assert body.count(b"event: image_generation.completed") == 3
    assert end == (0, None)
    assert wallet(database) == (97, 0, 3)
    assert usage(database, "cost, channel, input_tokens, output_tokens") == [(None, "up", 0, 0)]
    assert attempts(database) == [["billed"]]


@pytest.mark.parametrize(("balance", "told"), [("0.03", 3), ("0.029999999", 0)])
async def test_a_balance_suffices_or_nobody_is_asked(sqlite: str, balance: str, told: int) -> None:
    """Exactly enough is enough."""
    up = Paced()
    images = gateway(sqlite, up, keys=[KeyConfig(name="me", key="key-of-the-tests-000001", balance=balance)])
    async with images.lifespan():
        stream = images.gateway.stream(order(), ME)
        if told:
            asked = await up.asked()
            asked.say(*map(completed, range(3)))
            asked.end()
        end, error = await rest(stream)

    assert end == told == 3 * len(up.asks)
    assert isinstance(error, QuotaError) == (not told)


def singles(database: str | None, up: Paced, **options: Any) -> ImagesApp:
    """Make a gateway whose upstream makes one picture at a time, and streams none."""
    channels = [ChannelConfig(name="up", adapter="one-by-one", base_url="asgi://up/v1", models=("m",))]
    return gateway(database, up, channels=channels, adapters=[ONE_BY_ONE], **options)


async def test_pictures_that_are_made_side_by_side_are_told_of_as_they_come(sqlite: str) -> None:
    """The last one asked for can be the first; one that fails takes nothing from the others, and is told last."""
    up = Paced()
    images = singles(sqlite, up)
    async with images.lifespan():
        stream = images.gateway.stream(order(), ME)
        await up.asked(3)
        told: list[tuple[str, str, list[tuple[Any, ...]]]] = []
        for i in (2, 0):
            up.asks[i].answer(whole(i))
            event = await anext(stream)
            told.append((event.fields()["b64_json"], cost(event), usage(sqlite, "state, earned, images")))
        up.asks[1].answer(b'{"error":{"message":"no","code":"moderation_blocked"}}', 400)
        _, error = await rest(stream)

    assert error is not None
    assert [one[1:] for one in told] == [("0.01", [("held", CENT, 1)]), ("0.02", [("held", 2 * CENT, 2)])]
    assert told[0][0] != told[1][0]
    assert (error.code, "stream" in up.asks[0].fields) == ("moderation_blocked", False)
    assert wallet(sqlite) == (98, 0, 2)
    assert usage(sqlite) == [("captured", 2 * CENT, 2)]
    assert attempts(sqlite) == [["billed", "billed", "final"]]


async def test_when_all_of_them_fail_nothing_is_paid(sqlite: str) -> None:
    """It is a plain error: nothing was sent before."""
    up = Paced()
    images = singles(sqlite, up)
    async with images.lifespan():
        stream = images.gateway.stream(order(), ME)
        await up.asked(3)
        for asked in up.asks:
            asked.answer(b"oops", 502)
        told, error = await rest(stream)

    assert error is not None
    assert (told, error.status, error.attempts, error.retry) == (0, 502, 3, False)
    assert wallet(sqlite) == (100, 0, 0)
    assert usage(sqlite, "state, images, cost") == [("released", 0, None)]


async def test_a_picture_that_cannot_be_fetched_costs_nothing(sqlite: str) -> None:
    """The others are told of; what it cost upstream, nobody knows."""
    up = Paced()
    images = gateway(sqlite, up)
    async with images.lifespan():
        stream = images.gateway.stream(order(), ME)
        asked = await up.asked()
        gone = completed(1, url="http://127.0.0.1/gone.png", b64_json="")
        asked.say(completed(0), gone, completed(2))
        asked.end()
        told, error = await rest(stream)

    assert error is not None
    assert (told, error.code) == (2, "upstream_bad_response")
    assert wallet(sqlite) == (98, 0, 2)
    assert usage(sqlite, "charged, images, cost") == [(2 * CENT, 2, None)]


async def test_a_single_picture_that_cannot_be_fetched_is_a_plain_error(sqlite: str) -> None:
    """And no SDK tries again: it was paid upstream."""
    up = Paced()
    images = gateway(sqlite, up)
    async with images.lifespan():
        stream = images.gateway.stream(order(1), ME)
        asked = await up.asked()
        asked.say(completed(url="http://127.0.0.1/gone.png", b64_json=""))
        asked.end()
        told, error = await rest(stream)

    assert error is not None
    assert (told, error.retry) == (0, False)
    assert wallet(sqlite) == (100, 0, 0)
    assert usage(sqlite, "state, images, cost") == [("released", 0, None)]


async def test_what_has_no_price_is_streamed_to_those_without_a_limit(sqlite: str) -> None:
    """Its pictures are counted, and no cost is said."""
    up = Paced()
    images = gateway(sqlite, up, keys=[], prices={}, authenticate=anyone)
    async with images.lifespan():
        stream = images.gateway.stream(order(2), ME)
        asked = await up.asked()
        asked.say(completed(0))
        event = await anext(stream)
        seen = usage(sqlite, "state, images")
        asked.say(completed(1))
        asked.end()
        await rest(stream)

    assert event.fields()["x_amux"] == {"attempts": 1}
    assert seen == [("held", 1)]
    assert stream.made is not None
    assert stream.made.cost is None
    assert usage(sqlite) == [("captured", 0, 2)]


async def test_tokens_of_several_pictures_are_charged_picture_by_picture(sqlite: str) -> None:
    """What the events say is what is charged; input and output are added up in the books."""
    up = Paced()
    images = of_openai(sqlite, up, prices={"m": PriceConfig(text_in="10", image_out="60")})
    async with images.lifespan():
        stream = images.gateway.stream(small(), ME)
        asked = await up.asked()
        costs: list[str] = []
        for i in range(3):
            asked.say(counted(i))
            costs.append(cost(await anext(stream)))
        asked.end()
        await rest(stream)

    ours = 5 * 10_000 + 196 * 60_000
    assert costs == ["0.01181", "0.02362", "0.03543"]
    assert usage(sqlite, "charged, cost, input_tokens, output_tokens") == [(3 * ours, 3 * THEIRS, 15, 588)]


async def test_dearer_pictures_than_were_held_for_are_charged_as_held(
    sqlite: str, caplog: pytest.LogCaptureFixture
) -> None:
    """And the operator hears of it; no event says more than is charged."""
    up = Paced()
    table = {"1024x1024": {"low": "0.01", "high": "0.05"}}
    images = gateway(sqlite, up, prices={"m": PriceConfig(image=table)})
    async with images.lifespan():
        stream = images.gateway.stream(small(2), ME)
        asked = await up.asked()
        asked.say(*(completed(i, size="1024x1024", quality="high") for i in range(2)))
        asked.end()
        costs = [cost(event) async for event in stream]

    assert costs == ["0.02", "0.02"]
    assert wallet(sqlite) == (98, 0, 2)
    assert "undercharged" in caplog.text


def two(
    database: str,
    apps: dict[str, Paced],
    *,
    adapter: str = "openai-compatible",
    on_unknown: OnUnknown = "stop",
    **options: Any,
) -> ImagesApp:
    """Make a gateway with two channels, the first one asked first; `adapter` is the other's, `on_unknown` both's."""
    adapters = ("openai-compatible", adapter)
    channels = [
        ChannelConfig(
            name=name,
            adapter=adapters[i],
            base_url=f"asgi://{name}/v1",
            models=("m",),
            priority=-i,
            on_unknown=on_unknown,
        )
        for i, name in enumerate(apps)
    ]
    return images_app(
        channels=channels,
        keys=[KeyConfig(name="me", key="key-of-the-tests-000001", balance="1")],
        prices={"m": PriceConfig(image="0.01")},
        database=database,
        apps=apps,
        **options,
    )


async def test_what_was_refused_before_any_event_is_asked_of_the_next(sqlite: str) -> None:
    """One row has both attempts; the picture is paid once."""
    one, other = Paced(), Paced()
    images = two(sqlite, {"one": one, "other": other})
    async with images.lifespan():
        stream = images.gateway.stream(order(1), ME)
        (await one.asked()).say(failed("rate_limit_exceeded"))
        asked = await other.asked()
        asked.say(completed())
        asked.end()
        event = await anext(stream)
        await rest(stream)

    assert event.fields()["x_amux"]["attempts"] == 2
    assert attempts(sqlite) == [["refused", "billed"]]
    assert usage(sqlite, "charged, channel") == [(CENT, "other")]


async def test_what_another_channel_changed_stands_in_its_pictures(sqlite: str) -> None:
    """No header could say it any more; the key's answer says it again."""
    one, other = Paced(), Paced()
    coarse = replace(COMPATIBLE, name="coarse", ignores=frozenset({"quality"}))
    images = two(sqlite, {"one": one, "other": other}, adapter="coarse", adapters=[coarse])
    async with images.lifespan():
        stream = images.gateway.stream(order(1, quality="low"), ME, KEYED)
        (await one.asked()).say(failed("rate_limit_exceeded"))
        asked = await other.asked()
        asked.say(completed())
        asked.end()
        event = await anext(stream)
        await rest(stream)
        again = images.gateway.stream(order(1, quality="low"), ME, KEYED)
        replayed = await anext(again)
        await rest(again)

    assert event.fields()["x_amux"]["adapted"] == "quality: dropped"
    assert replayed.frame == event.frame
    assert stream.changes == again.changes == ("quality: dropped",)


async def test_pictures_behind_urls_are_said_again_as_long_as_these_live(sqlite: str) -> None:
    """An hour, and not a day."""
    up = Paced()
    images = gateway(sqlite, up, now=lambda: datetime.fromtimestamp(1_800_000_000, tz=UTC))
    async with images.lifespan():
        stream = images.gateway.stream(order(1, response_format="url"), ME, KEYED)
        asked = await up.asked()
        asked.say(completed(url="https://up.example/1.png", b64_json=""))
        asked.end()
        event = await anext(stream)
        await rest(stream)

    assert event.fields()["url"] == "https://up.example/1.png"
    assert rows(sqlite, "SELECT expires FROM answers") == [(1_800_000_000_000 + URL_LIFE,)]


@pytest.mark.parametrize("on_unknown", ["stop", "retry"])
async def test_after_a_preview_nobody_else_is_asked(sqlite: str, on_unknown: OnUnknown) -> None:
    """The first began to paint, and the reader has seen it: also where a channel would rather pay twice."""
    one, other = Paced(), Paced()
    images = two(sqlite, {"one": one, "other": other}, on_unknown=on_unknown)
    async with images.lifespan():
        stream = images.gateway.stream(order(1, partial_images=1), ME)
        asked = await one.asked()
        asked.say(preview())
        await anext(stream)
        asked.cut()
        told, error = await rest(stream)

    assert error is not None
    assert (told, error.retry, error.attempts) == (0, False, 1)
    assert other.asks == []
    assert wallet(sqlite) == (100, 0, 0)
    assert usage(sqlite, "state, cost") == [("released", None)]
