"""Say a request in the terms of one channel: what it cannot be told is dropped and reported, or refused."""

from typing import Final

import msgspec
from msgspec import Raw
from msgspec.structs import replace

from amux_asgi.adapters import VENDOR_FIELDS, VENDOR_OBJECTS
from amux_asgi.adapters._base import Adapter, Fitted
from amux_asgi.errors import InvalidRequestError
from amux_asgi.explain import check
from amux_asgi.routing import Candidate, Channel
from amux_asgi.schema import BAD_JSON, NOTHING, GenerationRequest, Json, fields_of
from amux_asgi.words import as_object, quote

COUNTS: Final = frozenset(
    {"batchsize", "candidatecount", "maximages", "numberofimages", "numimages", "numimagesperprompt"}
    | {"numoutputs", "numoutputsperprompt", "samplecount"}
)
"""Vendors' names for `n`: taken only where the adapter understands them, since they change what a request costs.

As `_plain` writes them: there are servers that read names in any spelling.
"""

MODELS: Final = frozenset({"deployment", "deploymentid", "engine", "modelid", "models"})
"""Other names for `model`, refused for the same reason."""

LONGEST: Final = 1000  # characters of a report


def adapt(request: GenerationRequest, candidate: Candidate) -> Fitted:
    """Fit a request that is valid for a candidate's model to the candidate's channel.

    Raises:
        InvalidRequestError: it says what this channel cannot do, and what must not be dropped.
    """
    channel, spec = candidate.channel, candidate.spec
    adapter = channel.adapter
    if request.extra:
        _refuse_aliases(request, adapter.fields)
        request = _counted(request, adapter)
    request, changes = _without_unsaid(request, candidate)
    if request.extra:
        request, dropped = _forwarded(request, channel)
        changes += dropped
    if channel.rehost and len(candidate.forms) > 1:
        request = replace(request, response_format="b64_json")  # to be hosted, without a fetch
    if adapter.fit is None:
        sure = spec is None or not spec.snaps
        return Fitted(request=request, changes=tuple(changes), per_ask=adapter.max_images, sure=sure)
    fitted = adapter.fit(candidate.rules, request)
    return replace(fitted, changes=(*changes, *fitted.changes)) if changes else fitted


def _without_unsaid(request: GenerationRequest, candidate: Candidate) -> tuple[GenerationRequest, list[str]]:
    """Leave out what cannot be said upstream, and what needs not be; report the former."""
    said: dict[str, Json] = {}  # in the place of what the client says
    changes: list[str] = []
    for name in candidate.channel.adapter.ignores:
        if getattr(request, name) is not None:
            said[name] = None
            changes.append(f"{name}: dropped")
    changes.sort()
    is_streamed = request.stream and candidate.streams  # otherwise we make a stream of what comes
    if not is_streamed and (request.stream is not None or request.partial_images is not None):
        said["stream"] = said["partial_images"] = None  # previews cost tokens, and only a stream shows them
        changes += ["partial_images: dropped"] if request.partial_images else []
    if len(candidate.forms) == 1:
        if request.response_format is not None:
            said["response_format"] = None  # it has no choice; delivery makes one form of the other
    elif request.stream and not is_streamed and request.response_format is None:
        said["response_format"] = "b64_json"  # the form of a stream's events
    return replace(request, **said) if said else request, changes


def _forwarded(request: GenerationRequest, channel: Channel) -> tuple[GenerationRequest, list[str]]:
    """Keep those of the fields that are not OpenAI's which this channel may be told; report the others."""
    extra = {name: value for name, value in request.extra.items() if _is_forwarded(name, channel)}
    changes = [f"{name}: dropped" for name in request.extra if name not in extra]
    foreign = _take_foreign(extra, channel.adapter)
    changes += [f"{name}: dropped" for name in foreign]
    return replace(request, extra=extra) if changes else request, changes


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


def _counted(request: GenerationRequest, adapter: Adapter) -> GenerationRequest:
    """Take the vendor's own names of `n` for `n`, before anything is priced by it."""
    for name in sorted(adapter.counts & request.extra.keys()):
        count: Json = msgspec.json.decode(request.extra[name])
        check({"prompt": request.prompt, "n": count}, None)
        if request.n not in (None, count):
            raise InvalidRequestError(
                f"'n' and {quote(name)} ask for different numbers of pictures", param=name, code="duplicate_key"
            )
        extra = {other: value for other, value in request.extra.items() if other != name}
        request = replace(request, n=count, extra=extra)
    return request


def _is_forwarded(name: str, channel: Channel) -> bool:
    adapter = channel.adapter
    if name in adapter.fields:
        return True
    if adapter.closed and name in VENDOR_FIELDS:
        return False
    if channel.unknown_fields == "reject":
        raise InvalidRequestError(f"unknown parameter: {quote(name)}", param=name, code="unknown_parameter")
    return channel.unknown_fields == "forward"


def _take_foreign(extra: dict[str, Raw], adapter: Adapter) -> list[str]:
    """Take out of the vendor's own objects what is known only inside those of other vendors, and say what that is."""
    foreign: list[str] = []
    for name, own in adapter.objects.items():
        inner = _object(extra.get(name, NOTHING))
        theirs = inner.keys() & (VENDOR_OBJECTS[name] - own)
        if theirs:
            kept = {field: value for field, value in inner.items() if field not in theirs}
            extra[name] = Raw(msgspec.json.encode(kept))
            foreign += [f"{name}.{field}" for field in sorted(theirs)]
    return foreign


def _object(raw: Raw) -> dict[str, Raw]:
    try:
        return fields_of(raw)
    except BAD_JSON:
        return {}  # for the adapter to refuse


def _refuse_aliases(request: GenerationRequest, known: frozenset[str]) -> None:
    for name, value in request.extra.items():
        if name in known:
            continue
        plain = _plain(name)
        if plain in COUNTS | MODELS:
            meant = "n" if plain in COUNTS else "model"
            raise InvalidRequestError(
                f"unknown parameter: {name!r}; say {meant!r}", param=name, code="unknown_parameter"
            )
        if plain == "parameters":
            nested = as_object(msgspec.json.decode(value)) or {}
            if inner := [count for count in nested if _plain(count) in COUNTS | {"n"}]:
                raise InvalidRequestError(
                    f"{name!r} says {inner[0]!r}, which this model's channel does not count by; say 'n'",
                    param=name,
                    code="unknown_parameter",
                )


def _plain(name: str) -> str:
    """Write every spelling of a name alike."""
    return name.lower().replace("_", "").replace("-", "")
