"""What all of Google's interfaces share: the errors of google.rpc, and how a picture's kind is told.

Source: https://ai.google.dev/gemini-api/docs/troubleshooting, googleapis/googleapis google/rpc/error_details.proto
"""

import re
from binascii import Error, a2b_base64
from collections.abc import Container, Iterable, Mapping
from math import ceil
from typing import Final

import msgspec
from msgspec import Raw, Struct

from amux_asgi.errors import GatewayError
from amux_asgi.faults import Fault, Verdict, failure, fault_of, judged
from amux_asgi.schema import BAD_JSON
from amux_asgi.wire import HttpResponse, read_fields


class Violation(Struct, frozen=True, rename="camel"):
    """A quota that is used up, or a field that is at fault."""

    quota_id: str = ""
    quota_value: str = ""
    field: str = ""  # a path, as "generation_config.image_config.image_size"


class Detail(Struct, frozen=True, rename="camel"):
    """Any of google.rpc's details; each fills its own fields."""

    reason: str = ""  # ErrorInfo
    retry_delay: str = ""  # RetryInfo, as "46.7s"
    violations: list[Violation] = []  # QuotaFailure
    field_violations: list[Violation] = []  # BadRequest


class Status(Struct, frozen=True):
    """google.rpc.Status, as JSON says it."""

    code: int | str | None = None
    message: str | None = None
    status: str | None = None  # the code's name
    details: list[Raw] | None = None


class Envelope(Struct, frozen=True):
    """Where an error stands."""

    error: Status


def opened(response: HttpResponse, said: Container[str] = ()) -> dict[str, Raw]:
    """Take a good answer apart into its fields; `said` names the fields that are the client's own.

    Raises:
        GatewayError: what Google's error means, wherever it stands: in an object, in an array, also in a 200.
    """
    if response.status != _OK or response.body[:_HEAD].lstrip().startswith(b"["):
        if response.status not in _REDIRECTS and (status := _status(response.body)) is not None:
            raise judgement(status, response, said)
        return read_fields(response)
    fields = read_fields(response)
    if "error" not in fields or (fault := fault_of(response.body)) is None:
        return fields
    status = _status(response.body)
    raise failure(_SERVER_ERROR, fault, {}) if status is None else judgement(status, response, said)


def judgement(status: Status, response: HttpResponse, said: Container[str]) -> GatewayError:
    """Say what an error of google.rpc means."""
    details = list(_details(status.details or ()))
    message = status.message or ""
    fault = Fault(message=message, code=next((one.reason for one in details if one.reason), status.status))
    unknown = _UNKNOWN.search(message)
    verdict = _verdict(status, details)
    if verdict is None:
        return failure(_number(status, response), fault, response.headers)
    if verdict is Verdict.PARAM and unknown is not None and unknown[1] not in said:
        return judged(Verdict.BROKEN, fault)  # we wrote a field that this interface does not know
    param = _param(details) if unknown is None else unknown[1]
    return judged(verdict, fault, response.headers, retry_after=_delay(message, details), param=param)


def kind_of(picture: Raw) -> str | None:
    """Tell the kind of a picture, `png`, `jpeg`, `webp` or `gif`, by the first bytes of its base64 (a JSON string)."""
    head = bytes(memoryview(picture)[1:_HEAD]).replace(b"\\/", b"/")[:_QUADS]
    try:
        begin = a2b_base64(head)
    except Error:
        return None
    return next((kind for kind, magic in _MAGIC.items() if magic.match(begin)), None)


def _status(body: bytes) -> Status | None:
    try:
        told = _envelope.decode(body)
    except BAD_JSON:
        return None
    first = told if isinstance(told, Envelope) else next(iter(told), None)
    return None if first is None else first.error


def _details(raws: Iterable[Raw]) -> Iterable[Detail]:
    for raw in raws:
        try:
            yield _detail.decode(raw)
        except BAD_JSON:
            continue


def _verdict(status: Status, details: Iterable[Detail]) -> Verdict | None:
    """Find the verdict; `None` for a status that google.rpc does not know."""
    closer = next((_REASONS[detail.reason] for detail in details if detail.reason in _REASONS), None)
    if closer is None and status.status == "RESOURCE_EXHAUSTED" and _is_empty(status.message or "", details):
        return Verdict.QUOTA
    return closer or _STATUSES.get(status.status or "")


def _is_empty(message: str, details: Iterable[Detail]) -> bool:
    """Tell whether nothing more is to be had today, or ever: a delay may be told all the same."""
    quotas = [violation for detail in details for violation in detail.violations]
    return _NOTHING.search(message) is not None or any(
        "PerDay" in quota.quota_id or quota.quota_value == "0" for quota in quotas
    )


def _number(status: Status, response: HttpResponse) -> int:
    """Give the HTTP status that an error stands for; one in a 200 tells its own."""
    if response.status != _OK:
        return response.status
    return status.code if isinstance(status.code, int) and status.code >= _BAD else _SERVER_ERROR


def _delay(message: str, details: Iterable[Detail]) -> float | None:
    """Read how long to wait, in whole seconds: some answers tell it in words alone."""
    told = next((detail.retry_delay for detail in details if detail.retry_delay), None)
    match = _DURATION.search(f"retry in {told}" if told else message)
    if match is None:
        return None
    hours, minutes, number, unit = match.groups()
    seconds = int(hours or 0) * 3600 + int(minutes or 0) * 60 + float(number) / (1000 if unit == "ms" else 1)
    return float(ceil(seconds))


def _param(details: Iterable[Detail]) -> str | None:
    """Name the client's field that is at fault."""
    for detail in details:
        for violation in detail.field_violations:
            last = violation.field.rpartition(".")[2].partition("[")[0]
            name = _CAPITAL.sub(lambda letter: f"_{letter[0].lower()}", last)
            if name in _PARAMS:
                return _PARAMS[name]
    return None


_STATUSES: Final[Mapping[str, Verdict]] = {
    "INVALID_ARGUMENT": Verdict.PARAM,
    "OUT_OF_RANGE": Verdict.PARAM,
    "FAILED_PRECONDITION": Verdict.DENIED,  # no billing, or not in this country
    "UNAUTHENTICATED": Verdict.AUTH,
    "PERMISSION_DENIED": Verdict.DENIED,
    "NOT_FOUND": Verdict.NO_MODEL,
    "ABORTED": Verdict.FAILED,
    "ALREADY_EXISTS": Verdict.FAILED,
    "RESOURCE_EXHAUSTED": Verdict.RATE,
    "CANCELLED": Verdict.TIMEOUT,
    "DEADLINE_EXCEEDED": Verdict.TIMEOUT,
    "INTERNAL": Verdict.FAILED,
    "UNKNOWN": Verdict.FAILED,
    "DATA_LOSS": Verdict.FAILED,
    "UNIMPLEMENTED": Verdict.FAILED,
    "UNAVAILABLE": Verdict.BUSY,
}
_REASONS: Final[Mapping[str, Verdict]] = {
    "API_KEY_INVALID": Verdict.AUTH,  # with 400 INVALID_ARGUMENT: else it would look like the client's fault
    "API_KEY_EXPIRED": Verdict.AUTH,
    "ACCESS_TOKEN_EXPIRED": Verdict.AUTH,
}
_PARAMS: Final[Mapping[str, str]] = {
    "contents": "prompt",
    "text": "prompt",
    "prompt": "prompt",
    "sample_count": "n",
    "sample_image_size": "image_size",
    **{name: name for name in ("aspect_ratio", "image_size", "seed", "thinking_level", "safety_settings")},
    **{name: name for name in ("negative_prompt", "person_generation", "size")},
}
_MAGIC: Final[Mapping[str, re.Pattern[bytes]]] = {
    "png": re.compile(rb"\x89PNG\r\n\x1a\n"),
    "jpeg": re.compile(rb"\xff\xd8\xff"),
    "webp": re.compile(rb"RIFF....WEBP", re.DOTALL),
    "gif": re.compile(rb"GIF8[79]a"),
}
_HEAD: Final = 48  # characters of base64, each slash perhaps escaped
_QUADS: Final = 16  # characters: twelve bytes
_OK: Final = 200
_BAD: Final = 400
_SERVER_ERROR: Final = 500
_REDIRECTS: Final = range(300, 400)
_UNKNOWN: Final = re.compile(r'Unknown name "(\w{1,64})"')
_NOTHING: Final = re.compile(r"\blimit: 0(?![\d.])")
_DURATION: Final = re.compile(r"retry in (?:(\d{1,4})h)?(?:(\d{1,4})m(?!s))?(\d{1,6}(?:\.\d{1,12})?)(ms|s)")
_CAPITAL: Final = re.compile(r"[A-Z]")
_envelope: Final = msgspec.json.Decoder(Envelope | list[Envelope])
_detail: Final = msgspec.json.Decoder(Detail)
