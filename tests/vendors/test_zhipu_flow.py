"""How the conversation with Zhipu goes: at once or by asking again, and what each end of it means."""

import json
from typing import Any, Final

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from amux_asgi.adapters.zhipu import FIRST, LONGEST, Options, generate
from amux_asgi.adapters.zhipu_faults import VERDICTS
from amux_asgi.errors import End, GatewayError
from amux_asgi.schema import GenerationRequest, encode_response
from amux_asgi.wire import DeadlineError, HttpRequest, HttpResponse, Target

BASE: Final = "https://upstream.example"
PICTURE: Final = {"task_status": "SUCCESS", "image_result": [{"url": "https://cdn.example/a.png"}]}


def answer(status: int, body: Any) -> HttpResponse:
    return HttpResponse(status=status, body=body if isinstance(body, bytes) else json.dumps(body).encode())


def test_the_asks_of_one_request_have_names_of_their_own() -> None:
    """A `request_id` that was seen before is refused, so each of the parallel asks says where it stands."""
    name = Raw(msgspec.json.encode("order-5"))
    request = GenerationRequest(prompt="a cat", n=1, extra={"request_id": name})

    flows = [generate(Target(base_url=BASE, model="cogview-4", offset=offset), request) for offset in range(3)]

    assert [json.loads(next(flow).body)["request_id"] for flow in flows] == ["order-5", "order-5-1", "order-5-2"]


@pytest.mark.parametrize(
    ("model", "mode", "path"),
    [
        ("glm-image", None, "async/images/generations"),
        ("GLM-Image", "auto", "async/images/generations"),
        ("glm-image", "sync", "images/generations"),
        ("cogview-4-250304", None, "images/generations"),
        ("cogview-4-250304", "async", "images/generations"),
        ("model-of-tomorrow", "auto", "images/generations"),
        ("model-of-tomorrow", "async", "async/images/generations"),
    ],
)
def test_slow_models_are_ordered_from_unless_the_channel_says_otherwise(model: str, mode: Any, path: str) -> None:
    """glm-image takes up to three minutes; cogview cannot be ordered from."""
    options = None if mode is None else Options(mode=mode)

    ask = next(generate(Target(base_url=BASE, model=model, options=options), GenerationRequest(prompt="a cat")))

    assert (ask.url, json.loads(ask.body)["model"]) == (f"{BASE}/{path}", model.lower())


def test_questions_come_slower_the_longer_a_picture_takes() -> None:
    """First after two seconds, then up to five seconds apart, each with a time of its own."""
    flow = generate(Target(base_url=BASE, model="glm-image"), GenerationRequest(prompt="a cat"))
    next(flow)

    asks = [flow.send(answer(200, {"id": "t/../1"}))]
    asks += [flow.send(answer(200, {"task_status": "PROCESSING"})) for _ in range(4)]

    assert [ask.delay for ask in asks] == [FIRST, FIRST, 3.0, 4.5, LONGEST]
    assert {ask.url for ask in asks} == {f"{BASE}/async-result/t%2F..%2F1"}
    assert all(ask.timeout and ask.timeout < 60 for ask in asks)


def test_a_picture_that_is_not_ready_in_time_may_have_been_paid() -> None:
    """Nothing calls an order off, so it is not sent again."""
    flow = generate(Target(base_url=BASE, model="glm-image"), GenerationRequest(prompt="a cat"))
    next(flow)
    flow.send(answer(200, {"id": "t-1"}))

    with pytest.raises(DeadlineError) as caught:
        flow.throw(DeadlineError("the upstream did not finish within 300 seconds"))

    assert (caught.value.status, caught.value.end) == (504, End.UNKNOWN)


PROMISED: Final = {
    "AUTH": (502, "upstream_auth_failed", End.REFUSED),
    "DENIED": (502, "upstream_auth_failed", End.REFUSED),
    "QUOTA": (503, "upstream_unavailable", End.REFUSED),
    "FAILED": (502, "upstream_error", End.REFUSED),
    "PARAM": (400, "invalid_value", End.FINAL),
    "BROKEN": (502, "upstream_error", End.UNKNOWN),
    "NO_MODEL": (404, "model_not_found", End.REFUSED),
    "BLOCKED": (403, "moderation_blocked", End.FINAL),
    "RATE": (429, "rate_limit_exceeded", End.REFUSED),
    "BUSY": (503, "upstream_unavailable", End.REFUSED),
}
DOCUMENTED: Final = (
    *(500, 1000, 1001, 1002, 1003, 1004, 1100, 1110, 1111, 1112, 1113, 1120, 1121, 1200, 1210, 1211, 1212, 1213, 1214),
    *(1215, 1220, 1221, 1222, 1230, 1231, 1234, 1261, 1300, 1301, 1302, 1303, 1304, 1305, 1308, 1309, 1310, 1311, 1312),
    1313,
)


@pytest.mark.parametrize("code", DOCUMENTED)
@pytest.mark.parametrize("status", [200, 400, 401, 429, 500])
def test_the_code_and_not_the_status_says_what_an_error_means(code: int, status: int) -> None:
    """429 covers throttling, an empty account and a locked one alike; a code is a string, or a number."""
    for written in (str(code), code):
        flow = generate(Target(base_url=BASE, model="cogview-4"), GenerationRequest(prompt="a cat"))
        next(flow)

        with pytest.raises(GatewayError) as caught:
            flow.send(answer(status, {"error": {"code": written, "message": f"[{code}][of the vendor][2026110412]"}}))

        error = caught.value
        seen = "invalid_value" if error.code == "context_length_exceeded" else error.code
        assert (error.status, seen, error.end) == PROMISED[VERDICTS[str(code)].name]
        assert error.upstream_code == str(code)
        assert "[" not in error.message


_TEXT: Final = st.text(max_size=8) | st.sampled_from(
    [
        "SUCCESS",
        "FAIL",
        "PROCESSING",
        "1301",
        "1214",
        "1302",
        "user",
        "assistant",
        "https://cdn.example/a.png",
        "[1][a]",
    ]
)
_NAMES: Final = st.sampled_from(
    ("error", "data", "url", "code", "message", "msg", "success", "id", "task_status", "image_result", "role")
)
_BODIES: Final = st.recursive(
    st.none() | st.booleans() | st.integers() | _TEXT,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(_NAMES, inner, max_size=4),
    max_leaves=12,
).map(lambda value: json.dumps(value).encode())
_ANSWERS: Final = st.builds(
    HttpResponse,
    status=st.sampled_from([200, 200, 200, 302, 400, 401, 408, 429, 434, 435, 500, 504]) | st.integers(100, 999),
    body=st.binary(max_size=32) | _BODIES | st.sampled_from([json.dumps(PICTURE).encode(), b'{"id":"t-1"}']),
)


@pytest.mark.parametrize("model", ["glm-image", "cogview-4"])
@given(answers=st.lists(_ANSWERS, min_size=1, max_size=12))
def test_any_answers_lead_to_another_ask_or_a_known_end(model: str, answers: list[HttpResponse]) -> None:
    """Whatever the vendor says, and whenever, the conversation goes on, or ends in pictures or an error of ours."""
    flow = generate(Target(base_url=BASE, model=model), GenerationRequest(prompt="a cat"))
    ask = next(flow)

    for given_answer in answers:
        try:
            ask = flow.send(given_answer)
        except StopIteration as stop:
            assert json.loads(encode_response(stop.value))["data"]
            return
        except GatewayError as error:
            assert error.end is not None
            assert error.message
            return
        assert isinstance(ask, HttpRequest)
        assert ask.url.startswith(f"{BASE}/async-result/")
