"""The vocabulary of adapters: a conversation with an upstream as a generator that asks and is answered."""

from collections.abc import Generator, Mapping
from email.utils import parsedate_to_datetime
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Raw, Struct

from amux_asgi.errors import (
    ContentPolicyError,
    End,
    GatewayError,
    InvalidRequestError,
    ModelNotFoundError,
    RateLimitError,
    UpstreamAuthError,
    UpstreamBadResponseError,
    UpstreamError,
    UpstreamRedirectError,
    UpstreamTimeoutError,
    UpstreamUnavailableError,
)
from amux_asgi.redact import redact
from amux_asgi.schema import BAD_JSON, ImagesResponse, Json, fields_of

T = TypeVar("T")
_OK: Final = 200
_PAYMENT_REQUIRED: Final = 402
_SERVER_ERROR: Final = 500
_REDIRECTS: Final = range(300, 400)
_AT_FAULT: Final = (400, 413, 415, 422)
_TIMEOUTS: Final = (408, 504)
_LONGEST_WORD: Final = 64  # characters
_LONGEST_WAIT: Final = 86_400.0  # seconds


class HttpRequest(Struct, frozen=True, kw_only=True):
    """One ask. Header names are in lower case; the credential is added by the transport, which signs."""

    method: str
    url: str
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""


class HttpResponse(Struct, frozen=True, kw_only=True):
    """The whole answer to one ask. Header names are in lower case; of a repeated header the last value counts."""

    status: int
    headers: Mapping[str, str] = {}
    body: bytes = b""


class Target(Struct, frozen=True, kw_only=True):
    """What an adapter knows of the channel it speaks for.

    `base_url` has no slash at its end, `model` is the vendor's own name.
    """

    base_url: str
    model: str
    options: Mapping[str, Any] = {}


Flow = Generator[HttpRequest, HttpResponse, ImagesResponse]
"""It yields asks, is sent answers, and returns the pictures or raises a `GatewayError` that has an `end`."""


class Fault(Struct, frozen=True, kw_only=True):
    """An error in the vendor's own words."""

    message: str = ""
    type: str | None = None
    param: str | None = None
    code: str | None = None


BLOCKED: Final[Mapping[str, str]] = {
    "moderation_blocked": "moderation_blocked",
    "content_policy_violation": "content_policy_violation",
    "content_filter": "content_policy_violation",
    "contentFilter": "content_policy_violation",
}
"""Codes of a content policy, with the code a client sees."""

EMPTY: Final = frozenset(
    {
        "insufficient_quota",
        "credit_balance_exhausted",
        "organization_spend_limit_exceeded",
        "organization_usage_limit_exceeded",
        "project_spend_limit_exceeded",
        "billing_hard_limit_reached",
    },
)
"""Codes that say that our account at the vendor is empty."""

PATIENCE: Final = 5.0  # seconds a client is asked to wait when the upstream does not say how long


def post(url: str, body: Json) -> HttpRequest:
    """Ask with a JSON body."""
    return HttpRequest(
        method="POST",
        url=url,
        headers=(("content-type", "application/json"), ("accept", "application/json")),
        body=msgspec.json.encode(body),
    )


def read(answer: type[T], response: HttpResponse) -> T:
    """Decode a good answer, or raise what the bad one means.

    Raises:
        GatewayError: with `end` set: refused, final or unknown.
    """
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        raise UpstreamBadResponseError("the upstream compressed its answer although it was asked not to")
    if response.status != _OK:
        raise failure(response.status, fault_of(response.body), response.headers)
    try:
        return msgspec.json.decode(response.body, type=answer)
    except BAD_JSON as exc:
        raise UpstreamBadResponseError("the upstream's answer is not what its protocol promises") from exc


def fault_of(body: bytes | Raw) -> Fault | None:
    """Find the vendor's error object, `{"error": {...}}` or `{"error": "text"}`; `None` if there is none."""
    try:
        error: Any = msgspec.json.decode(fields_of(body).get("error", b"null"))
    except BAD_JSON:
        return None
    match error:
        case str() if error:
            return Fault(message=error)
        case {**fields} if fields:
            words = {
                name: str(fields[name]) for name in Fault.__struct_fields__ if isinstance(fields.get(name), str | int)
            }
            return Fault(**words)
        case _:
            return None


def failure(status: int, fault: Fault | None, headers: Mapping[str, str]) -> GatewayError:
    """Say what an answer without pictures means for the client and for another attempt.

    Only an answer in the vendor's own words is believed to be unbilled.
    """
    code = _word(fault.code) if fault else None
    if status in _REDIRECTS:
        return UpstreamRedirectError(
            "the upstream answered with a redirect, which is never followed", upstream_code=code
        )
    if status in _TIMEOUTS:
        return UpstreamTimeoutError("the upstream gave up before the picture was ready", upstream_code=code)
    if fault is None:
        return UpstreamBadResponseError(f"the upstream answered {status} without saying why in its protocol's words")
    error = _by_code(status, fault) or _by_status(status, fault, headers)
    error.upstream_code = code
    return error


def _by_code(status: int, fault: Fault) -> GatewayError | None:
    if fault.code in EMPTY or status == _PAYMENT_REQUIRED:
        return UpstreamUnavailableError("the upstream serves nothing on this gateway's account at present", retry=False)
    if fault.code in BLOCKED:
        message = redact(fault.message) or "the upstream's content policy blocked this request"
        return ContentPolicyError(
            message, type=_word(fault.type) if status in _AT_FAULT else None, code=BLOCKED[fault.code]
        )
    return None


def _by_status(status: int, fault: Fault, headers: Mapping[str, str]) -> GatewayError:
    match status:
        case 400 | 413 | 415 | 422:
            message = redact(fault.message) or "the upstream refused the request"
            return InvalidRequestError(
                message, type=_word(fault.type), param=_word(fault.param), code=_word(fault.code)
            )
        case 401 | 403:
            return UpstreamAuthError("the upstream refuses this gateway's credential")
        case 404:
            return ModelNotFoundError("the upstream does not know this model", param="model")
        case 429:
            return RateLimitError("the upstream's rate limit is reached", retry_after=retry_after(headers))
        case 503 | 529:
            return UpstreamUnavailableError("the upstream is overloaded", retry_after=retry_after(headers))
        case _:
            end = End.REFUSED if status == _SERVER_ERROR else End.UNKNOWN
            return UpstreamError("the upstream failed", end=end)


def retry_after(headers: Mapping[str, str]) -> float:
    """Read how many seconds the upstream asks to wait.

    `retry-after-ms`, or `retry-after` in seconds or as a date (taken against the answer's own `date`).
    """
    try:
        seconds = (
            float(headers["retry-after-ms"]) / 1000
            if "retry-after-ms" in headers
            else _seconds(headers["retry-after"], headers)
        )
    except (KeyError, ValueError):
        return PATIENCE
    return seconds if 0 <= seconds <= _LONGEST_WAIT else PATIENCE  # false for what is no number, too


def _seconds(value: str, headers: Mapping[str, str]) -> float:
    try:
        return float(value)
    except ValueError:
        return (parsedate_to_datetime(value) - parsedate_to_datetime(headers["date"])).total_seconds()


def _word(text: str | None) -> str | None:
    """Keep a foreign code, type or field name only if it is one: short, printable, nothing hidden in it."""
    return text if text and len(text) <= _LONGEST_WORD and redact(text) == text else None
