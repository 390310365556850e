"""Say a request in Imagen's terms: what it counts and costs settled, all else written as Imagen's own parameters."""

from collections.abc import Iterator, Mapping
from typing import Final

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace

from amux_asgi.adapters._base import Fitted, nearest_ratio, pixels_of
from amux_asgi.catalogue.imagen import IMAGEN_4, NATIVE, RATIOS, ROWS, SIZES, TIERS
from amux_asgi.errors import InvalidRequestError
from amux_asgi.explain import check
from amux_asgi.schema import BAD_JSON, NOTHING, GenerationRequest, Json, fields_of
from amux_asgi.words import join, quote

LARGE: Final = 1536  # pixels, a longer edge is a 2K picture's
COUNTS: Final = frozenset({"number_of_images", "sampleCount"})
NAMES: Final[Mapping[str, str]] = {
    "aspect_ratio": "aspectRatio",
    "guidance_scale": "guidanceScale",
    "image_size": "sampleImageSize",
    "language": "language",
    "person_generation": "personGeneration",
    "safety_setting": "safetySetting",
}
VERTEX_NAMES: Final[Mapping[str, str]] = {
    "enhance_prompt": "enhancePrompt",
    "negative_prompt": "negativePrompt",
    "seed": "seed",
    "watermark": "addWatermark",
}
"""Parameters that only Vertex knows."""

FIELDS: Final = frozenset(NAMES) | COUNTS | {"parameters"}
VERTEX_FIELDS: Final = FIELDS | frozenset(VERTEX_NAMES)

OBJECTS: Final[Mapping[str, frozenset[str]]] = {
    "parameters": frozenset({*NAMES.values(), *VERTEX_NAMES.values()})
    | {"imageSize", "includeRaiReason", "includeSafetyAttributes", "labels", "n", "outputOptions", "storageUri"}
}
"""What is known inside `parameters`, counts aside."""


class Shape(Struct, frozen=True, kw_only=True):
    """What a picture is to look like; `None` leaves it to the model."""

    ratio: str | None = None
    tier: str | None = None

    def pixels(self) -> str:
        """Give the pixels, "WIDTHxHEIGHT"."""
        return SIZES[self.ratio or "1:1", self.tier or "1K"]


def fit(model: str, request: GenerationRequest) -> Fitted:
    """Fit a request to Imagen on the Gemini API.

    Raises:
        InvalidRequestError: it says what Imagen cannot be asked.
    """
    return _fitted(model, request, NAMES)


def vertex_fit(model: str, request: GenerationRequest) -> Fitted:
    """Fit a request to Imagen on Vertex.

    Raises:
        InvalidRequestError: it says what Imagen cannot be asked.
    """
    return _fitted(model, request, {**NAMES, **VERTEX_NAMES})


def _fitted(model: str, request: GenerationRequest, names: Mapping[str, str]) -> Fitted:
    told, changes = _told(request, names)
    request = counted(request, told)
    changes += [f"parameters.{name}: dropped" for name in VERTEX_NAMES.values() if _is_foreign(name, told, names)]
    tiers = ROWS[model].spec.tiers if model in ROWS else IMAGEN_4.tiers
    shape = _explicit(told, _shape(request, tiers), tiers)
    changes += _shape_changes(request, shape)
    options, dropped = file_options(request, told.pop("outputOptions", None))
    changes += dropped
    seeds = {"seed": told.pop("seed")} if "seed" in told else {}
    if seeds and bytes(told.get("addWatermark", NOTHING)) != b"false":
        changes.append("seed: dropped")  # the vendor takes none for a picture with a watermark
        seeds.clear()
    parameters: dict[str, Json] = {"includeRaiReason": True, **told}
    said = {"aspectRatio": shape.ratio, "sampleImageSize": shape.tier, "outputOptions": options or None}
    parameters |= {name: value for name, value in said.items() if value is not None}
    extra = {name: value for name, value in request.extra.items() if name not in VERTEX_FIELDS}
    extra |= {"parameters": Raw(msgspec.json.encode(parameters)), **seeds}
    settled = {"size": shape.tier or "1K", "quality": None, "output_format": None, "output_compression": None}
    return Fitted(request=replace(request, **settled, extra=extra), changes=tuple(changes), per_ask=NATIVE)


def _told(request: GenerationRequest, names: Mapping[str, str]) -> tuple[dict[str, Raw], list[str]]:
    """Collect Imagen's parameters that the client names, its whole `parameters` before single fields, which then go."""
    if "instances" in request.extra:
        raise InvalidRequestError(
            "'instances' cannot be given as it is; say 'prompt'", param="instances", code="unknown_parameter"
        )
    single = {name: value for name, value in _present(request.extra).items() if name in names}
    whole = parameters_of(request)
    changes = _one_name(whole)
    told = {names[name]: value for name, value in single.items()} | whole
    changes += [f"{name}: dropped" for name, value in single.items() if bytes(told[names[name]]) != bytes(value)]
    if "storageUri" in told:
        raise InvalidRequestError("the picture would be stored instead of answered; leave it out", param="parameters")
    if (people := _text(told.get("personGeneration"))) is not None:
        told["personGeneration"] = _PEOPLE.get(people.lower(), told["personGeneration"])
    return told, changes


def _one_name(whole: dict[str, Raw]) -> list[str]:
    """Give the resolution its one name: the documents have two."""
    other = whole.pop("imageSize", None)
    if other is None or bytes(whole.setdefault("sampleImageSize", other)) == bytes(other):
        return []
    return ["parameters.imageSize: dropped"]


def parameters_of(request: GenerationRequest) -> dict[str, Raw]:
    """Take the client's whole `parameters` apart.

    Raises:
        InvalidRequestError: they are no object.
    """
    whole = _present({name: value for name, value in request.extra.items() if name == "parameters"})
    return _present(object_of(whole["parameters"], "parameters")) if whole else {}


def counted(request: GenerationRequest, told: dict[str, Raw]) -> GenerationRequest:
    """Take counts out of what is `told` inside `parameters`, for `n`.

    Raises:
        InvalidRequestError: it is no count, or another one than `n`.
    """
    for name in ("n", "numberOfImages", "sampleCount"):
        if name not in told:
            continue
        count: Json = msgspec.json.decode(told.pop(name))
        check({"prompt": request.prompt, "n": count}, None)
        if request.n not in (None, count):
            raise InvalidRequestError(
                f"'n' and 'parameters.{name}' ask for different numbers of pictures",
                param="parameters",
                code="duplicate_key",
            )
        request = replace(request, n=count)
    return request


def _present(told: Mapping[str, Raw]) -> dict[str, Raw]:
    return {name: value for name, value in told.items() if bytes(value) != b"null"}


def _is_foreign(name: str, told: dict[str, Raw], names: Mapping[str, str]) -> bool:
    """Take away a parameter that this interface does not know, and tell whether it was there."""
    return name not in names.values() and told.pop(name, None) is not None


def _shape(request: GenerationRequest, tiers: tuple[str, ...]) -> Shape:
    """Read size and quality: a high quality is the higher resolution, where there is one."""
    shape = _sized(request.size)
    tier = TIERS[-1] if request.quality in _HIGH else shape.tier
    return replace(shape, tier=tier if tier is None or tier in tiers else tiers[-1])


def _sized(size: str | None) -> Shape:
    if size in (None, "auto"):
        return Shape()
    if size.upper() in TIERS:
        return Shape(tier=size.upper())
    pixels = pixels_of(size.replace(":", "x"))
    if pixels is None:
        raise InvalidRequestError(f"{quote(size)} is no size; say it as '1024x1024' or '16:9'", param="size")
    ratio = nearest_ratio(*pixels, RATIOS)
    if ":" in size:
        return Shape(ratio=ratio)
    return Shape(ratio=ratio, tier="2K" if max(pixels) > LARGE else "1K")


def _explicit(told: dict[str, Raw], shape: Shape, tiers: tuple[str, ...]) -> Shape:
    """Put what the client says in Imagen's own words before what follows from size and quality."""
    ratio = _one_of(told.pop("aspectRatio", None), "aspect_ratio", RATIOS)
    tier = _one_of(told.pop("sampleImageSize", None), "image_size", tiers)
    return Shape(ratio=ratio or shape.ratio, tier=tier or shape.tier)


def _shape_changes(request: GenerationRequest, shape: Shape) -> Iterator[str]:
    size, quality = request.size, request.quality
    if size not in (None, "auto"):
        made = shape.ratio or "1:1" if ":" in size else shape.pixels()
        if size.upper() in TIERS:
            made = shape.tier or "1K"
        if made not in (size, size.upper()):
            yield f"size: {size} -> {made}"
    if quality in _HIGH and shape.tier == TIERS[-1]:
        yield f"quality: {quality} -> {shape.tier}"
    elif quality not in (None, *_USUAL):
        yield "quality: dropped"


def file_options(request: GenerationRequest, told: Raw | None) -> tuple[dict[str, Raw], list[str]]:
    """Give the form of the picture's file, what the client `told` first, and which fields could not be said."""
    options: dict[str, Raw] = {}
    dropped: list[str] = []
    mime = _MIMES.get(request.output_format or "")
    if mime is not None:
        options["mimeType"] = mime
    elif request.output_format is not None:
        dropped.append("output_format: dropped")
    if told is not None:
        options |= object_of(told, "parameters")
        if mime is not None and bytes(options["mimeType"]) != bytes(mime):
            dropped.append("output_format: dropped")
    if request.output_compression is not None:
        if bytes(options.get("mimeType", NOTHING)) == bytes(_MIMES["jpeg"]):
            options.setdefault("compressionQuality", Raw(b"%d" % request.output_compression))
        else:
            dropped.append("output_compression: dropped")
    return options, dropped


def object_of(value: Raw, name: str) -> dict[str, Raw]:
    """Take a client's object apart.

    Raises:
        InvalidRequestError: it is none.
    """
    try:
        return fields_of(value)
    except BAD_JSON:
        raise InvalidRequestError(f"{name!r} must hold objects", param=name, code="invalid_type") from None


def _one_of(value: Raw | None, field: str, known: tuple[str, ...]) -> str | None:
    if value is None:
        return None
    said = (_text(value) or "").upper()
    if said in known:
        return said
    raise InvalidRequestError(f"{field!r} must be one of {join(known, last='or')}", param=field)


def _text(value: Raw | None) -> str | None:
    said: Json = None if value is None else msgspec.json.decode(value)
    return said if isinstance(said, str) else None


_HIGH: Final = ("high", "hd")
_USUAL: Final = ("medium", "standard", "auto")  # what a model makes when nothing is said
_MIMES: Final[Mapping[str, Raw]] = {"png": Raw(b'"image/png"'), "jpeg": Raw(b'"image/jpeg"')}
_PEOPLE: Final[Mapping[str, Raw]] = {
    "allow_none": Raw(b'"dont_allow"'),
    "dont_allow": Raw(b'"dont_allow"'),
    "allow_adult": Raw(b'"allow_adult"'),
    "allow_all": Raw(b'"allow_all"'),
}
"""Gemini's words for the same, in capitals, beside Imagen's own."""
