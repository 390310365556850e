"""Check a request against what its model takes; the first fault is told in OpenAI's order, with OpenAI's codes.

Source: live probes of api.openai.com, 2026-08-29 and 2026-09-23.
"""

import re
from collections.abc import Callable, Mapping
from typing import Final

from amux_asgi.document import Body
from amux_asgi.errors import InvalidRequestError
from amux_asgi.schema import FIELDS, GenerationRequest, Json
from amux_asgi.spec import ModelSpec, Pixels
from amux_asgi.words import is_printable, join, quote, type_word

Fields = Mapping[str, Json]
USER_ERROR: Final = "image_generation_user_error"
N_MAX: Final = 10
PROMPT_MAX: Final = 32_000  # code points, of a model that the catalogue does not know

REFUSED: Final = frozenset(
    {
        "api_base",
        "api_key",
        "api_version",
        "base_url",
        "custom_llm_provider",
        "extra_body",
        "extra_headers",
        "extra_query",
        "fallbacks",
    }
)
"""What would change where a request goes, or as whom."""

EDITS_ONLY: Final = frozenset({"image", "images", "input_fidelity", "mask"})

EVERYWHERE: Final = frozenset({"partial_images", "response_format", "stream"})
"""What every model can be asked here, whatever its vendor says: we make one form of another."""


def parse(asked: Body, spec: ModelSpec | None) -> GenerationRequest:
    """Give the valid request, which is the same for every model that it is valid for.

    Without a spec, types and general ranges are checked.

    Raises:
        InvalidRequestError: the first fault.
    """
    check(asked.values, spec)
    if FIELDS.issuperset(asked.values):
        return GenerationRequest(**asked.values)
    known = {name: value for name, value in asked.values.items() if name in FIELDS}
    return GenerationRequest(**known, extra={name: raw for name, raw in asked.raw.items() if name not in FIELDS})


def check(fields: Fields, spec: ModelSpec | None) -> None:
    """Find the first fault: the names, then the prompt, `n`, and the rest.

    Raises:
        InvalidRequestError: if there is one.
    """
    if fields.keys() - (FIELDS if spec is None else spec.fields) - EVERYWHERE:  # most requests have none such
        for name in fields:
            _check_name(name, spec)
    if "prompt" not in fields:
        raise _fault("prompt", "the request has no 'prompt'", "missing_required_parameter")
    for name, check_value in _IN_ORDER:
        if name in fields:
            check_value(name, fields[name], fields, spec)


def _check_name(name: str, spec: ModelSpec | None) -> None:
    if name in FIELDS:
        known = spec is None or name in spec.fields or name in EVERYWHERE
    else:
        plain = name.lower()
        known = plain not in REFUSED and plain not in FIELDS and not (spec is not None and name in EDITS_ONLY)
    if not known:
        raise _fault(name, f"unknown parameter: {quote(name)}", "unknown_parameter")


def _prompt(name: str, value: Json, _fields: Fields, spec: ModelSpec | None) -> None:
    _is(name, value, str)
    longest = PROMPT_MAX if spec is None else spec.prompt_max
    if not value:
        raise _fault(name, "'prompt' is an empty string", "empty_string")
    if len(value) > longest:
        message = f"'prompt' has {len(value)} characters; this model takes {longest}"
        raise _fault(name, message, "string_above_max_length")
    if "\x00" in value:
        raise _fault(name, "'prompt' holds a NUL character")


def _n(name: str, value: Json, _fields: Fields, spec: ModelSpec | None) -> None:
    _within(name, value, 1, N_MAX if spec is None else spec.n_max)


def _quality(name: str, value: Json, _fields: Fields, spec: ModelSpec | None) -> None:
    if spec is None or not spec.qualities:
        _text(name, value, _fields, spec)
        return
    if value in _RARE_QUALITIES and value not in spec.qualities:
        raise _fault(name, f"this model does not make quality {quote(value)}", kind=USER_ERROR)
    _one_of(name, value, spec.qualities)


def _background(name: str, value: Json, fields: Fields, spec: ModelSpec | None) -> None:
    if spec is None or not spec.backgrounds:
        _text(name, value, fields, spec)
        return
    _one_of(name, value, spec.backgrounds)
    if value == "transparent" and fields.get("output_format") == "jpeg":
        raise _fault(name, "JPEG has no transparent background; ask for 'png' or 'webp'")


def _output_format(name: str, value: Json, fields: Fields, spec: ModelSpec | None) -> None:
    if spec is None or not spec.output_formats:
        _text(name, value, fields, spec)
        return
    _one_of(name, value, spec.output_formats)
    forbidden = _FORBIDDEN_WITH.get(value, ())
    for other in forbidden:
        if fields.get(other):
            raise _fault(other, f"{other!r} cannot be had with output format {value!r}")
    if value == "svg" and fields.get("n", 1) != 1:
        raise _fault("n", "one SVG is made at a time")


def _compression(name: str, value: Json, fields: Fields, spec: ModelSpec | None) -> None:
    _within(name, value, 0, 100)
    if spec is not None and not spec.snaps and value < 100 and fields.get("output_format", "png") == "png":  # noqa: PLR2004, percent
        raise _fault(
            name, "PNG is not compressed with loss; ask for 'jpeg' or 'webp'", "invalid_png_output_compression"
        )


def _size(name: str, value: Json, fields: Fields, spec: ModelSpec | None) -> None:
    _text(name, value, fields, spec)
    if spec is None or spec.snaps:
        return
    if spec.pixels is not None:
        _free_size(value, spec.pixels)
    elif value not in spec.sizes:
        raise _fault(
            name, f"size {quote(value)} cannot be made by this model; it makes {join(spec.sizes)}", spec.size_code
        )


def _free_size(value: str, rule: Pixels) -> None:
    if value == "auto":
        return
    match = _SIZE.fullmatch(value)
    if match is None:
        raise _bad_size(value, "say WIDTHxHEIGHT in pixels, for example '1536x1024', or 'auto'")
    width, height = int(match[1]), int(match[2])
    if width % rule.step or height % rule.step:
        raise _bad_size(value, f"width and height must be multiples of {rule.step}")
    if max(width, height) > rule.longest:
        raise _bad_size(value, f"the longest edge may have {rule.longest} pixels")
    if max(width, height) > rule.ratio * min(width, height):
        raise _bad_size(value, f"the longer edge may be {rule.ratio} times the shorter")
    if not rule.fewest <= width * height <= rule.most:
        raise _bad_size(value, f"width x height must be between {rule.fewest} and {rule.most} pixels")


def _bad_size(value: str, reason: str) -> InvalidRequestError:
    return _fault("size", f"size {quote(value)} cannot be made: {reason}", kind=USER_ERROR)


def _of_gif(lowest: int, highest: int) -> "_Check":
    def check_value(name: str, value: Json, fields: Fields, _spec: ModelSpec | None) -> None:
        _within(name, value, lowest, highest)
        if fields.get("output_format") != "gif":
            raise _fault(name, f"{name!r} goes with output format 'gif' only")

    return check_value


def _svg(name: str, value: Json, fields: Fields, _spec: ModelSpec | None) -> None:
    _is(name, value, dict)
    if fields.get("output_format") != "svg":
        raise _fault(name, "'svg' goes with output format 'svg' only")


def _boolean(name: str, value: Json, _fields: Fields, _spec: ModelSpec | None) -> None:
    _is(name, value, bool)


def _text(name: str, value: Json, _fields: Fields, _spec: ModelSpec | None) -> None:
    _is(name, value, str)
    if not is_printable(value):
        raise _fault(name, f"{name!r} holds a control character")


def _choice(*choices: str) -> "_Check":
    return lambda name, value, _fields, _spec: _one_of(name, value, choices)


def _range(lowest: int, highest: int) -> "_Check":
    return lambda name, value, _fields, _spec: _within(name, value, lowest, highest)


def _one_of(name: str, value: Json, choices: tuple[str, ...]) -> None:
    if not isinstance(value, str):
        message = f"{name!r} must be one of {join(choices, last='or')}, not {type_word(value)}"
        raise _fault(name, message, "invalid_type")
    if value not in choices:
        raise _fault(name, f"{quote(value)} is no {name!r} of this model; it takes {join(choices)}")


def _within(name: str, value: Json, lowest: int, highest: int) -> None:
    _is(name, value, int)
    if value < lowest:
        raise _fault(name, f"{name!r} must be at least {lowest}", "integer_below_min_value")
    if value > highest:
        raise _fault(name, f"{name!r} must be at most {highest}", "integer_above_max_value")


def _is(name: str, value: Json, wanted: type) -> None:
    if type(value) is not wanted:  # a boolean is no integer here
        message = f"{name!r} must be {type_word(wanted())}, not {type_word(value)}"
        raise _fault(name, message, "invalid_type")


def _fault(name: str, message: str, code: str | None = None, *, kind: str | None = None) -> InvalidRequestError:
    return InvalidRequestError(message, param=name, code=code, type=kind)


_Check = Callable[[str, Json, Fields, ModelSpec | None], None]
_SIZE: Final = re.compile(r"([1-9][0-9]{0,5})x([1-9][0-9]{0,5})")
_RARE_QUALITIES: Final = ("xhigh", "max")
_FORBIDDEN_WITH: Final[Mapping[str, tuple[str, ...]]] = {
    "gif": ("stream", "partial_images", "output_compression"),
    "svg": ("stream", "partial_images", "output_compression"),
}
_IN_ORDER: Final[tuple[tuple[str, _Check], ...]] = (
    ("prompt", _prompt),
    ("n", _n),
    ("quality", _quality),
    ("style", _choice("vivid", "natural")),
    ("response_format", _choice("url", "b64_json")),
    ("background", _background),
    ("moderation", _choice("auto", "low")),
    ("output_format", _output_format),
    ("output_compression", _compression),
    ("size", _size),
    ("partial_images", _range(0, 3)),
    ("stream", _boolean),
    ("user", _text),
    ("safety_identifier", _text),
    ("complexity", _choice("low", "medium", "high")),
    ("frame_count", _of_gif(2, 16)),
    ("frame_duration_ms", _of_gif(1, 655_350)),
    ("svg", _svg),
)
