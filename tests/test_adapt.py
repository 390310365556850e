"""What a channel cannot be told is dropped and said so, or refused."""

from typing import Any

import msgspec
import pytest
from msgspec import Raw
from msgspec.structs import replace

from amux_asgi.adapt import LONGEST, adapt, refuse_changes, report
from amux_asgi.adapters import ADAPTERS
from amux_asgi.adapters._base import Adapter, Fitted
from amux_asgi.errors import InvalidRequestError
from amux_asgi.routing import Candidate, Channel
from amux_asgi.schema import GenerationRequest, Json


def channel(adapter: str | Adapter = "openai-compatible", *, model: str = "m", **fields: Any) -> Candidate:
    known = adapter if isinstance(adapter, Adapter) else ADAPTERS[adapter]
    told = Channel(name="c", adapter=known, base_url="https://upstream.example/v1", models={"m": model}, **fields)
    return Candidate(told, model, "", model)


def asked(**fields: Any) -> GenerationRequest:
    extra = {name: Raw(msgspec.json.encode(value)) for name, value in fields.pop("extra", {}).items()}
    return GenerationRequest(prompt="a cat", **fields, extra=extra)


def test_a_request_that_fits_is_not_touched() -> None:
    """Nothing to change, nothing copied."""
    request = asked(quality="high", extra={"anything": {"goes": 1.50}})

    assert adapt(request, channel()).request is request
    assert adapt(request, channel()).changes == ()


def test_a_closed_dialect_is_not_sent_other_vendors_fields() -> None:
    """Another vendor's field is dropped and reported; fields that nobody declares go through."""
    adapted = adapt(asked(extra={"negative_prompt": "blur", "brand_new": 1}), channel("openai"))

    assert list(adapted.request.extra) == ["brand_new"]
    assert adapted.changes == ("negative_prompt: dropped",)


@pytest.mark.parametrize(
    ("adapter", "told", "kept", "changes"),
    [
        ("imagen", {"language": "de", "size": "1*1"}, {"language": "de"}, ("parameters.size: dropped",)),
        ("imagen", {"n": 2, "seed": 7, "brand_new": 1.50}, {"n": 2, "seed": 7, "brand_new": 1.50}, ()),
        ("dashscope", {"seed": 7, "language": "de"}, {"seed": 7}, ("parameters.language: dropped",)),
        ("imagen", "text", "text", ()),
    ],
)
def test_an_object_that_several_vendors_have_holds_only_what_each_knows(
    adapter: str, told: Json, kept: Json, changes: tuple[str, ...]
) -> None:
    """What only another vendor knows inside is dropped and reported; counts and what nobody declares stay."""
    plain = replace(ADAPTERS[adapter], fit=None)

    adapted = adapt(asked(extra={"parameters": told}), channel(plain))

    assert msgspec.json.decode(adapted.request.extra["parameters"]) == kept
    assert adapted.changes == changes


def test_a_vendors_own_fields_reach_it_whatever_the_channel_does_with_unknown_ones() -> None:
    """What the adapter declares is known."""
    adapted = adapt(asked(extra={"seed": 7, "brand_new": 1}), channel("sglang", unknown_fields="drop"))

    assert list(adapted.request.extra) == ["seed"]
    assert adapted.changes == ("brand_new: dropped",)


def test_a_channel_may_reject_unknown_fields() -> None:
    """With `unknown_fields = "reject"` the client is told which field it was."""
    with pytest.raises(InvalidRequestError) as caught:
        adapt(asked(extra={"brand_new": 1}), channel(unknown_fields="reject"))

    assert (caught.value.code, caught.value.param) == ("unknown_parameter", "brand_new")


def test_fields_that_the_vendor_cannot_be_told_are_dropped_and_reported() -> None:
    """`ignores` is a promise to say so."""
    adapted = adapt(asked(quality="hd", style="vivid"), channel("qianfan"))

    assert (adapted.request.quality, adapted.request.style) == (None, None)
    assert report(adapted.changes) == "quality: dropped; style: dropped"


@pytest.mark.parametrize(
    "extra",
    [
        {"num_images": 4},
        {"batch_size": 2},
        {"sampleCount": 1},
        {"Num_Images": 4},
        {"num-images": 4},
        {"numImages": 4},
        {"sample_count": 4},
        {"number_of_images": 4},
        {"num_images_per_prompt": 4},
        {"num_outputs_per_prompt": 4},
        {"parameters": {"sample_count": 4}},
        {"Parameters": {"N": 4}},
        {"MODELID": "x"},
        {"parameters": {"n": 4}},
        {"parameters": {"sampleCount": 4}},
        {"models": ["a", "b"]},
        {"engine": "x"},
    ],
)
def test_other_names_for_count_and_model_are_refused(extra: dict[str, Any]) -> None:
    """Whatever changes how much is made, or by which model, is said in one way."""
    with pytest.raises(InvalidRequestError) as caught:
        adapt(asked(extra=extra), channel())

    assert (caught.value.code, caught.value.param) == ("unknown_parameter", next(iter(extra)))


@pytest.mark.parametrize("extra", [{"parameters": {"seed": 4}}, {"parameters": [1]}])
def test_parameters_without_a_count_are_forwarded(extra: dict[str, Any]) -> None:
    """A vendor's object goes as it came."""
    assert adapt(asked(extra=extra), channel()).changes == ()


def test_an_adapter_may_understand_a_count_of_its_own() -> None:
    """A declared alias is the adapter's to translate."""
    adapter = replace(ADAPTERS["openai-compatible"], fields=frozenset({"batch_size"}))

    adapted = adapt(asked(extra={"batch_size": 2}), channel(adapter))

    assert list(adapted.request.extra) == ["batch_size"]


def test_the_only_form_is_not_asked_for() -> None:
    """A model that always answers base64 is not told so: it would refuse the field."""
    adapted = adapt(asked(response_format="b64_json"), channel("openai", model="gpt-image-2"))

    assert adapted.request.response_format is None
    assert adapted.changes == ()


@pytest.mark.parametrize(
    ("adapter", "model", "forms"),
    [
        ("openai", "gpt-image-2", ("b64_json",)),
        ("openai", "dall-e-3", ("b64_json", "url")),
        ("qianfan", "qwen-image", ("url",)),
        ("sglang", "x", ("b64_json",)),
    ],
)
def test_a_form_that_the_upstream_has_not_is_not_asked_for(adapter: str, model: str, forms: tuple[str, ...]) -> None:
    """Delivery makes one form of the other, so nothing is dropped."""
    candidate = channel(adapter, model=model)

    for form in ("b64_json", "url"):
        adapted = adapt(asked(response_format=form), candidate)
        assert adapted.request.response_format == (form if len(forms) > 1 else None)
        assert adapted.changes == ()
    assert candidate.forms == forms


def test_pictures_to_be_hosted_are_asked_for_as_base64() -> None:
    """Where the upstream can, that saves a fetch."""
    adapted = adapt(asked(response_format="url"), channel("openai", model="dall-e-3", rehost=True))

    assert (adapted.request.response_format, adapted.changes) == ("b64_json", ())


def test_dalle_is_asked_for_the_form_that_the_client_wants() -> None:
    """Where both forms exist upstream, the choice is passed on."""
    adapted = adapt(asked(response_format="b64_json"), channel("openai", model="dall-e-3"))

    assert adapted.request.response_format == "b64_json"


def test_a_stream_is_asked_for_where_the_model_has_one() -> None:
    """With the previews that are wanted; the form is the upstream's."""
    adapted = adapt(asked(stream=True, partial_images=2), channel())

    assert (adapted.request.stream, adapted.request.partial_images) == (True, 2)
    assert adapted.request.response_format is None
    assert adapted.changes == ()


def test_where_a_model_has_no_stream_pictures_are_asked_for_in_a_streams_form() -> None:
    """We tell of each when it is there; that previews will not come is reported."""
    adapted = adapt(asked(stream=True, partial_images=2), channel("recraft"))

    assert (adapted.request.stream, adapted.request.partial_images) == (None, None)
    assert adapted.request.response_format == "b64_json"
    assert adapted.changes == ("partial_images: dropped",)


def test_previews_without_a_stream_are_not_paid_for() -> None:
    """Partial images cost tokens, and only a stream shows them."""
    adapted = adapt(asked(partial_images=2), channel())

    assert adapted.request.partial_images is None
    assert adapted.changes == ("partial_images: dropped",)


def test_more_pictures_than_the_vendor_makes_at_once_are_several_asks() -> None:
    """The channel says how many it makes at once; the rest is asked for beside it."""
    adapted = adapt(asked(n=7), channel("recraft"))

    assert (adapted.request.n, adapted.per_ask) == (7, 6)


COUNTING = replace(
    ADAPTERS["openai-compatible"], fields=frozenset({"batch_size", "num"}), counts=frozenset({"batch_size", "num"})
)


@pytest.mark.parametrize("fields", [{"extra": {"batch_size": 3}}, {"n": 3, "extra": {"num": 3, "batch_size": 3}}])
def test_a_vendors_own_name_of_the_count_is_the_count(fields: dict[str, Any]) -> None:
    """What it costs is counted by the same number that is asked for."""
    adapted = adapt(asked(**fields), channel(COUNTING))

    assert (adapted.request.n, dict(adapted.request.extra), adapted.changes) == (3, {}, ())


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"n": 2, "extra": {"batch_size": 3}}, "batch_size", "duplicate_key"),
        ({"extra": {"batch_size": 1, "num": 3}}, "num", "duplicate_key"),
        ({"extra": {"batch_size": 11}}, "n", "integer_above_max_value"),
        ({"extra": {"batch_size": "2"}}, "n", "invalid_type"),
        ({"extra": {"batch_size": 0}}, "n", "integer_below_min_value"),
    ],
)
def test_two_counts_or_no_count_are_refused(fields: dict[str, Any], param: str, code: str) -> None:
    """Nobody pays for a number that they did not mean."""
    with pytest.raises(InvalidRequestError) as caught:
        adapt(asked(**fields), channel(COUNTING))

    assert (caught.value.param, caught.value.code) == (param, code)


def test_an_adapter_fits_the_request_to_the_vendors_model() -> None:
    """It is told the upstream's name of the model, and its changes are reported after ours."""

    def fitted(model: str, request: GenerationRequest) -> Fitted:
        return Fitted(request=replace(request, size="2K"), changes=(f"size: {model} -> 2K",), per_ask=4)

    adapter = replace(ADAPTERS["openai-compatible"], fit=fitted, ignores=frozenset({"style"}))

    adapted = adapt(asked(style="vivid"), channel(adapter))

    assert (adapted.request.size, adapted.request.style, adapted.per_ask) == ("2K", None, 4)
    assert report(adapted.changes) == "style: dropped; size: m -> 2K"


def test_strict_mode_names_the_first_change() -> None:
    """What would be dropped is refused instead."""
    with pytest.raises(InvalidRequestError) as caught:
        refuse_changes(("style: dropped", "size: 1x1 -> 2x2"))

    assert caught.value.param == "style"
    refuse_changes(())


def test_the_report_is_printable_ascii_and_bounded() -> None:
    """Any field name may stand in a header, and none can add another."""
    line = report(("é\r\nset-cookie: x: dropped", "x" * 2000 + ": dropped"))

    assert line.isascii()
    assert line.isprintable()
    assert len(line) == LONGEST
