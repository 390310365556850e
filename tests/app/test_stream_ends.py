"""What a stream costs that does not come to its end: cut off, left, late, stopped, swept, killed."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

import anyio
import httpx2  # noqa: TID251, the test's client
import pytest
from trio.testing import MockClock

from amux_asgi import (
    ChannelConfig,
    Config,
    GatewayConfig,
    KeyConfig,
    PriceConfig,
    images_app,
)
from amux_asgi.errors import StorageUnavailableError, UpstreamTimeoutError
from amux_asgi.planning import Terms
from amux_asgi.stores.sql import open_store
from amux_asgi.stores.sql.operation import Task
from amux_asgi.stores.sql.owners import sweep
from tests.app import test_crash
from tests.app.test_money import CENT, ME, gateway, rows, wallet
from tests.app.test_stream_money import KEYED, THEIRS, attempts, counted, of_openai, order, rest, small, usage
from tests.paced import Asked, Paced, completed, failed, preview
from tests.stub import Reader, Stub, Writer, upstream

pytestmark = pytest.mark.anyio

CLOCK: Final = MockClock()
Ending = Callable[[Asked], object]
HOW: Final[dict[str, Ending]] = {
    "cut": Asked.cut,
    "ended": Asked.end,
    "failed": lambda asked: asked.say(failed()),
    "blocked": lambda asked: asked.say(failed("moderation_blocked")),
    "garbage": lambda asked: asked.say(b"event: image_generation.completed\ndata: {\n\n"),
}


@pytest.fixture
def sqlite(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/amux.db"


@pytest.mark.parametrize("told", range(3))
@pytest.mark.parametrize("how", HOW)
async def test_however_an_upstream_ends_what_was_told_of_is_paid(sqlite: str, how: str, told: int) -> None:
    """Before the first picture nothing; then exactly those that the reader has, and nobody is asked again."""
    up = Paced()
    images = of_openai(sqlite, up)
    async with images.lifespan():
        stream = images.gateway.stream(small(), ME)
        asked = await up.asked()
        asked.say(preview(), *map(counted, range(told)))
        HOW[how](asked)
        end, error = await rest(stream)

    assert end == told
    assert (error is None) == (how == "ended" and told > 0)
    assert wallet(sqlite) == (100 - told, 0, told)
    assert usage(sqlite) == [("captured" if told else "released", told * CENT, told)]
    assert len(up.asks) == 1
    first = {"blocked": "final"}.get(how, "unknown")
    assert attempts(sqlite) == [["billed" if told else first]]
    known = how == "blocked" or (how == "ended" and told > 0)
    assert usage(sqlite, "cost, input_tokens") == [(told * THEIRS if known else None, 5 * told)]


@pytest.mark.parametrize("read", range(4))
async def test_a_reader_that_leaves_pays_for_all(sqlite: str, read: int) -> None:
    """Whenever it goes: the job goes on, and what it made is paid."""
    up = Paced()
    images = gateway(sqlite, up)
    async with images.lifespan():
        stream = images.gateway.stream(order(), ME)
        asked = await up.asked()
        asked.say(*map(completed, range(read)))
        for _ in range(read):
            await anext(stream)
        stream.leave()
        asked.say(*map(completed, range(read, 3)))
        asked.end()

    assert wallet(sqlite) == (97, 0, 3)
    assert usage(sqlite) == [("captured", 3 * CENT, 3)]


@pytest.mark.parametrize("anyio_backend", [("trio", {"clock": CLOCK})])
@pytest.mark.parametrize("told", range(3))
async def test_at_the_deadline_what_was_told_of_is_paid(sqlite: str, told: int) -> None:
    """The upstream is cut off, and may have been paid for more."""
    up = Paced()
    images = gateway(sqlite, up)
    async with images.lifespan():
        stream = images.gateway.stream(order(), ME, Terms(timeout=30))
        asked = await up.asked()
        asked.say(preview(), *map(completed, range(told)))
        for _ in range(told):
            await anext(stream)
        CLOCK.jump(31)
        await asked.left.wait()
        _, error = await rest(stream)

    assert isinstance(error, UpstreamTimeoutError)
    assert wallet(sqlite) == (100 - told, 0, told)
    assert usage(sqlite, "charged, images, cost") == [(told * CENT, told, None)]


@pytest.mark.parametrize("told", range(3))
async def test_a_stream_that_the_app_cuts_off_is_paid_as_far_as_it_came(sqlite: str, told: int) -> None:
    """The grace is over: the reader hears it, and its key gives the same again, whoever is asked then."""
    up = Paced()
    channels = [ChannelConfig(name="up", adapter="openai-compatible", base_url="asgi://up/v1", models=("m",))]
    keys = [KeyConfig(name="me", key="key-of-the-tests-000001", balance="1")]
    images = images_app(
        Config(gateway=GatewayConfig(grace=0)),
        channels=channels,
        keys=keys,
        prices={"m": PriceConfig(image="0.01")},
        database=sqlite,
        apps={"up": up},
    )
    async with images.lifespan():
        stream = images.gateway.stream(order(), ME, KEYED)
        asked = await up.asked()
        asked.say(*map(completed, range(told)))
        for _ in range(told):
            await anext(stream)
    _, error = await rest(stream)
    charged = wallet(sqlite), usage(sqlite)
    async with images.lifespan():
        again = images.gateway.stream(order(), ME, KEYED)
        if not told:
            (await up.asked(2)).say(*map(completed, range(3)))
        end = await rest(again)

    assert isinstance(error, UpstreamTimeoutError)
    assert charged == ((100 - told, 0, told), [("captured" if told else "released", told * CENT, told)])
    assert (end[0], end[1] and end[1].message) == ((told, error.message) if told else (3, None))
    assert len(up.asks) == (1 if told else 2)


async def bury(database: str) -> None:
    """Be another process that takes the first one for dead."""
    async with open_store(database, clock=time.monotonic, now=lambda: 1) as stores:
        with anyio.fail_after(30):
            while rows(database, "SELECT 1 FROM usage WHERE state = 'held'"):
                ((name, beats),) = rows(
                    database,
                    "SELECT id, beats FROM owners WHERE id IN (SELECT owner FROM usage)",
                )
                await stores.writer.run(
                    Task(partial(sweep, name=name, beats=beats, now=lambda: 1), time.monotonic() + 30)
                )


async def test_what_was_swept_is_paid_and_nothing_comes_after_it(database: str) -> None:
    """Another process took this one for dead and charged what it had told of; more cannot be charged, nor told of."""
    up = Paced()
    images = gateway(database, up)
    async with images.lifespan():
        stream = images.gateway.stream(order(), ME)
        asked = await up.asked()
        asked.say(completed(0))
        await anext(stream)
        await bury(database)
        asked.say(completed(1), completed(2))
        asked.end()
        told, error = await rest(stream)

    assert isinstance(error, StorageUnavailableError)
    assert (told, error.retry) == (0, False)
    assert wallet(database) == (99, 0, 1)
    assert usage(database) == [("captured", CENT, 1)]


async def test_what_was_swept_before_its_first_picture_is_charged_afresh(database: str) -> None:
    """Its pictures wait for the end, and are told of when they have been paid."""
    up = Paced()
    images = gateway(database, up)
    async with images.lifespan():
        stream = images.gateway.stream(order(2), ME, KEYED)
        asked = await up.asked()
        await bury(database)
        asked.say(completed(0), completed(1))
        asked.end()
        end = await rest(stream)
        again = await rest(images.gateway.stream(order(2), ME, KEYED))

    assert end == again == (2, None)
    assert wallet(database) == (98, 0, 2)
    assert usage(database) == [("captured", 2 * CENT, 2)]


async def paced(stub: Stub, _reader: Reader, writer: Writer) -> None:
    """Stream one picture, and two more when the test says so."""
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n" + completed(0))
    await writer.drain()
    await stub.release.wait()
    writer.write(completed(1) + completed(2))
    await writer.drain()
    writer.close()


def test_killed_between_two_events(tmp_path: Path, database: str) -> None:
    """Another process charges what was told of; the same key may be used again, for a new generation."""
    body = {"model": "m", "prompt": "a lantern", "n": 3, "stream": True}
    headers = {"authorization": f"Bearer {test_crash.KEY}", "idempotency-key": "k-1"}
    with upstream(scripts={"/paced": paced}) as stub:
        with test_crash.serving(tmp_path, database, f"{stub.url}/paced") as server:
            url = f"{server.url}/v1/images/generations"
            with httpx2.stream("POST", url, json=body, headers=headers, timeout=60) as answer:
                lines = answer.iter_lines()
                first = [next(lines), next(lines)]
                held = test_crash.wallet(database), usage(database, "state, earned, images")
                server.kill()
        test_crash.sweep(database)
        swept = test_crash.wallet(database), usage(database, "state, charged, cost, images")
        stub.let_go()
        with test_crash.serving(tmp_path, database, f"{stub.url}/paced") as server:
            again = httpx2.post(f"{server.url}/v1/images/generations", json=body, headers=headers, timeout=60)

    assert first[0] == "event: image_generation.completed"
    assert held == ((97, 3, 0), [("held", CENT, 1)])
    assert swept == ((99, 0, 1), [("captured", CENT, None, 1)])
    assert again.text.count("event: image_generation.completed") == 3
    assert test_crash.wallet(database) == (96, 0, 4)
