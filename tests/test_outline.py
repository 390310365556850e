"""A long answer is read by its outline, and handed on as it came where nothing of it changes."""

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec import UNSET, Raw
from msgspec.structs import replace

from amux_asgi.outline import LONG, outline, same
from amux_asgi.schema import BAD_JSON, NOTHING, ImagesResponse, encode_response, fields_of, images_response

PICTURE = "iVBORw0KGgo" * (LONG // 10)
OTHER = "R0lGODdh" * (LONG // 10)
ANSWER = {"created": 7, "data": [{"b64_json": PICTURE}, {"b64_json": OTHER}], "size": "1024x1024", "usage": {"x": 1.5}}


def read(body: bytes) -> ImagesResponse:
    return images_response(fields_of(body), body)


@pytest.mark.parametrize("indent", [None, 2])
def test_a_long_answer_that_is_not_changed_goes_out_as_it_came(indent: int | None) -> None:
    """The same bytes in the same place: two megabytes are not copied for nothing."""
    body = json.dumps(ANSWER, indent=indent).encode()

    images = read(body)

    assert encode_response(images) is body
    assert encode_response(replace(images, data=tuple(replace(image, url=UNSET) for image in images.data))) is body
    assert [bytes(image.b64_json) for image in images.data] == [f'"{text}"'.encode() for text in (PICTURE, OTHER)]


@pytest.mark.parametrize(
    "change",
    [
        {"created": 8},
        {"data": ()},
        {"usage": NOTHING},
        {"extra": {"output_format": Raw(b'"png"')}},
    ],
)
def test_a_long_answer_that_is_changed_is_written_anew(change: dict[str, Any]) -> None:
    """Whatever it is that changes."""
    images = replace(read(json.dumps(ANSWER).encode()), **change)

    assert encode_response(images) == encode_response(replace(images, told=None))


@pytest.mark.parametrize(
    "change",
    [
        {"size": None},
        {"size": ""},
        {"created": "yesterday"},
        {"data": [{"b64_json": PICTURE, "url": None}]},
        {"data": [{"b64_json": PICTURE, "revised_prompt": ""}]},
    ],
)
def test_what_a_client_must_not_see_is_left_out_of_a_long_answer_too(change: dict[str, Any]) -> None:
    """Empty fields are absent."""
    body = json.dumps({**ANSWER, **change}).encode()

    assert json.loads(encode_response(read(body))) == json.loads(encode_response(images_response(fields_of(body))))


@pytest.mark.parametrize(
    "body",
    [
        b'{"created":1,"created":7,"data":[{"b64_json":"%s"}]}',
        b'{"created":7,"data":[{"b64_json":"%s"}],"data":[{"b64_json":"eA=="}]}',
        b'{"created":7,"data":[{"b64_json":"eA==","b64_json":"%s"}]}',
    ],
)
def test_a_long_answer_that_says_something_twice_is_read_once(body: bytes) -> None:
    """The last word counts, and the client hears no other."""
    body %= PICTURE.encode()

    images = read(body)

    assert images == images_response(fields_of(body))
    assert encode_response(images).count(b"created") == encode_response(images).count(b"b64_json") == 1


@pytest.mark.parametrize(
    "answer",
    [
        {"data": [{"b64_json": PICTURE}], "note": "@0"},
        {"data": [{"b64_json": PICTURE}], "note": 'see "b64_json": "x'},
        {"data": [{"b64_json": PICTURE}], "b64_json": "eA=="},
        {"data": [{"b64_json": PICTURE}], "b64_json": None},
        {"data": [{"b64_json": PICTURE}, {"url": "https://a.example/"}]},
        {"data": [{"b64_json": PICTURE, "more": {"b64_json": OTHER}}]},
        {"data": [{"b64_json": "é" + PICTURE}]},
        {"data": [{"b64_json": PICTURE + "\n"}]},
        {"data": [{"url": "https://a.example/" + PICTURE}]},
        {"b64_json": OTHER, "data": [{"b64_json": PICTURE}]},
    ],
)
def test_a_long_answer_of_another_kind_is_read_as_a_short_one_is(answer: dict[str, Any]) -> None:
    """An outline is a shorter way, never another one."""
    body = json.dumps({"created": 7, **answer}, ensure_ascii=False).encode()

    assert replace(read(body), told=None) == images_response(fields_of(body))


LONGEST = "<the picture>"  # in its place: hypothesis tells what it tries
PIECES = st.sampled_from(['"b64_json"', '"', "\\", ":", " ", "@0", '"@0', LONGEST, "é", "\n", "null", ","])
TEXT = st.lists(PIECES, max_size=5).map("".join)
FIELDS = st.dictionaries(st.sampled_from(["b64_json", "url", "x"]) | TEXT, TEXT | st.none(), max_size=3)


@example(items=[{"b64_json": LONGEST}, {"b64_json": "", "url": "x"}], unknown={}, spaced=False)
@given(
    items=st.lists(FIELDS.map(lambda fields: {"b64_json": LONGEST, **fields}), min_size=1, max_size=2),
    unknown=st.dictionaries(TEXT, TEXT | FIELDS, max_size=2),
    spaced=st.booleans(),
)
def test_any_long_answer_means_the_same_by_its_outline(
    items: list[dict[str, Any]], unknown: dict[str, Any], *, spaced: bool
) -> None:
    """Whatever stands in it, and wherever."""
    text = json.dumps({**unknown, "created": 7, "data": items}, indent=1 if spaced else None)
    body = text.replace(LONGEST, PICTURE).encode()

    try:
        expected = images_response(fields_of(body))
    except BAD_JSON:
        return
    images = read(body)

    assert replace(images, told=None) == expected
    assert json.loads(encode_response(images)) == json.loads(encode_response(expected))


def test_short_texts_have_no_outline() -> None:
    """They are soon read."""
    assert outline(b'{"data":[{"b64_json":"eA=="}]}') is None


def test_a_text_too_deep_to_compare_is_not_the_same() -> None:
    """Nobody can tell."""
    deep = b"[" * 100_000 + b"]" * 100_000

    assert not same(deep, deep)
