"""What DashScope's error codes mean.

The same code comes in two spellings, `DataInspectionFailed` and `data_inspection_failed`, with more words behind a dot,
and in four places: in an answer that is an error, at the top of one that is not, in a task that failed, and where one
picture of several should be.
Source: help.aliyun.com/zh/model-studio/error-code, autumn 2026.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from amux_asgi.errors import GatewayError
from amux_asgi.faults import Fault, Verdict, failure, fault_of, judged
from amux_asgi.schema import BAD_JSON, fields_of

IN_BAND: Final = 200
"""The status of an error inside an answer that is none by its status."""

WRONG_MODE: Final = "accessdenied"
"""The vendor's word, with nothing behind it, for a model that is not asked like this: nothing was made."""

_FAILED: Final = 500  # what an error in an answer stands for when its code is not known
_BAD_REQUEST: Final = 400
_CODES: Final[Mapping[Verdict, tuple[str, ...]]] = {
    Verdict.PARAM: (
        "InvalidParameter",  # also with `.DataInspection`: a file could not be fetched, nothing was inspected
        "InternalError.Algo.InvalidParameter",
        "InvalidURL",
        "BadRequest.EmptyInput",
        "BadRequest.EmptyParameters",
        "BadRequest.EmptyModel",
        "BadRequest.IllegalInput",
        "BadRequest.TooLarge",
        "BadRequest.InputDownloadFailed",
        "UnsupportedOperation",
    ),
    Verdict.BLOCKED: ("DataInspectionFailed", "IPInfringementSuspect", "FaqRuleBlocked", "CustomRoleBlocked"),
    Verdict.NO_MODEL: ("ModelNotFound", "model_not_supported"),
    Verdict.AUTH: ("InvalidApiKey", "NOT AUTHORIZED", "invalid access token"),
    Verdict.DENIED: (
        "AccessDenied.Unpurchased",
        "Model.AccessDenied",
        "App.AccessDenied",
        "Workspace.AccessDenied",
    ),
    Verdict.QUOTA: (
        "Arrearage",
        "AllocationQuota.FreeTierOnly",
        "CommodityNotPurchased",
        "PrepaidBillOverdue",
        "PostpaidBillOverdue",
    ),
    Verdict.RATE: ("Throttling", "LimitRequests", "limit_burst_rate"),
    Verdict.BUSY: ("ModelServingError", "ModelUnavailable"),
    Verdict.FAILED: ("InternalError", "SystemError", "ModelServiceFailed", "RewriteFailed"),
    Verdict.TIMEOUT: ("InternalError.Timeout", "RequestTimeOut"),
    Verdict.BROKEN: ("AccessDenied", "WorkSpaceNotFound", "NotFound"),
}
_ALLOCATED: Final = frozenset({"throttling.allocationquota", "insufficientquota"})
"""Told of tokens per minute and of an empty account alike: told apart by the status, as words are no protocol."""

_NO_SUCH_MODEL: Final = "Model not exist."
"""The whole message with which `InvalidParameter` stands for a model that is not there."""


def plain(code: str) -> str:
    """Write both spellings of a code alike."""
    return "".join(character for character in code.lower() if character not in "_ -")


_VERDICTS: Final = {plain(code): verdict for verdict, codes in _CODES.items() for code in codes}


def refused(status: int, fault: Fault | None, headers: Mapping[str, str] = {}) -> GatewayError:
    """Say what an answer without pictures means."""
    verdict = None if fault is None or fault.code is None else _verdict(plain(fault.code), fault.message, status)
    if fault is None or verdict is None:
        return failure(_FAILED if status == IN_BAND else status, fault, headers)
    return judged(verdict, fault, headers)


def told(body: bytes) -> Fault | None:
    """Find the vendor's words in an answer: at its top, or in an `error` object as its other services write them."""
    try:
        fields = fields_of(body)
        code, message = (_words(fields.get(name, b"null")) for name in ("code", "message"))
    except BAD_JSON:
        return None
    return Fault(code=code, message=message or "") if code else fault_of(body)


def _words(raw: bytes) -> str | None:
    value: Any = msgspec.json.decode(raw)
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else None


def _verdict(code: str, message: str, status: int) -> Verdict | None:
    """Look a code up; of several rows that it begins with, the one with the most words counts."""
    if code in _ALLOCATED:
        return Verdict.QUOTA if status == _BAD_REQUEST else Verdict.RATE
    if code == "invalidparameter" and message == _NO_SUCH_MODEL:
        return Verdict.NO_MODEL
    while code not in _VERDICTS and "." in code:
        code = code.rpartition(".")[0]
    return _VERDICTS.get(code)
