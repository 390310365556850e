"""Whatever Gemini answers ends in one picture, or in one honest error."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amux_asgi.adapters import ADAPTERS
from amux_asgi.errors import GatewayError
from amux_asgi.schema import GenerationRequest, ImagesResponse, encode_response
from amux_asgi.wire import HttpResponse, Target

PNG = "iVBORw0KGgoAAAANSUhEUg=="
NAMES = ("gemini", "google-openai")


def ended(name: str, body: bytes, status: int = 200) -> ImagesResponse:
    """Ask one of Google's interfaces, which answers with a body."""
    flow = ADAPTERS[name].generate(Target(base_url="https://u.example", model="m"), GenerationRequest(prompt="a cat"))
    next(flow)
    try:
        flow.send(HttpResponse(status=status, body=body))
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it asks again")


def told(name: str, text: str) -> str:
    """Write an answer with a picture and a text beside it."""
    if name == "google-openai":
        return json.dumps({"created": 1, "data": [{"b64_json": PNG}], "note": text}, ensure_ascii=False)
    parts = [{"inlineData": {"mimeType": "image/png", "data": PNG}}, {"text": text}]
    return json.dumps({"candidates": [{"content": {"parts": parts}}]}, ensure_ascii=False)


@pytest.mark.parametrize("name", NAMES)
def test_words_of_any_language_stand_beside_a_picture(name: str) -> None:
    """The model may answer in my language."""
    answer = ended(name, told(name, "灯笼 é").encode())

    assert [bytes(image.b64_json) for image in answer.data] == [f'"{PNG}"'.encode()]


@pytest.mark.parametrize("name", NAMES)
def test_what_is_no_text_is_no_picture(name: str) -> None:
    """Bytes that break my JSON are not handed on to me."""
    body = told(name, "é").encode("latin-1")
    broken = told(name, "-").encode().replace(PNG.encode(), b"iVBOR\xff\xfe")

    for wrong in (body, broken):
        with pytest.raises(GatewayError) as caught:
            ended(name, wrong)
        assert caught.value.code == "upstream_bad_response"


def test_a_model_has_little_to_say_in_an_error() -> None:
    """What a model answers instead of a picture is cut, and nothing in it leads elsewhere."""
    text = "see https://evil.example.com/ " + "and so on " * 100
    body = json.dumps({"candidates": [{"content": {"parts": [{"text": text}]}, "finishReason": "STOP"}]})

    with pytest.raises(GatewayError) as caught:
        ended("gemini", body.encode())

    assert caught.value.message.startswith("the model made no picture: see [hidden] and so on")
    assert len(caught.value.message) < 250


WORDS: Any = st.sampled_from(
    ["STOP", "SAFETY", "IMAGE_OTHER", "LANGUAGE", "NEW", "image/png", "text/plain", "TEXT", PNG]
)
LEAVES: Any = st.none() | st.booleans() | st.integers() | st.text(max_size=6) | WORDS
FIELDS = """candidates content parts text thought inlineData inline_data mimeType mime_type data finishReason
finishMessage promptFeedback blockReason usageMetadata totalTokenCount promptTokenCount candidatesTokensDetails modality
tokenCount error status details message violations reason retryDelay fieldViolations field quotaId code created
b64_json"""
NAMED: Any = st.sampled_from(FIELDS.split())
ANY: Any = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMED, inner, max_size=4), max_leaves=20
)
BLOB: Any = st.fixed_dictionaries({}, optional={"data": LEAVES, "mimeType": LEAVES, "mime_type": LEAVES})
PART: Any = st.fixed_dictionaries(
    {}, optional={"text": LEAVES, "thought": LEAVES, "inlineData": BLOB | st.none(), "inline_data": BLOB | st.none()}
)
CONTENT: Any = st.none() | st.fixed_dictionaries({}, optional={"parts": st.none() | st.lists(PART, max_size=3)})
CANDIDATE: Any = st.fixed_dictionaries(
    {}, optional={"content": CONTENT, "finishReason": LEAVES, "finishMessage": LEAVES}
)
ANSWER: Any = st.fixed_dictionaries(
    {},
    optional={
        "candidates": st.none() | st.lists(CANDIDATE, max_size=2),
        "promptFeedback": st.none() | st.fixed_dictionaries({}, optional={"blockReason": LEAVES}),
        "usageMetadata": ANY,
    },
)
STATUS: Any = st.fixed_dictionaries(
    {}, optional={"code": LEAVES, "status": LEAVES, "message": LEAVES, "details": st.none() | st.lists(ANY, max_size=2)}
)


@given(
    st.sampled_from(NAMES),
    st.sampled_from([200, 200, 400, 404, 429, 500, 503]),
    ANSWER | ANY | st.fixed_dictionaries({"error": STATUS}) | st.lists(st.fixed_dictionaries({"error": STATUS})),
)
@settings(max_examples=600)
def test_any_answer_ends_in_a_picture_or_an_error_of_ours(name: str, status: int, body: Any) -> None:
    """Nothing that Google could say breaks the gateway, and no answer is half a picture."""
    try:
        answer = ended(name, json.dumps(body).encode(), status)
    except GatewayError as error:
        assert error.end is not None
        assert error.message
    else:
        assert json.loads(encode_response(answer))["data"]
        assert all(image.b64_json for image in answer.data)
