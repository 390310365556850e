"""Say a request in the terms of one DashScope model: fields, count, size and price grade, before it is priced."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace

from amux_asgi.adapters._base import Fitted, pixels_of
from amux_asgi.adapters.dashscope_sizes import legal, spelled
from amux_asgi.catalogue.dashscope import ONE_K, Rules, Sizes, rules_of
from amux_asgi.errors import InvalidRequestError
from amux_asgi.schema import BAD_JSON, GenerationRequest, Json
from amux_asgi.words import quote

SEEDS: Final = 2**31  # how many there are, from 0
SEQUENCE: Final = 12  # pictures that a model may make in one ask when they tell a story
_N_MAX: Final = 10
_NULL: Final = b"null"
_EMPTY: Final = Raw(_NULL)


class _Kind(Struct, frozen=True):
    """What a field must be, and the words for it."""

    decoder: msgspec.json.Decoder[Any]
    words: str


_YES_NO: Final = _Kind(msgspec.json.Decoder(bool), "true or false")
_LIST: Final = _Kind(msgspec.json.Decoder(list[Any]), "a list")
_OBJECT: Final = _Kind(msgspec.json.Decoder(dict[str, Raw] | None), "an object")
_TEXT: Final = _Kind(msgspec.json.Decoder(str), "text")
_NUMBER: Final = _Kind(msgspec.json.Decoder(int), "a whole number")

FIELDS: Final[Mapping[str, _Kind]] = {
    "bbox_list": _LIST,
    "color_palette": _LIST,
    "enable_sequential": _YES_NO,
    "enable_thinking": _YES_NO,
    "negative_prompt": _TEXT,
    "prompt_extend": _YES_NO,
    "prompt_extend_mode": _TEXT,
    "seed": _NUMBER,
    "thinking_mode": _YES_NO,
    "watermark": _YES_NO,
}
"""What some model takes beside the prompt, the count and the size."""

OBJECTS: Final[Mapping[str, frozenset[str]]] = {
    "input": frozenset({"negative_prompt", "prompt"}),
    "parameters": frozenset({*FIELDS, "n", "size"}),
}
"""The vendor's own objects, with what is known in them: it stands above what is said elsewhere."""

_NEGATIVE_MOST: Final = 500  # characters; beyond, the vendor cuts without a word
_COUNTS: Final = frozenset(
    {
        "batchsize",
        "enableinterleave",
        "maximages",
        "n",
        "numberofimages",
        "numimages",
        "numoutputs",
        "samplecount",
        "size",
    }
)
"""What might change how many pictures are made, or how large, in lower case: only `n` and `size` are looked at."""

_QUALITY_TIERS: Final[Mapping[str, str]] = {"low": "1K", "high": "2K", "hd": "2K"}


def fit(model: str, request: GenerationRequest) -> Fitted:
    """Fit a request to a model.

    Raises:
        InvalidRequestError: it says the same twice, differently, or what no field of this vendor can be.
    """
    rules = rules_of(model)
    rest, told, changes = _gather(request.extra)
    request, reworded = _folded(request, told)
    taken = {name: raw for name, raw in told.items() if name in rules.takes}
    changes += [f"{name}: dropped" for name in told if name in FIELDS and name not in taken]
    request = replace(request, extra={**rest, **taken})
    request, resized = _sized(request, rules.sizes)
    request, graded = _graded(request, rules)
    most = max(rules.most, SEQUENCE) if _is_true(taken.get("enable_sequential")) else rules.most
    return Fitted(request=request, changes=(*changes, *reworded, *resized, *graded), per_ask=most)


def _gather(extra: Mapping[str, Raw]) -> tuple[dict[str, Raw], dict[str, Raw], list[str]]:
    """Take every field that is known here out of the rest, also out of the vendor's objects in it, which win."""
    rest = dict(extra)
    _refuse_counts(rest)
    told = _taken_out(rest, FIELDS)
    changes: list[str] = []
    for name, inside in OBJECTS.items():
        inner: dict[str, Raw] = _read(_OBJECT, rest.pop(name, _EMPTY), name) or {}
        _refuse_counts(inner.keys() - inside)
        found = _taken_out(inner, inside)
        changes += [
            f"{field}: {_shown(told[field])} -> {_shown(raw)}"
            for field, raw in found.items()
            if field in told and bytes(told[field]) != bytes(raw)
        ]
        if "messages" in inner:
            changes.append("prompt: dropped")
        told |= found
        if inner:
            rest[name] = Raw(msgspec.json.encode(inner))
    for field in sorted(FIELDS.keys() & told.keys()):
        _check(field, told[field])
    return rest, told, changes


def _taken_out(fields: dict[str, Raw], names: Iterable[str]) -> dict[str, Raw]:
    """Take fields out of others; `null` is as good as absent."""
    found = {name: fields.pop(name) for name in names if name in fields}
    return {name: raw for name, raw in found.items() if bytes(raw) != _NULL}


def _refuse_counts(names: Iterable[str]) -> None:
    for name in sorted(names):
        if name.lower().replace("_", "") in _COUNTS:
            raise InvalidRequestError(
                f"{quote(name)} may change how many pictures are made; say 'n' instead",
                param=name,
                code="unknown_parameter",
            )


def _check(name: str, raw: Raw) -> None:
    value: Json = _read(FIELDS[name], raw, name)
    if name == "seed" and not 0 <= value < SEEDS:
        raise InvalidRequestError(f"'seed' must be from 0 to {SEEDS - 1}", param=name)
    if name == "negative_prompt" and len(value) > _NEGATIVE_MOST:
        raise InvalidRequestError(f"'negative_prompt' has at most {_NEGATIVE_MOST} characters", param=name)


def _folded(request: GenerationRequest, told: Mapping[str, Raw]) -> tuple[GenerationRequest, tuple[str, ...]]:
    """Take what the vendor's objects say of prompt, count and size for the request's own."""
    prompt: str = _read(_TEXT, told["prompt"], "input") if "prompt" in told else request.prompt
    n: int | None = _read(_NUMBER, told["n"], "n") if "n" in told else None
    size: str | None = _read(_TEXT, told["size"], "size") if "size" in told else None
    said = None if request.size == "auto" else request.size
    if n is not None and not 1 <= n <= _N_MAX:
        raise InvalidRequestError(f"'n' must be from 1 to {_N_MAX}", param="n")
    if n is not None and request.n not in (None, n):
        raise _twice("n")
    if size is not None and said is not None and spelled(size) != spelled(said):
        raise _twice("size")
    changes = () if prompt == request.prompt else ("prompt: dropped",)
    return replace(request, prompt=prompt, n=n or request.n, size=said if size is None else size), changes


def _twice(name: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"{name!r} and 'parameters' say different things of it", param=name, code="duplicate_key"
    )


def _sized(request: GenerationRequest, sizes: Sizes) -> tuple[GenerationRequest, tuple[str, ...]]:
    if request.size in (None, "auto"):
        return _tiered(replace(request, size=None), sizes)
    asked, size = spelled(request.size), legal(request.size, sizes)
    return replace(request, size=size), () if size == asked else (f"size: {asked} -> {size}",)


def _tiered(request: GenerationRequest, sizes: Sizes) -> tuple[GenerationRequest, tuple[str, ...]]:
    """Take the quality for a resolution, where a model has these by name: never for the dearest."""
    tier = _QUALITY_TIERS.get(request.quality or "")
    return (replace(request, size=tier, quality=None), ()) if tier in sizes.tiers else (request, ())


def _graded(request: GenerationRequest, rules: Rules) -> tuple[GenerationRequest, tuple[str, ...]]:
    """Drop the quality, which no model has, and put in its place what the price depends on."""
    changes = () if request.quality in (None, "auto") else ("quality: dropped",)
    grade: str | None = None
    if rules.grade == "prompt_extend":
        grade = "extended" if _is_true(request.extra.get("prompt_extend")) else "standard"
    elif rules.grade == "area" and (pixels := pixels_of(request.size or "")):
        grade = "1K" if pixels[0] * pixels[1] <= ONE_K else "2K"
    return replace(request, quality=grade), changes


def _read(kind: _Kind, raw: Raw, name: str) -> Json:
    try:
        return kind.decoder.decode(raw)
    except BAD_JSON as exc:
        raise InvalidRequestError(f"{name!r} must be {kind.words}", param=name, code="invalid_type") from exc


def _is_true(raw: Raw | None) -> bool:
    return raw is not None and _read(_YES_NO, raw, "")


def _shown(raw: Raw) -> str:
    return bytes(raw)[:40].decode(errors="replace")
