"""A request for more pictures than a model makes at once: several asks, one answer, nothing asked twice."""

import json
from collections.abc import Sequence
from typing import Any, Final

import anyio
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw
from msgspec.structs import replace
from starlette.types import ASGIApp, Receive, Scope, Send

from amux_asgi import ChannelConfig, GatewayError, GenerationRequest, MemoryLedger, Principal, anyone, images_app
from amux_asgi.adapters import ADAPTERS
from amux_asgi.adapters.openai import generate
from amux_asgi.errors import ContentPolicyError, End, InvalidRequestError, RateLimitError, UpstreamError
from amux_asgi.fanout import divided, joined, shares, worst
from amux_asgi.gateway import Gateway
from amux_asgi.generation import Generation
from amux_asgi.schema import NOTHING, Image, ImagesResponse, TokensDetails, Usage
from amux_asgi.wire import Flow, Target


def numbered(target: Target, request: GenerationRequest) -> Flow:
    """Say in each ask how many pictures others make before it."""
    return generate(target, request, offset=target.offset)


SINGLE: Final = replace(ADAPTERS["openai-compatible"], name="single", max_images=1, generate=numbered)
FOURS: Final = replace(SINGLE, name="fours", max_images=4)
ME: Final = Principal(account="me", key="me")
BLOCKED: Final = (403, {"error": {"message": "no", "code": "moderation_blocked"}})
BUSY: Final = (429, {"error": {"message": "slower"}})
Answer = tuple[int, dict[str, Any]]
CUT: Final[Answer] = (0, {})
on_both = pytest.mark.anyio


class Upstream:
    """Answers each ask by its offset, with pictures where nothing is said; counts who is there at once."""

    def __init__(self, answers: dict[int, Answer] | None = None, *, together: int = 0) -> None:
        self.asked: list[dict[str, Any]] = []
        self.now = self.most = 0
        self._answers = answers or {}
        self._together = together
        self._all_there = anyio.Event()

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        asked = json.loads((await receive())["body"])
        offset = asked["offset"]
        self.asked.append(asked)
        self.now += 1
        self.most = max(self.most, self.now)
        if self.now == self._together:
            self._all_there.set()
        if self._together:
            await self._all_there.wait()
        status, body = self._answers.get(offset, (200, good(offset, asked["n"])))
        self.now -= 1
        if not status:
            raise ConnectionError
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps(body).encode()})


def good(offset: int, number: int) -> dict[str, Any]:
    data = [{"url": f"https://pictures.example/{offset + i}"} for i in range(number)]
    usage = {"total_tokens": 7 * number, "input_tokens": 2 * number, "output_tokens": 5 * number}
    return {"created": 9, "data": data, "usage": usage, "size": "1x1"}


async def asked_of(
    upstreams: Sequence[ASGIApp], n: int, *, adapter: str = "single", concurrency: int = 64, **fields: Any
) -> Generation:
    """Ask a gateway whose channels are these apps."""
    channels = [
        ChannelConfig(
            name=f"c{i}",
            adapter=adapter,
            base_url=f"asgi://c{i}/v1",
            models=("m",),
            priority=-i,
            concurrency=concurrency,
        )
        for i in range(len(upstreams))
    ]
    apps = {f"c{i}": app for i, app in enumerate(upstreams)}
    images = images_app(
        channels=channels, authenticate=anyone, apps=apps, adapters=[SINGLE, FOURS], ledger=MemoryLedger()
    )
    gateway: Gateway = images.gateway
    async with images.lifespan():
        return await gateway.generate(GenerationRequest(model="m", prompt="a lantern", n=n, **fields), ME)


@on_both
async def test_pictures_that_a_model_makes_one_by_one_are_asked_for_side_by_side() -> None:
    """Ten asks at once, one answer, the tokens added up."""
    upstream = Upstream(together=10)

    made = await asked_of([upstream], 10)

    assert (upstream.most, len(made.images.data), made.attempts) == (10, 10, 10)
    assert [asked["n"] for asked in upstream.asked] == [1] * 10
    assert json.loads(made.body)["usage"] == {"total_tokens": 70, "input_tokens": 20, "output_tokens": 50}
    assert json.loads(made.body)["size"] == "1x1"


@on_both
async def test_what_is_made_in_groups_is_asked_for_in_groups() -> None:
    """Ten pictures of a model that makes four are three asks."""
    upstream = Upstream(together=3)

    made = await asked_of([upstream], 10, adapter="fours")

    assert sorted(asked["n"] for asked in upstream.asked) == [2, 4, 4]
    assert [image.url for image in made.images.data] == [f"https://pictures.example/{i}" for i in range(10)]


@on_both
async def test_a_channel_is_never_asked_more_at_once_than_it_takes() -> None:
    """The rest waits for a place."""
    upstream = Upstream()

    made = await asked_of([upstream], 10, concurrency=3)

    assert upstream.most <= 3
    assert len(made.images.data) == 10


@on_both
@pytest.mark.parametrize("failure", [BLOCKED, BUSY, CUT])
async def test_what_was_made_is_delivered_and_nothing_is_asked_twice(failure: Answer) -> None:
    """One of three fails: two pictures, no other channel, no second ask."""
    upstream, other = Upstream({1: failure}), Upstream()

    made = await asked_of([upstream, other], 3, concurrency=1)

    assert [image.url for image in made.images.data] == [f"https://pictures.example/{i}" for i in (0, 2)]
    assert (len(upstream.asked), other.asked, made.attempts) == (3, [], 3)


@on_both
async def test_what_everybody_refused_goes_to_the_next_channel_whole() -> None:
    """No ask was paid, so all of them are made elsewhere."""
    upstream, other = Upstream(dict.fromkeys(range(3), BUSY)), Upstream()

    made = await asked_of([upstream, other], 3)

    assert (len(upstream.asked), len(other.asked), len(made.images.data)) == (3, 3, 3)
    assert (made.channel, made.attempts) == ("c1", 6)


@on_both
@pytest.mark.parametrize(
    ("answers", "error", "end"),
    [
        ({0: BUSY, 1: CUT, 2: BLOCKED}, UpstreamError, End.UNKNOWN),
        ({0: BUSY, 1: BLOCKED, 2: BUSY}, ContentPolicyError, End.FINAL),
    ],
)
async def test_the_worst_of_several_ends_decides_what_may_follow(
    answers: dict[int, Answer], error: type[GatewayError], end: End
) -> None:
    """One ask that may have been paid keeps the whole request from being sent again."""
    other = Upstream()

    with pytest.raises(error) as caught:
        await asked_of([Upstream(answers), other], 3, concurrency=1)

    assert (caught.value.end, caught.value.attempts, other.asked) == (end, 3, [])


@on_both
async def test_a_bug_in_one_ask_is_not_hidden_by_the_others() -> None:
    """It is raised as it is, for the operator's log."""

    def fails(*_: object) -> Any:
        raise ZeroDivisionError

    broken = replace(SINGLE, name="broken", generate=fails)
    channel = ChannelConfig(name="c", adapter="broken", base_url="asgi://c/v1", models=("m",))
    images = images_app(
        channels=[channel], authenticate=anyone, apps={"c": Upstream()}, adapters=[broken], ledger=MemoryLedger()
    )

    with pytest.raises(ZeroDivisionError):
        async with images.lifespan():
            await images.gateway.generate(GenerationRequest(model="m", prompt="a lantern", n=2), ME)


@on_both
async def test_too_many_pictures_in_one_answer_do_not_take_the_place_of_others() -> None:
    """Each ask gives at most what it was asked for."""
    upstream = Upstream({0: (200, good(0, 4))})

    made = await asked_of([upstream], 2, concurrency=1)

    assert [image.url for image in made.images.data] == [f"https://pictures.example/{i}" for i in (0, 1)]


@given(count=st.integers(1, 10), most=st.integers(1, 12))
def test_shares_add_up(count: int, most: int) -> None:
    """Every picture is asked for once, as many at a time as possible."""
    parts = shares(count, most)

    assert sum(parts) == count
    assert len(parts) == -(-count // most)
    assert all(0 < part <= most for part in parts)


USAGE: Final = {"total_tokens": 3, "input_tokens": 1, "output_tokens": 2}
DETAILS: Final = {"input_tokens_details": {"text_tokens": 1, "image_tokens": 0}}


@pytest.mark.parametrize(
    ("usages", "total"),
    [
        ([USAGE, USAGE], {"total_tokens": 6, "input_tokens": 2, "output_tokens": 4}),
        ([USAGE | DETAILS] * 2, {"input_tokens_details": {"text_tokens": 2, "image_tokens": 0}}),
        ([USAGE | DETAILS, USAGE], {"total_tokens": 6}),
        ([USAGE, None], None),
        ([USAGE, {"total_tokens": "many"}], None),
        ([USAGE | {"total_tokens": Raw(b"9" * 4300)}] * 2, None),
    ],
)
def test_tokens_are_added_up_only_if_every_ask_told_them(
    usages: list[dict[str, Any] | None], total: dict[str, Any] | None
) -> None:
    """A sum with a part missing would be a wrong bill."""
    picture = Image(url="https://pictures.example/1")
    raws = [NOTHING if usage is None else Raw(msgspec.json.encode(usage)) for usage in usages]
    answers = [ImagesResponse(data=(picture,), usage=raw) for raw in raws]

    usage = joined(answers).tokens()

    if total is None:
        assert usage is None
    else:
        assert total.items() <= msgspec.to_builtins(usage).items()
        assert len(joined(answers).data) == 2


@pytest.mark.parametrize(
    ("errors", "chosen"),
    [
        ([RateLimitError("r"), UpstreamError("u"), InvalidRequestError("i")], 1),
        ([RateLimitError("r"), InvalidRequestError("i")], 1),
        ([UpstreamError("n", end=End.NEVER_SENT), RateLimitError("r"), RateLimitError("s")], 1),
        ([UpstreamError("u"), ZeroDivisionError()], 1),
    ],
)
def test_the_worst_error_is_chosen(errors: list[Exception], chosen: int) -> None:
    """Before all a bug, then what may have been paid, then what is the client's fault."""
    assert worst(errors) is errors[chosen]


def test_a_single_answer_is_left_as_it_is() -> None:
    """Nothing is added up."""
    answer = ImagesResponse(data=(Image(url="https://pictures.example/1"),), usage=Raw(b'{"anything":1}'))

    assert joined([answer]) is answer


COUNTS = st.integers(0, 10_000)


@given(COUNTS, COUNTS, COUNTS, COUNTS, st.integers(1, 10))
def test_tokens_are_divided_so_that_each_part_and_the_whole_add_up(
    text: int, image: int, text_out: int, image_out: int, count: int
) -> None:
    """A stream tells of each picture's tokens, of whatever they are."""
    inputs, outputs = TokensDetails(text, image), TokensDetails(text_out, image_out)
    usage = Usage(
        text + image + text_out + image_out, text + image, text_out + image_out, inputs, output_tokens_details=outputs
    )

    parts = divided(usage, count)

    assert len(parts) == count
    assert joined([ImagesResponse(data=(), usage=Raw(msgspec.json.encode(part))) for part in parts]).tokens() == usage
    assert all(part.total_tokens == part.input_tokens + part.output_tokens for part in parts)
    assert max(part.total_tokens for part in parts) - min(part.total_tokens for part in parts) <= 4


def test_details_that_do_not_add_up_are_told_of_no_picture() -> None:
    """What is not known of all is known of none."""
    usage = Usage(12, 5, 7, TokensDetails(1, 1))

    assert divided(usage, 2) == [Usage(7, 3, 4), Usage(5, 2, 3)]
