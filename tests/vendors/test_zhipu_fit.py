"""What of a request is said to Zhipu, in its own words, what is changed or refused before that, and what it costs."""

import json
import string
from collections.abc import Mapping
from typing import Any, Final

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from amux_asgi.adapters import ADAPTERS
from amux_asgi.adapters._base import Fitted
from amux_asgi.adapters.zhipu import generate
from amux_asgi.adapters.zhipu_fit import fit
from amux_asgi.catalogue.zhipu import ROWS, RULES
from amux_asgi.errors import InvalidRequestError
from amux_asgi.models import CATALOGUE, find
from amux_asgi.pricing import NANO, Prices
from amux_asgi.schema import GenerationRequest, Image, ImagesResponse
from amux_asgi.wire import Target
from tests.vendors.emulate_zhipu import MAINLAND, fits

PRICES: Final = Prices()


def fitted(model: str = "cogview-4-250304", extra: Mapping[str, Any] = {}, **fields: Any) -> Fitted:
    raw = {name: Raw(msgspec.json.encode(value)) for name, value in extra.items()}
    return fit(model, GenerationRequest(prompt="a cat", extra=raw, **fields))


def told(result: Fitted) -> dict[str, Any]:
    """Read the body of the ask that a fitted request becomes."""
    flow = generate(Target(base_url="https://upstream.example", model="cogview-4-250304"), result.request)
    return json.loads(next(flow).body)


@pytest.mark.parametrize("size", ["1024x1024", "1536x1024", "1024x1536", "1792x1024", "1024x1792"])
@pytest.mark.parametrize("model", MAINLAND)
def test_openais_sizes_are_said_as_they_are(model: str, size: str) -> None:
    """Every model makes OpenAI's five sizes exactly."""
    result = fitted(model, size=size)

    assert (result.request.size, result.changes) == (size, ())


@pytest.mark.parametrize(
    ("model", "asked", "made"),
    [
        ("cogview-4", "256x256", "512x512"),
        ("cogview-4", "512x512", "512x512"),
        ("cogview-4", "1000x1000", "992x992"),
        ("cogview-4", "2048x2048", "1440x1440"),
        ("cogview-4", "1920x1080", "1920x1088"),
        ("cogview-4", "999999x1", "2048x512"),
        ("glm-image", "256x256", "1024x1024"),
        ("glm-image", "512x1024", "1024x2048"),
        ("glm-image", "1000x1000", "1024x1024"),
        ("glm-image", "4096x4096", "2048x2048"),
        ("glm-image", "1x999999", "1024x2048"),
        ("GLM-Image", "1280x720", "1824x1024"),
    ],
)
def test_a_size_that_cannot_be_made_becomes_the_nearest_one(model: str, asked: str, made: str) -> None:
    """The ratio is kept as far as the model's bounds allow, and the client is told."""
    result = fitted(model, size=asked)

    assert result.request.size == made
    assert result.changes == (() if asked == made else (f"size: {asked} -> {made}",))


@pytest.mark.parametrize("model", MAINLAND)
@given(width=st.integers(1, 999_999), height=st.integers(1, 999_999))
def test_every_size_becomes_one_that_the_vendor_takes(model: str, width: int, height: int) -> None:
    """Whatever is asked for, no ask is refused for its size; a size that can be made stays."""
    size = f"{width}x{height}"
    large = model == "glm-image"

    result = fitted(model, size=size)

    assert fits(result.request.size, large)
    assert (result.request.size == size) == fits(size, large)


@pytest.mark.parametrize("size", ["1024\u00d71024", "0x0", "-1x5", "1024*1024", "1K", "16:9", "1024", "", "1e3x1e3"])
def test_a_size_that_is_none_is_refused(size: str) -> None:
    """Nobody is given, or pays for, a picture of a size that was guessed."""
    with pytest.raises(InvalidRequestError) as caught:
        fitted(size=size)

    assert caught.value.param == "size"


def test_a_model_that_nobody_knows_is_told_any_size() -> None:
    """What it can make is for the vendor to say."""
    result = fitted("model-of-tomorrow", size="4000x4000")

    assert (result.request.size, result.changes) == ("4000x4000", ())


@pytest.mark.parametrize("size", [None, "auto"])
def test_a_size_left_to_the_model_is_not_said(size: str | None) -> None:
    """The model's own default counts."""
    result = fitted(size=size)

    assert "size" not in told(result)
    assert result.changes == ()


@pytest.mark.parametrize(
    ("model", "asked", "said", "changes"),
    [
        ("cogview-4-250304", "hd", "hd", ()),
        ("cogview-4-250304", "standard", "standard", ()),
        ("cogview-4-250304", "high", "hd", ("quality: high -> hd",)),
        ("cogview-4-250304", "medium", "standard", ("quality: medium -> standard",)),
        ("cogview-4-250304", "low", "standard", ("quality: low -> standard",)),
        ("cogview-4-250304", "auto", None, ()),
        ("glm-image", "hd", None, ()),
        ("glm-image", "high", None, ("quality: high -> hd",)),
        ("glm-image", "standard", None, ("quality: standard -> hd",)),
        ("glm-image", "low", None, ("quality: low -> hd",)),
        ("glm-image", "auto", None, ()),
        ("cogview-4", "standard", None, ()),
        ("cogview-3-flash", "hd", None, ("quality: hd -> standard",)),
        ("cogview-3-plus", "low", None, ("quality: low -> standard",)),
        ("model-of-tomorrow", "high", "hd", ("quality: high -> hd",)),
        ("model-of-tomorrow", "ultra", "ultra", ()),
    ],
)
def test_a_quality_is_said_in_the_vendors_words_and_only_where_it_has_an_effect(
    model: str, asked: str, said: str | None, changes: tuple[str, ...]
) -> None:
    """glm-image makes hd alone and refuses standard; of the others only cogview-4-250304 has a choice."""
    result = fitted(model, quality=asked)

    assert (result.request.quality, result.changes) == (said, changes)


@pytest.mark.parametrize("watermark", [True, False])
def test_a_watermark_is_asked_for_under_either_name(watermark: bool) -> None:  # noqa: FBT001, the value under test
    """`watermark` is what other vendors call it."""
    asks = [
        told(fitted(extra={"watermark": watermark})),
        told(fitted(extra={"watermark_enabled": watermark})),
        told(fitted(extra={"watermark": watermark, "watermark_enabled": watermark})),
    ]

    assert all(ask["watermark_enabled"] is watermark and "watermark" not in ask for ask in asks)


@pytest.mark.parametrize(
    ("extra", "param"),
    [
        ({"watermark": True, "watermark_enabled": False}, "watermark"),
        ({"watermark": "yes"}, "watermark"),
        ({"watermark_enabled": 1}, "watermark_enabled"),
        ({"user_id": "short"}, "user_id"),
        ({"user_id": "x" * 129}, "user_id"),
        ({"user_id": 1_234_567}, "user_id"),
        ({"request_id": 7}, "request_id"),
        ({"sensitive_word_check": "ALL"}, "sensitive_word_check"),
    ],
)
def test_a_field_that_the_vendor_would_refuse_is_refused_here(extra: dict[str, Any], param: str) -> None:
    """The answer names the client's own field."""
    with pytest.raises(InvalidRequestError) as caught:
        fitted(extra=extra)

    assert caught.value.param == param


@pytest.mark.parametrize("user", ["user-7", "u" * 128, "用户用户用户"])
def test_the_user_is_told_under_the_vendors_name(user: str) -> None:
    """Six to 128 characters are a user's name as it is."""
    result = fitted(user=user)

    assert told(result)["user_id"] == user
    assert "user" not in told(result)
    assert result.changes == ()


@pytest.mark.parametrize("user", ["", "me", "u" * 129, "我们"])
def test_a_user_with_a_name_that_the_vendor_refuses_is_still_told_from_others(user: str) -> None:
    """The name is hashed, always alike, and the client learns that it was."""
    result = fitted(user=user)

    name = told(result)["user_id"]
    assert (len(name), set(name) <= set(string.hexdigits)) == (32, True)
    assert told(fitted(user=user))["user_id"] == name != told(fitted(user=user + "x"))["user_id"]
    assert result.changes == ("user: hashed",)


@pytest.mark.parametrize(("user", "changes"), [(None, ()), ("tenant-42", ()), ("another", ("user: dropped",))])
def test_the_vendors_own_name_of_the_user_wins(user: str | None, changes: tuple[str, ...]) -> None:
    """What a client says in the vendor's words is not overruled by what it says in OpenAI's."""
    result = fitted(user=user, extra={"user_id": "tenant-42"})

    assert told(result)["user_id"] == "tenant-42"
    assert result.changes == changes


@pytest.mark.parametrize("model", [*MAINLAND, "model-of-tomorrow"])
def test_one_picture_is_asked_for_at_a_time_and_no_number_is_said(model: str) -> None:
    """The vendor takes no `n` and makes one picture whatever it says, so more would be billed and never made."""
    result = fitted(model, n=4)

    assert (result.per_ask, result.request.n) == (1, 4)
    assert "n" not in told(result)


def test_what_has_no_word_at_the_vendor_is_never_said() -> None:
    """Only the vendor's own fields go out, with nothing of OpenAI's that it does not document."""
    adapter = ADAPTERS["zhipu"]

    assert {"style", "background", "moderation", "output_format", "output_compression"} <= adapter.ignores
    assert adapter.forms == ("url",)
    assert told(fitted(size="auto", quality="auto", n=2, style="vivid", response_format="b64_json")).keys() == {
        "model",
        "prompt",
    }


def test_the_catalogue_knows_every_model_and_its_price() -> None:
    """Each of the vendor's models is known, priced, and made one picture at a time."""
    assert CATALOGUE.keys() >= ROWS.keys() == RULES.keys() == {*MAINLAND}
    assert all(entry.native == 1 and entry.prices for entry in ROWS.values())
    spec = find("glm-image")
    assert spec
    assert (spec.prompt_max, spec.response_format, spec.snaps) == (1000, "url", True)


@pytest.mark.parametrize(
    ("model", "price"),
    [("glm-image", 15), ("cogview-4-250304", 10), ("cogview-4", 10), ("cogview-3-plus", 10), ("cogview-3-flash", 0)],
)
@given(asked_for=st.integers(1, 10), data=st.data())
def test_a_picture_has_one_price_whatever_its_size_and_quality(
    model: str, price: int, asked_for: int, data: st.DataObject
) -> None:
    """As many are held for as were asked for, as many are charged as came; thousandths of a dollar."""
    request = fitted(model, n=asked_for, size="auto", quality=data.draw(st.sampled_from(["hd", "low", "auto"]))).request
    made = data.draw(st.integers(1, asked_for))
    images = ImagesResponse(data=(Image(url="https://cdn.example/a.png"),) * made)

    held, cost = (
        PRICES.rate("m", model).estimate(request),
        PRICES.rate("m", model).cost(request, images, images.tokens()),
    )

    assert held
    assert (held.least * 1000, held.most * 1000) == (price * NANO, price * asked_for * NANO)
    assert (cost or 0) * 1000 == price * made * NANO


def test_pictures_can_be_fetched_for_a_month() -> None:
    """The vendor keeps them that long, so its URLs are handed on."""
    assert {ADAPTERS[name].url_life for name in ("zhipu", "zai")} == {30 * 86_400}
