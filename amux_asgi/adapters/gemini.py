"""Google's Gemini models that make pictures (Nano Banana), in their own dialect.

Source: https://ai.google.dev/gemini-api/docs/image-generation
"""

from collections.abc import Mapping
from typing import Final

import msgspec
from msgspec import Raw

from amux_asgi.adapters._base import Adapter, header
from amux_asgi.adapters._gemini_answer import pictures
from amux_asgi.adapters._gemini_fit import FIELDS, fit
from amux_asgi.adapters._google import opened
from amux_asgi.schema import FIELDS as OPENAI_FIELDS
from amux_asgi.schema import GenerationRequest, Json
from amux_asgi.wire import Flow, Target, post

LARGEST: Final = 2**31  # beyond the largest seed


def generate(target: Target, request: GenerationRequest) -> Flow:
    """Ask for one picture."""
    answer = yield post(f"{target.base_url}/models/{target.model}:generateContent", order(target, request))
    return pictures(opened(answer, request.extra), answer.body)


def order(target: Target, request: GenerationRequest) -> dict[str, Json]:
    """Write what was fitted; other fields than Gemini's stand as they came."""
    said = request.extra
    image = _named(said, _IMAGE)
    config: dict[str, Json] = {"responseModalities": ["TEXT", "IMAGE"]} | ({"imageConfig": image} if image else {})
    if "seed" in said:
        config["seed"] = seed(said["seed"], target.offset)
    if "thinking_level" in said:
        config["thinkingConfig"] = {"thinkingLevel": said["thinking_level"]}
    return {
        **{name: value for name, value in said.items() if name not in FIELDS},
        "contents": [{"role": "user", "parts": [{"text": request.prompt}]}],
        "generationConfig": config,
        **_named(said, {"safety_settings": "safetySettings"}),
    }


def seed(raw: Raw, offset: int) -> int:
    """Give each picture of one request its own seed of 32 bits; after the largest comes the smallest."""
    return (msgspec.json.decode(raw, type=int) + offset + LARGEST) % (2 * LARGEST) - LARGEST


def _named(said: Mapping[str, Raw], names: Mapping[str, str]) -> dict[str, Raw]:
    return {theirs: said[ours] for ours, theirs in names.items() if ours in said}


_IMAGE: Final = {"aspect_ratio": "aspectRatio", "image_size": "imageSize", "person_generation": "personGeneration"}
SAID: Final = frozenset({"prompt", "model", "n", "size", "quality", "response_format", "partial_images", "stream"})
COUNTS: Final = frozenset({"candidateCount", "candidate_count"})

GEMINI: Final = Adapter(
    name="gemini",
    base_url="https://generativelanguage.googleapis.com/v1beta",
    sign=header("x-goog-api-key"),
    generate=generate,
    fit=fit,
    fields=FIELDS | COUNTS,
    counts=COUNTS,
    ignores=OPENAI_FIELDS - SAID,
    closed=True,
    forms=("b64_json",),
)
ROWS: Final = (GEMINI,)
