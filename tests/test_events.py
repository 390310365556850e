"""The events that clients get: every field that OpenAI's have."""

import json
from typing import Any

import pytest
from msgspec import Raw

from amux_asgi.errors import ContentPolicyError
from amux_asgi.events import Event, completed_events, error_frame, preview_event
from amux_asgi.schema import GenerationRequest, Image, ImagesResponse, Preview

PICTURE = Image(b64_json=Raw(b'"aGk="'))
ASKED = GenerationRequest(prompt="x", size="1024x1024", quality="low")
USUAL = {"size": "1024x1024", "quality": "low", "background": "auto", "output_format": "png"}
NONE = {
    "total_tokens": 0,
    "input_tokens": 0,
    "output_tokens": 0,
    "input_tokens_details": {"text_tokens": 0, "image_tokens": 0},
}


def completed(images: ImagesResponse, **x_amux: Any) -> list[dict[str, Any]]:
    return [event.fields() for event in completed_events(images, ASKED, now=9, x_amux=x_amux)]


def test_a_preview_has_all_fields_whatever_the_upstream_says() -> None:
    """What was asked for stands where the upstream is silent; what it says counts, and its own fields are kept."""
    silent = preview_event(Preview(b64_json=Raw(b'"c2s="'), index=2), ASKED, now=9)
    talking = Preview(b64_json=Raw(b'"c2s="'), index=0, created=7, extra={"size": Raw(b'"big"'), "x": Raw(b"[1]")})

    kind = "image_generation.partial_image"
    assert silent.type == kind
    assert silent.fields() == {
        "type": kind, "b64_json": "c2s=", "partial_image_index": 2, "created_at": 9, **USUAL,
    }  # fmt: skip
    assert preview_event(talking, ASKED, now=9).fields() == {
        "type": kind, "b64_json": "c2s=", "partial_image_index": 0, "created_at": 7, **USUAL, "size": "big", "x": [1],
    }  # fmt: skip
    assert silent.read() == b"sk"


def test_a_finished_picture_has_its_usage_and_what_the_gateway_says() -> None:
    """None is counted where the upstream counts none."""
    kind = "image_generation.completed"
    (told,) = completed(ImagesResponse(data=(PICTURE,)), cost="0.01")
    (plain,) = completed(ImagesResponse(data=(PICTURE,), created=7, usage=Raw(b'{"total_tokens":1}')))

    assert told == {
        "type": kind, "b64_json": "aGk=", "created_at": 9, "usage": NONE, "x_amux": {"cost": "0.01"}, **USUAL,
    }  # fmt: skip
    assert plain == {"type": kind, "b64_json": "aGk=", "created_at": 7, "usage": {"total_tokens": 1}, **USUAL}


def test_nothing_of_the_upstreams_stands_in_for_ours() -> None:
    """Not what the event is, nor what it cost."""
    extra = {"type": Raw(b'"error"'), "x_amux": Raw(b'{"cost":"0"}'), "created_at": Raw(b"1")}
    (told,) = completed(ImagesResponse(data=(PICTURE,), extra=extra), cost="0.01")

    assert (told["type"], told["created_at"]) == ("image_generation.completed", 9)
    assert told["x_amux"] == {"cost": "0.01"}


def test_tokens_of_several_pictures_are_shared_out() -> None:
    """Their sum is what the upstream said."""
    usage = Raw(b'{"total_tokens":9,"input_tokens":4,"output_tokens":5}')
    one, two = completed(ImagesResponse(data=(PICTURE, PICTURE), usage=usage))

    assert [one["usage"][name] + two["usage"][name] for name in ("total_tokens", "input_tokens")] == [9, 4]
    assert [told["usage"] for told in completed(ImagesResponse(data=(PICTURE, PICTURE)))] == [NONE, NONE]


def test_a_picture_as_url_has_no_bytes() -> None:
    """It is told as one, with its prompt."""
    image = Image(url="https://x.example/1", revised_prompt="y")
    (event,) = completed_events(ImagesResponse(data=(image,)), ASKED, now=9, x_amux={})

    assert (event.fields()["url"], event.fields()["revised_prompt"]) == ("https://x.example/1", "y")
    with pytest.raises(ValueError, match="only there as a URL"):
        event.read()


def test_broken_base64_is_told_to_who_reads_it() -> None:
    """The gateway itself hands pictures on unread."""
    with pytest.raises(ValueError, match=r"base64|padding|Only"):
        Event("x", bytearray(b'data: {"b64_json":"a!"}')).read()


def test_an_error_is_one_event_that_every_sdk_raises_at() -> None:
    """With the four keys below `error`."""
    name, data = error_frame(ContentPolicyError("no\nlanterns\u2028")).decode().strip().split("\n")

    assert name == "event: error"
    assert json.loads(data.removeprefix("data: ")) == {
        "type": "error",
        "error": {
            "message": "no\nlanterns\u2028", "type": "image_generation_user_error", "param": None,
            "code": "moderation_blocked",
        },
    }  # fmt: skip
