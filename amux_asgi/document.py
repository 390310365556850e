"""A request's JSON, read strictly: it has one meaning, whoever reads it."""

import json
import math
import re
from collections.abc import Mapping
from typing import Final, NoReturn

import msgspec
from msgspec import Raw, Struct

from amux_asgi.errors import InvalidRequestError
from amux_asgi.schema import BAD_JSON, FIELDS, GenerationRequest, Json, fields_of
from amux_asgi.words import as_object, is_printable, quote, type_word


class Body(Struct, frozen=True):
    """A request's fields, as values and as the JSON they came as.

    Those that are `null` are left out, save `prompt`; `extra_body` is flattened.
    """

    values: Mapping[str, Json]
    raw: Mapping[str, Raw]
    model: str | None


def load(body: bytes) -> Body:
    """Read a body.

    Raises:
        InvalidRequestError: it is no JSON object in the strict sense; `param` names the field at fault.
    """
    try:
        return _load(body)
    except (*BAD_JSON, ValueError) as exc:
        raise _bad("the body is not valid JSON") from exc


def object_of(body: bytes) -> dict[str, Json]:
    """Read any JSON object as strictly; `null` stays.

    Raises:
        InvalidRequestError: it is none, or has two meanings.
    """
    try:
        return _values(body)
    except (*BAD_JSON, ValueError) as exc:
        raise _bad("the body is not valid JSON") from exc


def body_of(request: GenerationRequest) -> Body:
    """Read a request that was made in code as strictly as one that was sent.

    Raises:
        InvalidRequestError: it could not be sent so; `param` names the field at fault.
    """
    if doubled := FIELDS & request.extra.keys():
        name = min(doubled)
        raise InvalidRequestError(f"'extra' holds {name!r}, which is a field of its own", param=name)
    said = {name: value for name in FIELDS if (value := getattr(request, name)) is not None}
    fields = {name: _written(name, value) for name, value in {**said, **request.extra}.items()}
    return load(msgspec.json.encode(fields))


def _written(name: str, value: Json) -> Raw:
    try:
        name.encode()
        return value if isinstance(value, Raw) else Raw(_encoder.encode(value))
    except (TypeError, ValueError, RecursionError) as exc:
        raise InvalidRequestError(f"the value of {quote(name)} cannot be written as JSON", param=name) from exc


def _load(body: bytes) -> Body:
    values = _plain(body) or _values(body)
    raw = fields_of(body)
    if None in values.values():
        for name in [name for name, value in values.items() if value is None and name != "prompt"]:
            del values[name], raw[name]
    if "extra_body" in values:
        _flatten(values, raw)
    return Body(values, raw, _model(values))


def _plain(body: bytes) -> dict[str, Json] | None:
    """Read what is as most bodies are, in a tenth of the time: JSON in which no key can stand twice, nor half a pair.

    Each key brings a colon, so there are as many keys as colons outside of strings, at any depth.
    """
    try:
        values = _quick.decode(body)
    except BAD_JSON:
        return None
    colons = body.count(b":")
    if colons > len(values) and b"\\" not in body:  # what is in strings looks as it does in the body
        colons -= sum([value.count(":") for value in values.values() if isinstance(value, str)])
    return values if colons == len(values) else None


def _values(body: bytes) -> dict[str, Json]:
    try:
        text = body.decode()
    except UnicodeDecodeError as exc:
        raise _not_utf8(body) from exc
    _refuse_lone_surrogates(body, text)
    document: Json = _decoder.decode(text)
    fields = as_object(document)
    if fields is None:
        raise _bad(f"the body must be a JSON object, not {type_word(document)}")
    return fields


def _refuse_lone_surrogates(body: bytes, text: str) -> None:
    if _SURROGATE_ESCAPE.search(body) and (field := _field_with_surrogates(text)) is not None:
        raise InvalidRequestError("a string holds half of a surrogate pair", param=field or None, code="invalid_json")


def _not_utf8(body: bytes) -> InvalidRequestError:
    field = _field_with_surrogates(body.decode(errors="surrogateescape"))
    return InvalidRequestError("the body is not valid UTF-8", param=field or None, code="invalid_json")


def _field_with_surrogates(text: str) -> str | None:
    """Name the first field with a lone surrogate in it, `""` when that is a key or no field can be told."""
    document: Json = _decoder.decode(text)
    for name, value in (as_object(document) or {"": document}).items():
        if _SURROGATE.search(name):
            return ""
        if _SURROGATE.search(json.dumps(value, ensure_ascii=False)):
            return name
    return None


def _flatten(values: dict[str, Json], raw: dict[str, Raw]) -> None:
    told = values.pop("extra_body")
    inner = as_object(told)
    if inner is None:
        message = f"'extra_body' must be an object, not {type_word(told)}"
        raise InvalidRequestError(message, param="extra_body", code="invalid_type")
    inner_raw = fields_of(raw.pop("extra_body"))
    for name, value in inner.items():
        if value is None:
            continue
        if name in values and msgspec.json.encode(values[name]) != msgspec.json.encode(value):
            raise InvalidRequestError(
                f"{quote(name)} stands in 'extra_body' and beside it, with different values",
                param=name,
                code="duplicate_key",
            )
        values[name], raw[name] = value, inner_raw[name]


def _model(values: Mapping[str, Json]) -> str | None:
    model = values.get("model")
    if model is None:
        return None
    if not isinstance(model, str):
        raise InvalidRequestError(
            f"'model' must be a string, not {type_word(model)}", param="model", code="invalid_type"
        )
    if not is_printable(model):
        raise InvalidRequestError("'model' holds a control character", param="model")
    return model


def _unique(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))
        raise InvalidRequestError(
            f"the key {quote(twice)} stands twice in one object", param=twice, code="duplicate_key"
        )
    return fields


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError("a number is too large")
    return number


def _no_constant(_name: str) -> NoReturn:
    raise ValueError("JSON has no NaN and no infinity")


def _bad(message: str) -> InvalidRequestError:
    return InvalidRequestError(message, code="invalid_json")


_quick: Final = msgspec.json.Decoder(dict[str, Json])  # of two equal keys it would keep the second
_decoder: Final = json.JSONDecoder(object_pairs_hook=_unique, parse_float=_finite, parse_constant=_no_constant)
_encoder: Final = json.JSONEncoder(allow_nan=False)
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_SURROGATE_ESCAPE: Final = re.compile(rb"\\u[dD][89a-fA-F]")
