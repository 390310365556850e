"""Faults that the sandbox plays on demand.

A prompt asks for one with `[[fault:NAME]]` or `[[fault:NAME NUMBER]]`, a model by being called `sandbox-NAME`.
"""

import gzip
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import msgspec
from msgspec import Struct
from starlette.types import Receive, Send

Headers = list[tuple[bytes, bytes]]
Sleep = Callable[[float], Awaitable[None]]
JSON: Final = (b"content-type", b"application/json")
HTML: Final = (b"content-type", b"text/html")
PAGE: Final = b"<html><body>The sandbox plays a broken proxy.</body></html>"


class Fault(Struct, frozen=True):
    """One fault: what it does, and the number that counts when none is given."""

    about: str
    number: float = 0


class Cut(Exception):  # noqa: N818, no error of the sandbox's: it is what a server makes a cut connection of
    """The app dies in the middle of its answer."""


FAULTS: Final[Mapping[str, Fault]] = {
    "rate-limited": Fault("429 with Retry-After: NUMBER seconds", 7),
    "quota": Fault("429 insufficient_quota: the account is empty"),
    "moderation": Fault("400 moderation_blocked"),
    "content-policy": Fault("400 content_policy_violation, as DALL-E says it"),
    "unauthorized": Fault("401: the credential is refused"),
    "forbidden": Fault("403: the credential may not do this"),
    "server-error": Fault("500 in the vendor's own words"),
    "bad-gateway": Fault("502 with a page of HTML"),
    "overloaded": Fault("503 with Retry-After: NUMBER seconds", 5),
    "slow": Fault("a good answer after NUMBER seconds", 3),
    "hang": Fault("no answer until the client leaves"),
    "cut": Fault("half an answer, or the first event of a stream, then the connection breaks"),
    "truncated": Fault("a complete answer whose JSON is cut short"),
    "html": Fault("200 with a page of HTML"),
    "no-data": Fault("200 with an empty list of pictures"),
    "null-data": Fault("200 with null for the list of pictures"),
    "error-in-200": Fault("200 with an error in it"),
    "redirect": Fault("307 to another place"),
    "compressed": Fault("200, gzipped although that was not asked for"),
    "huge": Fault("200 with NUMBER megabytes", 128),
    "fewer": Fault("one picture less than asked"),
    "drip": Fault("a good answer, one byte every NUMBER seconds", 1),
    "stream-error": Fault("a stream that ends with an error"),
    "paced": Fault("a stream whose events come NUMBER seconds apart", 1),
}

STREAMED: Final = frozenset({"", "cut", "fewer", "paced", "slow", "stream-error"})
"""What a stream can be played with; the others are answers in its place."""

_DIRECTIVE: Final = re.compile(r"\[\[fault:([a-z0-9-]+)(?: (\d+(?:\.\d+)?))?\]\]")
_MODEL: Final = "sandbox-"


def fault_asked(model: str, prompt: str) -> tuple[str, float] | None:
    """Find the fault that a request asks for, with its number."""
    if model.startswith(_MODEL) and (name := model.removeprefix(_MODEL)) in FAULTS:
        return name, FAULTS[name].number
    found = _DIRECTIVE.search(prompt)
    if found is None or found[1] not in FAULTS:
        return None
    return found[1], float(found[2]) if found[2] else FAULTS[found[1]].number


def is_fault_model(model: str) -> bool:
    """Tell whether a model is one that only plays a fault."""
    return model.startswith(_MODEL) and model.removeprefix(_MODEL) in FAULTS


_ERRORS: Final[Mapping[str, tuple[int, str, str | None, str]]] = {
    "rate-limited": (429, "requests", "rate_limit_exceeded", "Rate limit reached for images per minute."),
    "quota": (429, "insufficient_quota", "insufficient_quota", "The account has no credit left."),
    "moderation": (
        400,
        "image_generation_user_error",
        "moderation_blocked",
        "The sandbox's safety system rejected this.",
    ),
    "content-policy": (
        400,
        "invalid_request_error",
        "content_policy_violation",
        "The sandbox's safety system rejected this.",
    ),
    "unauthorized": (401, "invalid_request_error", "invalid_api_key", "The sandbox refuses this key."),
    "forbidden": (403, "invalid_request_error", None, "The sandbox does not let this organization in."),
    "server-error": (500, "image_generation_server_error", "image_generation_failed", "Image generation failed"),
    "overloaded": (503, "server_error", "server_is_overloaded", "The sandbox plays an overloaded server."),
}
_WAITING: Final = ("rate-limited", "overloaded")


async def play(  # noqa: PLR0913, PLR0917, one answer and how it is told
    name: str, number: float, answer: bytes, receive: Receive, send: Send, sleep: Sleep
) -> None:
    """Play a fault that replaces the answer; `answer` is the good one."""
    if name in _ERRORS:
        status, kind, code, message = _ERRORS[name]
        headers = [(b"retry-after", f"{number:g}".encode())] if name in _WAITING else []
        await whole(send, status, error_body(message, kind, code), JSON, *headers)
        return
    match name:
        case "hang":
            while (await receive())["type"] != "http.disconnect":
                pass
        case "cut":
            await _begin(send, 200, [JSON, (b"content-length", str(len(answer)).encode())])
            await send({"type": "http.response.body", "body": answer[: len(answer) // 2], "more_body": True})
            raise Cut
        case "huge":
            await _begin(send, 200, [JSON])
            await send({"type": "http.response.body", "body": b'{"data":[{"b64_json":"', "more_body": True})
            for _ in range(int(number)):
                await send({"type": "http.response.body", "body": b"A" * 2**20, "more_body": True})
            await send({"type": "http.response.body", "body": b'"}]}'})
        case "drip":
            await _begin(send, 200, [JSON, (b"content-length", str(len(answer)).encode())])
            for i in range(len(answer)):
                await send({"type": "http.response.body", "body": answer[i : i + 1], "more_body": True})
                await sleep(number)
            await send({"type": "http.response.body"})
        case _:
            status, body, headers = _odd(name, answer)
            await whole(send, status, body, *headers)


def _odd(name: str, answer: bytes) -> tuple[int, bytes, Headers]:
    failed = error_body("Image generation failed", "server_error", None)
    odd: dict[str, tuple[int, bytes, Headers]] = {
        "bad-gateway": (502, PAGE, [HTML]),
        "html": (200, PAGE, [HTML]),
        "truncated": (200, answer[: len(answer) // 2], [JSON]),
        "no-data": (200, b'{"created":1,"data":[]}', [JSON]),
        "null-data": (200, b'{"created":1,"data":null}', [JSON]),
        "error-in-200": (200, failed, [JSON]),
        "redirect": (307, b"", [(b"location", b"https://sandbox.invalid/elsewhere")]),
        "compressed": (200, gzip.compress(answer, mtime=0), [JSON, (b"content-encoding", b"gzip")]),
    }
    return odd[name]


def error_body(message: str, kind: str, code: str | None, param: str | None = None) -> bytes:
    """Write an error as OpenAI does."""
    fields: dict[str, Any] = {"message": message, "type": kind, "param": param, "code": code}
    return msgspec.json.encode({"error": fields})


async def whole(send: Send, status: int, body: bytes, *headers: tuple[bytes, bytes]) -> None:
    """Send a whole answer."""
    await _begin(send, status, [*headers, (b"content-length", str(len(body)).encode())])
    await send({"type": "http.response.body", "body": body})


async def _begin(send: Send, status: int, headers: Headers) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})
