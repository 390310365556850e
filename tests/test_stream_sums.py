"""Whatever a stream lives through, what it tells of is what it charges."""

import logging
from contextlib import suppress
from typing import Final

import anyio
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct
from msgspec.structs import replace
from starlette.types import Receive, Scope, Send

from amux_asgi import (
    GatewayError,
    MemoryLedger,
)
from amux_asgi.adapters.openai import COMPATIBLE
from amux_asgi.events import COMPLETED, Event
from tests.paced import failed, preview, whole
from tests.test_streaming import CENT, KEYED, ME, Moody, app, order, picture, rest


class Script:
    """An upstream that plays a script, however the reader fares."""

    def __init__(self, steps: list[bytes | None]) -> None:
        self._steps = steps

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Play."""
        await receive()
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for step in self._steps:
            if step is None:
                raise ConnectionError
            await send({"type": "http.response.body", "body": step, "more_body": True})
        await send({"type": "http.response.body"})


class Life(Struct, frozen=True):
    """What a stream lives through; `read` is after how many events its reader leaves, if it does."""

    steps: list[str]
    end: str
    wanted: int
    unnoted: frozenset[int]  # the pictures at which the ledger is away
    is_charged: bool
    read: int | None

    @property
    def told(self) -> list[int]:
        """Say what the pictures cost that are told of."""
        prices = [PRICES[step] for step in self.steps if step in PRICES][: self.wanted]
        if self.is_charged:
            return prices
        return prices[: min([self.wanted - 1, *self.unnoted])]


PRICES: Final = {"low": CENT, "high": 2 * CENT}
EVENTS: Final = {"preview": preview(), "low": picture(0), "high": picture(1, "high")}
ENDS: Final[dict[str, list[bytes | None]]] = {"end": [], "cut": [None], "error": [failed()]}
LIVES: Final = st.builds(
    Life,
    steps=st.lists(st.sampled_from(["preview", "low", "high", "low", "high"]), max_size=6),
    end=st.sampled_from(list(ENDS)),
    wanted=st.integers(1, 4),
    unnoted=st.frozensets(st.integers(0, 3), max_size=1),
    is_charged=st.booleans(),
    read=st.none() | st.integers(0, 4),
)


async def lived(life: Life, ledger: MemoryLedger) -> list[Event]:
    """Live it; give the finished pictures that the reader has seen."""
    images = app(Script([*(EVENTS[step] for step in life.steps), *ENDS[life.end]]), ledger)
    told: list[Event] = []
    async with images.lifespan():
        stream = images.gateway.stream(order(life.wanted, partial_images=1), ME, KEYED)
        with suppress(GatewayError, StopAsyncIteration):
            while life.read is None or len(told) < life.read:
                told.append(await anext(stream))
        stream.leave()
    return [event for event in told if event.type == COMPLETED]


@given(life=LIVES)
@settings(max_examples=200)
def test_whatever_a_stream_lives_through_what_is_told_of_is_charged(life: Life) -> None:
    """No nano-dollar comes or goes, and nothing stays held."""
    ledger = Moody(earn=life.unnoted, capture=[] if life.is_charged else [0])
    logging.disable(logging.CRITICAL)

    seen = anyio.run(lived, life, ledger)

    logging.disable(logging.NOTSET)
    price = sum(life.told) / CENT
    assert anyio.run(ledger.cents) == (100 - price, 0, price)
    prices = [PRICES[event.fields()["quality"]] for event in seen]
    assert prices == (life.told if life.read is None else life.told[: len(prices)])


class Children:
    """An upstream that is asked for one picture at a time, and answers each ask with the next of these."""

    def __init__(self, answers: list[str]) -> None:
        self._answers = iter(answers)

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or fail."""
        await receive()
        kind = next(self._answers)
        if kind == "cut":
            raise ConnectionError
        status, body = (200, whole(0, quality=kind)) if kind in PRICES else (400, b'{"error":{"message":"no"}}')
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": body})


async def read_all(children: Children, wanted: int, ledger: MemoryLedger) -> list[Event]:
    """Read a stream of pictures that are made side by side."""
    one_by_one = replace(COMPATIBLE, name="one-by-one", max_images=1, hear=None)
    images = app(children, ledger, adapter="one-by-one", adapters=[one_by_one])
    async with images.lifespan():
        told, _ = await rest(images.gateway.stream(order(wanted), ME))
    return told


@given(
    answers=st.lists(st.sampled_from(["low", "high", "low", "cut", "refused"]), min_size=1, max_size=5),
    unnoted=st.sets(st.integers(0, 4), max_size=1),
    uncharged=st.sets(st.just(0)),
)
@settings(max_examples=100)
def test_whatever_becomes_of_pictures_side_by_side_what_is_told_of_is_charged(
    answers: list[str], unnoted: set[int], uncharged: set[int]
) -> None:
    """All that were made, unless the charge for the last ones fails."""
    ledger = Moody(earn=unnoted, capture=uncharged)
    logging.disable(logging.CRITICAL)

    told = anyio.run(read_all, Children(answers), len(answers), ledger)

    logging.disable(logging.NOTSET)
    price = sum(PRICES[event.fields()["quality"]] for event in told) / CENT
    assert anyio.run(ledger.cents) == (100 - price, 0, price)
    made = sum(answer in PRICES for answer in answers)
    assert len(told) == made or (uncharged and len(told) < made)
