"""What Zhipu's error codes mean; a code says it, never the status: 429 covers throttling and an empty account alike.

Source: https://docs.z.ai/api-reference/api-code, https://docs.bigmodel.cn/cn/api/api-code
"""

import re
from collections.abc import Mapping
from typing import Final, TypeVar

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from amux_asgi.errors import ContentPolicyError, End, GatewayError, InvalidRequestError, UpstreamError
from amux_asgi.faults import Fault, Verdict, failure, fault_of, judged
from amux_asgi.schema import BAD_JSON
from amux_asgi.wire import HttpResponse, read

T = TypeVar("T")
_OK: Final = 200
_UNSAID: Final = 500  # the status that an error inside a 200 stands for: the vendor's own failure
_NOT_ITS_WORD: Final = (408, 504, *range(300, 400))  # statuses of whatever stands before the vendor
_TOO_LONG: Final = "1261"
_REPEATED: Final = "1231"

_CODES: Final[Mapping[Verdict, str]] = {
    Verdict.AUTH: "401 1000 1001 1002 1003 1004",
    Verdict.DENIED: "1100 1110 1111 1112 1120 1121 1220",  # the account is locked, gone, or not allowed this
    Verdict.QUOTA: "1113 1304 1308 1309 1310 1311 1313",  # it is empty, or its plan is used up or too small
    Verdict.FAILED: "500 1200 1230 1234",
    Verdict.PARAM: f"1210 1213 1214 1215 {_TOO_LONG}",
    Verdict.BROKEN: _REPEATED,
    Verdict.NO_MODEL: "1211 1212 1221 1222",  # no such model, or no such way to ask it
    Verdict.BLOCKED: "1300 1301",
    Verdict.RATE: "1302 1303 1305",
    Verdict.BUSY: "1312",
}
VERDICTS: Final = {code: verdict for verdict, codes in _CODES.items() for code in codes.split()}
_STATUSES: Final = {434: Verdict.DENIED, 435: Verdict.PARAM}  # of the vendor's own making


def heard(answer: type[T], response: HttpResponse) -> T:
    """Decode a good answer, or raise what the bad one means: an error object is an error in a 200, too.

    Raises:
        GatewayError: with `end` set.
    """
    fault = _fault(response.body)
    if fault is None:
        return read(answer, response)
    raise _judge(fault, response)


def failed(body: bytes) -> GatewayError:
    """Say why a task failed, by the vendor's code if it gives one; no picture came of it, so nothing is charged."""
    fault = _fault(body)
    if fault is None:
        return UpstreamError("the upstream could not make the picture", end=End.REFUSED)
    error = _judge(fault, HttpResponse(status=_OK, body=body))
    if error.end is End.UNKNOWN:
        error.end = End.REFUSED
    return error


def lost(body: bytes) -> GatewayError:
    """Say that a question about a task was refused inside a 200: nobody knows what became of the task."""
    fault = _fault(body) or Fault()
    message = "the upstream does not say what became of the work it accepted"
    return UpstreamError(message, retry=False, upstream_code=fault.code)


def refined(error: GatewayError, *, named: bool) -> GatewayError:
    """Make more of an error than one answer tells.

    What a content policy answers to a question about a task is about the task. A client that `named` its request
    itself is told that the name is taken.
    """
    code = error.upstream_code or ""
    if VERDICTS.get(code) is Verdict.BLOCKED and not isinstance(error, ContentPolicyError):
        return judged(Verdict.BLOCKED, Fault(code=code))
    if named and code == _REPEATED:
        message = "the upstream has seen this 'request_id' before"
        return InvalidRequestError(message, param="request_id", upstream_code=code)
    return error


def _judge(fault: Fault, response: HttpResponse) -> GatewayError:
    status = response.status
    verdict = VERDICTS.get(fault.code or "") or _STATUSES.get(status)
    if verdict is None or status in _NOT_ITS_WORD:
        return failure(_UNSAID if status == _OK else status, fault, response.headers)
    if verdict is Verdict.BLOCKED:
        return judged(verdict, fault, message=_refused(response.body))
    if fault.code == _TOO_LONG:
        error = judged(verdict, fault, message="the upstream finds the prompt too long", param="prompt")
        error.code = "context_length_exceeded"
        return error
    return judged(verdict, fault, response.headers)


class _Flat(Struct, frozen=True):
    """The other form of an error, of what stands before the models."""

    success: bool
    code: int | str
    msg: str = ""


class _Filter(Struct, frozen=True):
    role: str = ""


class _Filters(Struct, frozen=True):
    """Whose words are sensitive. A refusal spells it in camel case; in snake case it may stand beside a picture."""

    contentFilter: tuple[_Filter, ...] = ()  # noqa: N815, the vendor's spelling
    content_filter: tuple[_Filter, ...] = ()


def _fault(body: bytes) -> Fault | None:
    fault = fault_of(body) or _flat(body)
    return None if fault is None else replace(fault, message=_plain(fault.message))


def _flat(body: bytes) -> Fault | None:
    try:
        flat = msgspec.json.decode(body, type=_Flat)
    except BAD_JSON:
        return None
    return None if flat.success else Fault(message=flat.msg, code=str(flat.code))


def _plain(message: str) -> str:
    """Take off the `[code][text][request id]` that may stand before a message, or be all of it."""
    prefix = _BRACKETS.match(message)
    if prefix is None:
        return message
    return message[prefix.end() :] or "".join(_BRACKET.findall(message)[1:2])


def _refused(body: bytes) -> str | None:
    try:
        filters = msgspec.json.decode(body, type=_Filters)
    except BAD_JSON:
        return None
    roles = {one.role for one in (*filters.contentFilter, *filters.content_filter)}
    if "assistant" in roles:
        return "the upstream's content policy refused the picture"
    return "the upstream's content policy refused the prompt" if roles & {"user", "history"} else None


_BRACKETS: Final = re.compile(r"(?:\[[^\[\]]*\])+\s*")
_BRACKET: Final = re.compile(r"\[([^\[\]]*)\]")
