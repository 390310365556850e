"""A strict stand-in for an Azure OpenAI resource: two routes, its own names of deployments, its own errors.

Source: https://learn.microsoft.com/azure/ai-foundry/openai/reference, .../concepts/content-filter, 2026-11
"""

import base64
import json
import re
import threading
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import unquote

from msgspec import Struct
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

KEY: Final = "azure-key-0123456789"
ENTRA: Final = "eyJhbGciOiJSUzI1NiJ9.eyJhdWQiOiJ4In0.c2lnbmVk"
VERSIONS: Final = ("2024-10-21", "2025-04-01-preview")
TOKENS: Final = 1056  # that one picture puts out
SAFE: Final = {"hate": {"filtered": False, "severity": "safe"}}

_ALWAYS: Final = frozenset({"prompt", "n", "size", "quality", "user"})
_GPT: Final = _ALWAYS | {"background", "moderation", "output_format", "output_compression"}
_DALLE: Final = _ALWAYS | {"style", "response_format"}
_GPT_SIZES: Final = ("1024x1024", "1024x1536", "1536x1024", "auto")
_WORDS: Final[Mapping[str, Mapping[str, tuple[Any, ...]]]] = {
    "gpt": {
        "n": tuple(range(1, 11)),
        "quality": ("low", "medium", "high", "auto"),
        "background": ("transparent", "opaque", "auto"),
        "moderation": ("low", "auto"),
        "output_format": ("png", "jpeg", "webp"),
        "output_compression": tuple(range(101)),
    },
    "dalle": {
        "n": (1,),
        "size": ("1024x1024", "1792x1024", "1024x1792"),
        "quality": ("standard", "hd"),
        "style": ("vivid", "natural"),
        "response_format": ("url", "b64_json"),
    },
}
_V1: Final = re.compile(r"/openai/v1/images/generations")
_OLDER: Final = re.compile(r"/openai/deployments/([^/]+)/images/generations")
_FAULT: Final = re.compile(r"\[\[(.+)\]\]")


class Fault(Struct, frozen=True):
    """An answer that is played when the prompt names it, as in `a cat [[busy]]`."""

    status: int
    error: Mapping[str, Any]
    headers: Mapping[str, str] = {}


_INNER: Final = {
    "code": "ResponsibleAIPolicyViolation",
    "content_filter_results": {"violence": {"filtered": True, "severity": "high"}},
}
FAULTS: Final[Mapping[str, Fault]] = {
    "short block": Fault(400, {"code": "contentFilter", "message": "The safety system held it back."}),
    "detailed block": Fault(
        400, {"code": "content_policy_violation", "type": "invalid_request_error", "param": None, "inner_error": _INNER}
    ),
    "chat block": Fault(
        400, {"code": "content_filter", "param": "prompt", "innererror": {"content_filter_result": {}}}
    ),
    "moderation": Fault(400, {"code": "moderation_blocked", "type": "image_generation_user_error"}),
    "deep block": Fault(400, {"code": "400", "innererror": _INNER}),
    "bad request": Fault(400, {"code": "BadRequest", "message": "No."}),
    "unauthorized": Fault(401, {"code": "Unauthorized", "message": "The token expired."}),
    "forbidden": Fault(403, {"code": "Forbidden", "message": "A network rule."}),
    "timeout": Fault(408, {"code": "Timeout", "message": "Too slow."}),
    "rate": Fault(429, {"code": "429", "message": "Slower."}, {"retry-after": "7"}),
    "rate ms": Fault(429, {"code": "RateLimitReached", "message": "Slower."}, {"retry-after-ms": "2500"}),
    "quota": Fault(429, {"code": "insufficient_quota", "message": "Used up."}),
    "server": Fault(500, {"code": "InternalServerError", "message": "Oh."}),
    "gateway": Fault(502, {"code": "502", "message": "Oh."}),
    "busy": Fault(503, {"code": "ServiceUnavailable", "message": "Later."}, {"retry-after": "9"}),
    "late": Fault(504, {"code": "504", "message": "Late."}),
}


class Ask(Struct, frozen=True):
    """What was asked."""

    path: str  # as it came, with the query
    headers: Mapping[str, str]
    body: Mapping[str, Any]


class Refusal(Exception):  # noqa: N818, an answer
    """An error in Azure's words."""

    def __init__(self, status: int, code: str, message: str = "no", **fields: str) -> None:
        super().__init__(message)
        self.answer = JSONResponse({"error": {"code": code, "message": message, **fields}}, status)


class Azure:
    """One resource; `deployments` tells of each what it deploys: `gpt-image-1`, `gpt-image-2`, `dall-e-3`."""

    def __init__(self, deployments: Mapping[str, str]) -> None:
        self._deployments = deployments
        self._lock = threading.Lock()
        self.asks: list[Ask] = []
        self.app = Starlette(
            routes=[
                Route("/pictures/{turn:int}.png", _shown, methods=["GET"]),
                Route("/{path:path}", self._serve, methods=["POST"]),
            ]
        )

    def asked(self, prompt: str) -> list[Ask]:
        """Give the asks with a prompt."""
        return [ask for ask in self.asks if ask.body.get("prompt") == prompt]

    async def _serve(self, request: Request) -> Response:
        path = request.scope["raw_path"].decode()
        text = await request.body()
        try:
            _check_key(request.headers)
            body = json.loads(text)
            with self._lock:
                self.asks.append(Ask(f"{path}?{request.url.query}", dict(request.headers), body))
                turn = len(self.asked(body.get("prompt")))
            model = self._model(path, dict(request.query_params), body)
            return _answer(body, model, turn, str(request.base_url))
        except Refusal as refusal:
            return refusal.answer

    def _model(self, path: str, query: Mapping[str, str], body: Mapping[str, Any]) -> str:
        version = query.get("api-version")
        if _V1.fullmatch(path):
            if version not in (None, "preview", *VERSIONS):
                raise Refusal(404, "404", "Resource not found")
            name = str(body.get("model"))
        elif (match := _OLDER.fullmatch(path)) and version in VERSIONS:
            if "model" in body:
                raise Refusal(400, "invalid_value", "Unknown model", type="invalid_request_error", param="model")
            name = unquote(match[1])
        else:
            raise Refusal(404, "404", "Resource not found")
        if name not in self._deployments:
            raise Refusal(404, "DeploymentNotFound", "There is no deployment of this name.")
        return self._deployments[name]


def _check_key(headers: Mapping[str, str]) -> None:
    shown = {name: headers[name] for name in ("api-key", "authorization", "x-api-key") if name in headers}
    if shown not in ({"api-key": KEY}, {"authorization": f"Bearer {ENTRA}"}):
        raise Refusal(401, "401", "The key or the endpoint is wrong.")


def _check_fields(body: Mapping[str, Any], model: str) -> None:
    family = "dalle" if model == "dall-e-3" else "gpt"
    if not isinstance(body.get("prompt"), str):
        raise Refusal(400, "BadRequest", "A prompt is needed.")
    for name, value in body.items():
        if name not in (_DALLE if family == "dalle" else _GPT) | {"model"}:
            raise Refusal(400, "unknown_parameter", "Unknown parameter", type="invalid_request_error", param=name)
        known = _WORDS[family].get(name)
        if (known is not None and value not in known) or (name == "size" and not _is_size(value, model)):
            raise Refusal(400, "invalid_value", f"{value} is not supported", type="invalid_request_error", param=name)


def _is_size(size: str, model: str) -> bool:
    if model == "gpt-image-2":
        return size == "auto" or all(edge.isdecimal() and int(edge) % 16 == 0 for edge in size.split("x"))
    return model == "dall-e-3" or size in _GPT_SIZES


async def _shown(request: Request) -> Response:
    """Show a picture to whoever shows no key."""
    if "api-key" in request.headers or "authorization" in request.headers:
        return Response(status_code=403)
    return Response(picture("png", request.path_params["turn"], 0), media_type="image/png")


def _answer(body: Mapping[str, Any], model: str, turn: int, base: str) -> Response:
    _check_fields(body, model)
    match = _FAULT.search(body["prompt"])
    name = match[1] if match else ""
    if name == "second fails":
        name = "short block" if turn % 10 == 2 else ""
    if name in FAULTS:  # other words are another vendor's
        fault = FAULTS[name]
        return JSONResponse({"created": 1, "error": fault.error}, fault.status, dict(fault.headers))
    return JSONResponse(_dalle(body, turn, base) if model == "dall-e-3" else _gpt(body, turn))


def _gpt(body: Mapping[str, Any], turn: int) -> dict[str, Any]:
    count = body.get("n", 1)
    kind = body.get("output_format", "png")
    said = {name: "auto" if body.get(name, "auto") == "auto" else body[name] for name in ("size", "quality")}
    return {
        "created": 1793779201,
        "data": [{"b64_json": _base64(kind, turn, i)} for i in range(count)],
        "usage": {
            "input_tokens": 9 * count,
            "output_tokens": TOKENS * count,
            "total_tokens": (9 + TOKENS) * count,
            "input_tokens_details": {"text_tokens": 9 * count, "image_tokens": 0},
        },
        "output_format": kind,
        **{name: value for name, value in said.items() if value != "auto"},
    }


def _dalle(body: Mapping[str, Any], turn: int, base: str) -> dict[str, Any]:
    kept = {"revised_prompt": f"{body['prompt']} at dusk", "content_filter_results": SAFE}
    if body.get("response_format", "url") == "url":
        shown = {"url": f"{base}pictures/{turn}.png?sig=x"}
    else:
        shown = {"b64_json": _base64("png", turn, 0)}
    return {"created": 1793779201, "data": [{**shown, **kept, "prompt_filter_results": SAFE}]}


def _base64(kind: str, turn: int, i: int) -> str:
    return base64.b64encode(picture(kind, turn, i)).decode()


def picture(kind: str, turn: int, i: int) -> bytes:
    """Begin the picture number `i` of an ask; no two are the same."""
    magic = {"png": b"\x89PNG\r\n\x1a\n", "jpeg": b"\xff\xd8\xff\xe0", "webp": b"RIFF\x00\x00\x00\x00WEBP"}[kind]
    return magic + f"picture {i} of ask {turn}".encode()
