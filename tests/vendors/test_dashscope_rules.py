"""How a request is fitted to a DashScope model, and what the vendor's codes and answers mean."""

import json
import re
from typing import Any, Final

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from amux_asgi.adapters._base import Fitted
from amux_asgi.adapters.dashscope import DASHSCOPE, Options, Route, generate
from amux_asgi.adapters.dashscope_faults import refused, told
from amux_asgi.adapters.dashscope_orders import order
from amux_asgi.adapters.dashscope_rules import FIELDS, fit
from amux_asgi.adapters.dashscope_sizes import legal
from amux_asgi.catalogue.dashscope import FAMILIES, ROWS, RULES, rules_of
from amux_asgi.errors import End, GatewayError, InvalidRequestError
from amux_asgi.faults import Fault
from amux_asgi.models import find
from amux_asgi.pricing import Prices
from amux_asgi.schema import GenerationRequest, Image, ImagesResponse, encode_response
from amux_asgi.wire import DeadlineError, HttpResponse, Target
from tests.vendors.dashscope_rules import MODELS

PRICES: Final = Prices()
KNOWN: Final = sorted(MODELS.keys() & RULES.keys())
OLD: Final = "wan2.5-t2i-preview"
OPENAI_SIZES: Final = ("1024x1024", "1536x1024", "1024x1536", "1792x1024", "1024x1792")


def raw(value: Any) -> Raw:
    return Raw(msgspec.json.encode(value))


def fitted(model: str, extra: dict[str, Any] | None = None, **fields: Any) -> Fitted:
    told = {name: raw(value) for name, value in (extra or {}).items()}
    return fit(model, GenerationRequest(prompt="a cat", extra=told, **fields))


def values(result: Fitted) -> dict[str, Any]:
    return {name: msgspec.json.decode(value) for name, value in result.request.extra.items()}


def refusal(model: str, extra: dict[str, Any], **fields: Any) -> tuple[str | None, str]:
    with pytest.raises(InvalidRequestError) as caught:
        fitted(model, extra, **fields)
    assert caught.value.message
    return caught.value.param, caught.value.code


@pytest.mark.parametrize(
    ("model", "sizes"),
    [
        ("qwen-image-max", ("1328x1328", "1472x1104", "1104x1472", "1664x928", "928x1664")),
        ("qwen-image-plus", ("1328x1328", "1472x1104", "1104x1472", "1664x928", "928x1664")),
        ("wan2.6-t2i", ("1280x1280", "1568x1056", "1056x1568", "1696x960", "960x1696")),
        ("wan2.5-t2i-preview", ("1280x1280", "1568x1056", "1056x1568", "1696x960", "960x1696")),
        ("wan2.2-t2i-plus", ("1024x1024", "1248x832", "832x1248", "1280x720", "720x1280")),
        ("qwen-image-3.0", OPENAI_SIZES),
        ("qwen-image-2.0-pro", OPENAI_SIZES),
        ("z-image-turbo", OPENAI_SIZES),
        ("wan2.7-image", OPENAI_SIZES),
    ],
)
def test_openais_sizes_become_those_of_the_vendors_table(model: str, sizes: tuple[str, ...]) -> None:
    """Each of the five has a place in every model."""
    assert tuple(fitted(model, size=size).request.size for size in OPENAI_SIZES) == sizes


@pytest.mark.parametrize(
    ("model", "asked", "size"),
    [
        ("wan2.6-t2i", "1696x960", "1696x960"),  # recommended, though below the least
        ("wan2.6-t2i", "1440x1440", "1440x1440"),
        ("wan2.6-t2i", "256x256", "1280x1280"),
        ("wan2.6-t2i", "3000x500", "2880x720"),
        ("wan2.2-t2i-flash", "3000x1000", "1440x512"),
        ("wan2.2-t2i-flash", "512x512", "512x512"),
        ("qwen-image-2.0", "256x256", "512x512"),
        ("qwen-image-2.0", "4096x4096", "2048x2048"),
        ("qwen-image-2.0", "2K", "2048x2048"),
        ("qwen-image-3.0", "100x1449", "182x1449"),
        ("wan2.7-image", "256x512", "544x1087"),
        ("wan2.7-image", "1k", "1K"),
        ("wan2.7-image", "4K", "2K"),
        ("wan2.7-image-pro", "4K", "4K"),
        ("qwen-image-max", "1024*768", "1472x1104"),
        ("some-later-model", "123x45", "123x45"),
    ],
)
def test_other_sizes_become_the_nearest_that_is_made(model: str, asked: str, size: str) -> None:
    """By the model's own bounds, with the shape kept as far as they allow."""
    assert fitted(model, size=asked).request.size == size


@pytest.mark.parametrize("size", ["0x0", "-1x5", "1024×1024", "big", "16:9", "1024x", "9999999x1", ""])  # noqa: RUF001
@pytest.mark.parametrize("model", ["qwen-image-max", "wan2.7-image", "some-later-model"])
def test_what_is_no_size_is_refused(model: str, size: str) -> None:
    """It names the field."""
    assert refusal(model, {}, size=size) == ("size", "invalid_value")


@given(
    model=st.sampled_from(sorted(MODELS.keys() & RULES.keys())),
    width=st.integers(1, 999_999),
    height=st.integers(1, 999_999),
)
def test_every_size_becomes_one_that_the_vendor_accepts(model: str, width: int, height: int) -> None:
    """Whatever the edges, the result is inside the vendor's rules, and legal sizes stay as they are."""
    size = legal(f"{width}*{height}", rules_of(model).sizes)
    made = [int(edge) for edge in size.split("x")]

    assert MODELS[model].sizes(*made)
    if MODELS[model].sizes(width, height) and max(width, height) <= 8 * min(width, height):
        assert made == [width, height]


def test_the_vendors_own_spelling_of_a_size_is_taken_as_it_is() -> None:
    """`1792*1024` is a size that Wan makes; only OpenAI's 1792x1024 stands for a recommended one."""
    assert fitted("wan2.6-t2i", {"parameters": {"size": "1792*1024"}}).request.size == "1792x1024"
    assert fitted("wan2.6-t2i", {"parameters": {"size": "1792*1024"}}).changes == ()
    assert fitted("wan2.6-t2i", {"parameters": {"size": "auto"}}).request.size is None
    assert fitted("wan2.6-t2i", {"parameters": {"size": "1440*1440"}}, size="auto").request.size == "1440x1440"


def test_count_and_size_in_parameters_are_count_and_size() -> None:
    """They are taken before anything is priced."""
    result = fitted("wan2.6-t2i", {"parameters": {"n": 3, "size": "1280*1280"}})

    assert (result.request.n, result.request.size, values(result), result.changes) == (3, "1280x1280", {}, ())
    assert fitted("wan2.6-t2i", {"parameters": {"n": 3, "size": "1280*1280"}}, n=3, size="1280x1280").request.n == 3


@pytest.mark.parametrize(
    ("extra", "fields", "fault"),
    [
        ({"parameters": {"n": 2}}, {"n": 3}, ("n", "duplicate_key")),
        ({"parameters": {"size": "1*1"}}, {"size": "2x2"}, ("size", "duplicate_key")),
        ({"parameters": {"n": 11}}, {}, ("n", "invalid_value")),
        ({"parameters": {"n": 0}}, {}, ("n", "invalid_value")),
        ({"parameters": {"n": True}}, {}, ("n", "invalid_type")),
        ({"parameters": {"n": "2"}}, {}, ("n", "invalid_type")),
        ({"parameters": {"size": 1}}, {}, ("size", "invalid_type")),
        ({"parameters": {"N": 2}}, {}, ("N", "unknown_parameter")),
        ({"parameters": {"num_images": 2}}, {}, ("num_images", "unknown_parameter")),
        ({"parameters": {"max_images": 2}}, {}, ("max_images", "unknown_parameter")),
        ({"parameters": {"enable_interleave": True}}, {}, ("enable_interleave", "unknown_parameter")),
        ({"enable_interleave": True}, {}, ("enable_interleave", "unknown_parameter")),
        ({"input": {"n": 2}}, {}, ("n", "unknown_parameter")),
        ({"parameters": []}, {}, ("parameters", "invalid_type")),
        ({"input": "a dog"}, {}, ("input", "invalid_type")),
        ({"input": {"prompt": 1}}, {}, ("input", "invalid_type")),
        ({"seed": -1}, {}, ("seed", "invalid_value")),
        ({"seed": 2**31}, {}, ("seed", "invalid_value")),
        ({"parameters": {"seed": 1.5}}, {}, ("seed", "invalid_type")),
        ({"watermark": "yes"}, {}, ("watermark", "invalid_type")),
        ({"negative_prompt": ["blur"]}, {}, ("negative_prompt", "invalid_type")),
        ({"negative_prompt": "x" * 501}, {}, ("negative_prompt", "invalid_value")),
        ({"input": {"negative_prompt": "x" * 501}}, {}, ("negative_prompt", "invalid_value")),
        ({"color_palette": {}}, {}, ("color_palette", "invalid_type")),
    ],
)
def test_what_contradicts_itself_or_cannot_be_is_refused(
    extra: dict[str, Any], fields: dict[str, Any], fault: tuple[str, str]
) -> None:
    """Nothing that is paid by number hides in the vendor's own objects."""
    assert refusal("wan2.6-t2i", extra, **fields) == fault


@pytest.mark.parametrize(
    ("model", "takes"),
    [
        ("qwen-image-3.0", "enable_thinking negative_prompt prompt_extend prompt_extend_mode seed watermark"),
        ("qwen-image-2.0", "negative_prompt prompt_extend seed watermark"),
        ("z-image-turbo", "prompt_extend seed"),
        ("wan2.7-image", "bbox_list color_palette enable_sequential seed thinking_mode watermark"),
        ("wan2.2-t2i-flash", "negative_prompt prompt_extend seed watermark"),
        ("some-later-model", " ".join(FIELDS)),
    ],
)
def test_what_a_model_does_not_take_is_dropped_and_reported(model: str, takes: str) -> None:
    """Also out of `parameters`, which is no way around."""
    said: dict[str, Any] = {
        "bbox_list": [],
        "color_palette": [],
        "enable_sequential": False,
        "enable_thinking": False,
        "negative_prompt": "blur",
        "prompt_extend": False,
        "prompt_extend_mode": "direct",
        "seed": 0,
        "thinking_mode": False,
        "watermark": False,
    }
    assert said.keys() == FIELDS.keys()
    extras: tuple[dict[str, Any], ...] = (said, {"parameters": said})
    for extra in extras:
        result = fitted(model, extra)

        assert set(values(result)) == set(takes.split())
        assert {change.removesuffix(": dropped") for change in result.changes} == said.keys() - takes.split()


def test_the_vendors_objects_stand_above_the_rest() -> None:
    """What is said there replaces what is said elsewhere, and that is reported; the rest of them stays."""
    result = fitted(
        "qwen-image-2.0",
        {
            "seed": 1,
            "watermark": True,
            "prompt_extend": None,
            "parameters": {"seed": 2, "watermark": True, "negative_prompt": None, "later": {"a": [1]}},
            "input": {"negative_prompt": "blur", "prompt": "a dog", "ref": 1},
        },
    )

    assert values(result) == {
        "seed": 2,
        "watermark": True,
        "negative_prompt": "blur",
        "parameters": {"later": {"a": [1]}},
        "input": {"ref": 1},
    }
    assert result.request.prompt == "a dog"
    assert result.changes == ("seed: 1 -> 2", "prompt: dropped")
    assert fitted("qwen-image-2.0", {"input": {"messages": []}}).changes == ("prompt: dropped",)
    assert fitted("qwen-image-2.0", {"input": None, "parameters": None}).changes == ()


@pytest.mark.parametrize(
    ("model", "extra", "most"),
    [
        ("qwen-image-3.0", {}, 6),
        ("qwen-image-max", {}, 1),
        ("wan2.7-image", {}, 4),
        ("wan2.7-image", {"enable_sequential": False}, 4),
        ("wan2.7-image", {"parameters": {"enable_sequential": True}}, 12),
        ("wan2.6-t2i", {"enable_sequential": True}, 4),
        ("some-later-model", {}, 1),
    ],
)
def test_a_model_is_asked_for_as_many_as_it_makes_at_once(model: str, extra: dict[str, Any], most: int) -> None:
    """More are asked for side by side."""
    assert fitted(model, extra).per_ask == most


@pytest.mark.parametrize(
    ("model", "extra", "fields", "price"),
    [
        ("z-image-turbo", {}, {}, (15, 15)),
        ("z-image-turbo", {"prompt_extend": False}, {"n": 2}, (15, 30)),
        ("z-image-turbo", {"prompt_extend": True}, {"n": 2}, (30, 60)),
        ("z-image-turbo", {"parameters": {"prompt_extend": True}}, {"quality": "standard"}, (30, 30)),
        ("qwen-image-3.0-pro", {}, {"size": "1792x1024"}, (40, 40)),
        ("qwen-image-3.0-pro", {}, {"size": "2048x2048"}, (80, 80)),
        ("qwen-image-3.0-pro", {}, {}, (40, 80)),  # the model decides
        ("qwen-image-3.0", {}, {"size": "2048x2048"}, (30, 30)),
        ("qwen-image-max", {}, {"size": "1024x1024", "quality": "hd", "n": 10}, (75, 750)),
        ("wan2.7-image-pro", {}, {"quality": "high"}, (75, 75)),
        ("wan2.6-t2i", {"parameters": {"n": 4}}, {}, (30, 120)),
    ],
)
def test_what_changes_the_price_is_known_before_it_is_held(
    model: str, extra: dict[str, Any], fields: dict[str, Any], price: tuple[int, int]
) -> None:
    """The least for one picture and the most for all, in tenths of a cent."""
    cost = PRICES.rate(model, model).estimate(fitted(model, extra, **fields).request)

    assert cost is not None
    assert (cost.least, cost.most) == (price[0] * 1_000_000, price[1] * 1_000_000)


@given(
    model=st.sampled_from(sorted(ROWS)),
    fields=st.fixed_dictionaries(
        {
            "n": st.none() | st.integers(1, 10),
            "size": st.sampled_from([None, "auto", "1K", "2K", "1024x1024", "2000x2000", "1x1"]),
            "quality": st.sampled_from([None, "auto", "low", "high", "hd", "standard", "extended", "1K"]),
        }
    ),
    extra=st.fixed_dictionaries({"prompt_extend": st.sampled_from([None, True, False])}),
    data=st.data(),
)
def test_what_it_did_cost_is_between_the_least_and_the_most(
    model: str, fields: dict[str, Any], extra: dict[str, Any], data: st.DataObject
) -> None:
    """Whatever was asked for, and however many of the pictures came."""
    request = fitted(model, extra, **fields).request
    came = data.draw(st.integers(1, request.n or 1))
    images = ImagesResponse(data=(Image(url="https://oss.example/a.png"),) * came)

    cost, bounds = (
        PRICES.rate(model, model).cost(request, images, images.tokens()),
        PRICES.rate(model, model).estimate(request),
    )

    assert cost is not None
    assert bounds is not None
    assert 0 < bounds.least <= cost <= bounds.most
    assert cost % came == 0


def test_every_model_is_in_the_catalogue_with_a_price() -> None:
    """Sizes, resolutions and prices can be told of each, and all of them answer with URLs."""
    assert RULES.keys() == ROWS.keys()
    for name, row in ROWS.items():
        spec = find(name)
        assert spec is row.spec
        assert row.prices is not None
        assert row.native == rules_of(name).most
        assert (row.spec.response_format, row.spec.snaps) == ("url", True)
        assert bool(row.spec.sizes) != bool(row.spec.pixels)


@pytest.mark.parametrize("prefix", [prefix for prefix, _ in FAMILIES])
def test_a_later_model_of_a_family_is_asked_as_its_family(prefix: str) -> None:
    """A dated id that nobody wrote down has the rules of its name."""
    assert rules_of(f"{prefix}-2027-01-01") is dict(FAMILIES)[prefix]


@pytest.mark.parametrize(
    ("status", "code", "verdict"),
    [
        (400, "InvalidParameter", "400 invalid_value final"),
        (400, "InternalError.Algo.InvalidParameter", "400 invalid_value final"),
        (400, "InvalidURL", "400 invalid_value final"),
        (400, "BadRequest.EmptyInput", "400 invalid_value final"),
        (400, "BadRequest.EmptyParameters", "400 invalid_value final"),
        (400, "BadRequest.EmptyModel", "400 invalid_value final"),
        (400, "BadRequest.IllegalInput", "400 invalid_value final"),
        (400, "BadRequest.TooLarge", "400 invalid_value final"),
        (400, "BadRequest.InputDownloadFailed", "400 invalid_value final"),
        (400, "UnsupportedOperation", "400 invalid_value final"),
        (400, "InvalidParameter.DataInspection", "400 invalid_value final"),
        (400, "InvalidParameter.Something.New", "400 invalid_value final"),
        (400, "invalid_parameter", "400 invalid_value final"),
        (400, "DataInspectionFailed", "403 moderation_blocked final"),
        (400, "data_inspection_failed", "403 moderation_blocked final"),
        (400, "IPInfringementSuspect", "403 moderation_blocked final"),
        (400, "FaqRuleBlocked", "403 moderation_blocked final"),
        (400, "CustomRoleBlocked", "403 moderation_blocked final"),
        (400, "Arrearage", "503 upstream_unavailable refused"),
        (400, "Throttling.AllocationQuota", "503 upstream_unavailable refused"),
        (400, "insufficient_quota", "503 upstream_unavailable refused"),
        (429, "Throttling.AllocationQuota", "429 rate_limit_exceeded refused"),
        (429, "insufficient_quota", "429 rate_limit_exceeded refused"),
        (401, "InvalidApiKey", "502 upstream_auth_failed refused"),
        (401, "invalid_api_key", "502 upstream_auth_failed refused"),
        (401, "NOT AUTHORIZED", "502 upstream_auth_failed refused"),
        (401, "invalid access token", "502 upstream_auth_failed refused"),
        (403, "AccessDenied", "502 upstream_error unknown"),
        (403, "access_denied", "502 upstream_error unknown"),
        (403, "AccessDenied.Unpurchased", "502 upstream_auth_failed refused"),
        (403, "Model.AccessDenied", "502 upstream_auth_failed refused"),
        (403, "App.AccessDenied", "502 upstream_auth_failed refused"),
        (403, "Workspace.AccessDenied", "502 upstream_auth_failed refused"),
        (403, "AllocationQuota.FreeTierOnly", "503 upstream_unavailable refused"),
        (404, "ModelNotFound", "404 model_not_found refused"),
        (404, "model_not_found", "404 model_not_found refused"),
        (404, "model_not_supported", "404 model_not_found refused"),
        (404, "WorkSpaceNotFound", "502 upstream_error unknown"),
        (404, "NotFound", "502 upstream_error unknown"),
        (429, "Throttling", "429 rate_limit_exceeded refused"),
        (429, "Throttling.RateQuota", "429 rate_limit_exceeded refused"),
        (429, "Throttling.BurstRate", "429 rate_limit_exceeded refused"),
        (429, "LimitRequests", "429 rate_limit_exceeded refused"),
        (429, "limit_requests", "429 rate_limit_exceeded refused"),
        (429, "limit_burst_rate", "429 rate_limit_exceeded refused"),
        (429, "CommodityNotPurchased", "503 upstream_unavailable refused"),
        (429, "PrepaidBillOverdue", "503 upstream_unavailable refused"),
        (429, "PostpaidBillOverdue", "503 upstream_unavailable refused"),
        (500, "InternalError", "502 upstream_error refused"),
        (500, "InternalError.Algo", "502 upstream_error refused"),
        (500, "InternalError.Upload", "502 upstream_error refused"),
        (500, "InternalError.FileUpload", "502 upstream_error refused"),
        (500, "SystemError", "502 upstream_error refused"),
        (500, "ModelServiceFailed", "502 upstream_error refused"),
        (500, "RewriteFailed", "502 upstream_error refused"),
        (500, "InternalError.Timeout", "504 upstream_timeout unknown"),
        (500, "RequestTimeOut", "504 upstream_timeout unknown"),
        (500, "ModelServingError", "503 upstream_unavailable refused"),
        (503, "ModelUnavailable", "503 upstream_unavailable refused"),
        (500, "NeverHeardOf", "502 upstream_error refused"),
        (429, "NeverHeardOf", "429 rate_limit_exceeded refused"),
    ],
)
def test_every_code_of_the_vendor_has_its_meaning(status: int, code: str, verdict: str) -> None:
    """In both spellings, with what may follow: the client's status and code, and what another attempt may do."""
    error = refused(status, Fault(code=code, message="words"))

    assert error.end is not None
    assert f"{error.status} {error.code} {error.end.value}" == verdict
    assert error.upstream_code == code


def test_words_in_a_message_decide_nothing() -> None:
    """Only one whole message is known, of a model that is not there; part of it means nothing."""
    assert refused(400, Fault(code="InvalidParameter", message="Model not exist.")).status == 404
    assert refused(400, Fault(code="InvalidParameter", message="Model not exist. Sorry")).status == 400
    assert refused(429, Fault(code="Throttling.AllocationQuota", message="tokens per minute, your plan")).status == 429


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        (b'{"code":"A","message":"b"}', Fault(code="A", message="b")),
        (b'{"code":7}', Fault(code="7")),
        (b'{"error":{"code":"a","message":"b"}}', Fault(code="a", message="b")),
        (b'{"code":"","error":"words"}', Fault(message="words")),
        (b'{"code":true}', None),
        (b"[]", None),
        (b"", None),
        (b'{"code":"\xff"}', None),
    ],
)
def test_the_vendors_words_are_found_in_either_envelope(body: bytes, fault: Fault | None) -> None:
    """Flat, as its own addresses write them, or as its compatible ones do."""
    assert told(body) == fault


_CODES: Final = st.sampled_from(
    [None, "", "AccessDenied", "DataInspectionFailed", "Throttling", "Model.AccessDenied", 5]
)
_WORDS: Final = st.none() | st.text(max_size=5)
_RESULTS: Final = st.lists(st.fixed_dictionaries({"url": _WORDS, "code": _CODES, "actual_prompt": _WORDS}), max_size=3)
_CONTENT: Final = st.lists(st.fixed_dictionaries({"image": _WORDS, "text": _WORDS}), max_size=3)
_CHOICES: Final = st.lists(_CONTENT.map(lambda content: {"message": {"content": content}}), max_size=3)
_OUTPUT: Final = st.fixed_dictionaries(
    {},
    optional={
        "task_id": st.sampled_from([None, "", "t-1", "../..", "\u2028 ?#"]),
        "task_status": st.sampled_from([None, "PENDING", "SUCCEEDED", "FAILED", "CANCELED", "UNKNOWN", "NEW"]),
        "code": _CODES,
        "message": _WORDS,
        "choices": st.none() | _CHOICES,
        "results": st.none() | _RESULTS,
    },
)
_ANSWER: Final = st.fixed_dictionaries({}, optional={"output": st.none() | _OUTPUT, "code": _CODES, "message": _WORDS})
_STATUS: Final = st.sampled_from([200, 200, 200, 302, 400, 403, 429, 500, 504])


@given(
    model=st.sampled_from([*sorted(ROWS), "m"]),
    route=st.sampled_from([None, "sync", "async", "async-old"]),
    extra=st.dictionaries(st.sampled_from(["negative_prompt"]), st.just("blur")),
    answers=st.lists(st.tuples(_STATUS, _ANSWER), min_size=1, max_size=12),
)
def test_any_answers_of_its_kind_end_in_pictures_or_an_error_of_ours(
    model: str, route: Route | None, extra: dict[str, str], answers: list[tuple[int, dict[str, Any]]]
) -> None:
    """Whatever it answers, the vendor is asked for pictures at most twice, and where the credential may go."""
    base = "https://upstream.example"
    request = GenerationRequest(prompt="a cat", extra={name: raw(value) for name, value in extra.items()})
    flow = generate(Target(base_url=base, model=model, options=Options(route=route)), request)
    orders = 0

    ask = next(flow)
    try:
        for status, body in answers:
            assert re.match(r"https://upstream\.example/api/v1/[!-~]+\Z", ask.url)
            orders += "/services/" in ask.url
            assert orders <= 2
            ask = flow.send(HttpResponse(status=status, body=json.dumps(body).encode()))
    except StopIteration as stop:
        assert stop.value.data
        assert encode_response(stop.value)
    except GatewayError as error:
        assert error.end is not None
        assert error.message


_JSON: Final = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-1, 12)
    | st.floats(0, 3)
    | st.sampled_from(["", "1024*1024", "auto", "\u2028"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
_INSIDE: Final = st.dictionaries(st.sampled_from([*FIELDS, "n", "size", "prompt", "messages", "N", "later"]), _JSON)
_EXTRA: Final = st.dictionaries(st.sampled_from([*FIELDS, "later", "num_images"]), _JSON)


@given(
    model=st.sampled_from([*sorted(ROWS), "m"]),
    extra=_EXTRA,
    inside=st.fixed_dictionaries({}, optional={"parameters": _INSIDE | _JSON, "input": _INSIDE | _JSON}),
    n=st.none() | st.integers(1, 10),
    route=st.sampled_from(["sync", "async", "async-old"]),
)
def test_whatever_a_client_says_is_asked_in_numbers_that_are_paid_or_refused(
    model: str, extra: dict[str, Any], inside: dict[str, Any], n: int | None, route: Route
) -> None:
    """No field of any shape changes the count behind the price, and what is asked is one JSON document."""
    try:
        result = fitted(model, extra | inside, n=n)
    except InvalidRequestError as error:
        assert error.param
        return

    body = json.loads(msgspec.json.encode(order(Target(base_url="", model=model), result.request, route)))

    assert body.keys() == {"model", "input", "parameters"}
    said = body["parameters"].get("n")
    assert said == (result.request.n or 1 if rules_of(model).says_n else None)
    parameters: dict[str, Any] = inside.get("parameters") or {}
    assert result.request.n == (n or parameters.get("n"))


def test_urls_live_a_day() -> None:
    """Longer than the hour that a client is promised, so they need not be hosted anew."""
    assert DASHSCOPE.url_life == 24 * 3600
    assert DASHSCOPE.forms == ("url",)


@pytest.mark.parametrize(
    ("said", "end"), [({}, End.REFUSED), ({"code": "UnsupportedOperation", "message": "it runs"}, End.UNKNOWN)]
)
def test_a_task_is_called_off_only_if_the_vendor_says_so(said: dict[str, str], end: End) -> None:
    """An error with status 200 is one here, too: another channel would be paid for the same picture."""
    flow = generate(Target(base_url=DASHSCOPE.base_url or "", model=OLD), GenerationRequest(prompt="a cat"))
    late = DeadlineError("too late")
    next(flow)
    flow.send(HttpResponse(status=200, body=b'{"output":{"task_id":"t","task_status":"PENDING"}}'))

    assert flow.throw(late).url.endswith("/tasks/t/cancel")
    with pytest.raises(DeadlineError):
        flow.send(HttpResponse(status=200, body=msgspec.json.encode({"request_id": "r", **said})))

    assert late.end is end
