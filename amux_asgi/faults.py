"""What a vendor's refusal means: for the client, and for another attempt."""

from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from enum import Enum, auto
from typing import Any, Final

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
    UpstreamDeniedError,
    UpstreamEmptyError,
    UpstreamError,
    UpstreamRedirectError,
    UpstreamTimeoutError,
    UpstreamUnavailableError,
)
from amux_asgi.redact import redact
from amux_asgi.schema import BAD_JSON, fields_of

_UNAUTHORIZED: Final = 401
_PAYMENT_REQUIRED: Final = 402
_SERVER_ERROR: Final = 500
_REDIRECTS: Final = range(300, 400)
_AT_FAULT: Final = (400, 413, 415, 422)
_TIMEOUTS: Final = (408, 504)
_LONGEST_WORD: Final = 64  # characters
_LONGEST_WAIT: Final = 86_400.0  # seconds


class Fault(Struct, frozen=True, kw_only=True):
    """An error in the vendor's own words."""

    message: str = ""
    type: str | None = None
    param: str | None = None
    code: str | None = None


class Verdict(Enum):
    """What a vendor's code means; each adapter keeps a table from its vendor's codes to these."""

    PARAM = auto()  # the request is at fault
    BLOCKED = auto()  # a content policy refuses the prompt or the picture
    NO_MODEL = auto()  # it does not know this model: another channel may
    AUTH = auto()  # it refuses our credential
    DENIED = auto()  # our account there may not do this
    QUOTA = auto()  # our account there is empty
    RATE = auto()  # it wants fewer requests
    BUSY = auto()  # it is overloaded
    FAILED = auto()  # it failed, says so, and charges nothing
    TIMEOUT = auto()  # it gave up: it may have charged
    BROKEN = auto()  # this gateway is at fault, or nobody can tell: never sent again


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
    error.told = _told(headers) is not None
    return error


def _by_code(status: int, fault: Fault) -> GatewayError | None:
    if fault.code in EMPTY or status == _PAYMENT_REQUIRED:
        return UpstreamEmptyError("the upstream serves nothing on this gateway's account at present")
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
            kind = UpstreamAuthError if status == _UNAUTHORIZED else UpstreamDeniedError
            return kind("the upstream refuses this gateway's credential")
        case 404:
            return ModelNotFoundError("the upstream does not know this model", param="model")
        case 429:
            return RateLimitError("the upstream's rate limit is reached", retry_after=retry_after(headers))
        case 503 | 529:
            return UpstreamUnavailableError("the upstream is overloaded", retry_after=retry_after(headers))
        case _:
            end = End.REFUSED if status == _SERVER_ERROR else End.UNKNOWN
            return UpstreamError("the upstream failed", end=end)


def judged(  # noqa: PLR0913, what can be known of a refusal
    verdict: Verdict,
    fault: Fault,
    headers: Mapping[str, str] = {},
    *,
    retry_after: float | None = None,
    message: str | None = None,
    param: str | None = None,
) -> GatewayError:
    """Make the error of a verdict.

    `message` takes the place of the vendor's words, which a client sees only where it is at fault itself; `param` is
    OpenAI's name of the field; `retry_after` is in seconds.
    """
    meaning = _MEANINGS[verdict]
    said = message or (redact(fault.message) if meaning.shown else "")
    wait = _sane(retry_after) if retry_after is not None else None
    wait = _told(headers) if wait is None else wait
    error = meaning.error(
        said or meaning.message,
        param="model" if verdict is Verdict.NO_MODEL else param,
        end=meaning.end,
        retry=meaning.retry,
        retry_after=(PATIENCE if wait is None else wait) if meaning.waits else None,
        upstream_code=_word(fault.code),
    )
    error.told = wait is not None
    return error


class _Meaning(Struct, frozen=True, kw_only=True):
    error: type[GatewayError]
    message: str
    shown: bool = False  # the vendor's own words, to the client
    end: End | None = None  # the error's own
    retry: bool | None = None
    waits: bool = False


_MEANINGS: Final[Mapping[Verdict, _Meaning]] = {
    Verdict.PARAM: _Meaning(error=InvalidRequestError, message="the upstream refused the request", shown=True),
    Verdict.BLOCKED: _Meaning(
        error=ContentPolicyError, message="the upstream's content policy blocked this request", shown=True
    ),
    Verdict.NO_MODEL: _Meaning(
        error=ModelNotFoundError, message="the upstream does not know this model", end=End.REFUSED
    ),
    Verdict.AUTH: _Meaning(error=UpstreamAuthError, message="the upstream refuses this gateway's credential"),
    Verdict.DENIED: _Meaning(
        error=UpstreamDeniedError, message="this gateway's account at the upstream may not do this"
    ),
    Verdict.QUOTA: _Meaning(
        error=UpstreamEmptyError, message="the upstream serves nothing on this gateway's account at present"
    ),
    Verdict.RATE: _Meaning(error=RateLimitError, message="the upstream's rate limit is reached", waits=True),
    Verdict.BUSY: _Meaning(error=UpstreamUnavailableError, message="the upstream is overloaded", waits=True),
    Verdict.FAILED: _Meaning(error=UpstreamError, message="the upstream failed", end=End.REFUSED),
    Verdict.TIMEOUT: _Meaning(error=UpstreamTimeoutError, message="the upstream gave up before the picture was ready"),
    Verdict.BROKEN: _Meaning(
        error=UpstreamError, message="the upstream does not take this request from this gateway", retry=False
    ),
}


def retry_after(headers: Mapping[str, str]) -> float:
    """Read how many seconds the upstream asks to wait, or take ours.

    `retry-after-ms`, or `retry-after` in seconds or as a date (taken against the answer's own `date`).
    """
    told = _told(headers)
    return PATIENCE if told is None else told


def _told(headers: Mapping[str, str]) -> float | None:
    try:
        if "retry-after-ms" in headers:
            return _sane(float(headers["retry-after-ms"]) / 1000)
        return _sane(_seconds(headers["retry-after"], headers))
    except (KeyError, ValueError):
        return None


def _sane(seconds: float) -> float | None:
    return seconds if 0 <= seconds <= _LONGEST_WAIT else None  # none for what is no number, too


def _seconds(value: str, headers: Mapping[str, str]) -> float:
    try:
        return float(value)
    except ValueError:
        return (parsedate_to_datetime(value) - parsedate_to_datetime(headers["date"])).total_seconds()


def _word(text: str | None) -> str | None:
    """Keep a foreign code, type or field name only if it is one: short, printable, nothing hidden in it."""
    return text if text and len(text) <= _LONGEST_WORD and redact(text) == text else None
