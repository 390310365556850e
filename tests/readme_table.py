"""The README's table of what can be asked of which adapter, found out by asking the code.

`python -m tests.readme_table` shows it, and writes it into the README, between its two marks.
"""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Raw

from amux_asgi.adapt import adapt
from amux_asgi.adapters import ADAPTERS
from amux_asgi.adapters._base import Adapter
from amux_asgi.document import body_of
from amux_asgi.errors import InvalidRequestError
from amux_asgi.explain import parse
from amux_asgi.models import CATALOGUE
from amux_asgi.routing import Candidate, Channel
from amux_asgi.schema import FIELDS, GenerationRequest
from amux_asgi.spec import ModelSpec

README: Final = Path(__file__).parents[1] / "README.md"
BEGIN: Final = "<!-- capabilities -->\n"
END: Final = "<!-- /capabilities -->\n"
UNKNOWN: Final = "any other"  # a model that the catalogue does not have

_OPENAI: Final = ("gpt-image-", "chatgpt-image-", "dall-e-")
SERVED: Final[dict[str, tuple[str, ...]]] = {
    "openai": _OPENAI,
    "sandbox": _OPENAI,
    "azure": ("gpt-image-", "dall-e-3"),
    "azure-deployment": ("gpt-image-", "dall-e-3"),
    "zhipu": ("glm-image", "cogview-"),
    "zai": ("glm-image", "cogview-"),
    "dashscope": ("qwen-image", "wan", "z-image-"),
    "gemini": ("gemini-",),
    "google-openai": ("gemini-2.5-",),
    "imagen": ("imagen-",),
    "vertex": ("gemini-", "imagen-"),
}
"""How the names of the catalogue's models begin that an adapter serves; other adapters' models are not in it."""

ASKED: Final[dict[str, Any]] = {
    "quality": "high",
    "style": "vivid",
    "background": "opaque",
    "output_format": "jpeg",
    "user": "user-0042",
    "aspect_ratio": "16:9",
    "seed": 7,
    "negative_prompt": "blur",
    "watermark": False,
}
"""What is asked of every model, to see what becomes of it."""


def table() -> str:
    """Write the table."""
    head = ["`adapter`", "size", "`n` at once", *(f"`{name}`" for name in ASKED), "comes as"]
    rows = [head, ["---"] * len(head), *(_row(adapter) for adapter in ADAPTERS.values())]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def block(readme: str) -> str:
    """Give what stands between the marks; nothing where they are missing."""
    return readme.partition(BEGIN)[2].partition(END)[0]


def models_of(adapter: Adapter) -> Iterable[str]:
    """Give the models of the catalogue that an adapter serves."""
    begin = SERVED.get(adapter.name)
    return [UNKNOWN] if begin is None else [model for model in CATALOGUE if model.startswith(begin)]


def candidate_of(adapter: Adapter, model: str) -> Candidate:
    """Serve a model by a channel."""
    channel = Channel(name="c", adapter=adapter, base_url="https://upstream.example", models={model: model})
    return Candidate(channel, model, "", model)


def _row(adapter: Adapter) -> list[str]:
    candidates = [candidate_of(adapter, model) for model in models_of(adapter)]
    specs = [candidate.spec for candidate in candidates]
    asked = [[_becomes(candidate, name, value) for candidate in candidates] for name, value in ASKED.items()]
    at_once = sorted({_at_once(candidate) for candidate in candidates})
    forms = {form for spec in specs for form in _forms(adapter, spec)}
    return [
        f"`{adapter.name}`",
        _sizes(specs),
        ", ".join(map(str, at_once)),
        *map(_word, asked),
        " or ".join(word for form, word in (("url", "URL"), ("b64_json", "base64")) if form in forms),
    ]


def _becomes(candidate: Candidate, name: str, value: Any) -> bool:
    """Tell whether a field reaches the vendor as more than a guess."""
    if name in FIELDS:
        request = GenerationRequest(prompt="a cat", **{name: value})
    elif name in candidate.channel.adapter.fields:
        request = GenerationRequest(prompt="a cat", extra={name: Raw(msgspec.json.encode(value))})
    else:
        return False
    try:
        fitted = adapt(parse(body_of(request), candidate.spec), candidate)
    except InvalidRequestError:
        return False
    return f"{name}: dropped" not in fitted.changes


def _word(becomes: list[bool]) -> str:
    return "yes" if all(becomes) else "some" if any(becomes) else "-"


def _at_once(candidate: Candidate) -> int:
    most = adapt(GenerationRequest(prompt="a cat"), candidate).per_ask
    entry = CATALOGUE.get(candidate.model)
    return most if entry is None else min(most, entry.spec.n_max)


def _sizes(specs: Iterable[ModelSpec | None]) -> str:
    known = [spec for spec in specs if spec is not None]
    ways = {"free": any(spec.pixels for spec in known), "listed": any(spec.sizes and not spec.pixels for spec in known)}
    ratios = sorted({len(spec.ratios) for spec in known if spec.ratios})
    tiers = sorted({tier for spec in known for tier in spec.tiers}, key=_kilopixels)
    words = [way for way, is_one in ways.items() if is_one]
    words += [f"{_span(ratios)} ratios"] if ratios else []
    words += [_span(tiers)] if tiers else []
    return ", ".join(words) or "as the model's host says"


def _span(values: Sequence[object]) -> str:
    return " to ".join(dict.fromkeys((str(values[0]), str(values[-1]))))


def _kilopixels(tier: str) -> float:
    return float(tier.removesuffix("K")) / (1 if tier.endswith("K") else 1024)


def _forms(adapter: Adapter, spec: ModelSpec | None) -> tuple[str, ...]:
    if len(adapter.forms) == 1 or spec is None or "response_format" in spec.fields:
        return adapter.forms
    return (spec.response_format,)


if __name__ == "__main__":
    text = README.read_text(encoding="utf-8")
    if BEGIN in text:
        README.write_text(text.replace(BEGIN + block(text) + END, BEGIN + table() + END), encoding="utf-8")
    sys.stdout.write(table())
