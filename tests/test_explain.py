"""What is wrong with a request is told first fault first, with OpenAI's codes."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amux_asgi.document import load
from amux_asgi.errors import InvalidRequestError
from amux_asgi.explain import parse
from amux_asgi.models import CATALOGUE, find
from amux_asgi.schema import FIELDS, GenerationRequest

IRE, IGUE = "invalid_request_error", "image_generation_user_error"
GPT = "gpt-image-2"


def asking(model: str = GPT, **fields: Any) -> GenerationRequest:
    return parse(load(json.dumps({"prompt": "a cat", **fields}).encode()), find(model))


def refused(model: str, fields: dict[str, Any]) -> InvalidRequestError:
    with pytest.raises(InvalidRequestError) as caught:
        asking(model, **fields)
    return caught.value


@pytest.mark.parametrize(
    ("model", "fields", "code", "param", "kind"),
    [
        (GPT, {"prompt": None}, "invalid_type", "prompt", IRE),
        (GPT, {"prompt": 5}, "invalid_type", "prompt", IRE),
        (GPT, {"prompt": ""}, "empty_string", "prompt", IRE),
        (GPT, {"prompt": "a\x00"}, "invalid_value", "prompt", IRE),
        (GPT, {"prompt": "x" * 32_001}, "string_above_max_length", "prompt", IRE),
        ("dall-e-3", {"prompt": "x" * 4001}, "string_above_max_length", "prompt", IRE),
        ("dall-e-2", {"prompt": "x" * 1001}, "string_above_max_length", "prompt", IRE),
        ("unlisted", {"prompt": "x" * 32_001}, "string_above_max_length", "prompt", IRE),
        (GPT, {"n": 0}, "integer_below_min_value", "n", IRE),
        (GPT, {"n": -1}, "integer_below_min_value", "n", IRE),
        (GPT, {"n": 11}, "integer_above_max_value", "n", IRE),
        (GPT, {"n": 10**30}, "integer_above_max_value", "n", IRE),
        ("dall-e-3", {"n": 2}, "integer_above_max_value", "n", IRE),
        ("unlisted", {"n": 11}, "integer_above_max_value", "n", IRE),
        (GPT, {"n": "2"}, "invalid_type", "n", IRE),
        (GPT, {"n": 1.5}, "invalid_type", "n", IRE),
        (GPT, {"n": 1.0}, "invalid_type", "n", IRE),
        (GPT, {"n": True}, "invalid_type", "n", IRE),
        (GPT, {"n": []}, "invalid_type", "n", IRE),
        (GPT, {"quality": "ultra"}, "invalid_value", "quality", IRE),
        (GPT, {"quality": "hd"}, "invalid_value", "quality", IRE),
        (GPT, {"quality": "xhigh"}, "invalid_value", "quality", IGUE),
        (GPT, {"quality": 5}, "invalid_type", "quality", IRE),
        ("unlisted", {"quality": 5}, "invalid_type", "quality", IRE),
        (GPT, {"style": "vivid"}, "unknown_parameter", "style", IRE),
        ("dall-e-3", {"style": "wild"}, "invalid_value", "style", IRE),
        ("dall-e-3", {"background": "opaque"}, "unknown_parameter", "background", IRE),
        ("dall-e-2", {"stream": "yes"}, "invalid_type", "stream", IRE),
        ("dall-e-2", {"partial_images": 4}, "integer_above_max_value", "partial_images", IRE),
        (GPT, {"input_fidelity": "high"}, "unknown_parameter", "input_fidelity", IRE),
        (GPT, {"mask": "x"}, "unknown_parameter", "mask", IRE),
        (GPT, {"complexity": "low"}, "unknown_parameter", "complexity", IRE),
        (GPT, {"response_format": "png"}, "invalid_value", "response_format", IRE),
        (GPT, {"response_format": ""}, "invalid_value", "response_format", IRE),
        (GPT, {"background": "pink"}, "invalid_value", "background", IRE),
        (GPT, {"background": "transparent", "output_format": "jpeg"}, "invalid_value", "background", IRE),
        ("unlisted", {"background": 1}, "invalid_type", "background", IRE),
        (GPT, {"moderation": "off"}, "invalid_value", "moderation", IRE),
        (GPT, {"output_format": "gif"}, "invalid_value", "output_format", IRE),
        ("unlisted", {"output_format": {}}, "invalid_type", "output_format", IRE),
        (
            GPT,
            {"output_compression": 101, "output_format": "webp"},
            "integer_above_max_value",
            "output_compression",
            IRE,
        ),
        (
            GPT,
            {"output_compression": -1, "output_format": "webp"},
            "integer_below_min_value",
            "output_compression",
            IRE,
        ),
        (GPT, {"output_compression": 50}, "invalid_png_output_compression", "output_compression", IRE),
        (GPT, {"partial_images": 4}, "integer_above_max_value", "partial_images", IRE),
        (GPT, {"stream": "yes"}, "invalid_type", "stream", IRE),
        (GPT, {"user": 5}, "invalid_type", "user", IRE),
        (GPT, {"user": "a\r\nb"}, "invalid_value", "user", IRE),
        (GPT, {"size": 5}, "invalid_type", "size", IRE),
        (GPT, {"size": "a\r\nb"}, "invalid_value", "size", IRE),
        (GPT, {"size": "bogus"}, "invalid_value", "size", IGUE),
        (GPT, {"size": "0x0"}, "invalid_value", "size", IGUE),
        (GPT, {"size": "1500x1500"}, "invalid_value", "size", IGUE),
        (GPT, {"size": "800x800"}, "invalid_value", "size", IGUE),
        (GPT, {"size": "4096x4096"}, "invalid_value", "size", IGUE),
        (GPT, {"size": "3072x3072"}, "invalid_value", "size", IGUE),
        (GPT, {"size": "3200x800"}, "invalid_value", "size", IGUE),
        ("gpt-image-1", {"size": "512x512"}, "invalid_value", "size", IRE),
        ("dall-e-3", {"size": "512x512"}, "invalid_size", "size", IRE),
        ("unlisted", {"size": "\x07"}, "invalid_value", "size", IRE),
        (GPT, {"Model": "x"}, "unknown_parameter", "Model", IRE),
        ("unlisted", {"N": 2}, "unknown_parameter", "N", IRE),
        (GPT, {"api_base": "https://evil.example"}, "unknown_parameter", "api_base", IRE),
        ("unlisted", {"API_KEY": "x"}, "unknown_parameter", "API_KEY", IRE),
        ("gpt-image-2.5-flare", {"complexity": "huge"}, "invalid_value", "complexity", IRE),
        ("gpt-image-2.5-flare", {"frame_count": 4}, "invalid_value", "frame_count", IRE),
        (
            "gpt-image-2.5-flare",
            {"frame_count": 17, "output_format": "gif"},
            "integer_above_max_value",
            "frame_count",
            IRE,
        ),
        ("gpt-image-2.5-flare", {"stream": True, "output_format": "gif"}, "invalid_value", "stream", IRE),
        ("gpt-image-2.5-flare", {"n": 2, "output_format": "svg"}, "invalid_value", "n", IRE),
        ("gpt-image-2.5-flare", {"svg": {}}, "invalid_value", "svg", IRE),
        ("gpt-image-2.5-flare", {"svg": 1, "output_format": "svg"}, "invalid_type", "svg", IRE),
    ],
)
def test_a_fault_has_its_code_its_field_and_its_type(
    model: str, fields: dict[str, Any], code: str, param: str, kind: str
) -> None:
    """A client can switch on all three."""
    error = refused(model, fields)

    assert (error.status, error.code, error.param, error.type) == (400, code, param, kind)
    assert error.message.isprintable()


@pytest.mark.parametrize(
    ("fields", "first"),
    [
        ({"prompt": "", "unknown_case": 1, "N": 1}, "N"),
        ({"prompt": "", "n": 0}, "prompt"),
        ({"quality": "x", "n": 0}, "n"),
        ({"output_compression": 101, "quality": "x"}, "quality"),
        ({"size": "x", "output_compression": 101}, "output_compression"),
    ],
)
def test_of_two_faults_the_first_in_openais_order_is_told(fields: dict[str, Any], first: str) -> None:
    """Names, then the prompt, `n`, and the rest; quality before compression, size after it."""
    assert refused(GPT, fields).param == first


def test_a_request_without_a_prompt_says_so() -> None:
    """The one field that is always needed."""
    with pytest.raises(InvalidRequestError) as caught:
        parse(load(b'{"n":1}'), find(GPT))

    assert (caught.value.code, caught.value.param) == ("missing_required_parameter", "prompt")


@pytest.mark.parametrize(
    ("fields", "part"),
    [
        ({"quality": "x"}, "'low', 'medium', 'high', and 'auto'"),
        ({"moderation": "x"}, "'auto' and 'low'"),
        ({"quality": 1}, "'low', 'medium', 'high', or 'auto', not an integer"),
        ({"n": {}}, "an integer, not an object"),
        ({"user": None, "n": 1.5}, "not a decimal number"),
        ({"quality": "y" * 100}, "'" + "y" * 60 + "...'"),
        ({"quality": "\x1b[31m"}, "'?[31m'"),
    ],
)
def test_messages_name_what_is_allowed_and_show_little_of_what_came(fields: dict[str, Any], part: str) -> None:
    """Values are listed in the documented order; a client's own text is quoted shortly."""
    assert part in refused(GPT, fields).message


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        (GPT, {"prompt": "   "}),
        (GPT, {"prompt": "\N{GRINNING FACE}" * 32_000}),
        (
            GPT,
            {
                "n": 10,
                "size": "auto",
                "quality": "auto",
                "background": "auto",
                "output_format": "webp",
                "output_compression": 0,
            },
        ),
        (GPT, {"size": "1024x640"}),
        (GPT, {"size": "816x816"}),
        (GPT, {"size": "3840x2160"}),
        (GPT, {"background": "transparent", "output_format": "png", "output_compression": 100}),
        (GPT, {"stream": False, "partial_images": 0, "user": "u", "safety_identifier": "s", "moderation": "low"}),
        (GPT, {"response_format": "b64_json"}),
        ("gpt-image-1", {"size": "1536x1024", "background": "transparent"}),
        ("dall-e-3", {"quality": "hd", "style": "natural", "size": "1792x1024", "response_format": "url"}),
        (
            "gpt-image-2.5-flare",
            {
                "quality": "max",
                "output_format": "gif",
                "frame_count": 9,
                "frame_duration_ms": 200,
                "complexity": "high",
            },
        ),
        ("gpt-image-2.5-flare", {"output_format": "svg", "svg": {"model": "x"}, "n": 1}),
        (
            "unlisted",
            {
                "size": "1k",
                "quality": "anything",
                "style": "vivid",
                "image": "x",
                "background": "b",
                "output_format": "bmp",
            },
        ),
    ],
)
def test_good_requests_pass_unchanged(model: str, fields: dict[str, Any]) -> None:
    """What a model can make is not argued with."""
    request = asking(model, **fields)

    said = {name: getattr(request, name) for name in fields if name in FIELDS}
    assert said == {name: value for name, value in fields.items() if name in FIELDS}
    assert request.extra.keys() == fields.keys() - FIELDS


CHOICES: list[Any] = [
    "auto",
    "high",
    "1024x1024",
    "url",
    "png",
    "svg",
    "gif",
    "transparent",
    "",
    {},
    None,
    True,
    -1,
    2,
    20,
]
VALUES = st.sampled_from(CHOICES)


@given(
    model=st.sampled_from([*CATALOGUE, "unlisted"]),
    fields=st.dictionaries(st.sampled_from([*FIELDS, "seed"]), VALUES),
)
def test_every_request_is_accepted_whole_or_refused_with_a_field(model: str, fields: dict[str, Any]) -> None:
    """Nothing is lost on the way, and every refusal can be acted on."""
    try:
        request = parse(load(json.dumps({"prompt": "a cat", **fields}).encode()), find(model))
    except InvalidRequestError as error:
        assert error.param is not None
    else:
        said = {name: value for name, value in fields.items() if value is not None and name not in ("seed", "model")}
        assert {name: getattr(request, name) for name in said} == said
