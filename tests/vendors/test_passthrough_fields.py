"""Vendors' own fields, from a plain HTTP client and from both OpenAI SDKs, at the top level and in `extra_body`.

Every field goes to each vendor in turn: what it declares arrives under its own name, the rest is dropped and reported.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any, Final

import httpx2  # noqa: TID251, a client that is no SDK
import pytest
from msgspec import Struct

from tests.serve import serve
from tests.vendors.all_vendors import CLIENT, GPT, Vendors, all_vendors, gateway, named
from tests.vendors.sdks import Answer, Case, case, node_answers, python_answers

VALUES: Final[dict[str, Any]] = {
    "watermark": False,
    "watermark_enabled": False,
    "user_id": "tenant-42-user-7",
    "aspect_ratio": "16:9",
    "image_size": "2K",
    "seed": 7,
    "negative_prompt": "blur",
    "thinking_level": "high",
    "person_generation": "allow_adult",
    "parameters": {"n": 2},
    "input": {"negative_prompt": "fog"},
}
BESIDE: Final[dict[str, dict[str, Any]]] = {"seed": {"watermark": False}}
"""Imagen takes no seed for a picture with a watermark."""

SERVED: Final = {  # by the client's name: the adapter, and the upstream model
    "zhipu/cogview-4-250304": "zhipu",
    "zai/glm-image": "zai",
    "dashscope/qwen-image-2.0": "dashscope",
    "dashscope/wan2.5-t2i-preview": "dashscope",
    "gemini/gemini-3.1-flash-image": "gemini",
    "google-openai/gemini-2.5-flash-image": "google-openai",
    "imagen/imagen-4.0-generate-001": "imagen",
    "vertex/imagen-4.0-generate-001": "vertex",
    "vertex/gemini-3-pro-image": "vertex",
    f"azure/{GPT}": "azure",
    f"azure-deployment/{GPT}": "azure-deployment",
}
Path = tuple[str, ...]
_ZHIPU: Final[dict[str, tuple[Path, Any]]] = {
    "watermark": (("watermark_enabled",), False),
    "watermark_enabled": (("watermark_enabled",), False),
    "user_id": (("user_id",), "tenant-42-user-7"),
}
_IMAGEN: Final[dict[str, tuple[Path, Any]]] = {
    "aspect_ratio": (("parameters", "aspectRatio"), "16:9"),
    "image_size": (("parameters", "sampleImageSize"), "2K"),
    "person_generation": (("parameters", "personGeneration"), "allow_adult"),
    "parameters": (("parameters", "sampleCount"), 2),
}
_DASHSCOPE: Final[dict[str, tuple[Path, Any]]] = {
    "watermark": (("parameters", "watermark"), False),
    "seed": (("parameters", "seed"), 7),
    "parameters": (("parameters", "n"), 2),
}
_GEMINI: Final[dict[str, tuple[Path, Any]]] = {
    "aspect_ratio": (("generationConfig", "imageConfig", "aspectRatio"), "16:9"),
    "image_size": (("generationConfig", "imageConfig", "imageSize"), "2K"),
    "seed": (("generationConfig", "seed"), 7),
}
ARRIVES: Final[Mapping[str, Mapping[str, tuple[Path, Any]]]] = {  # where in the body, and what
    "zhipu/cogview-4-250304": _ZHIPU,
    "zai/glm-image": _ZHIPU,
    "dashscope/qwen-image-2.0": _DASHSCOPE
    | {
        "negative_prompt": (("parameters", "negative_prompt"), "blur"),
        "input": (("parameters", "negative_prompt"), "fog"),
    },
    "dashscope/wan2.5-t2i-preview": _DASHSCOPE
    | {
        "negative_prompt": (("input", "negative_prompt"), "blur"),
        "input": (("input", "negative_prompt"), "fog"),
    },
    "gemini/gemini-3.1-flash-image": _GEMINI
    | {"thinking_level": (("generationConfig", "thinkingConfig", "thinkingLevel"), "high")},
    "google-openai/gemini-2.5-flash-image": {},
    "imagen/imagen-4.0-generate-001": _IMAGEN,
    "vertex/imagen-4.0-generate-001": _IMAGEN
    | {
        "watermark": (("parameters", "addWatermark"), False),
        "seed": (("parameters", "seed"), 7),
        "negative_prompt": (("parameters", "negativePrompt"), "blur"),
    },
    "vertex/gemini-3-pro-image": _GEMINI
    | {"person_generation": (("generationConfig", "imageConfig", "personGeneration"), "ALLOW_ADULT")},
    f"azure/{GPT}": {},
    f"azure-deployment/{GPT}": {},
}
COUNTING: Final = {"zhipu", "zai", "gemini", "google-openai", "azure", "azure-deployment"}
"""Vendors without an object `parameters` do not count by what is in it: that is refused, never dropped."""

PLACES: Final = ("top", "extra_body")
NAMES: Final = tuple(product(SERVED, VALUES, PLACES))


def name_of(model: str, field: str, place: str) -> str:
    return f"{model} {field} {place}"


def cases() -> Iterator[Case]:
    for model, field, place in NAMES:
        name = name_of(model, field, place)
        told = {field: VALUES[field], **(BESIDE.get(field, {}) if model.startswith("vertex/imagen") else {})}
        yield case(name, model=model, prompt=f"{name}.", **(told if place == "top" else {"extra_body": told}))


def plain_answers(url: str, key: str, cases: Sequence[Case]) -> dict[str, Answer]:
    """Send JSON as it is written, `extra_body` too, as one does with curl."""
    with httpx2.Client(headers={"authorization": f"Bearer {key}"}, timeout=60) as client:
        answers = {asked["name"]: client.post(f"{url}/images/generations", json=asked["params"]) for asked in cases}
    return {
        name: Answer(
            status=answer.status_code,
            error=answer.json().get("error"),
            adapted=answer.headers.get("x-amux-adapted"),
            headers=dict(answer.headers),
        )
        for name, answer in answers.items()
    }


class Seen(Struct, frozen=True):
    """What one client saw, and the vendors."""

    answers: dict[str, Answer]
    vendors: Vendors

    def ask(self, name: str) -> dict[str, Any]:
        """Give what came of one case; of several asks for one request the first."""
        return self.vendors.asked(name.split("/", 1)[0], f'"{name}."')[0]


@pytest.fixture(scope="module", params=[plain_answers, python_answers, node_answers], ids=["plain", "python", "node"])
def seen(request: pytest.FixtureRequest) -> Iterator[Seen]:
    """Ask every vendor for every field with one client."""
    answers_of: Callable[[str, str, Sequence[Case]], dict[str, Answer]] = request.param
    with all_vendors() as vendors:
        channels = [
            vendors.channel(
                adapter,
                [
                    one
                    for name, by in SERVED.items()
                    if by == adapter
                    for one in named(adapter, name.split("/")[1], like=name.split("/")[1])
                ],
            )
            for adapter in dict.fromkeys(SERVED.values())
        ]
        with serve(gateway(channels)) as base:
            yield Seen(answers_of(f"{base}/v1", CLIENT, tuple(cases())), vendors)


def at(body: Any, path: Path) -> Any:
    """Look into a body."""
    for name in path:
        body = body.get(name, {})
    return body


@pytest.mark.parametrize("model", SERVED)
def test_a_field_arrives_where_the_vendor_takes_it(seen: Seen, model: str) -> None:
    """Under the vendor's own name, in its own place, and without a word of a change."""
    for field, (path, value) in ARRIVES[model].items():
        for place in PLACES:
            name = name_of(model, field, place)
            assert seen.answers[name].status == 200, (name, seen.answers[name].error)
            assert at(seen.ask(name), path) == value, name
            assert seen.answers[name].adapted is None, name


@pytest.mark.parametrize("model", SERVED)
def test_a_field_of_another_vendor_is_dropped_and_reported(seen: Seen, model: str) -> None:
    """It stands nowhere in what the vendor is asked; what would change how much is made is refused instead."""
    for field in VALUES.keys() - ARRIVES[model].keys():
        for place in PLACES:
            name = name_of(model, field, place)
            answer = seen.answers[name]
            if field == "parameters" and SERVED[model] in COUNTING:
                assert (answer.status, (answer.error or {})["param"]) == (400, "parameters"), name
                continue
            assert (answer.status, answer.adapted) == (200, f"{field}: dropped"), (name, answer.error)
            assert keys_of(seen.ask(name)) <= ALWAYS[SERVED[model]], name


def keys_of(value: Any) -> set[str]:
    """Give every name at any depth."""
    return set(re.findall(r'"(\w+)": ', json.dumps(value)))


ALWAYS: Final[Mapping[str, set[str]]] = {  # what a vendor is always told
    "zhipu": {"model", "prompt"},
    "zai": {"model", "prompt"},
    "dashscope": {"model", "input", "messages", "role", "content", "text", "prompt", "parameters", "n"},
    "gemini": {"model", "contents", "role", "parts", "text", "generationConfig", "responseModalities"}
    | {"imageConfig", "imageSize"},
    "google-openai": {"model", "prompt", "n", "response_format"},
    "imagen": {"instances", "prompt", "parameters", "includeRaiReason", "sampleCount"},
    "vertex": {"instances", "prompt", "parameters", "includeRaiReason", "sampleCount"}
    | {"contents", "role", "parts", "text", "generationConfig", "responseModalities", "imageConfig", "imageSize"},
    "azure": {"model", "prompt"},
    "azure-deployment": {"prompt"},
}
