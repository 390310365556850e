"""Streams that upstreams cut, garble or fill with nonsense, over real sockets: what the client gets, and who pays."""

import gzip
import json
from collections.abc import Generator
from typing import Any, Final

import httpx2  # noqa: TID251, the test's client
import pytest
from msgspec import Struct

from tests.stream_stub import HEAD, LOOKS, PICTURE, SKETCH, Cut, Step, event, failed, picture, sketch
from tests.streaming import ASK, CENT, COST, PATH, SECRET, End, Stage, asking, staged
from tests.stub import GOOD, whole

SECOND: Final[dict[str, Any]] = {"x_amux": {"attempts": 2, "cost": "0.01"}}
COMPLETED: Final = "image_generation.completed"
PREVIEW: Final = "image_generation.partial_image"
MOST: Final = 100_000  # bytes

CUT: Final = failed("the connection to the upstream was cut", code="upstream_incomplete")
BAD: Final = failed("an event of the upstream's stream is not what its protocol promises", code="upstream_bad_response")
EMPTY: Final = failed("the upstream's stream ended without a picture", code="upstream_bad_response")
LARGE: Final = failed(f"the upstream's event is larger than {MOST} bytes", code="upstream_too_large")
BROKEN: Final = failed("the upstream failed")
BLOCKED: Final = failed("no lanterns", type="image_generation_user_error", code="moderation_blocked")
WHOLE: Final = sketch() + picture()
TOLD: Final = sketch() + picture(**COST)
NO_USAGE: Final = {
    "total_tokens": 0, "input_tokens": 0, "output_tokens": 0,
    "input_tokens_details": {"text_tokens": 0, "image_tokens": 0},
}  # fmt: skip


class Row(Struct, frozen=True):
    """What an upstream plays; what the client is told, as a stream or as status and code; how the attempts ended."""

    steps: tuple[Step, ...]
    told: bytes | tuple[int, str]
    ends: tuple[str, ...] = ("billed",)
    images: int = 1
    n: int = 1
    head: bytes = HEAD


def good(*steps: Step, told: bytes = TOLD, **more: Any) -> Row:
    return Row(steps, told, **more)


def lost(*steps: Step, told: bytes | tuple[int, str], end: str = "unknown", **more: Any) -> Row:
    """Say what nobody pays for."""
    return Row(steps, told, (end,), 0, **more)


def elsewhere(*steps: Step, **more: Any) -> Row:
    """Say what the second upstream is asked for."""
    return Row(steps, picture(**SECOND), ("refused", "billed"), **more)


def answer(body: bytes, status: str = "200 OK", kind: str = "application/json") -> dict[str, Any]:
    """Answer with no stream."""
    return {"head": whole(body, status, "connection: close").replace(b"application/json", kind.encode())}


def said(data: bytes, name: str = COMPLETED) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), data)


def ended(data: bytes, extra: bytes) -> bytes:
    """Write a picture's event with one more field at its end."""
    return data.replace(b'"png"}', b'"png",%b}' % extra)


def pretty(data: bytes) -> bytes:
    """Write an event's JSON over several lines."""
    name, line = data.strip().decode().split("\n")
    lines = json.dumps(json.loads(line.removeprefix("data: ")), indent=1).splitlines()
    return "\n".join([name, *(f"data: {part}" for part in lines)]).encode() + b"\n\n"


INJECTED: Final = '"note":"a\\n\\nevent: error\\ndata: {}\u2028\u2029\x85 \\r"'.encode()
ESCAPED: Final = b'"note":"a\\n\\nevent: error\\ndata: {}\\u2028\\u2029\\u0085 \\r"'
UNNAMED: Final = b"".join(line for line in WHOLE.splitlines(keepends=True) if not line.startswith(b"event"))
SPACED: Final = sketch().replace(b":{", b": {") + picture(**COST)

ROWS: Final[dict[str, Row]] = {
    "as OpenAI sends it": good(sketch(), picture()),
    "each byte by itself": good(*(bytes([byte]) for byte in WHOLE)),
    "cut in the middle of a name": good(WHOLE[:3], WHOLE[3:]),
    "lines that end with both": good(WHOLE.replace(b"\n", b"\r\n")),
    "lines that end with a return": good(WHOLE.replace(b"\n", b"\r")),
    "a byte order mark": good(b"\xef\xbb\xbf", WHOLE),
    "[DONE] at the end": good(WHOLE, b"data: [DONE]\n\n"),
    "comments": good(b": hello\n\n", sketch(), b":\n\n:\n", picture()),
    "events without a name": good(UNNAMED),
    "events without a type": good(WHOLE.replace(f'"type":"{PREVIEW}",'.encode(), b"")),
    "a type that is null": good(WHOLE.replace(f'"type":"{COMPLETED}",'.encode(), b'"type":null,')),
    "no line at the end": good(WHOLE[:-1]),
    "no line's end at the end": good(WHOLE[:-2]),
    "lines and events that say nothing": good(
        b"id: 1\nretry: 3\n\n", sketch(), event("ping"), b"event: ping\ndata:\n\ndata\n\n", picture()
    ),
    "an event of the model's own": good(sketch(), event("image_generation.queued", place=3), picture()),
    "JSON over several lines": good(
        pretty(WHOLE[: len(sketch())]),
        pretty(picture()),
        told=sketch()
        + picture(**COST).replace(
            b'{"total_tokens":9,"input_tokens":4,"output_tokens":5,"input_tokens_details":{"text_tokens":4,"image_tokens":0}}',
            b'{   "total_tokens": 9,   "input_tokens": 4,   "output_tokens": 5,   "input_tokens_details": {'
            b'    "text_tokens": 4,    "image_tokens": 0   }  }',
        ),
    ),
    "another event inside a value": good(
        sketch(), ended(picture(), INJECTED), told=sketch() + ended(picture(**COST), ESCAPED)
    ),
    "a content type in capitals": good(WHOLE, head=HEAD.replace(b"text/event-stream", b"Text/Event-Stream; q=1")),
    "no length and no chunks": good(WHOLE, head=HEAD.replace(b"transfer-encoding: chunked\r\n", b"")),
    "cut when all has come": good(WHOLE, Cut.FIN),
    "cut in what comes after all": good(WHOLE, b"data: {", Cut.FIN),
    "an error after all": good(WHOLE, failed("late")),
    "open when all has come": good(WHOLE, Cut.STALL),
    "one picture too many": good(WHOLE, picture("b3RoZXI=")),
    "previews that nobody asked for": good(sketch(), sketch(), sketch(2), sketch(3), sketch(9), picture()),
    "previews without a sensible number": good(
        *(sketch().replace(b'x":0', b'x":' + number) for number in (b"-1", b'"1"', b"null", b"1.5", b"10", b"{}")),
        sketch(),
        picture(),
    ),
    "previews that show nothing": good(
        *(sketch().replace(b'"%b"' % SKETCH.encode(), value) for value in (b"null", b'""', b"7", b'{"a":1}')),
        sketch(),
        picture(),
    ),
    "an error that is none": good(
        ended(sketch(), b'"error":{}'), *(event("ping", error=error) for error in (None, "", False)),
        ended(picture(), b'"error":""'),
    ),
    "a URL in place of the picture": lost(
        said(b'{"url":"http://127.0.0.1/x.png"}'), told=(502, "upstream_bad_response"), end="billed"
    ),
    "JSON in place of a stream": good(
        told=event(
            COMPLETED, b64_json=PICTURE, created_at=1, usage=NO_USAGE, **COST,
            **dict.fromkeys(LOOKS, "auto") | {"output_format": "png"},
        ),
        **answer(GOOD),
    ),
    "cut before anything": lost(Cut.FIN, told=(502, "upstream_incomplete")),
    "reset before anything": lost(Cut.RST, told=(502, "upstream_incomplete")),
    "cut in the first event": lost(sketch()[:60], Cut.FIN, told=(502, "upstream_incomplete")),
    "nothing at all": lost(told=(502, "upstream_bad_response")),
    "nothing but comments": lost(b": a\n\n" * 100, told=(502, "upstream_bad_response")),
    "nothing but [DONE]": lost(b"data: [DONE]\n\n", told=(502, "upstream_bad_response")),
    "HTML": lost(told=(502, "upstream_bad_response"), **answer(b"<html>Hello vendor</html>", kind="text/html")),
    "JSON without a picture": lost(told=(502, "upstream_bad_response"), **answer(b'{"data":[]}')),
    "a compressed stream": lost(
        gzip.compress(WHOLE), told=(502, "upstream_bad_response"),
        head=HEAD.replace(b"\r\nconnection", b"\r\ncontent-encoding: gzip\r\nconnection"),
    ),
    "a stream with a status of failure": lost(
        WHOLE, told=(502, "upstream_bad_response"), head=HEAD.replace(b"200 OK", b"500 Oops")
    ),
    "no JSON": lost(said(b'{"type": oops'), told=(502, "upstream_bad_response")),
    "no object": lost(said(b"[1,2]"), told=(502, "upstream_bad_response")),
    "no UTF-8": lost(picture().replace(b'"png"', b'"p\xffg"'), told=(502, "upstream_bad_response")),
    "endless nesting": lost(said(b"[" * 90_000), told=(502, "upstream_bad_response")),
    "a picture that is not there": lost(said(b"{}"), told=(502, "upstream_bad_response")),
    **{
        f"a picture that is {value.decode()}": lost(
            said(b'{"b64_json":%b}' % value), told=(502, "upstream_bad_response")
        )
        for value in (b"null", b'""', b"7", b"true", b"[]")
    },
    "an event that is too large": lost(picture("a" * MOST), told=(502, "upstream_too_large")),
    "a text that is an error": lost(said(b"out of order", "error"), told=(502, "upstream_bad_response")),
    "an error before all": elsewhere(failed("out of order")),
    "an error without a name": elsewhere(failed("out of order").split(b"\n", 1)[1]),
    "a flat error": elsewhere(event("error", code="internal", message="out of order")),
    "an error in a word": elsewhere(b'data: {"error":"out of order"}\n\n'),
    "Seedream's failure": elsewhere(
        event("image_generation.partial_failed", image_index=0, error={"code": "InternalServiceError", "message": "x"}),
        event(COMPLETED, model="seedream", usage={"generated_images": 0}),
    ),
    "a failure in JSON": elsewhere(**answer(b'{"error":{"message":"x"}}', "500 Oops")),
    "a limit in JSON": elsewhere(**answer(b'{"error":{"message":"x"}}', "429 Slow Down")),
    "an error of the client's": lost(
        told=(400, "invalid_size"), end="final",
        **answer(b'{"error":{"message":"x","code":"invalid_size"}}', "400 Bad Request"),
    ),
    "blocked before all": lost(
        failed("no lanterns", code="moderation_blocked"), told=(403, "moderation_blocked"), end="final"
    ),
    "blocked after a preview": lost(
        sketch(), failed("no lanterns", code="moderation_blocked"), told=sketch() + BLOCKED, end="final"
    ),
    "an error after a preview": lost(sketch(), failed("x"), told=sketch() + BROKEN),
    "an error after a preview that nobody asked for": lost(sketch(5), failed("x"), told=(502, "upstream_error")),
    "cut after a preview": lost(sketch(), Cut.FIN, told=sketch() + CUT),
    "cut in the picture": lost(sketch(), picture()[:-10], Cut.FIN, told=sketch() + CUT),
    "the end after a preview": lost(sketch(), told=sketch() + EMPTY),
    "no JSON after a preview": lost(sketch(), said(b"}"), told=sketch() + BAD),
    "too large after a preview": lost(sketch(), picture("a" * MOST), told=sketch() + LARGE),
    "fewer pictures than asked": good(picture(), told=picture(**COST), n=2),
    "cut after the first of two": good(picture(), Cut.FIN, told=picture(**COST) + CUT, n=2),
    "cut in the second of two": good(picture(), picture()[:50], Cut.FIN, told=picture(**COST) + CUT, n=2),
    "an error after the first of two": good(
        picture(), failed(f"we do not take {SECRET}", code="content_filter"), n=2,
        told=picture(**COST)
        + failed("we do not take [hidden]", type="image_generation_user_error", code="content_policy_violation"),
    ),
    "nonsense after the first of two": good(picture(), said(b"{"), told=picture(**COST) + BAD, n=2),
    "too large after the first of two": good(
        picture(), picture("a" * MOST), told=picture(**COST) + LARGE, n=2
    ),
    "Seedream's second of two": good(
        event("image_generation.partial_succeeded", image_index=0, b64_json=PICTURE, created=7, size="1024x1024"),
        event("image_generation.partial_failed", image_index=1, error={"code": "content_filter", "message": SECRET}),
        event(COMPLETED, model="seedream", created=7, usage={"generated_images": 1}),
        told=event(
            COMPLETED, b64_json=PICTURE, created_at=7, usage=NO_USAGE, **COST,
            **LOOKS | {"quality": "auto", "background": "auto"}, image_index=0,
        )
        + failed("[hidden]", type="image_generation_user_error", code="content_policy_violation"),
        n=2,
    ),
}  # fmt: skip


@pytest.fixture(scope="module", params=["direct", "aiohttp", "httpx2"])
def stage(request: pytest.FixtureRequest) -> Generator[tuple[Stage, httpx2.Client]]:
    with staged(transport=request.param, max_answer=MOST) as stage, asking(stage.images) as client:
        yield stage, client


@pytest.mark.parametrize("name", ROWS)
def test_whatever_comes_has_one_outcome(stage: tuple[Stage, httpx2.Client], name: str) -> None:
    """U03 to U12 and U19 on streams: exact bytes, one charge or none, nothing asked twice, no connection left."""
    (told, client), row = stage, ROWS[name]
    told.play(*row.steps, head=row.head)
    before = told.wallet()
    answer = client.post(PATH, json={**ASK, "n": row.n, **({"partial_images": 2} if row.n == 1 else {})})
    end = told.books.ends.get()

    if isinstance(row.told, bytes):
        assert answer.content == row.told
        assert (answer.status_code, answer.headers["content-type"]) == (200, "text/event-stream")
    else:
        assert (answer.status_code, answer.json()["error"]["code"]) == row.told
    assert end == End(row.images * CENT, row.ends, row.images)
    assert told.wallet() == (before[0] - row.images, 0, before[2] + row.images)
    told.all_left(posts=len(row.ends))
