"""A request's JSON is read strictly: it has one meaning, whoever reads it."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from amux_asgi.document import body_of, load
from amux_asgi.errors import InvalidRequestError
from amux_asgi.schema import GenerationRequest

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
)


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        (b"", "invalid_json", None),
        (b"nonsense", "invalid_json", None),
        (b"{} x", "invalid_json", None),
        (b"[]", "invalid_json", None),
        (b'"text"', "invalid_json", None),
        (b"null", "invalid_json", None),
        (b'\xef\xbb\xbf{"prompt":"a"}', "invalid_json", None),
        ('{"prompt":"a"}'.encode("utf-16"), "invalid_json", None),
        (b'{"x":NaN}', "invalid_json", None),
        (b'{"x":-Infinity}', "invalid_json", None),
        (b'{"x":1e999}', "invalid_json", None),
        (b'{"x":' + b"1" * 5000 + b"}", "invalid_json", None),
        (b"[" * 100_000, "invalid_json", None),
        (b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "invalid_json", None),
        (b'{"prompt":"a\nb"}', "invalid_json", None),
        (b'{"prompt":"\\ud800"}', "invalid_json", "prompt"),
        (b'{"user":"x","prompt":["\\udc00"]}', "invalid_json", "prompt"),
        (b'{"prompt":"a","\\ud800":1}', "invalid_json", None),
        (b'["\\ud800"]', "invalid_json", None),
        (b'{"prompt":"\xff"}', "invalid_json", "prompt"),
        (b'{"\xff":1}', "invalid_json", None),
        (b"\xff", "invalid_json", None),
        (b'{"prompt":"a","prompt":"a"}', "duplicate_key", "prompt"),
        (b'{"a":[{"b":1,"c":2,"b":1}]}', "duplicate_key", "b"),
        (b'{"prompt":"a","n":1,"extra_body":{"n":2}}', "duplicate_key", "n"),
        (b'{"prompt":"a","n":1,"extra_body":{"n":true}}', "duplicate_key", "n"),
        (b'{"prompt":"a","extra_body":[]}', "invalid_type", "extra_body"),
        (b'{"prompt":"a","model":5}', "invalid_type", "model"),
        (b'{"prompt":"a","model":"a\\r\\nb"}', "invalid_value", "model"),
        (b'{"prompt":"a","model":"a\\u007f"}', "invalid_value", "model"),
    ],
)
def test_a_body_with_two_meanings_or_none_is_refused(body: bytes, code: str, param: str | None) -> None:
    """The client learns which field is at fault, where one is."""
    with pytest.raises(InvalidRequestError) as caught:
        load(body)

    assert (caught.value.code, caught.value.param) == (code, param)


def test_a_whole_surrogate_pair_is_a_character() -> None:
    """An emoji written as two escapes is fine."""
    assert load(b'{"prompt":"\\ud83d\\ude00"}').values["prompt"] == "\N{GRINNING FACE}"


def test_null_means_omitted_save_for_the_prompt() -> None:
    """SDKs send `null` for what a caller passed as None."""
    body = load(b'{"prompt":null,"model":null,"n":null,"extra_body":null,"x":null}')

    assert dict(body.values) == {"prompt": None}
    assert body.model is None


def test_extra_body_is_flattened() -> None:
    """Node and curl send it literally; its fields stand at the top, `null` and repeated values aside."""
    body = load(b'{"prompt":"a","n":2,"extra_body":{"n":2,"seed":7,"style":null}}')

    assert dict(body.values) == {"prompt": "a", "n": 2, "seed": 7}
    assert bytes(body.raw["seed"]) == b"7"


def test_foreign_fields_are_kept_as_they_came() -> None:
    """A number's spelling may matter to a vendor."""
    assert bytes(load(b'{"x": 1.50 }').raw["x"]) == b"1.50"


@given(st.dictionaries(st.text(max_size=8), JSON, max_size=5))
def test_any_json_object_is_read_or_refused_with_words(document: dict[str, object]) -> None:
    """Nothing else ever happens to a body."""
    try:
        body = load(json.dumps(document).encode())
    except InvalidRequestError as error:
        assert error.message
    else:
        assert None not in [value for name, value in body.values.items() if name != "prompt"]
        assert body.values.keys() == body.raw.keys()


@given(st.binary(max_size=64))
def test_any_bytes_are_read_or_refused_with_words(body: bytes) -> None:
    """Fuzz never crashes."""
    try:
        load(body)
    except InvalidRequestError as error:
        assert error.status == 400


def test_a_request_made_in_code_is_read_like_one_that_was_sent() -> None:
    """Other fields may be values or the JSON that they are."""
    request = GenerationRequest(prompt="a cat", n=2, extra={"seed": 5, "tags": ["a"], "raw": Raw(b"1.50")})

    body = body_of(request)

    assert body.values == {"prompt": "a cat", "n": 2, "seed": 5, "tags": ["a"], "raw": 1.5}
    assert {name: bytes(raw) for name, raw in body.raw.items() if name in request.extra} == {
        "seed": b"5",
        "tags": b'["a"]',
        "raw": b"1.50",
    }


IN_CODE: list[tuple[dict[str, Any], str | None]] = [
    ({"prompt": "\ud800"}, "prompt"),
    ({"prompt": "a", "extra": {"seed": float("nan")}}, "seed"),
    ({"prompt": "a", "extra": {"seed": b"bytes"}}, "seed"),
    ({"prompt": "a", "extra": {"seed": object()}}, "seed"),
    ({"prompt": "a", "extra": {"n": 5}}, "n"),
    ({"prompt": "a", "extra": {"\udfff": 5}}, "\udfff"),
    ({"prompt": "a", "extra": {"seed": Raw(b"{bad")}}, None),
    ({"prompt": "a", "model": 5}, "model"),
]


@pytest.mark.parametrize(("fields", "param"), IN_CODE)
def test_what_could_not_be_sent_is_refused_in_code_too(fields: dict[str, Any], param: str | None) -> None:
    """With the field at fault."""
    with pytest.raises(InvalidRequestError) as caught:
        body_of(GenerationRequest(**fields))

    assert caught.value.param == param


NAMES = st.sampled_from(["a", "b", "a:b", "\\u0061", "\\u003a", "n"])
VALUES = st.recursive(
    st.sampled_from(['"x"', '"a: b"', '"\\u003a:"', '"\\\\"', "1", "1.50", "true"]),
    lambda inner: st.one_of(
        st.lists(inner, max_size=2).map(lambda items: f"[{','.join(items)}]"),
        st.lists(st.tuples(NAMES, inner), max_size=2).map(lambda pairs: written(*pairs)),
    ),
    max_leaves=4,
)


def written(*pairs: tuple[str, str]) -> str:
    return "{" + ",".join(f'"{name}":{value}' for name, value in pairs) + "}"


def is_plain(pairs: list[tuple[str, object]]) -> dict[str, object]:
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


@given(st.lists(st.tuples(NAMES, VALUES), max_size=4))
def test_a_key_that_stands_twice_is_found_wherever_it_is(pairs: list[tuple[str, str]]) -> None:
    """At any depth, however its name is written, and whatever else holds colons."""
    text = written(*pairs)
    try:
        values = json.loads(text, object_pairs_hook=is_plain)
    except AssertionError:
        with pytest.raises(InvalidRequestError, match="stands twice"):
            load(text.encode())
    else:
        assert load(text.encode()).values == values
