"""Upstreams that refuse, fail and come back, as clients and vendors see it."""

import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import count
from random import Random
from typing import Any

import anyio
import pytest
from starlette.types import Receive, Scope, Send

from amux_asgi import (
    ChannelConfig,
    Config,
    Gateway,
    GatewayConfig,
    GatewayError,
    GenerationRequest,
    MemoryLedger,
    Principal,
    anyone,
    images_app,
)
from amux_asgi.errors import (
    ModelNotFoundError,
    RateLimitError,
    UpstreamAuthError,
    UpstreamUnavailableError,
)

pytestmark = pytest.mark.anyio

ME = Principal(account="me", key="me")
Answer = tuple[int, bytes, list[tuple[bytes, bytes]]]
GOOD: Answer = (200, b'{"created":5,"data":[{"b64_json":"aGVsbG8="}]}', [])
FAILED: Answer = (500, b'{"error":{"message":"failed"}}', [])
BUSY: Answer = (429, b'{"error":{"message":"busy"}}', [])
BUSY_7: Answer = (429, b'{"error":{"message":"busy"}}', [(b"retry-after", b"7")])
NO_KEY: Answer = (401, b'{"error":{"message":"key of the team at vendor.example"}}', [])
EMPTY: Answer = (402, b'{"error":{"message":"no money"}}', [])
WHAT: Answer = (404, b'{"error":{"message":"no such model","code":"model_not_found"}}', [])
BLOCKED: Answer = (400, b'{"error":{"message":"no cats","code":"moderation_blocked"}}', [])


class Vendor:
    """An upstream whose clock is ours; what it answers depends on the credential, and can change."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.asked: list[str] = []  # credentials
        self.answers: dict[str, Answer | Callable[[], Answer]] = {}
        self.took = 0.0  # seconds
        self.waits: list[float] = []
        self.busy: anyio.Event | None = None  # until then nobody is answered

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        credential = dict(scope["headers"])[b"authorization"].decode().removeprefix("Bearer ")
        self.asked.append(credential)
        if self.busy is not None:
            await self.busy.wait()
        self.now += self.took
        answer = self.answers.get(credential, GOOD)
        status, body, headers = answer() if callable(answer) else answer
        if not status:
            raise ConnectionError
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)


@asynccontextmanager
async def gateway(
    vendor: Vendor, *channels: Sequence[str], timeout: float = 540, random: Random | None = None, **options: Any
) -> AsyncGenerator[Gateway]:
    """Open a gateway with channels of these credentials, asked in that order."""
    told = [
        ChannelConfig(
            name=f"c{i}",
            adapter="openai-compatible",
            base_url="asgi://vendor/v1",
            models=("m", "n"),
            credentials=tuple(credentials),
            priority=-i,
            **options,
        )
        for i, credentials in enumerate(channels)
    ]
    images = images_app(
        Config(gateway=GatewayConfig(timeout=timeout), channels=tuple(told)),
        authenticate=anyone,
        apps={"vendor": vendor},
        ledger=MemoryLedger(),
        clock=lambda: vendor.now,
        sleep=vendor.sleep,
        random=(random or Random(5)).random,
    )
    async with images.lifespan():
        yield images.gateway


async def ask(asking: Gateway, model: str = "m", **fields: Any) -> str:
    """Give the channel that delivered, or the code of the error."""
    try:
        made = await asking.generate(GenerationRequest(model=model, prompt="a lantern", **fields), ME)
    except GatewayError as error:
        return error.code
    return made.channel


async def test_a_rate_limited_credential_rests_as_long_as_the_vendor_says() -> None:
    """U16: the next key serves, and the first is back to the second."""
    vendor = Vendor()
    vendor.answers["one"] = BUSY_7

    async with gateway(vendor, ["one", "two"]) as asking:
        for _ in range(6):
            assert await ask(asking) == "c0"
        vendor.answers.clear()
        vendor.now += 6.9
        await ask(asking)
        before = list(vendor.asked)
        vendor.now += 0.2
        for _ in range(4):
            await ask(asking)

    assert Counter(before) == {"one": 1, "two": 7}
    assert Counter(vendor.asked[len(before) :]) == {"one": 2, "two": 2}


async def test_when_every_credential_is_rate_limited_nobody_is_asked_and_the_wait_is_true() -> None:
    """U16: 429 with the vendor's own time, before anything is held."""
    vendor = Vendor()
    vendor.answers = {"one": BUSY_7, "two": BUSY_7}

    async with gateway(vendor, ["one", "two"]) as asking:
        with pytest.raises(RateLimitError) as asked:
            await asking.generate(GenerationRequest(model="m", prompt="x"), ME)
        vendor.now += 3
        with pytest.raises(RateLimitError) as unasked:
            await asking.generate(GenerationRequest(model="m", prompt="x"), ME)
        vendor.answers.clear()
        vendor.now += 4.1
        after = await ask(asking)

    assert (asked.value.retry_after, unasked.value.retry_after, after) == (7, 4, "c0")
    assert (asked.value.attempts, unasked.value.attempts, len(vendor.asked)) == (2, 0, 3)


@pytest.mark.parametrize(
    ("answer", "error"), [(NO_KEY, UpstreamAuthError), (EMPTY, UpstreamUnavailableError), (WHAT, ModelNotFoundError)]
)
async def test_a_refused_credential_is_not_shown_again_for_a_minute(answer: Answer, error: type[GatewayError]) -> None:
    """U17: the other one serves. Without another the answer stays what it was, and after five nobody is asked."""
    vendor, alone = Vendor(), Vendor()
    vendor.answers["one"] = alone.answers["one"] = answer

    async with gateway(vendor, ["one"], ["two"]) as asking, gateway(alone, ["one"]) as other:
        served = [await ask(asking) for _ in range(4)]
        for _ in range(8):
            with pytest.raises(error) as caught:
                await other.generate(GenerationRequest(model="m", prompt="x"), ME)
            assert "vendor.example" not in str(caught.value)
        vendor.now += 61
        await ask(asking)
        alone.answers.clear()
        alone.now += 1
        mended = await ask(other)

    assert (served, mended) == (["c1"] * 4, "c0")
    assert (Counter(vendor.asked)["one"], len(alone.asked)) == (2, 6)


async def test_one_of_five_keys_that_always_fails_is_hit_five_times() -> None:
    """U24: then ejected, and tried again by one ask after half a minute; no client sees any of it."""
    vendor = Vendor()
    vendor.answers["k3"] = FAILED

    async with gateway(vendor, ["k1", "k2", "k3", "k4", "k5"]) as asking:
        for _ in range(100):
            vendor.now += 0.1
            assert await ask(asking) == "c0"
        first = Counter(vendor.asked)["k3"]
        vendor.now += 30
        for _ in range(10):
            assert await ask(asking) == "c0"
        tried = Counter(vendor.asked)["k3"]
        vendor.answers.clear()
        vendor.now += 61
        for _ in range(20):
            await ask(asking)

    assert (first, tried) == (5, 6)
    assert Counter(vendor.asked[-15:])["k3"] == 3


async def test_when_every_upstream_is_down_clients_hear_so_at_once_and_when_to_come_back() -> None:
    """U23: 503 without asking anybody; within seconds after they work again, all is well."""
    vendor = Vendor()
    vendor.answers = dict.fromkeys(("one", "two", "three"), FAILED)

    async with gateway(vendor, ["one", "two"], ["three"]) as asking:
        for _ in range(12):
            vendor.now += 2
            await ask(asking)
        before, begun = len(vendor.asked), time.perf_counter()
        for _ in range(4):
            await ask(asking)
        with pytest.raises(UpstreamUnavailableError) as caught:
            await asking.generate(GenerationRequest(model="m", prompt="x"), ME)
        took = time.perf_counter() - begun
        vendor.answers.clear()
        vendor.now += caught.value.retry_after or 0
        after = await ask(asking)

    assert len(vendor.asked) <= before + 3
    assert 0 < (caught.value.retry_after or 0) <= 8
    assert took < 0.5
    assert after.startswith("c")


async def test_what_clients_do_wrong_is_held_against_no_upstream() -> None:
    """A hundred bad prompts shut nobody out."""
    vendor = Vendor()
    vendor.answers["one"] = BLOCKED

    async with gateway(vendor, ["one"]) as asking:
        for _ in range(100):
            assert await ask(asking) == "moderation_blocked"
        vendor.answers.clear()

        assert await ask(asking) == "c0"


async def test_an_answer_about_the_prompt_shows_that_the_upstream_works() -> None:
    """Failures before it are no longer in a row."""
    vendor, turn = Vendor(), count()
    vendor.answers["one"] = lambda: BLOCKED if next(turn) % 5 == 4 else FAILED

    async with gateway(vendor, ["one"]) as asking:
        for _ in range(50):
            vendor.now += 2
            await ask(asking)

    assert len(vendor.asked) == 50


async def test_an_upstream_that_never_ends_in_the_little_time_left_is_not_blamed() -> None:
    """Only who had at least half of the usual time is."""
    vendor = Vendor()

    def slow() -> Answer:
        return (504, b'{"error":{"message":"too slow"}}', [])

    vendor.answers["one"] = slow
    async with gateway(vendor, ["one"], timeout=100) as asking:
        ended = [await ask(asking) for _ in range(4)]
        states = {row.state for row in asking.health.snapshot() if row.model == "m"}
        await ask(asking)
        after = {row.state for row in asking.health.snapshot() if row.model == "m"}

    assert (set(ended), states, after) == ({"upstream_timeout"}, {"open"}, {"paused"})


async def test_another_credential_is_tried_then_another_channel() -> None:
    """After a short wait by chance each; nobody is asked twice."""
    vendor = Vendor()
    vendor.answers = dict.fromkeys(("a1", "a2", "a3"), FAILED)

    async with gateway(vendor, ["a1", "a2", "a3"], ["b"]) as asking:
        assert await ask(asking) == "c1"

    assert vendor.asked == ["a1", "a2", "b"]
    assert len(vendor.waits) == 2
    assert 0 < max(vendor.waits) <= 0.2


async def test_no_other_is_asked_when_it_usually_takes_longer_than_there_is_time() -> None:
    """An attempt that cannot end in time could only be paid for nothing."""
    vendor = Vendor()
    vendor.took = 40
    vendor.answers["one"] = FAILED

    async with gateway(vendor, ["one"], ["two"], timeout=100) as asking:
        for _ in range(3):
            assert await ask(asking) == "c1"
        vendor.took = 70

        assert await ask(asking) == "upstream_error"

    assert vendor.asked[-1] == "one"


async def test_after_an_attempt_that_may_have_been_paid_no_client_is_told_to_retry() -> None:
    """Whatever the last attempt's end was."""
    vendor = Vendor()
    vendor.answers = {"one": (0, b"", []), "two": BUSY}

    async with gateway(vendor, ["one"], ["two"], on_unknown="retry") as asking:
        with pytest.raises(RateLimitError) as caught:
            await asking.generate(GenerationRequest(model="m", prompt="x"), ME)

    assert (caught.value.attempts, caught.value.retry) == (2, False)


async def test_of_many_who_come_when_it_is_back_one_is_the_trial() -> None:
    """The others hear when to come again; nobody is asked for them."""
    vendor, ended = Vendor(), list[str]()
    vendor.answers["one"] = FAILED

    async def client() -> None:
        ended.append(await ask(asking))

    async with gateway(vendor, ["one"]) as asking:
        for _ in range(5):
            await ask(asking)
        vendor.answers.clear()
        vendor.now += 1
        async with anyio.create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(client)

    assert Counter(ended) == {"c0": 1, "upstream_unavailable": 9}
    assert len(vendor.asked) == 6


@pytest.mark.parametrize(
    ("answer", "took", "ends", "asked"),
    [
        (BUSY, 0.5, ["c1", "c1"], ["one", "two", "two"]),
        (GOOD, 1000, ["c0", "upstream_timeout"], ["one"]),
    ],
)
async def test_who_waits_for_a_place_is_not_sent_where_it_makes_no_sense(
    answer: Answer, took: float, ends: list[str], asked: list[str]
) -> None:
    """Others were refused meanwhile, or the time is over."""
    vendor, ended = Vendor(), list[str]()
    vendor.answers["one"], vendor.took, vendor.busy = answer, took, anyio.Event()

    async def client() -> None:
        ended.append(await ask(asking))

    async with gateway(vendor, ["one"], ["two"], concurrency=1) as asking, anyio.create_task_group() as tasks:
        tasks.start_soon(client)
        tasks.start_soon(client)
        await anyio.wait_all_tasks_blocked()
        vendor.busy.set()

    assert (sorted(ended), vendor.asked) == (ends, asked)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # no matter of the event loop, and many asks
@pytest.mark.parametrize("channels", [1, 2])
async def test_half_of_all_asks_fail_and_no_upstream_gets_more_than_a_fifth_on_top(channels: int) -> None:
    """U22: 200 requests a second for ten seconds, then all is well within ten."""
    vendor, chance = Vendor(), Random(7)
    for i in range(channels):
        vendor.answers[f"k{i}"] = lambda: FAILED if chance.random() < 0.5 else GOOD
    served = admitted = 0

    async with gateway(vendor, *([f"k{i}"] for i in range(channels))) as asking:
        for _ in range(2000):
            vendor.now += 0.005
            before = len(vendor.asked)
            served += (await ask(asking)).startswith("c")
            admitted += len(vendor.asked) > before
        under_errors = len(vendor.asked)
        vendor.answers.clear()
        well = [(await ask(asking)).startswith("c") for _ in range(100)]

    assert under_errors <= 1.2 * admitted
    assert admitted >= 1950
    assert served >= 0.48 * admitted  # of two, one rests while the other takes over
    assert all(well)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_dead_upstream_is_asked_little_and_serves_within_ten_seconds_of_its_return() -> None:
    """U22, U23: at 200 requests a second."""
    vendor = Vendor()
    vendor.answers = {"k": FAILED}

    async with gateway(vendor, ["k"]) as asking:
        for _ in range(2000):
            vendor.now += 0.005
            await ask(asking)
        hits, back = len(vendor.asked), vendor.now
        vendor.answers.clear()
        while await ask(asking) != "c0":
            vendor.now += 0.005
        waited = vendor.now - back
        well = [await ask(asking) for _ in range(20)]

    assert hits <= 5 + 4  # at 1, 3 and 7 seconds, nearly
    assert waited <= 10
    assert well == ["c0"] * 20
