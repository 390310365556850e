"""Say OpenAI's sizes and qualities as Gemini's ratios and tiers, and check what is Gemini's own."""

import re
from collections.abc import Mapping
from math import sqrt
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Raw, Struct
from msgspec.structs import replace

from amux_asgi.adapters._base import Fitted, nearest_ratio, pixels_of
from amux_asgi.catalogue import google
from amux_asgi.errors import InvalidRequestError
from amux_asgi.schema import BAD_JSON, GenerationRequest
from amux_asgi.words import join, quote

FIELDS: Final = frozenset(
    {"aspect_ratio", "image_size", "person_generation", "safety_settings", "seed", "thinking_level"}
)
PEOPLE: Final = ("ALLOW_ALL", "ALLOW_ADULT", "ALLOW_NONE")
_UNKNOWN: Final = ("1K", "2K", "4K")  # tiers of a model that the catalogue does not know: those of the newest


class Safety(Struct, frozen=True, forbid_unknown_fields=True):
    """How strictly one kind of content is kept out."""

    category: Literal[
        "HARM_CATEGORY_HARASSMENT",
        "HARM_CATEGORY_HATE_SPEECH",
        "HARM_CATEGORY_SEXUALLY_EXPLICIT",
        "HARM_CATEGORY_DANGEROUS_CONTENT",
        "HARM_CATEGORY_CIVIC_INTEGRITY",
    ]
    threshold: Literal["BLOCK_LOW_AND_ABOVE", "BLOCK_MEDIUM_AND_ABOVE", "BLOCK_ONLY_HIGH", "BLOCK_NONE", "OFF"]


class Shape(Struct, frozen=True):
    """What is asked of a picture's shape: an aspect ratio, a tier, or neither."""

    ratio: str | None = None
    tier: str | None = None


class Rules(Struct, frozen=True):
    """What one model can make. `known` says that the catalogue vouches for it."""

    model: str
    ratios: tuple[str, ...] = google.FOURTEEN
    tiers: tuple[str, ...] = _UNKNOWN
    levels: tuple[str, ...] = google.LEVELS
    known: bool = False


def rules_of(model: str) -> Rules:
    """Look up what a model can make."""
    entry = google.ROWS.get(model)
    levels = google.THINKING.get(model, google.LEVELS)
    return Rules(model) if entry is None else Rules(model, entry.spec.ratios, entry.spec.tiers, levels, known=True)


def fit(model: str, request: GenerationRequest, *, people: bool = False) -> Fitted:
    """Fit a request to a model; `people` says that the interface lets a client choose who may be shown.

    Afterwards `size` is the tier, and `extra` holds just what is written, under our own names.

    Raises:
        InvalidRequestError: it says what the model cannot make.
    """
    rules, said = rules_of(model), _said(request)
    wanted = shape_of(request.size, rules)
    ratio = _one_of("aspect_ratio", said.get("aspect_ratio"), rules.ratios) or wanted.ratio
    tier = _one_of("image_size", _upper(said.get("image_size")), rules.tiers) or wanted.tier
    by_quality = _tier_of(request.quality, rules.tiers) if tier is None else None
    got = Shape(ratio, tier or by_quality or ("1K" if rules.known else None))
    changes = size_changes(request.size, got, rules)
    if by_quality is None and request.quality not in (None, *_USUAL):
        changes.append("quality: dropped")
    extra = {name: value for name, value in request.extra.items() if name not in FIELDS}
    extra |= _shape_fields(got, rules) | _others(said, rules, changes, people=people)
    fitted = replace(request, size=got.tier, quality=None, extra=extra)
    return Fitted(request=fitted, changes=tuple(changes), per_ask=1)


def shape_of(size: str | None, rules: Rules) -> Shape:
    """Read a size: "1536x1024", and beside what OpenAI takes "16:9" and "2K".

    Raises:
        InvalidRequestError: it is none.
    """
    if size in (None, "auto"):
        return Shape()
    if size.upper() in _TIERS:
        return Shape(tier=_nearest_tier(_TIERS[size.upper()], rules.tiers))
    pixels, ratio = pixels_of(size), _RATIO.fullmatch(size)
    if pixels is not None:
        width, height = pixels
        return Shape(nearest_ratio(width, height, rules.ratios), _nearest_tier(sqrt(width * height), rules.tiers))
    if ratio is not None:
        return Shape(nearest_ratio(int(ratio[1]), int(ratio[2]), rules.ratios))
    raise InvalidRequestError(
        f"size {quote(size)} cannot be made: say WIDTHxHEIGHT in pixels, for example '1536x1024', or 'auto'",
        param="size",
    )


def size_changes(size: str | None, got: Shape, rules: Rules) -> list[str]:
    """Tell how what will be made differs from the size that was asked for."""
    if size in (None, "auto"):
        return []
    if ":" in size:
        asked, made = size, got.ratio
    elif size.upper() in _TIERS:
        asked, made = size.upper(), got.tier
    else:  # pixels, which always have both a ratio and a tier
        asked, made = size, google.pixels(rules.model, got.ratio or "1:1", got.tier or "1K")
    return [] if made == asked else [f"size: {size} -> {made}"]


def _tier_of(quality: str | None, tiers: tuple[str, ...]) -> str | None:
    if len(tiers) == 1 or quality not in _QUALITIES:
        return None
    return tiers[0] if quality == "low" else "2K"


def _nearest_tier(edge: float, tiers: tuple[str, ...]) -> str:
    """Choose a tier for the edge of a square of the same area, in pixels."""
    wanted = next((tier for tier, end in _ENDS.items() if edge < end), "4K")
    order = tuple(_TIERS)
    return min(tiers, key=lambda tier: abs(order.index(tier) - order.index(wanted)))


def _shape_fields(got: Shape, rules: Rules) -> dict[str, Raw]:
    """Write what the model must be told: a model with one tier has no field for it."""
    tier = got.tier if len(rules.tiers) > 1 else None
    told = {"aspect_ratio": got.ratio, "image_size": tier}
    return {name: _raw(value) for name, value in told.items() if value is not None}


def _others(said: Mapping[str, Any], rules: Rules, changes: list[str], *, people: bool) -> dict[str, Raw]:
    kept = {name: _raw(said[name]) for name in ("seed", "safety_settings") if name in said}
    if "thinking_level" in said and not rules.levels:
        changes.append("thinking_level: dropped")
    elif level := _one_of("thinking_level", said.get("thinking_level", "").lower() or None, rules.levels):
        kept["thinking_level"] = _raw(level)
    if "person_generation" in said and not people:
        changes.append("person_generation: dropped")
    elif shown := _one_of("person_generation", _person(said.get("person_generation")), PEOPLE):
        kept["person_generation"] = _raw(shown)
    return kept


def _person(value: str | None) -> str | None:
    """Take Imagen's words for Gemini's."""
    return None if value is None else value.upper().replace("DONT_ALLOW", "ALLOW_NONE")


def _said(request: GenerationRequest) -> dict[str, Any]:
    """Read the fields that are Gemini's own; what would change the price in disguise is refused."""
    for name in request.extra:
        if name in _NATIVE:
            raise InvalidRequestError(
                f"{name!r} cannot be given as it is; say {join(sorted(FIELDS))}", param=name, code="unknown_parameter"
            )
    said = {name: _read(name, Raw(value)) for name, value in request.extra.items() if name in FIELDS}
    return {name: value for name, value in said.items() if value is not None}


def _read(name: str, value: Raw) -> Any:  # noqa: ANN401, as its decoder says
    decoder, words = _TYPES.get(name, _TEXT)
    try:
        return decoder.decode(value)
    except BAD_JSON as exc:
        raise InvalidRequestError(f"{name!r} must be {words}", param=name) from exc


def _one_of(name: str, value: str | None, choices: tuple[str, ...]) -> str | None:
    if value is None or value in choices:
        return value
    raise InvalidRequestError(f"{quote(value)} is no {name!r} of this model; it takes {join(choices)}", param=name)


def _upper(value: str | None) -> str | None:
    return None if value is None else value.upper()


def _raw(value: object) -> Raw:
    return Raw(msgspec.json.encode(value))


_TIERS: Final[Mapping[str, int]] = {"512": 512, "1K": 1024, "2K": 2048, "4K": 4096}
_ENDS: Final[Mapping[str, int]] = {"512": 768, "1K": 1536, "2K": 3072}  # of the square's edge, in pixels, exclusive
_QUALITIES: Final = ("low", "high", "hd")
_USUAL: Final = ("medium", "standard", "auto")  # what a model makes when nothing is said
_RATIO: Final = re.compile(r"([1-9][0-9]{0,4}):([1-9][0-9]{0,4})")
_Seed = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]
_TEXT: Final[tuple[msgspec.json.Decoder[Any], str]] = (msgspec.json.Decoder(str | None), "a string")
_TYPES: Final[Mapping[str, tuple[msgspec.json.Decoder[Any], str]]] = {
    "seed": (msgspec.json.Decoder(_Seed | None), "an integer of 32 bits"),
    "safety_settings": (
        msgspec.json.Decoder(list[Safety] | None),
        "an array of objects, each with a 'category' and a 'threshold' of Gemini's",
    ),
}
_NATIVE: Final = frozenset(
    {"cachedContent", "cached_content", "contents", "generationConfig", "generation_config"}
    | {"safetySettings", "systemInstruction", "system_instruction", "tools"}
)
