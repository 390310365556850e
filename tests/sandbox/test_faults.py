"""Every fault is played as it says, and the gateway makes of it what the contract says."""

from collections.abc import Generator
from typing import Any

import httpx2  # noqa: TID251, the test's client
import msgspec
import pytest
from starlette.types import Message, Scope

from amux_asgi import ChannelConfig, Config, GatewayConfig, anyone, images_app
from amux_asgi.sandbox import FAULTS, sandbox_app
from amux_asgi.sandbox.faults import Cut
from amux_asgi.sse import EventReader
from tests.serve import serve

pytestmark = pytest.mark.anyio

QUICK: dict[str, Any] = {"size": "1024x640", "output_format": "jpeg"}  # to paint
ORDER = {"model": "gpt-image-2", "prompt": "a lantern", "quality": "low"}


class Clock:
    """Sleeps without time passing, and notes for how long."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


async def asked(clock: Clock | None = None, **fields: Any) -> httpx2.Response:
    """Ask a sandbox of our own."""
    transport = httpx2.ASGITransport(sandbox_app(sleep=(clock or Clock()).sleep), raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://sandbox") as client:
        return await client.post("/v1/images/generations", json={**ORDER, **fields})


@pytest.mark.parametrize(
    ("name", "status", "code", "wait"),
    [
        ("rate-limited", 429, "rate_limit_exceeded", "7"),
        ("quota", 429, "insufficient_quota", None),
        ("moderation", 400, "moderation_blocked", None),
        ("content-policy", 400, "content_policy_violation", None),
        ("unauthorized", 401, "invalid_api_key", None),
        ("forbidden", 403, None, None),
        ("server-error", 500, "image_generation_failed", None),
        ("overloaded", 503, "server_is_overloaded", "5"),
    ],
)
@pytest.mark.parametrize("by", ["model", "prompt"])
async def test_an_error_is_played(name: str, status: int, code: str | None, wait: str | None, by: str) -> None:
    """By the model's name or by the prompt."""
    if by == "model":
        answer = await asked(model=f"sandbox-{name}")
    else:
        answer = await asked(prompt=f"a lantern [[fault:{name}]]")

    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert answer.headers.get("retry-after") == wait


@pytest.mark.parametrize(
    ("name", "status", "begins"),
    [
        ("bad-gateway", 502, b"<html>"),
        ("html", 200, b"<html>"),
        ("no-data", 200, b'{"created":1,"data":[]}'),
        ("null-data", 200, b'{"created":1,"data":null}'),
        ("error-in-200", 200, b'{"error":{'),
        ("redirect", 307, b""),
        ("fewer", 200, b'{"created":'),
        ("stream-error", 200, b'{"created":'),  # without a stream there is none
    ],
)
async def test_an_odd_answer_is_played(name: str, status: int, begins: bytes) -> None:
    """It is complete, and wrong."""
    answer = await asked(prompt=f"[[fault:{name}]]")

    assert answer.status_code == status
    assert answer.content.startswith(begins)


async def test_the_number_of_a_directive_counts() -> None:
    """Each fault has its own when none is given."""
    answer = await asked(prompt="[[fault:rate-limited 90]]")

    assert answer.headers["retry-after"] == "90"


async def test_a_directive_that_nobody_knows_is_a_prompt() -> None:
    """Words in brackets are no mistake."""
    assert "b64_json" in (await asked(prompt="[[fault:coffee]]")).json()["data"][0]


async def test_fewer_pictures_are_played() -> None:
    """One less than asked; usage tells the same."""
    answer = (await asked(prompt="[[fault:fewer]]", n=3)).json()

    assert (len(answer["data"]), answer["usage"]["output_tokens"]) == (2, 2 * 196)


async def test_slowness_is_played_and_then_the_answer_is_good() -> None:
    """It waits before it paints."""
    clock = Clock()

    answer = await asked(clock, prompt="[[fault:slow 12]]")

    assert (clock.slept, answer.status_code) == ([12.0], 200)


async def test_a_drip_is_a_good_answer_byte_by_byte() -> None:
    """All of it comes, in as many pieces."""
    clock = Clock()

    answer = await asked(clock, prompt="[[fault:drip 2]]")

    assert answer.json()["data"][0]["b64_json"]
    assert clock.slept == [2.0] * len(answer.content)


async def test_a_truncated_answer_is_no_json() -> None:
    """Its head says nothing of it."""
    answer = await asked(prompt="[[fault:truncated]]")

    assert int(answer.headers["content-length"]) == len(answer.content)
    assert not answer.content.endswith(b"}")


async def test_a_compressed_answer_is_the_good_one() -> None:
    """Clients that undo it get a picture."""
    answer = await asked(prompt="[[fault:compressed]]")

    assert answer.headers["content-encoding"] == "gzip"
    assert answer.json()["data"][0]["b64_json"]


async def test_a_huge_answer_is_as_large_as_asked() -> None:
    """In megabytes."""
    answer = await asked(prompt="[[fault:huge 2]]")

    assert 2 * 2**20 < len(answer.content) < 2 * 2**20 + 100


async def play(name: str, *received: Message, **fields: Any) -> list[Message]:
    """Call the sandbox directly."""
    sent: list[Message] = []
    body = msgspec.json.encode({"model": f"sandbox-{name}", "prompt": "x", **fields})
    scope: Scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/images/generations",
        "headers": [],
        "query_string": b"",
    }

    async def receive() -> Message:
        return next(waiting)

    async def send(message: Message) -> None:
        sent.append(message)

    waiting = iter([{"type": "http.request", "body": body}, *received])
    try:
        await sandbox_app()(scope, receive, send)
    except Cut:
        sent.append({"type": "cut"})
    return sent


async def test_a_hang_lasts_until_the_client_leaves() -> None:
    """No answer begins."""
    assert await play("hang", {"type": "http.request"}, {"type": "http.disconnect"}) == []


async def test_a_cut_is_half_an_answer() -> None:
    """The server sees an exception, and closes the connection."""
    begun, half, cut = await play("cut")

    length = int(dict(begun["headers"])[b"content-length"])
    assert (len(half["body"]), cut["type"]) == (length // 2, "cut")


async def test_a_stream_is_cut_after_its_first_event() -> None:
    """A preview, and then the connection breaks."""
    begun, first, cut = await play("cut", stream=True, partial_images=1)

    assert dict(begun["headers"])[b"content-type"] == b"text/event-stream"
    assert first["body"].startswith(b"event: image_generation.partial_image\n")
    assert cut["type"] == "cut"


async def test_a_paced_stream_waits_before_each_event() -> None:
    """As long as it is told, so that somebody can watch; without a stream it is a good answer."""
    clock = Clock()

    stream = await asked(clock, prompt="[[fault:paced 2]]", stream=True, partial_images=2, **QUICK)
    plain = await asked(clock, prompt="[[fault:paced 2]]", **QUICK)

    assert stream.content.count(b"event: ") == 3
    assert plain.json()["data"]
    assert clock.slept == [2.0] * 3


async def test_what_is_slow_or_too_little_is_so_in_a_stream() -> None:
    """It waits before the first event; one picture of two does not come."""
    clock = Clock()

    slow = await asked(clock, prompt="[[fault:slow 12]]", stream=True, **QUICK)
    fewer = await asked(clock, prompt="[[fault:fewer]]", stream=True, n=2, **QUICK)

    assert (clock.slept, slow.content.count(b"event: ")) == ([12.0], 1)
    assert fewer.content.count(b"event: ") == 1


async def test_an_error_before_a_stream_is_no_stream() -> None:
    """OpenAI answers it as any other."""
    answer = await asked(prompt="[[fault:moderation]]", stream=True)

    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "moderation_blocked")


GATEWAY: dict[str, tuple[int, str | None]] = {
    "rate-limited": (429, "rate_limit_exceeded"),
    "quota": (503, "upstream_unavailable"),
    "moderation": (403, "moderation_blocked"),
    "content-policy": (403, "content_policy_violation"),
    "unauthorized": (502, "upstream_auth_failed"),
    "forbidden": (502, "upstream_auth_failed"),
    "server-error": (502, "upstream_error"),
    "bad-gateway": (502, "upstream_bad_response"),
    "overloaded": (503, "upstream_unavailable"),
    "slow": (504, "upstream_timeout"),
    "hang": (504, "upstream_timeout"),
    "cut": (502, "upstream_incomplete"),
    "truncated": (502, "upstream_bad_response"),
    "html": (502, "upstream_bad_response"),
    "no-data": (502, "upstream_bad_response"),
    "null-data": (502, "upstream_bad_response"),
    "error-in-200": (502, "upstream_error"),
    "redirect": (502, "upstream_redirect"),
    "compressed": (502, "upstream_bad_response"),
    "huge": (502, "upstream_too_large"),
    "fewer": (502, "upstream_bad_response"),
    "drip": (504, "upstream_timeout"),
    "stream-error": (200, None),
    "paced": (200, None),
}
"""What a client of the gateway sees of each fault."""


@pytest.fixture(scope="module")
def gateway() -> Generator[str]:
    """Serve a gateway that gives the sandbox two seconds and a megabyte."""
    channel = ChannelConfig(name="sandbox", adapter="sandbox", models=("gpt-image-2",), timeout=2)
    told = GatewayConfig(max_answer=2_000_000)
    with serve(images_app(Config(gateway=told, channels=(channel,)), authenticate=anyone)) as url:
        yield url


@pytest.mark.parametrize("name", FAULTS)
def test_the_gateway_answers_each_fault_as_the_readme_says(gateway: str, name: str) -> None:
    """So that a team can see, at no cost, what its own code makes of it."""
    prompt = f"[[fault:{name}{' 10' if name == 'slow' else ''}]]"

    answer = httpx2.post(f"{gateway}/v1/images/generations", json={**ORDER, "prompt": prompt}, timeout=30)

    assert (answer.status_code, answer.json().get("error", {}).get("code")) == GATEWAY[name]


STREAMED: dict[str, str] = {
    "cut": "upstream_incomplete",
    "stream-error": "upstream_error",
}
"""What ends a stream that has begun; all other faults are the same as without one."""


@pytest.mark.parametrize("name", sorted(FAULTS.keys() - {"drip", "slow"}))
def test_the_gateway_makes_of_each_fault_in_a_stream_what_the_readme_says(gateway: str, name: str) -> None:
    """Before the first event as without a stream, after it as its last event. The two left out only take time."""
    prompt = f"[[fault:{name}{' 0' if name == 'paced' else ''}]]"
    body = {**ORDER, **QUICK, "prompt": prompt, "stream": True, "partial_images": 1}

    answer = httpx2.post(f"{gateway}/v1/images/generations", json=body, timeout=30)

    reader = EventReader(longest=len(answer.content))
    events = list(reader.feed(answer.content)) if answer.status_code == 200 else []
    names = [event.name.rpartition(".")[2] for event in events]
    if name in STREAMED:
        assert names == ["partial_image", "error"]
        assert msgspec.json.decode(events[-1].data)["error"]["code"] == STREAMED[name]
    elif GATEWAY[name][0] == 200:
        assert names == ["partial_image", "completed"]
    else:
        assert (answer.status_code, answer.json()["error"]["code"]) == GATEWAY[name]
