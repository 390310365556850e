"""Which upstream is asked, how often, and what is made of its answer."""

import logging
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio.lowlevel
import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from amux_asgi import (
    ChannelConfig,
    Gateway,
    GatewayError,
    GenerationRequest,
    MemoryLedger,
    Principal,
    anyone,
    images_app,
)
from amux_asgi.drawing import ENOUGH, OF_ONE
from amux_asgi.errors import (
    InvalidRequestError,
    RateLimitError,
    UpstreamBadResponseError,
    UpstreamIncompleteError,
)

pytestmark = pytest.mark.anyio

ME = Principal(account="me", key="me")
PICTURE = b'{"b64_json":"aGVsbG8="}'
BUSY = (429, b'{"error":{"message":"busy"}}')
GOOD = (200, b'{"created":5,"data":[%s]}' % PICTURE)
Answer = tuple[int, bytes]


class Upstreams:
    """Apps that answer one thing each, and note who was asked."""

    def __init__(self, before: Callable[[], None] = lambda: None) -> None:
        self.asked: list[str] = []
        self._before = before

    def answering(self, name: str, answer: Answer | None) -> ASGIApp:
        """Make one; `None` cuts the connection after the request."""

        async def app(_scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            self.asked.append(name)
            self._before()
            if answer is None:
                raise ConnectionError
            await send({"type": "http.response.start", "status": answer[0], "headers": []})
            await send({"type": "http.response.body", "body": answer[1]})

        return app


@asynccontextmanager
async def gateway(
    upstreams: Upstreams,
    answers: dict[str, Answer | None],
    clock: Callable[[], float] = time.monotonic,
    **of: dict[str, Any],
) -> AsyncGenerator[Gateway]:
    """Open a gateway with one channel for each answer, asked in that order; `of` are single channels' options."""
    channels = [
        ChannelConfig(
            name=name,
            adapter="openai-compatible",
            base_url=f"asgi://{name}/v1",
            models=("m",),
            priority=-i,
            **of.get(name, {}),
        )
        for i, name in enumerate(answers)
    ]
    apps = {name: upstreams.answering(name, answer) for name, answer in answers.items()}
    images = images_app(channels=channels, authenticate=anyone, apps=apps, clock=clock, ledger=MemoryLedger())
    async with images.lifespan():
        yield images.gateway


def order(**fields: Any) -> GenerationRequest:
    return GenerationRequest(model="m", prompt="a lantern", **fields)


async def test_what_was_refused_is_asked_of_the_next() -> None:
    """A refusal costs nothing."""
    upstreams = Upstreams()

    async with gateway(upstreams, {"one": BUSY, "two": GOOD, "three": GOOD}) as asking:
        made = await asking.generate(order(), ME)

    assert (upstreams.asked, made.attempts, made.channel) == (["one", "two"], 2, "two")


async def test_at_most_two_more_are_asked() -> None:
    """The last refusal is the answer, with the number of attempts."""
    upstreams = Upstreams()

    async with gateway(upstreams, dict.fromkeys(["one", "two", "three", "four"], BUSY)) as asking:
        with pytest.raises(RateLimitError) as caught:
            await asking.generate(order(), ME)

    assert (upstreams.asked, caught.value.attempts, caught.value.channel) == (["one", "two", "three"], 3, "three")


async def test_what_may_have_been_paid_is_not_asked_again() -> None:
    """Nobody knows what a vendor did after the connection was cut."""
    upstreams = Upstreams()

    async with gateway(upstreams, {"one": None, "two": GOOD}) as asking:
        with pytest.raises(GatewayError):
            await asking.generate(order(), ME)

    assert upstreams.asked == ["one"]


async def test_a_channel_may_say_that_it_is_asked_again_all_the_same() -> None:
    """`on_unknown = "retry"`: the team would rather pay twice."""
    upstreams = Upstreams()

    async with gateway(upstreams, {"one": None, "two": GOOD}, one={"on_unknown": "retry"}) as asking:
        made = await asking.generate(order(), ME)

    assert (upstreams.asked, made.channel) == (["one", "two"], "two")


@pytest.mark.parametrize(("others", "asked"), [(["picky", "three"], ["one", "three"]), (["picky"], ["one"])])
async def test_a_channel_that_cannot_be_asked_this_is_passed_over(others: list[str], asked: list[str]) -> None:
    """What only it refuses is no fault of the request; without another, the first channel's error is the answer."""
    upstreams = Upstreams()
    answers: dict[str, Answer | None] = {"one": BUSY, **dict.fromkeys(others, GOOD)}
    request = order(extra={"brand_new": 1})

    async with gateway(upstreams, answers, picky={"unknown_fields": "reject"}) as asking:
        if "three" in others:
            made = await asking.generate(request, ME)
            assert made.channel == "three"
        else:
            with pytest.raises(RateLimitError):
                await asking.generate(request, ME)

    assert upstreams.asked == asked


async def test_after_the_deadline_nobody_is_asked() -> None:
    """The client has what it waited for: an end, as the last one asked gave it."""
    now = [0.0]

    def jump() -> None:
        now[0] += 10_000

    upstreams = Upstreams(before=jump)
    async with gateway(upstreams, {"one": BUSY, "two": GOOD, "three": GOOD}, clock=lambda: now[0]) as asking:
        with pytest.raises(RateLimitError):
            await asking.generate(order(), ME)

    assert upstreams.asked == ["one"]


async def test_a_request_made_in_code_is_checked_like_one_that_was_sent() -> None:
    """And the error is no group of them, although a task group carries the work."""
    with pytest.raises(InvalidRequestError):
        async with gateway(Upstreams(), {"one": GOOD}) as asking:
            await asking.generate(order(n=11), ME)


async def test_pictures_that_nobody_asked_for_are_cut_off(caplog: pytest.LogCaptureFixture) -> None:
    """And the operator hears of it."""
    three = (200, b'{"data":[%s]}' % b",".join([PICTURE] * 3))

    async with gateway(Upstreams(), {"one": three}) as asking:
        made = await asking.generate(order(n=2), ME)

    assert len(made.images.data) == 2
    assert "3 pictures of 2 asked" in caplog.text


async def test_a_time_that_the_upstream_does_not_tell_is_ours() -> None:
    """`created` is never missing."""
    untimed = (200, b'{"data":[%s]}' % PICTURE)

    async with gateway(Upstreams(), {"one": untimed}) as asking, gateway(Upstreams(), {"two": GOOD}) as other:
        ours = await asking.generate(order(), ME)
        theirs = await other.generate(order(), ME)

    assert ours.images.created > theirs.images.created == 5


async def test_channels_of_one_app_share_its_transport() -> None:
    """Two channels of the same upstream are two ways to the same app."""
    upstreams = Upstreams()
    channels = [
        ChannelConfig(name=name, adapter="openai-compatible", base_url="asgi://both/v1", models=(name,))
        for name in ("one", "two")
    ]
    images = images_app(channels=channels, authenticate=anyone, apps={"both": upstreams.answering("both", GOOD)})

    async with images.lifespan():
        for name in ("one", "two"):
            await images.gateway.generate(GenerationRequest(model=name, prompt="x"), ME)

    assert upstreams.asked == ["both", "both"]


async def test_an_upstream_that_dies_in_its_answer_is_told_as_such() -> None:
    """Half an answer is none."""

    async def app(_scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.debug", "info": {}})  # an extension that nobody needs to know
        await send({"type": "http.response.body", "body": b"{", "more_body": True})
        await anyio.lowlevel.checkpoint()
        raise ConnectionError

    channel = ChannelConfig(name="one", adapter="openai-compatible", base_url="asgi://one/v1", models=("m",))
    images = images_app(channels=[channel], authenticate=anyone, apps={"one": app})
    async with images.lifespan():
        with pytest.raises(UpstreamIncompleteError):
            await images.gateway.generate(order(), ME)


BAD = (400, b'{"error":{"message":"no cats","code":"moderation_blocked"}}')


async def test_failed_attempts_are_logged_and_clients_own_faults_are_no_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Who sends bad prompts fills nobody's log."""
    caplog.set_level(logging.INFO, logger="amux_asgi")

    for answers in ({"one": BAD}, {"two": BUSY, "three": None}):
        async with gateway(Upstreams(), dict[str, Answer | None](answers)) as asking:
            with pytest.raises(GatewayError):
                await asking.generate(order(), ME)

    logged = [(record.levelname, record.getMessage().partition(" ")[2]) for record in caplog.records]
    assert logged == [
        ("INFO", "attempt 1 on one: moderation_blocked, final"),
        ("WARNING", "attempt 1 on two: rate_limit_exceeded, refused"),
        ("WARNING", "attempt 2 on three: upstream_bad_response, unknown"),
    ]


async def test_a_first_channel_that_cannot_be_asked_this_is_passed_over() -> None:
    """Chance and priority decide who is asked, not whether the request is good; nobody can: the first says why."""
    upstreams = Upstreams()
    request = order(extra={"brand_new": 1})
    reject = {"unknown_fields": "reject"}

    async with gateway(upstreams, {"picky": GOOD, "two": GOOD}, picky=reject) as asking:
        made = await asking.generate(request, ME)
    async with gateway(upstreams, {"picky": GOOD, "too": GOOD}, picky=reject, too=reject) as asking:
        with pytest.raises(InvalidRequestError) as caught:
            await asking.generate(request, ME)

    assert (made.channel, upstreams.asked, caught.value.param) == ("two", ["two"], "brand_new")


async def test_an_answer_that_is_no_utf8_is_none() -> None:
    """No client could read it, so nobody pays for it."""
    broken = (200, b'{"data":[{"b64_json":"\xff\xfe"}]}')

    async with gateway(Upstreams(), {"one": broken}) as asking:
        with pytest.raises(UpstreamBadResponseError):
            await asking.generate(order(), ME)


async def test_a_credential_that_the_upstream_says_again_is_hidden() -> None:
    """Whatever it looks like; a host of ours too."""
    secret, told = "0123456789abcdef0123456789abcdef", "org-of-ours"
    words = b'{"error":{"message":"key %s of %s","code":"%s","param":"%s"}}'
    answer = (400, words % (secret.encode(), told.encode(), secret.encode(), secret.encode()))

    async with gateway(
        Upstreams(), {"one": answer}, one={"credentials": (secret,), "headers": {"x-org": told}}
    ) as asking:
        with pytest.raises(InvalidRequestError) as caught:
            await asking.generate(order(), ME)

    error = caught.value
    assert secret not in f"{error.message} {error.code} {error.param} {error.upstream_code}"
    assert told not in error.message


async def test_behind_many_channels_that_cannot_be_asked_this_is_one_that_can() -> None:
    """However many come first: those are looked at in the end that no request usually needs."""
    upstreams = Upstreams()
    picky = [f"picky{i}" for i in range(ENOUGH + 1)]
    answers: dict[str, Answer | None] = dict.fromkeys([*picky, "last"], GOOD)
    reject: dict[str, Any] = {name: {"unknown_fields": "reject"} for name in picky}

    async with gateway(upstreams, answers, **reject) as asking:
        made = await asking.generate(order(extra={"brand_new": 1}), ME)

    assert (upstreams.asked, made.channel) == (["last"], "last")


async def test_a_channel_of_many_credentials_hides_none_behind_it() -> None:
    """Another of its credentials is asked once, then another channel."""
    upstreams = Upstreams()
    many = tuple(f"sk-{i}" for i in range(ENOUGH + OF_ONE))

    async with gateway(upstreams, {"one": BUSY, "two": GOOD}, one={"credentials": many}) as asking:
        made = await asking.generate(order(), ME)

    assert (upstreams.asked, made.channel) == (["one", "one", "two"], "two")


async def test_channels_that_cannot_be_asked_take_no_place_behind_the_first() -> None:
    """However many they are, the next attempt is made where it can be."""
    upstreams = Upstreams()
    picky = [f"picky{i}" for i in range(ENOUGH)]
    answers: dict[str, Answer | None] = {"one": BUSY, **dict.fromkeys(picky, GOOD), "last": GOOD}
    reject: dict[str, Any] = {name: {"unknown_fields": "reject"} for name in picky}

    async with gateway(upstreams, answers, **reject) as asking:
        made = await asking.generate(order(extra={"brand_new": 1}), ME)

    assert (upstreams.asked, made.channel) == (["one", "last"], "last")
