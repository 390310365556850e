"""The wire structs: what comes in goes out as it came."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from amux_asgi.schema import Image, ImagesResponse, TokensDetails, Usage, encode_response, fields_of, images_response

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
)
UNKNOWN = st.dictionaries(
    st.text(min_size=1, max_size=8).map("x_".__add__), JSON.filter(lambda value: value not in (None, ""))
)


def test_a_picture_gives_its_bytes() -> None:
    """Base64 in, bytes out."""
    assert Image(b64_json=Raw(b'"aGVsbG8="')).read() == b"hello"


@pytest.mark.parametrize(
    "image", [Image(url="https://a.example/x.png"), Image(b64_json=Raw(b'"a"')), Image(b64_json=Raw(b'"$$$$"'))]
)
def test_a_picture_without_good_base64_says_so(image: Image) -> None:
    """A URL is not fetched behind the caller's back, and broken base64 is no picture."""
    with pytest.raises(ValueError):  # noqa: PT011, the library's own words differ
        image.read()


def test_tokens_are_read_in_openais_shape_only() -> None:
    """Usage in another shape is no usage."""
    usage = Usage(total_tokens=3, input_tokens=1, output_tokens=2, input_tokens_details=TokensDetails(text_tokens=1))
    written = Raw(msgspec.json.encode(usage))

    assert ImagesResponse(data=(), usage=written).tokens() == usage
    assert ImagesResponse(data=()).tokens() is None
    assert ImagesResponse(data=(), usage=Raw(b'{"prompt_tokens":1}')).tokens() is None


@given(
    created=st.integers(0, 2**40),
    items=st.lists(st.tuples(st.text(min_size=1, max_size=20), st.booleans(), UNKNOWN), min_size=1, max_size=3),
    unknown=UNKNOWN,
)
def test_every_field_of_an_answer_survives(
    created: int, items: list[tuple[str, bool, dict[str, Any]]], unknown: dict[str, Any]
) -> None:
    """Whatever an upstream adds is handed on unchanged."""
    data = [{("url" if is_url else "b64_json"): text, **extra} for text, is_url, extra in items]
    answer = {"created": created, "data": data, **unknown}

    written = encode_response(images_response(fields_of(json.dumps(answer).encode())))

    assert json.loads(written) == answer
