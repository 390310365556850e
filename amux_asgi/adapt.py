"""Say a request in the terms of one channel: what it cannot be told is dropped and reported, or refused."""

from typing import Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from amux_asgi.adapters import VENDOR_FIELDS
from amux_asgi.errors import InvalidRequestError
from amux_asgi.routing import Channel
from amux_asgi.schema import GenerationRequest
from amux_asgi.spec import ModelSpec
from amux_asgi.words import as_object, quote

COUNTS: Final = frozenset({"batch_size", "max_images", "num_images", "num_outputs", "numberofimages", "samplecount"})
"""Vendors' names for `n`: taken only where the adapter understands them, since they change what a request costs.

In lower case: there are servers that read names in any.
"""

MODELS: Final = frozenset({"deployment", "deployment_id", "engine", "model_id", "modelid", "models"})
"""Other names for `model`, refused for the same reason."""

LONGEST: Final = 1000  # characters of a report


class Adapted(Struct, frozen=True):
    """A request as one channel can be asked it, and what had to be changed: `field: dropped`, `field: old -> new`."""

    request: GenerationRequest
    changes: tuple[str, ...] = ()


def adapt(request: GenerationRequest, channel: Channel, spec: ModelSpec | None) -> Adapted:
    """Fit a valid request to a channel.

    Raises:
        InvalidRequestError: it says what this channel cannot do, and what must not be dropped.
    """
    _refuse_aliases(request, channel.adapter.fields)
    _refuse_unavailable(request, channel, spec)
    unsaid = {name for name in channel.adapter.ignores if getattr(request, name) is not None}
    changes = [f"{name}: dropped" for name in sorted(unsaid)]
    if request.partial_images:  # previews cost tokens, and only a stream shows them
        unsaid.add("partial_images")
        changes.append("partial_images: dropped")
    if len(_forms(channel, spec)) == 1:
        unsaid.add("response_format")  # the only form is the one asked for: nothing is lost
    extra = {name: value for name, value in request.extra.items() if _is_forwarded(name, channel)}
    changes += [f"{name}: dropped" for name in request.extra if name not in extra]
    if unsaid or len(extra) < len(request.extra):
        request = replace(request, extra=extra, **dict.fromkeys(unsaid))
    return Adapted(request, tuple(changes))


def report(changes: tuple[str, ...]) -> str:
    """Write `x-amux-adapted`: printable ASCII, bounded."""
    text = "; ".join(changes).encode("ascii", "backslashreplace").decode()
    line = "".join(character if character.isprintable() else "?" for character in text)
    return line if len(line) <= LONGEST else line[: LONGEST - 3] + "..."


def refuse_changes(changes: tuple[str, ...]) -> None:
    """Hold strict mode's promise: the first change becomes a refusal that names the field.

    Raises:
        InvalidRequestError: there is a change.
    """
    if changes:
        field = changes[0].partition(":")[0]
        raise InvalidRequestError(f"strict mode: this model's channel cannot take {quote(field)} as it is", param=field)


def _is_forwarded(name: str, channel: Channel) -> bool:
    adapter = channel.adapter
    if name in adapter.fields:
        return True
    if adapter.closed and name in VENDOR_FIELDS:
        return False
    if channel.unknown_fields == "reject":
        raise InvalidRequestError(f"unknown parameter: {quote(name)}", param=name, code="unknown_parameter")
    return channel.unknown_fields == "forward"


def _refuse_aliases(request: GenerationRequest, known: frozenset[str]) -> None:
    for name, value in request.extra.items():
        if name in known:
            continue
        plain = name.lower()
        if plain in COUNTS | MODELS:
            meant = "n" if plain in COUNTS else "model"
            raise InvalidRequestError(
                f"unknown parameter: {name!r}; say {meant!r}", param=name, code="unknown_parameter"
            )
        if plain == "parameters":
            nested = as_object(msgspec.json.decode(value)) or {}
            if inner := [count for count in nested if count.lower() in COUNTS | {"n"}]:
                raise InvalidRequestError(
                    f"{name!r} says {inner[0]!r}, which this model's channel does not count by; say 'n'",
                    param=name,
                    code="unknown_parameter",
                )


def _refuse_unavailable(request: GenerationRequest, channel: Channel, spec: ModelSpec | None) -> None:
    if request.stream:
        raise InvalidRequestError("streaming is not available yet; leave out 'stream'", param="stream")
    forms = _forms(channel, spec)
    if request.response_format not in (None, *forms):
        raise InvalidRequestError(
            f"this model's pictures come as {forms[0]!r}; {request.response_format!r} is not available for it yet",
            param="response_format",
        )
    if (request.n or 1) > channel.adapter.max_images:
        raise InvalidRequestError(
            f"this model makes at most {channel.adapter.max_images} pictures a request",
            param="n",
            code="integer_above_max_value",
        )


def _forms(channel: Channel, spec: ModelSpec | None) -> tuple[str, ...]:
    if spec is not None and "response_format" not in spec.fields:
        return (spec.response_format,)
    return channel.adapter.forms
