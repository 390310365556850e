"""One event of a vendor's stream at a time: what it says."""

from typing import Any

import pytest
from msgspec import Raw

from amux_asgi.adapters._openai_events import hear
from amux_asgi.errors import (
    ContentPolicyError,
    End,
    GatewayError,
    UpstreamBadResponseError,
    UpstreamEmptyError,
    UpstreamError,
)
from amux_asgi.schema import Image, ImagesResponse, Preview
from amux_asgi.sse import ServerEvent

SKETCH = (
    b'{"type":"image_generation.partial_image","b64_json":"c2s=","partial_image_index":1,"created_at":7,"size":"s"}'
)
PICTURE = b'{"type":"image_generation.completed","b64_json":"aGk=","created_at":7,"usage":{"total_tokens":1},"x":null}'
SHOWN = Preview(b64_json=Raw(b'"c2s="'), index=1, created=7, extra={"size": Raw(b'"s"')})
MADE = ImagesResponse(data=(Image(b64_json=Raw(b'"aGk="')),), created=7, usage=Raw(b'{"total_tokens":1}'))


def heard(data: bytes, name: str = "") -> Any:
    return hear(ServerEvent(name, data))


@pytest.mark.parametrize("prefix", [b"image_generation.", b"image_edit.", b""])
def test_previews_and_pictures_are_told_apart_by_their_type(prefix: bytes) -> None:
    """Whatever stands before the dot; empty fields are absent, others are kept."""
    assert heard(SKETCH.replace(b"image_generation.", prefix)) == SHOWN
    assert heard(PICTURE.replace(b"image_generation.", prefix)) == MADE


@pytest.mark.parametrize("kind", [b"", b'"type":null,', b'"type":"",'])
def test_without_a_type_the_events_name_counts(kind: bytes) -> None:
    """As server-sent events have it."""
    data = PICTURE.replace(b'"type":"image_generation.completed",', kind)

    assert heard(data, "image_generation.completed") == MADE
    assert heard(data, "image_generation.queued") is None


def test_seedreams_pictures_are_finished_one_by_one() -> None:
    """Its `completed` has no picture and says nothing that we could still use; a failed one is one of several."""
    told = heard(b'{"type":"image_generation.partial_succeeded","image_index":0,"url":"https://x.example/1"}')
    missed = heard(b'{"type":"image_generation.partial_failed","error":{"code":"InternalServiceError","message":"x"}}')

    assert told == ImagesResponse(data=(Image(url="https://x.example/1"),), extra={"image_index": Raw(b"0")})
    assert (type(missed), missed.end, missed.upstream_code) == (UpstreamError, End.REFUSED, "InternalServiceError")
    assert heard(b'{"type":"image_generation.completed","usage":{"generated_images":1}}') is None


@pytest.mark.parametrize(
    "data", [b"", b" ", b"[DONE]", b" [DONE]\n", b"{}", b'{"type":"ping"}', b'{"type":"image_generation.completed"}']
)
def test_much_of_a_stream_says_nothing(data: bytes) -> None:
    """Its end, heartbeats, progress, and what is yet to be invented."""
    assert heard(data) is None


@pytest.mark.parametrize(
    "data",
    [
        SKETCH.replace(b'"c2s="', b"null"),
        SKETCH.replace(b'"c2s="', b"7"),
        SKETCH.replace(b'"b64_json":"c2s=",', b""),
        SKETCH.replace(b'index":1', b'index":-1'),
        SKETCH.replace(b'index":1', b'index":10'),
        SKETCH.replace(b'index":1', b'index":null'),
        SKETCH.replace(b'"partial_image_index":1,', b""),
    ],
)
def test_a_preview_that_shows_nothing_is_passed_over(data: bytes) -> None:
    """The picture is paid for, and may still come."""
    assert heard(data) is None


@pytest.mark.parametrize(
    "data",
    [
        b"oops",
        b"[]",
        b"[" * 100_000,
        b'{"type":',
        PICTURE.replace(b'"aGk="', b"null"),
        PICTURE.replace(b'"aGk="', b'""'),
        PICTURE.replace(b'"aGk="', b"7"),
        PICTURE.replace(b'"aGk="', b'"\xff"'),
        PICTURE.replace(b'"b64_json":"aGk="', b'"url":7'),
    ],
)
def test_what_nobody_understands_ends_the_stream(data: bytes) -> None:
    """It may have been paid."""
    with pytest.raises(UpstreamBadResponseError) as caught:
        heard(data)

    assert caught.value.end is End.UNKNOWN


@pytest.mark.parametrize(
    "data",
    [
        b'{"type":"error","error":{"type":"server_error","code":"c","message":"m","param":null}}',
        b'{"error":{"message":"m","code":"c"}}',
        b'{"type":"error","code":"c","message":"m"}',
        b'{"type":"image_generation.completed","b64_json":"aGk=","error":{"code":"c"}}',
        b'{"error":true,"code":"c"}',
    ],
)
def test_an_error_is_one_in_every_shape(data: bytes) -> None:
    """Below `error`, or flat; also beside a picture, as in an answer that is no stream."""
    with pytest.raises(UpstreamError) as caught:
        heard(data)

    assert (caught.value.end, caught.value.upstream_code) == (End.REFUSED, "c")


@pytest.mark.parametrize("data", [b'{"error":"m"}', b'{"type":"error"}', b'{"error":7}', b'{"error":[1]}'])
def test_an_error_without_a_code_is_one(data: bytes) -> None:
    """In one word, or in none."""
    with pytest.raises(GatewayError) as caught:
        heard(data)

    assert (caught.value.code, caught.value.upstream_code) == ("upstream_error", None)


@pytest.mark.parametrize("error", [b"null", b'""', b"{}", b"[]", b"false", b"0"])
def test_an_empty_error_is_none_and_is_not_handed_on(error: bytes) -> None:
    """Some SDKs would raise at it."""
    assert heard(PICTURE.replace(b'"x":null', b'"error":%b' % error)) == MADE
    assert heard(SKETCH.replace(b'"size":"s"', b'"size":"s","error":%b' % error)) == SHOWN


def test_what_an_error_means_is_read_from_its_code() -> None:
    """As in an answer that is no stream."""
    with pytest.raises(ContentPolicyError, match="no lanterns"):
        heard(b'{"type":"error","error":{"code":"moderation_blocked","message":"no lanterns"}}')
    with pytest.raises(UpstreamEmptyError):
        heard(b'{"error":{"code":"insufficient_quota","message":"m"}}')
