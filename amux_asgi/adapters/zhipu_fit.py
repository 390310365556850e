"""Say a request in Zhipu's words: sizes it can make, its two qualities, its names for a watermark and a user."""

from collections.abc import Mapping
from hashlib import sha256
from typing import Final, TypeVar

import msgspec
from msgspec import Raw
from msgspec.structs import replace

from amux_asgi.adapters._base import Fitted, clamp, pixels_of
from amux_asgi.catalogue.zhipu import ROWS, RULES, Rules
from amux_asgi.errors import InvalidRequestError
from amux_asgi.schema import BAD_JSON, GenerationRequest, Json
from amux_asgi.words import quote, type_word

T = TypeVar("T")
FIELDS: Final = frozenset({"request_id", "sensitive_word_check", "user_id", "watermark", "watermark_enabled"})
QUALITIES: Final[Mapping[str, str]] = {
    "hd": "hd",
    "high": "hd",
    "standard": "standard",
    "medium": "standard",
    "low": "standard",
}
_USER: Final = range(6, 129)  # characters of a user's id
_DIGEST: Final = 32  # characters of a hash that stands for one


def fit(model: str, request: GenerationRequest) -> Fitted:
    """Fit a valid request to a model; one that the catalogue does not know is told sizes and qualities as they came.

    Raises:
        InvalidRequestError: a field says what cannot be said.
    """
    rules = RULES.get(model.lower())
    size, size_change = _size(request.size, model.lower())
    quality, quality_change = _quality(request.quality, rules)
    extra, user_change = _user(request.user, _watermark(_checked(request.extra)))
    fitted = replace(request, size=size, quality=quality, user=None, extra=extra)
    return Fitted(request=fitted, changes=(*size_change, *quality_change, *user_change), per_ask=1)


def _size(size: str | None, model: str) -> tuple[str | None, tuple[str, ...]]:
    """Find the nearest size; those that the vendor names itself may break its rule for all others."""
    if size is None or size == "auto":
        return None, ()
    if model not in RULES or size in ROWS[model].spec.sizes:
        return size, ()
    rules = RULES[model]
    pixels = pixels_of(size)
    if pixels is None:
        raise InvalidRequestError(f"size {quote(size)} is not WIDTHxHEIGHT in pixels", param="size")
    width, height = clamp(*pixels, step=rules.step, shortest=rules.shortest, longest=rules.longest, most=rules.most)
    made = f"{width}x{height}"
    return made, () if made == size else (f"size: {size} -> {made}",)


def _quality(quality: str | None, rules: Rules | None) -> tuple[str | None, tuple[str, ...]]:
    """Choose the quality; what is always the same is not said upstream, only reported."""
    if quality is None or quality == "auto":
        return None, ()
    meant = QUALITIES.get(quality, quality)
    made = meant if rules is None or meant in rules.qualities else rules.qualities[0]
    changes = () if made == quality else (f"quality: {quality} -> {made}",)
    return (None if rules is not None and len(rules.qualities) == 1 else made), changes


def _checked(extra: Mapping[str, Json]) -> dict[str, Json]:
    for name, wanted in (("request_id", str), ("sensitive_word_check", dict)):
        if name in extra:
            _read(name, extra[name], wanted)
    return dict(extra)


def _watermark(extra: dict[str, Json]) -> dict[str, Json]:
    """Fold `watermark` into the vendor's own name for it."""
    said = {name: _read(name, extra[name], bool) for name in ("watermark", "watermark_enabled") if name in extra}
    if len(set(said.values())) > 1:
        raise InvalidRequestError("'watermark' and 'watermark_enabled' contradict each other", param="watermark")
    if "watermark" in said:
        extra["watermark_enabled"] = extra.pop("watermark")
    return extra


def _user(user: str | None, extra: dict[str, Json]) -> tuple[dict[str, Json], tuple[str, ...]]:
    """Name the user as the vendor does; a name that it would refuse is hashed, so that it still tells users apart."""
    if "user_id" in extra:
        told = _read("user_id", extra["user_id"], str)
        if len(told) not in _USER:
            message = f"'user_id' has {len(told)} characters; the upstream takes {_USER[0]} to {_USER[-1]}"
            raise InvalidRequestError(message, param="user_id")
        return extra, () if user in (None, told) else ("user: dropped",)
    if user is None:
        return extra, ()
    name = user if len(user) in _USER else sha256(user.encode()).hexdigest()[:_DIGEST]
    extra["user_id"] = Raw(msgspec.json.encode(name))
    return extra, () if name == user else ("user: hashed",)


def _read(name: str, raw: Raw, wanted: type[T]) -> T:
    try:
        return msgspec.json.decode(raw, type=wanted)
    except BAD_JSON as exc:
        message = f"{name!r} must be {type_word(wanted())}, not {type_word(msgspec.json.decode(raw))}"
        raise InvalidRequestError(message, param=name, code="invalid_type") from exc
