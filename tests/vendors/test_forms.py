"""Every vendor's pictures in both forms, through the running gateway, with both OpenAI SDKs.

What a vendor can only give as base64 is hosted when a URL is asked for; what it can only give as a URL is fetched.
"""

import hashlib
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, Final

import pytest
from msgspec import Struct

from tests.serve import serve
from tests.vendors import emulate_azure, emulate_dashscope, emulate_gemini, emulate_zhipu
from tests.vendors.all_vendors import CLIENT, DALLE, GPT, Vendors, all_vendors, fetched, gateway, named
from tests.vendors.sdks import Answer, Case, case, node_answers, python_answers

BASE64: Final = "b64_json"
URL: Final = "url"
OWN: Final = {  # the form that a model answers in when none is asked for
    "zhipu": {"cogview-4-250304": URL, "glm-image": URL},
    "zai": {"glm-image": URL},
    "dashscope": {"qwen-image-2.0": URL, "wan2.5-t2i-preview": URL},
    "gemini": {"gemini-3.1-flash-image": BASE64},
    "google-openai": {"gemini-2.5-flash-image": BASE64},
    "imagen": {"imagen-4.0-generate-001": BASE64},
    "vertex": {"imagen-4.0-generate-001": BASE64, "gemini-3-pro-image": BASE64},
    "azure": {GPT: BASE64, DALLE: URL},
    "azure-deployment": {GPT: BASE64, DALLE: URL},
}
MODELS: Final = tuple((adapter, model) for adapter, models in OWN.items() for model in models)
OTHER: Final = {URL: BASE64, BASE64: URL}
SIZES: Final = ("1024x1024", "1536x1024", "1024x1536", "1792x1024", "1024x1792", "auto")
QUALITIES: Final = ("auto", "low", "medium", "high", "standard", "hd")
STRICT: Final = {"x-amux-strict": "true"}
FETCHES: Final = ("zhipu", "zai", "dashscope")  # vendors that have URLs alone
GONE: Final = {"dashscope": ("one gone", "all gone")}
PRICE: Final = {"zhipu": "0.01", "zai": "0.015", "dashscope": "0.035"}


def sizes_of(model: str) -> tuple[str, ...]:
    """Give the sizes that an OpenAI model takes; the others take all."""
    return ("1024x1024", "1792x1024", "1024x1792") if model == DALLE else SIZES


def cases() -> Iterator[Case]:
    for adapter, model in MODELS:
        other = OTHER[OWN[adapter][model]]

        def ask(what: str, adapter: str = adapter, model: str = model, **params: Any) -> Case:
            name = f"{adapter}/{model} {what}"
            return case(name, model=f"{adapter}/{model}", prompt=name, **params)

        yield ask("unsaid", n=2)
        yield ask(f"{OTHER[other]} 3", n=3, response_format=OTHER[other])
        yield from (ask(f"{other} {n}", n=n, response_format=other, extra_headers=STRICT) for n in range(1, 11))
        yield from (ask(f"of {size}", size=size, response_format=other) for size in sizes_of(model))
        yield from (ask(f"in {quality}", quality=quality, response_format=other) for quality in QUALITIES)
    for adapter in FETCHES:
        name = f"{adapter}/{next(iter(OWN[adapter]))}"
        one, every = GONE.get(adapter, ("first 1 gone", "first 3 gone"))
        yield case(f"{adapter} one", model=name, prompt=f"{adapter} {one}", n=3, response_format=BASE64)
        yield case(f"{adapter} all", model=name, prompt=f"{adapter} {every}", n=3, response_format=BASE64)


CASES: Final = tuple(cases())


class Seen(Struct, frozen=True):
    """What one SDK saw, what lies at the URLs that it got, and the vendors."""

    answers: dict[str, Answer]
    digests: dict[str, tuple[str, str]]  # by URL: digest, content type
    vendors: Vendors

    def pictures(self, name: str) -> list[str]:
        """Give the digests of the pictures of one answer, wherever they are."""
        assert self.answers[name].status == 200, (name, self.answers[name].error)
        data = self.answers[name].data
        return [picture.sha256 or self.digests[str(picture.url)][0] for picture in data]


@pytest.fixture(scope="module", params=[python_answers, node_answers], ids=["python", "node"])
def seen(request: pytest.FixtureRequest) -> Iterator[Seen]:
    """Ask for everything with one SDK, and fetch what lies at URLs."""
    answers_of: Callable[[str, str, Sequence[Case]], dict[str, Answer]] = request.param
    with all_vendors() as vendors:
        channels = [
            vendors.channel(
                adapter, [one for model in OWN[adapter] for one in named(adapter, model, **like(adapter, model))]
            )
            for adapter in OWN
        ]
        with serve(gateway(channels)) as base:
            answers = answers_of(f"{base}/v1", CLIENT, CASES)
            urls = [str(picture.url) for answer in answers.values() for picture in answer.data if picture.url]
            shown = zip(urls, fetched(urls), strict=True)
            digests = {url: (digest(answer.content), answer.headers["content-type"]) for url, answer in shown}
            yield Seen(answers, digests, vendors)


def like(adapter: str, model: str) -> dict[str, str]:
    """Say what a deployment is of, where the operator names it."""
    return {"like": model} if adapter.startswith("azure") else {}


def digest(picture: bytes) -> str:
    return hashlib.sha256(picture).hexdigest()


def painted(vendors: Vendors, adapter: str) -> Collection[str]:
    """Give the digests of all pictures that a vendor can have painted."""
    match adapter:
        case "zhipu" | "zai":
            return {digest(emulate_zhipu.PNG)}
        case "dashscope":
            return {digest(emulate_dashscope.PNG)}
        case "google-openai":
            return {digest(emulate_gemini.picture("png", "1024x1024"))}
        case "gemini":
            model = next(iter(OWN["gemini"]))
            shapes = [(ratio, tier) for ratio in emulate_gemini.FOURTEEN for tier in emulate_gemini.SCALES]
            return {digest(emulate_gemini.picture("jpeg", emulate_gemini.made(model, *shape))) for shape in shapes}
        case "imagen" | "vertex":
            return vendors.google.painted
        case _:
            return {digest(emulate_azure.picture("png", turn, i)) for turn in range(1, 11) for i in range(10)}


@pytest.mark.parametrize(("adapter", "model"), MODELS)
def test_unsaid_a_picture_comes_in_the_models_own_form(seen: Seen, adapter: str, model: str) -> None:
    """As OpenAI's models do: gpt-image, Gemini and Imagen show base64, the others URLs."""
    name = f"{adapter}/{model} unsaid"

    assert set(seen.pictures(name)) <= set(painted(seen.vendors, adapter))
    forms = [(picture.url is not None, picture.sha256 is not None) for picture in seen.answers[name].data]
    assert forms == [(OWN[adapter][model] == URL, OWN[adapter][model] == BASE64)] * 2


@pytest.mark.parametrize(("adapter", "model"), MODELS)
def test_any_number_of_pictures_comes_in_the_other_form(seen: Seen, adapter: str, model: str) -> None:
    """The vendor's own bytes, one to ten of them, in one form only; to a strict client, too, this is no change."""
    other = OTHER[OWN[adapter][model]]
    names = {f"{adapter}/{model} {other} {n}": n for n in range(1, 11)}
    names[f"{adapter}/{model} {OTHER[other]} 3"] = 3

    for name, n in names.items():
        pictures = seen.pictures(name)
        assert len(pictures) == n, name
        assert set(pictures) <= set(painted(seen.vendors, adapter)), name
        assert len(set(pictures)) == (n if adapter in ("imagen", "vertex", "azure", "azure-deployment") else 1), name
        form = name.split()[-2]
        assert {(one.url is not None, one.sha256 is not None) for one in seen.answers[name].data} == {
            (form == URL, form == BASE64)
        }
        assert seen.answers[name].adapted is None, name


@pytest.mark.parametrize(("adapter", "model"), MODELS)
def test_every_size_and_quality_comes_in_the_other_form(seen: Seen, adapter: str, model: str) -> None:
    """The form changes nothing else."""
    names = [*(f"of {size}" for size in sizes_of(model)), *(f"in {quality}" for quality in QUALITIES)]

    for name in names:
        pictures = seen.pictures(f"{adapter}/{model} {name}")
        assert len(pictures) == 1, name
        assert set(pictures) <= set(painted(seen.vendors, adapter)), name


@pytest.mark.parametrize(("adapter", "model"), MODELS)
def test_a_hosted_picture_says_what_it_is(seen: Seen, adapter: str, model: str) -> None:
    """Its type is that of its bytes, and the answer says the same; whoever knows the URL needs no key."""
    kind = "jpeg" if adapter == "gemini" else "png"
    answer = seen.answers[f"{adapter}/{model} {URL} 3"]

    assert {seen.digests[str(picture.url)][1] for picture in answer.data} == {f"image/{kind}"}
    hosted = ["/pictures/" in str(picture.url) for picture in answer.data]
    if OWN[adapter][model] == BASE64:
        assert all(hosted)
        assert answer.extra["output_format"] == kind


@pytest.mark.parametrize("adapter", ["zhipu", "zai", "dashscope", "gemini", "google-openai", "imagen", "vertex"])
def test_no_vendor_is_told_the_form_that_has_no_choice(seen: Seen, adapter: str) -> None:
    """Only Google's interface for OpenAI's clients is told one, always the same."""
    told = {body.get("response_format") for body in seen.vendors.asked(adapter, f"{adapter}/")}

    assert told == ({BASE64} if adapter == "google-openai" else {None})


@pytest.mark.parametrize("adapter", ["azure", "azure-deployment"])
def test_azures_older_model_is_asked_for_either_form(seen: Seen, adapter: str) -> None:
    """It has both, so nothing is fetched or hosted."""
    asked = {form: seen.vendors.asked(adapter, f"{adapter}/{DALLE} {form} 3") for form in (URL, BASE64)}

    assert {form: {body["response_format"] for body in bodies} for form, bodies in asked.items()} == {
        URL: {URL},
        BASE64: {BASE64},
    }
    assert all("?sig=x" in str(one.url) for one in seen.answers[f"{adapter}/{DALLE} {URL} 3"].data)


@pytest.mark.parametrize("adapter", FETCHES)
def test_a_picture_that_cannot_be_fetched_is_left_out_and_not_charged(seen: Seen, adapter: str) -> None:
    """Two of three come, and two are paid; if none comes, that is the upstream's fault, and nothing is paid."""
    two, none = seen.answers[f"{adapter} one"], seen.answers[f"{adapter} all"]

    assert [picture.kind for picture in two.data] == ["png"] * 2
    assert float(two.headers["x-amux-cost"]) == pytest.approx(2 * float(PRICE[adapter]))
    assert (none.status, none.data, (none.error or {})["code"]) == (502, (), "upstream_bad_response")
    assert (none.headers["x-amux-cost"], none.headers["x-should-retry"]) == ("0", "false")
    assert sum(body.get("parameters", {}).get("n", 1) for body in seen.vendors.asked(adapter, f"{adapter} ")) == 3 + 3
