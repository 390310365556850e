"""Azure OpenAI: the running gateway between the real SDKs and a resource that keeps Azure's rules."""

from collections.abc import Iterator
from typing import Any, Final

import msgspec
import pytest
from msgspec import Struct

from amux_asgi import ChannelConfig, KeyConfig, ModelConfig, images_app
from amux_asgi.adapters.azure import AZURE, DEPLOYMENT, Options, fit, sign, widened
from amux_asgi.catalogue.openai import DALLE_3, GPT_IMAGE_2
from amux_asgi.schema import GenerationRequest
from amux_asgi.wire import HttpRequest
from tests.serve import serve
from tests.vendors.emulate_azure import ENTRA, FAULTS, KEY, SAFE, Azure
from tests.vendors.sdks import Answer, Case, case, node_answers, python_answers
from tests.vendors.staged import STAGED

OURS: Final = "azure-tests-key-0123456789"
DEPLOYMENTS: Final = {"gpt-image-2": "Pictures.EU-2", "dall-e-3": "Old.Dalle"}
MODELS: Final = ("gpt-image-1", "gpt-image-2", "dall-e-3")
GPT: Final = ("gpt-image-1", "gpt-image-2")
ROUTES: Final = ("v1", "older")
SIZES: Final[dict[str, tuple[str, ...]]] = {
    "gpt-image-1": ("1024x1024", "1024x1536", "1536x1024", "auto"),
    "gpt-image-2": ("1024x1024", "2048x1152", "3840x2160", "auto"),
    "dall-e-3": ("1024x1024", "1792x1024", "1024x1792"),
}
QUALITIES: Final = {
    "gpt": {"low": "low", "medium": "medium", "high": "high", "auto": "auto", "hd": "high", "standard": "medium"},
    "dalle": {"hd": "hd", "standard": "standard", "high": "hd", "medium": "standard", "low": "standard", "auto": None},
}
"""What a client says, and what Azure is told."""

OUTCOMES: Final[dict[str, tuple[int, str, str | None]]] = {
    "short block": (403, "content_policy_violation", None),
    "detailed block": (403, "content_policy_violation", None),
    "chat block": (403, "content_policy_violation", None),
    "moderation": (403, "moderation_blocked", None),
    "deep block": (403, "content_policy_violation", None),
    "bad request": (400, "invalid_value", None),
    "unauthorized": (502, "upstream_auth_failed", None),
    "forbidden": (502, "upstream_auth_failed", None),
    "timeout": (504, "upstream_timeout", None),
    "rate": (429, "rate_limit_exceeded", "7"),
    "rate ms": (429, "rate_limit_exceeded", "3"),
    "quota": (503, "upstream_unavailable", None),
    "server": (502, "upstream_error", None),
    "gateway": (502, "upstream_error", None),
    "busy": (503, "upstream_unavailable", "9"),
    "late": (504, "upstream_timeout", None),
}


def family(model: str) -> str:
    return "dalle" if model == "dall-e-3" else "gpt"


def name_of(*parts: object) -> str:
    return " ".join(map(str, parts))


def matrix(route: str) -> Iterator[Case]:
    """Name every case by what is asked for; its prompt is its name, so that the asks it led to can be found."""
    for model in MODELS:
        for what, params in asked(model):
            name = name_of(route, model, what)
            yield case(name, model=f"{route}/{model}", prompt=name, **params)
    for fault in OUTCOMES:
        name = name_of(route, "fault", fault)
        yield case(name, model=f"{route}/gpt-image-2", prompt=f"{name} [[{fault}]]")


def asked(model: str) -> Iterator[tuple[str, dict[str, Any]]]:
    yield from ((name_of("size", size), {"size": size}) for size in SIZES[model])
    yield from ((name_of("quality", quality), {"quality": quality}) for quality in QUALITIES[family(model)])
    yield from ((name_of("n", n), {"n": n, "response_format": "b64_json"}) for n in range(1, 11))
    yield "user", {"user": "u-7"}
    yield "foreign", {"watermark": True, "extra_body": {"negative_prompt": "blur", "seed": 7}}
    yield "unheard of", {"extra_body": {"brand_new": 1}}
    yield "strict", {"quality": "hd" if model in GPT else "high", "extra_headers": {"x-amux-strict": "true"}}
    yield "safety", {"safety_identifier": "s-1"} if model in GPT else {}
    if model in GPT:
        for kind in ("png", "jpeg", "webp"):
            yield name_of("format", kind), {"output_format": kind, "background": "opaque", "moderation": "low"}
        yield "compression", {"output_format": "jpeg", "output_compression": 80}
        yield "style", {"style": "vivid"}
    else:
        yield "style", {"style": "natural", "response_format": "url"}
        yield "[[second fails]]", {"n": 3, "response_format": "b64_json"}


class Seen(Struct, frozen=True):
    """What one SDK saw, and what the resource was asked meanwhile."""

    answers: dict[str, Answer]
    azure: Azure


@pytest.fixture(scope="module", params=[python_answers, node_answers])
def seen(request: pytest.FixtureRequest) -> Iterator[Seen]:
    """Ask for everything, by both routes: by v1 with an API key, by the older one with a token of Entra's."""
    azure = Azure({"gpt-image-1": "gpt-image-1", "Pictures.EU-2": "gpt-image-2", "Old.Dalle": "dall-e-3"})
    with serve(azure.app) as resource:
        channels = [
            ChannelConfig(
                name=route,
                adapter=adapter,
                base_url=resource + path,
                credentials=(credential,),
                models=tuple(
                    ModelConfig(name=f"{route}/{model}", upstream=DEPLOYMENTS.get(model, model), like=model)
                    for model in MODELS
                ),
            )
            for route, adapter, path, credential in (
                ("v1", "azure", "/openai/v1/", KEY),
                ("older", "azure-deployment", "", ENTRA),
            )
        ]
        with serve(images_app(channels=channels, adapters=STAGED, keys=[KeyConfig(name="sdk", key=OURS)])) as base:
            cases = [asked for route in ROUTES for asked in matrix(route)]
            yield Seen(request.param(f"{base}/v1", OURS, cases), azure)


@pytest.mark.parametrize("route", ROUTES)
def test_each_route_is_asked_as_azure_wants_it(seen: Seen, route: str) -> None:
    """The deployment is named once: in the body on v1, in the path on the older route; one credential is shown."""
    for model in MODELS:
        [ask] = seen.azure.asked(name_of(route, model, "user"))
        deployment = DEPLOYMENTS.get(model, model)
        if route == "v1":
            assert (ask.path, ask.body["model"]) == ("/openai/v1/images/generations?", deployment)
            assert ask.headers["api-key"] == KEY
        else:
            place = f"/openai/deployments/{deployment}/images/generations?api-version=2025-04-01-preview"
            assert ask.path == place
            assert "model" not in ask.body
            assert ask.headers["authorization"] == f"Bearer {ENTRA}"
        assert ask.body["user"] == "u-7"


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("model", MODELS)
def test_every_size_is_made(seen: Seen, route: str, model: str) -> None:
    """A size that the model takes goes as it is."""
    for size in SIZES[model]:
        name = name_of(route, model, "size", size)
        assert seen.answers[name].status == 200, name
        assert seen.azure.asked(name)[0].body["size"] == size


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("model", MODELS)
def test_every_quality_is_said_in_the_words_of_the_family(seen: Seen, route: str, model: str) -> None:
    """The other family's word becomes the model's own, with a report, and is paid for as such."""
    for quality, told in QUALITIES[family(model)].items():
        name = name_of(route, model, "quality", quality)
        answer = seen.answers[name]
        assert answer.status == 200, name
        assert seen.azure.asked(name)[0].body.get("quality") == told
        same = told in (quality, None)
        assert answer.adapted == (None if same else f"quality: {quality} -> {told}")
        if family(model) == "dalle":
            assert answer.headers["x-amux-cost"] == ("0.08" if told == "hd" else "0.04")


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("model", MODELS)
def test_one_to_ten_pictures_are_made(seen: Seen, route: str, model: str) -> None:
    """gpt-image makes them in one ask; dall-e-3 makes one at a time, so it is asked as often."""
    for n in range(1, 11):
        name = name_of(route, model, "n", n)
        answer = seen.answers[name]
        asks = seen.azure.asked(name)
        assert [picture.kind for picture in answer.data] == ["png"] * n, answer.error
        assert len({picture.sha256 for picture in answer.data}) == n
        if family(model) == "gpt":
            assert [ask.body["n"] for ask in asks] == [n]
            assert (answer.usage or {})["output_tokens"] == 1056 * n
        else:
            assert [ask.body["n"] for ask in asks] == [1] * n
            assert answer.headers["x-amux-cost"] == f"{0.04 * n:.2f}".rstrip("0")


@pytest.mark.parametrize("route", ROUTES)
def test_the_form_is_only_asked_for_where_there_is_a_choice(seen: Seen, route: str) -> None:
    """gpt-image refuses `response_format`, dall-e-3 is told it."""
    for model in MODELS:
        [ask] = seen.azure.asked(name_of(route, model, "n", 1))
        assert ask.body.get("response_format") == (None if model in GPT else "b64_json")
    [picture] = seen.answers[name_of(route, "dall-e-3", "style")].data
    assert picture.url
    [ask] = seen.azure.asked(name_of(route, "dall-e-3", "style"))
    assert (ask.body["style"], ask.body["response_format"]) == ("natural", "url")


@pytest.mark.parametrize("route", ROUTES)
def test_what_azure_says_of_a_picture_is_kept(seen: Seen, route: str) -> None:
    """The prompt as it was worded anew and the filters' findings reach the client."""
    name = name_of(route, "dall-e-3", "style")
    [picture] = seen.answers[name].data

    assert picture.revised_prompt == f"{name} at dusk"
    assert picture.extra == {"content_filter_results": SAFE, "prompt_filter_results": SAFE}


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("model", GPT)
def test_gpt_image_is_told_everything_that_it_takes(seen: Seen, route: str, model: str) -> None:
    """Format, compression, background and moderation go as they are."""
    for kind in ("png", "jpeg", "webp"):
        name = name_of(route, model, "format", kind)
        assert [picture.kind for picture in seen.answers[name].data] == [kind]
        body = seen.azure.asked(name)[0].body
        assert (body["background"], body["moderation"]) == ("opaque", "low")
    assert seen.azure.asked(name_of(route, model, "compression"))[0].body["output_compression"] == 80


@pytest.mark.parametrize("route", ROUTES)
def test_what_cannot_be_said_is_dropped_with_a_report_or_refused(seen: Seen, route: str) -> None:
    """Other vendors' fields never reach Azure; a field that nobody knows does, and Azure's refusal comes back."""
    for model in MODELS:
        dropped = seen.answers[name_of(route, model, "foreign")]
        assert dropped.status == 200
        assert set((dropped.adapted or "").split("; ")) == {
            "watermark: dropped",
            "negative_prompt: dropped",
            "seed: dropped",
        }
        unheard = seen.answers[name_of(route, model, "unheard of")]
        assert (unheard.status, (unheard.error or {})["param"]) == (400, "brand_new")
        strict = seen.answers[name_of(route, model, "strict")]
        assert (strict.status, (strict.error or {})["param"]) == (400, "quality")
    for model in GPT:
        assert seen.answers[name_of(route, model, "safety")].adapted == "safety_identifier: dropped"
        style = seen.answers[name_of(route, model, "style")]
        assert (style.status, (style.error or {})["param"]) == (400, "style")
        assert not seen.azure.asked(name_of(route, model, "style"))


@pytest.mark.parametrize("route", ROUTES)
def test_pictures_that_were_made_are_delivered_though_another_was_refused(seen: Seen, route: str) -> None:
    """Of three asks one is blocked: two pictures come, and two are paid for."""
    answer = seen.answers[name_of(route, "dall-e-3", "[[second fails]]")]

    assert len(answer.data) == 2, answer.error
    assert answer.headers["x-amux-cost"] == "0.08"


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("fault", OUTCOMES)
def test_every_error_means_what_it_should(seen: Seen, route: str, fault: str) -> None:
    """A block is a block however it is spelled, our own trouble at Azure is never the client's, waits are handed on."""
    answer = seen.answers[name_of(route, "fault", fault)]
    error = answer.error or {}

    assert (answer.status, error["code"], answer.headers.get("retry-after")) == OUTCOMES[fault]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["message"]
    told = "content_policy_violation" if fault == "deep block" else FAULTS[fault].error["code"]
    assert answer.headers["x-amux-upstream-code"] == told


@pytest.mark.parametrize(
    ("adapter", "deployment", "change", "status", "code"),
    [
        ("azure", "Pictures.EU-2", {"credentials": ("x" * 20,)}, 502, "upstream_auth_failed"),
        ("azure", "pictures.eu-2", {}, 404, "model_not_found"),
        ("azure", "Pictures.EU-2", {"options": {"api_version": "2020-01-01"}}, 502, "upstream_error"),
        ("azure-deployment", "Pictures.EU-2", {"options": {"api_version": "1"}}, 502, "upstream_error"),
        ("azure-deployment", "Pictures/EU", {}, 200, None),
        ("azure", "Pictures.EU-2", {"options": {"api_version": "preview"}}, 200, None),
    ],
)
def test_what_the_operator_configured_wrongly_is_told_apart(
    adapter: str, deployment: str, change: dict[str, Any], status: int, code: str | None
) -> None:
    """A wrong key, a deployment that is not there (case counts), a wrong version."""
    azure = Azure({"Pictures.EU-2": "gpt-image-2", "Pictures/EU": "gpt-image-2"})
    models = (ModelConfig(name="gpt-image-2", upstream=deployment),)
    told: dict[str, Any] = {"credentials": (KEY,), **change}
    with serve(azure.app) as resource:
        channels = [ChannelConfig(name="azure", adapter=adapter, base_url=resource, models=models, **told)]
        with serve(images_app(channels=channels, adapters=STAGED, keys=[KeyConfig(name="sdk", key=OURS)])) as base:
            answers = python_answers(f"{base}/v1", OURS, [case("one", model="gpt-image-2", prompt="a cat")])

    answer = answers["one"]
    assert (answer.status, (answer.error or {}).get("code")) == (status, code)
    assert status != 200 or answer.headers["x-amux-cost"] == "0.031725"


def test_an_entra_token_is_known_by_its_look() -> None:
    """A JSON Web Token is a bearer's, anything else is an API key."""
    ask = HttpRequest(method="POST", url="https://upstream.example")

    assert sign(ask, ENTRA) == (("authorization", f"Bearer {ENTRA}"),)
    assert sign(ask, KEY) == (("api-key", KEY),)


def test_a_deployment_of_an_unknown_model_is_taken_for_gpt_image() -> None:
    """What gpt-image refuses is not sent, and said so."""
    request = GenerationRequest(prompt="a cat", n=4, style="vivid", quality="hd", response_format="url")

    fitted = fit("my-deployment", request)

    assert fitted.request == GenerationRequest(prompt="a cat", n=4, quality="high")
    assert fitted.changes == ("style: dropped", "quality: hd -> high")
    assert fitted.per_ask == 10


def test_what_fits_is_left_alone() -> None:
    """The model's own words need no report."""
    request = GenerationRequest(prompt="a cat", n=4, style="vivid", quality="hd", response_format="url")

    fitted = fit("dall-e-3", request)

    assert (fitted.request, fitted.changes, fitted.per_ask) == (request, (), 1)
    assert fit("gpt-image-2", GenerationRequest(prompt="a cat")).changes == ()


def test_a_model_takes_the_words_of_both_families_here() -> None:
    """The catalogue's rules stay as they are but for quality and number."""
    assert widened(GPT_IMAGE_2).qualities == ("low", "medium", "high", "auto", "hd", "standard")
    assert widened(DALLE_3).qualities == ("standard", "hd", "high", "medium", "low", "auto")
    assert widened(DALLE_3).n_max == 10
    assert widened(DALLE_3).sizes == DALLE_3.sizes


def test_both_rows_are_one_dialect() -> None:
    """They differ by their route alone; options have defaults."""
    assert msgspec.convert({}, Options) == Options(api_version=None)
    assert {AZURE.options, DEPLOYMENT.options} == {Options}
    assert AZURE.closed
    assert DEPLOYMENT.closed
