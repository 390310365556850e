"""What a request becomes in Imagen's terms, before it is priced."""

import json
from typing import Any, Final

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from amux_asgi.adapters import ADAPTERS
from amux_asgi.adapters._base import Fitted
from amux_asgi.catalogue.imagen import RATIOS, ROWS, SIZES
from amux_asgi.errors import GatewayError, InvalidRequestError
from amux_asgi.pricing import NANO, Prices
from amux_asgi.schema import GenerationRequest, ImagesResponse, encode_response
from amux_asgi.wire import HttpRequest, HttpResponse, Target

GENERATE: Final = "imagen-4.0-generate-001"
FAST: Final = "imagen-4.0-fast-generate-001"
NAMES: Final = ("imagen", "vertex")


def fitted(adapter: str = "imagen", model: str = GENERATE, **fields: Any) -> Fitted:
    fit = ADAPTERS[adapter].fit
    assert fit is not None
    extra = {name: Raw(json.dumps(value).encode()) for name, value in fields.pop("extra", {}).items()}
    return fit(model, GenerationRequest(prompt="a cat", **fields, extra=extra))


def parameters(told: Fitted) -> dict[str, Any]:
    return msgspec.json.decode(told.request.extra["parameters"])


def asked(adapter: str, told: Fitted, model: str = GENERATE) -> HttpRequest:
    target = Target(base_url=ADAPTERS[adapter].base_url or "", model=model)
    return next(ADAPTERS[adapter].generate(target, told.request))


@pytest.mark.parametrize(
    ("size", "quality", "model", "ratio", "tier", "changes"),
    [
        (None, None, GENERATE, None, None, ()),
        ("auto", "auto", GENERATE, None, None, ()),
        ("1024x1024", "standard", GENERATE, "1:1", "1K", ()),
        ("1024x1024", "hd", GENERATE, "1:1", "2K", ("size: 1024x1024 -> 2048x2048", "quality: hd -> 2K")),
        (None, "high", FAST, None, "1K", ("quality: dropped",)),
        (None, "high", "imagen-of-tomorrow", None, "2K", ("quality: high -> 2K",)),
        ("2048x2048", "low", GENERATE, "1:1", "2K", ("quality: dropped",)),
        ("2048x2048", None, FAST, "1:1", "1K", ("size: 2048x2048 -> 1024x1024",)),
        ("2K", None, FAST, None, "1K", ("size: 2K -> 1K",)),
        ("9:16", None, GENERATE, "9:16", None, ()),
        ("21:9", "hd", GENERATE, "16:9", "2K", ("size: 21:9 -> 16:9", "quality: hd -> 2K")),
        ("1537x1537", None, GENERATE, "1:1", "2K", ("size: 1537x1537 -> 2048x2048",)),
        ("1536x1536", None, GENERATE, "1:1", "1K", ("size: 1536x1536 -> 1024x1024",)),
    ],
)
def test_sizes_and_qualities_become_a_ratio_and_a_tier(  # noqa: PLR0913, a row of a table
    *, size: str | None, quality: str | None, model: str, ratio: str | None, tier: str | None, changes: tuple[str, ...]
) -> None:
    """The nearest that the model can make; what differs from what was asked is told in pixels or as a ratio."""
    told = fitted(model=model, size=size, quality=quality)

    said = parameters(told)
    assert (said.get("aspectRatio"), said.get("sampleImageSize"), told.changes) == (ratio, tier, changes)
    assert (told.request.size, told.request.quality, told.per_ask) == (tier or "1K", None, 4)


@pytest.mark.parametrize(
    ("extra", "made"),
    [
        ({"aspect_ratio": "16:9"}, "1408x768"),
        ({"image_size": "2k"}, "2048x2048"),
        ({"parameters": {"aspectRatio": "16:9", "imageSize": "2K"}}, "2816x1536"),
        ({"aspect_ratio": "16:9", "parameters": {"aspectRatio": "16:9"}}, "1408x768"),
        ({"parameters": {"sampleImageSize": "2K", "imageSize": "2K"}}, "2048x2048"),
    ],
)
def test_the_vendors_own_words_stand_before_the_size(extra: dict[str, Any], made: str) -> None:
    """A whole `parameters` object first, then single fields, then what follows from OpenAI's."""
    told = fitted(size="1024x1024", extra=extra)

    assert told.changes == (f"size: 1024x1024 -> {made}",)
    assert SIZES[parameters(told)["aspectRatio"], parameters(told)["sampleImageSize"]] == made


@pytest.mark.parametrize(
    ("fields", "sent", "changes"),
    [
        (
            {"extra": {"aspect_ratio": "4:3", "parameters": {"aspectRatio": "16:9"}}},
            {"aspectRatio": "16:9"},
            ("aspect_ratio: dropped",),
        ),
        (
            {"extra": {"image_size": "1K", "parameters": {"imageSize": "2K"}}},
            {"sampleImageSize": "2K"},
            ("image_size: dropped",),
        ),
        (
            {"extra": {"parameters": {"sampleImageSize": "2K", "imageSize": "1K"}}},
            {"sampleImageSize": "2K"},
            ("parameters.imageSize: dropped",),
        ),
        (
            {"output_format": "png", "extra": {"parameters": {"outputOptions": {"mimeType": "image/jpeg"}}}},
            {"outputOptions": {"mimeType": "image/jpeg"}},
            ("output_format: dropped",),
        ),
    ],
)
def test_what_the_vendors_own_words_stand_before_is_told(
    fields: dict[str, Any], sent: dict[str, Any], changes: tuple[str, ...]
) -> None:
    """A field that another one outdoes is not lost silently."""
    told = fitted(**fields)

    assert parameters(told) == {"includeRaiReason": True, **sent}
    assert told.changes == changes


@pytest.mark.parametrize(
    ("extra", "param"),
    [
        ({"aspect_ratio": "3:2"}, "aspect_ratio"),
        ({"aspect_ratio": 7}, "aspect_ratio"),
        ({"image_size": "4K"}, "image_size"),
        ({"parameters": {"sampleImageSize": "512"}}, "image_size"),
        ({"parameters": [1]}, "parameters"),
        ({"parameters": "text"}, "parameters"),
        ({"parameters": {"storageUri": "gs://bucket/pictures"}}, "parameters"),
        ({"parameters": {"outputOptions": "png"}}, "parameters"),
        ({"parameters": {"sampleCount": 0}}, "n"),
        ({"parameters": {"sampleCount": "2"}}, "n"),
        ({"parameters": {"n": 2, "sampleCount": 3}}, "parameters"),
        ({"instances": [{"prompt": "a dog"}, {"prompt": "a bird"}]}, "instances"),
    ],
)
def test_what_imagen_cannot_be_asked_is_refused(extra: dict[str, Any], param: str) -> None:
    """Before anything is paid, with the field that is at fault."""
    with pytest.raises(InvalidRequestError) as caught:
        fitted(extra=extra)

    assert caught.value.param == param


def test_a_tier_that_the_model_lacks_is_refused_where_it_is_named() -> None:
    """The fast model makes one resolution."""
    with pytest.raises(InvalidRequestError, match="'1K'"):
        fitted(model=FAST, extra={"image_size": "2K"})


@pytest.mark.parametrize("extra", [{"parameters": None}, {"parameters": {}}, {"aspect_ratio": None}])
def test_null_and_nothing_say_nothing(extra: dict[str, Any]) -> None:
    """As everywhere in the protocol."""
    assert parameters(fitted(extra=extra)) == {"includeRaiReason": True}


@pytest.mark.parametrize(
    ("fields", "options", "changes"),
    [
        ({"output_format": "png"}, {"mimeType": "image/png"}, ()),
        ({"output_format": "jpeg"}, {"mimeType": "image/jpeg"}, ()),
        (
            {"output_format": "jpeg", "output_compression": 0},
            {"mimeType": "image/jpeg", "compressionQuality": 0},
            (),
        ),
        (
            {"output_format": "png", "output_compression": 50},
            {"mimeType": "image/png"},
            ("output_compression: dropped",),
        ),
        ({"output_compression": 50}, None, ("output_compression: dropped",)),
        ({"output_format": "webp"}, None, ("output_format: dropped",)),
        ({"output_format": "svg"}, None, ("output_format: dropped",)),
        (
            {"output_compression": 50, "extra": {"parameters": {"outputOptions": {"mimeType": "image/jpeg"}}}},
            {"mimeType": "image/jpeg", "compressionQuality": 50},
            (),
        ),
    ],
)
def test_the_form_of_the_file_is_honoured_where_it_can_be(
    fields: dict[str, Any], options: dict[str, Any] | None, changes: tuple[str, ...]
) -> None:
    """PNG and JPEG; the quality of a JPEG. All else is dropped and told."""
    told = fitted(**fields)

    assert (parameters(told).get("outputOptions"), told.changes) == (options, changes)
    assert (told.request.output_format, told.request.output_compression) == (None, None)


@pytest.mark.parametrize(
    ("said", "sent"),
    [
        ("ALLOW_NONE", "dont_allow"),
        ("dont_allow", "dont_allow"),
        ("ALLOW_ALL", "allow_all"),
        ("someone", "someone"),
        (7, 7),
    ],
)
def test_both_of_googles_vocabularies_name_who_may_be_shown(said: Any, sent: Any) -> None:
    """Gemini's words are understood too; unknown ones are the vendor's to judge."""
    assert parameters(fitted(extra={"person_generation": said}))["personGeneration"] == sent


@pytest.mark.parametrize(
    ("extra", "sent", "changes"),
    [
        ({"seed": 7, "watermark": False}, {"addWatermark": False, "seed": 7}, ()),
        ({"parameters": {"seed": 7, "addWatermark": False}}, {"addWatermark": False, "seed": 7}, ()),
        ({"seed": 7, "watermark": True}, {"addWatermark": True}, ("seed: dropped",)),
        ({"seed": 7}, {}, ("seed: dropped",)),
        ({"watermark": False}, {"addWatermark": False}, ()),
    ],
)
def test_vertex_takes_a_seed_without_a_watermark(
    extra: dict[str, Any], sent: dict[str, Any], changes: tuple[str, ...]
) -> None:
    """We never take a watermark away by ourselves."""
    told = fitted("vertex", extra=extra)

    body = json.loads(asked("vertex", told).body)
    assert body["parameters"] == {"includeRaiReason": True, "sampleCount": 1, **sent}
    assert told.changes == changes


def test_fields_that_nobody_knows_are_forwarded() -> None:
    """As they came, beside what Imagen is asked."""
    told = fitted("vertex", extra={"labels": {"team": "a"}, "parameters": {"new": [1.50, 2**70]}})

    body = asked("vertex", told).body
    assert json.loads(body)["labels"] == {"team": "a"}
    assert b'"new":[1.5, 1180591620717411303424]' in body


def test_gemini_on_vertex_counts_by_parameters_too() -> None:
    """A count is never lost with the object that it stands in."""
    told = fitted("vertex", "gemini-3-pro-image", extra={"parameters": {"sampleCount": 3}, "prominent_people": None})

    assert (told.request.n, told.changes, told.per_ask) == (3, ("parameters: dropped",), 1)
    assert told.request.extra.keys().isdisjoint({"parameters", "prominent_people"})


def test_gemini_on_vertex_takes_its_own_options_first() -> None:
    """What the client says of the file in Gemini's words stands before OpenAI's fields."""
    told = fitted(
        "vertex",
        "gemini-3-pro-image",
        output_format="png",
        output_compression=30,
        extra={"image_output_options": {"mimeType": "image/jpeg"}, "guidance_scale": 3},
    )

    config = json.loads(asked("vertex", told, "gemini-3-pro-image").body)["generationConfig"]["imageConfig"]
    assert config == {"imageSize": "1K", "imageOutputOptions": {"mimeType": "image/jpeg", "compressionQuality": 30}}
    assert told.changes == ("guidance_scale: dropped", "output_format: dropped")


@pytest.mark.parametrize(("model", "cents"), [(GENERATE, 4), (FAST, 2), ("imagen-4.0-ultra-generate-001", 6)])
def test_a_picture_has_one_price(model: str, cents: int) -> None:
    """Per picture that came, whatever its size."""
    told = fitted(model=model, n=3, size="2048x2048").request
    made = ImagesResponse(data=tuple(_pictures(2)))

    estimate = Prices().rate(model, model).estimate(told)

    assert estimate is not None
    assert (estimate.least, estimate.most) == (cents * NANO // 100, 3 * cents * NANO // 100)
    assert Prices().rate(model, model).cost(told, made, made.tokens()) == 2 * cents * NANO // 100


def _pictures(count: int) -> Any:
    flow = ADAPTERS["imagen"].generate(Target(base_url="https://u.example", model="m"), GenerationRequest(prompt="a"))
    next(flow)
    body = json.dumps({"predictions": [{"bytesBase64Encoded": "aGVsbG8="}] * count}).encode()
    try:
        flow.send(HttpResponse(status=200, body=body))
    except StopIteration as stop:
        return stop.value.data


@pytest.mark.parametrize("body", [b'{"predictions":[{"bytesBase64Encoded":"\xff\xfe"}]}'])
def test_bytes_that_are_no_text_are_no_picture(body: bytes) -> None:
    """A picture is handed on undecoded, so this is looked at before."""
    flow = ADAPTERS["imagen"].generate(Target(base_url="https://u.example", model="m"), GenerationRequest(prompt="a"))
    next(flow)

    with pytest.raises(GatewayError) as caught:
        flow.send(HttpResponse(status=200, body=body))

    assert caught.value.code == "upstream_bad_response"


def test_a_prompt_in_any_script_may_be_said_again() -> None:
    """An answer that is text, but not ASCII, is good."""
    flow = ADAPTERS["imagen"].generate(Target(base_url="https://u.example", model="m"), GenerationRequest(prompt="a"))
    next(flow)
    body = '{"predictions":[{"bytesBase64Encoded":"aGVsbG8=","prompt":"灯笼"}]}'.encode()

    with pytest.raises(StopIteration) as caught:
        flow.send(HttpResponse(status=200, body=body))

    assert caught.value.value.data[0].revised_prompt == "灯笼"


JSON_VALUES: Final = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**80), 2**80)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


@pytest.mark.parametrize("adapter", NAMES)
@given(
    model=st.sampled_from([*ROWS, "gemini-3-pro-image", "imagen-x"]),
    size=st.none() | st.sampled_from(["auto", "2K", "1K", *RATIOS]) | st.from_regex(r"[0-9]{1,5}[x:][0-9]{1,5}"),
    quality=st.none() | st.sampled_from(["auto", "low", "medium", "high", "standard", "hd", "xhigh"]),
    output_format=st.none() | st.sampled_from(["png", "jpeg", "webp", "gif"]),
    compression=st.none() | st.integers(0, 100),
    n=st.none() | st.integers(1, 10),
    extra=st.dictionaries(
        st.sampled_from(sorted(ADAPTERS["vertex"].fields | {"labels", "sampleImageSize"})),
        JSON_VALUES
        | st.dictionaries(
            st.sampled_from(["sampleCount", "n", "seed", "addWatermark", "outputOptions", "aspectRatio", "imageSize"]),
            JSON_VALUES,
            max_size=4,
        ),
        max_size=4,
    ),
)
def test_any_request_is_fitted_or_refused(  # noqa: PLR0913, the fields of a request
    *,
    adapter: str,
    model: str,
    size: str | None,
    quality: str | None,
    output_format: str | None,
    compression: int | None,
    n: int | None,
    extra: dict[str, Any],
) -> None:
    """Whatever a client says ends in an ask with the right count, or in a 400; it is never asked for more."""
    try:
        told = fitted(
            adapter,
            model,
            size=size,
            quality=quality,
            output_format=output_format,
            output_compression=compression,
            n=n,
            extra=extra,
        )
    except InvalidRequestError as error:
        assert error.param
        return

    assert n in (None, told.request.n)
    body = json.loads(asked(adapter, told, model).body)
    if "parameters" in body:
        assert body["parameters"]["sampleCount"] == (told.request.n or 1)
    assert all(change.isprintable() for change in told.changes)


@given(
    predictions=st.lists(
        st.dictionaries(
            st.sampled_from(["bytesBase64Encoded", "prompt", "raiFilteredReason", "mimeType", "gcsUri"]),
            JSON_VALUES | st.just("aGVsbG8="),
        )
        | JSON_VALUES,
        max_size=4,
    ),
    offset=st.integers(0, 8),
    seed=JSON_VALUES,
)
def test_any_predictions_end_in_pictures_or_an_error_of_ours(predictions: list[Any], offset: int, seed: Any) -> None:
    """Whatever stands in the answer."""
    request = GenerationRequest(prompt="a cat", extra={"seed": Raw(json.dumps(seed).encode())})
    flow = ADAPTERS["imagen"].generate(Target(base_url="https://u.example", model="m", offset=offset), request)
    next(flow)

    try:
        flow.send(HttpResponse(status=200, body=json.dumps({"predictions": predictions}).encode()))
    except StopIteration as stop:
        assert stop.value.data
        assert encode_response(stop.value)
    except GatewayError as error:
        assert error.end is not None
