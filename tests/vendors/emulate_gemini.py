"""Google's Gemini API as strict as Google: what it does not document, it refuses; what it does, it does.

A prompt may hold a word in double brackets that decides how it ends (`ENDS`), for one seed only if that follows a
colon. Source: https://ai.google.dev/gemini-api/docs/image-generation, /troubleshooting, /openai, 2026-11.
"""

import base64
import re
import struct
from collections.abc import Mapping
from typing import Any, Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

KEY: Final = "gemini-key-0123456789"
TEN: Final = ["1:1", "2:3", "3:2", "3:4", "4:3", "4:5", "5:4", "9:16", "16:9", "21:9"]
FOURTEEN: Final = [*TEN, "1:4", "4:1", "1:8", "8:1"]
TYPE: Final = "type.googleapis.com/google.rpc."
PIXELS: Final = {
    "1:1": "1024x1024",
    "2:3": "848x1264",
    "3:2": "1264x848",
    "3:4": "896x1200",
    "4:3": "1200x896",
    "4:5": "928x1152",
    "5:4": "1152x928",
    "9:16": "768x1376",
    "16:9": "1376x768",
    "21:9": "1584x672",
    "1:4": "512x2048",
    "4:1": "2048x512",
    "1:8": "384x3072",
    "8:1": "3072x384",
}
FIRST: Final = {
    "1:1": "1024x1024",
    "2:3": "832x1248",
    "3:2": "1248x832",
    "3:4": "864x1184",
    "4:3": "1184x864",
    "4:5": "896x1152",
    "5:4": "1152x896",
    "9:16": "768x1344",
    "16:9": "1344x768",
    "21:9": "1536x672",
}
SCALES: Final = {"512": 0.5, "1K": 1, "2K": 2, "4K": 4}
MODELS: Final[Mapping[str, dict[str, Any]]] = {
    "gemini-2.5-flash-image": {"ratios": TEN, "sizes": {}, "levels": [], "tokens": {"1K": 1290}, "kind": "png"},
    "gemini-3-pro-image": {
        "ratios": TEN,
        "sizes": {"1K", "2K", "4K"},
        "levels": [],
        "tokens": {"1K": 1120, "2K": 1120, "4K": 2000},
        "kind": "jpeg",
    },
    "gemini-3.1-flash-image": {
        "ratios": FOURTEEN,
        "sizes": {"512", "1K", "2K", "4K"},
        "levels": ["minimal", "high"],
        "tokens": {"512": 747, "1K": 1120, "2K": 1680, "4K": 2520},
        "kind": "jpeg",
    },
    "gemini-3.1-flash-lite-image": {
        "ratios": FOURTEEN,
        "sizes": {"1K"},
        "levels": ["minimal", "low", "medium", "high"],
        "tokens": {"1K": 1120},
        "kind": "jpeg",
    },
    "gemini-nano-banana-2.1": {
        "ratios": FOURTEEN,
        "sizes": {"1K", "2K", "4K"},
        "levels": ["minimal", "medium", "high"],
        "tokens": {"1K": 1120, "2K": 1680, "4K": 3780},
        "kind": "jpeg",
    },
}
TREE: Final[dict[str, Any]] = {
    "contents": {"role": {}, "parts": {"text": {}}},
    "generationConfig": {
        "responseModalities": {},
        "imageConfig": {"aspectRatio": {}, "imageSize": {}},
        "seed": {},
        "candidateCount": {},
        "thinkingConfig": {"thinkingLevel": {}, "includeThoughts": {}},
        "temperature": {},
    },
    "safetySettings": {"category": {}, "threshold": {}},
}
"""Every field that it knows. `personGeneration` is Vertex's."""

CATEGORIES: Final = {"HARASSMENT", "HATE_SPEECH", "SEXUALLY_EXPLICIT", "DANGEROUS_CONTENT", "CIVIC_INTEGRITY"}
THRESHOLDS: Final = {"BLOCK_LOW_AND_ABOVE", "BLOCK_MEDIUM_AND_ABOVE", "BLOCK_ONLY_HIGH", "BLOCK_NONE", "OFF"}


class Refused(Exception):  # noqa: N818, an answer
    """An answer without a picture."""

    def __init__(self, response: Response) -> None:
        super().__init__()
        self.response = response


def error(code: int, status: str, message: str, *details: Any, wrapped: bool = False) -> Refused:
    body = {"error": {"code": code, "message": message, "status": status, "details": list(details)}}
    return Refused(JSONResponse([body] if wrapped else body, code))


def wrong(message: str, path: str = "") -> Refused:
    violation = {"field": path, "description": message}
    return error(400, "INVALID_ARGUMENT", message, {"@type": f"{TYPE}BadRequest", "fieldViolations": [violation]})


def without(reason: str, text: str | None = None) -> Response:
    """Answer 200 without a picture; the thoughts were thought all the same."""
    content = {} if text is None else {"role": "model", "parts": [{"text": text}]}
    usage = {"promptTokenCount": 6, "candidatesTokenCount": 300, "thoughtsTokenCount": 300, "totalTokenCount": 306}
    return JSONResponse(
        {"candidates": [{"content": content, "finishReason": reason, "index": 0}], "usageMetadata": usage}
    )


def quota(identity: str) -> tuple[dict[str, Any], dict[str, Any]]:
    failure = {"@type": f"{TYPE}QuotaFailure", "violations": [{"quotaId": identity}]}
    return failure, {"@type": f"{TYPE}RetryInfo", "retryDelay": "46.7s"}


ENDS: Final[Mapping[str, Response]] = {
    "unsafe-picture": without("IMAGE_SAFETY"),
    "recited": without("IMAGE_RECITATION"),
    "unsafe-prompt": JSONResponse({"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}}),
    "words": without("STOP", "I would rather describe it."),
    "no-image": without("NO_IMAGE"),
    "cut": without("MAX_TOKENS", "Let me"),
    "language": without("LANGUAGE"),
    "other": without("IMAGE_OTHER"),
    "empty": JSONResponse({"candidates": [{"finishReason": "STOP"}]}),
    "odd": Response(b"<html>", media_type="text/html"),
    "busy": error(503, "UNAVAILABLE", "The model is overloaded.").response,
    "minute": error(429, "RESOURCE_EXHAUSTED", "Quota exceeded.", *quota("RequestsPerMinute")).response,
    "day": error(429, "RESOURCE_EXHAUSTED", "Quota exceeded.", *quota("RequestsPerDay")).response,
    "abroad": error(400, "FAILED_PRECONDITION", "User location is not supported for the API use.").response,
    "withheld": JSONResponse({"created": 1, "data": []}),
}


def picture(kind: str, size: str, seed: int | None = None) -> bytes:
    """Begin a picture of these pixels; no two seeds give the same."""
    width, height = map(int, size.split("x"))
    tail = b"seed %d" % (seed or 0)
    if kind == "png":
        return b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + struct.pack(">II", width, height) + tail
    return b"\xff\xd8\xff\xc0\x00\x11\x08" + struct.pack(">HH", height, width) + tail


def made(model: str, ratio: str, tier: str) -> str:
    """Give the pixels of a picture."""
    table = FIRST if model == "gemini-2.5-flash-image" else PIXELS
    return "x".join(str(int(int(edge) * SCALES[tier])) for edge in table[ratio].split("x"))


class Emulator:
    """The API; `asks` are the bodies that it understood, `refused` those that broke its rules."""

    def __init__(self) -> None:
        self.asks: list[dict[str, Any]] = []
        self.refused: list[str] = []
        self.app = Starlette(
            routes=[
                Route("/v1beta/models/{model}:generateContent", self.generate, methods=["POST"]),
                Route("/v1beta/openai/images/generations", self.images, methods=["POST"]),
            ]
        )

    async def generate(self, request: Request) -> Response:
        """Answer `generateContent`."""
        model = request.path_params["model"]
        body = await request.json()
        try:
            admit(request, request.headers.get("x-goog-api-key"))
            rules = MODELS.get(model)
            if rules is None:
                raise error(404, "NOT_FOUND", f"models/{model} is not found for API version v1beta")
            known(body, TREE)
            prompt, config = read(body), check(body, rules)
            self.asks.append({"model": model, **body})
            return ended(prompt, config.get("seed")) or JSONResponse(answer(model, rules, config))
        except Refused as refused:
            self.note(refused)
            return refused.response

    async def images(self, request: Request) -> Response:
        """Answer like OpenAI, a little."""
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        body = await request.json()
        try:
            admit(request, key if scheme == "Bearer" else None)
            known(body, {name: {} for name in ("model", "prompt", "n", "size", "response_format")})
            if body["model"] != "gemini-2.5-flash-image":
                raise error(404, "NOT_FOUND", "no such model", wrapped=True)
            if body["n"] != 1 or body["response_format"] != "b64_json":
                raise wrong("n must be 1, and the format b64_json")
            if not re.fullmatch(r"\d+x\d+", body.get("size", "1x1")):
                raise wrong("size must be WxH")
            self.asks.append(body)
            data = base64.b64encode(picture("png", "1024x1024")).decode()
            return ended(body["prompt"], None) or JSONResponse({"created": 1793779201, "data": [{"b64_json": data}]})
        except Refused as refused:
            self.note(refused)
            return refused.response

    def note(self, refused: Refused) -> None:
        self.refused.append(bytes(refused.response.body).decode())


def admit(request: Request, key: str | None) -> None:
    if request.headers.get("content-type") != "application/json" or request.query_params:
        raise wrong("JSON, please, and nothing in the query")
    if key is None:
        raise error(403, "PERMISSION_DENIED", "Method doesn't allow unregistered callers")
    if key != KEY:
        info = {"@type": f"{TYPE}ErrorInfo", "reason": "API_KEY_INVALID", "domain": "googleapis.com"}
        raise error(400, "INVALID_ARGUMENT", "API key not valid.", info, wrapped=True)


def known(value: Any, tree: dict[str, Any]) -> None:
    """Refuse fields that there are not."""
    if isinstance(value, list):
        for item in value:  # pyright: ignore[reportUnknownVariableType]
            known(item, tree)
    if isinstance(value, dict) and tree:
        for name, inner in value.items():  # pyright: ignore[reportUnknownVariableType]
            if name not in tree:
                raise wrong(f'Invalid JSON payload received. Unknown name "{name}": Cannot find field.')
            known(inner, tree[name])  # pyright: ignore[reportUnknownArgumentType]


def read(body: dict[str, Any]) -> str:
    contents = body.get("contents", [])
    if [content.get("role") for content in contents] != ["user"] or len(contents[0]["parts"]) != 1:
        raise wrong("one message of the user with one text, please", "contents")
    return contents[0]["parts"][0]["text"]


def check(body: dict[str, Any], rules: Mapping[str, Any]) -> dict[str, Any]:
    """Refuse values that there are not."""
    config = body.get("generationConfig", {})
    image = config.get("imageConfig", {})
    if "IMAGE" not in config.get("responseModalities", ()):
        raise wrong("this model answers with pictures", "generation_config.response_modalities")
    if config.get("candidateCount", 1) != 1:
        raise wrong("Multiple candidates is not enabled for this model")
    if image.get("aspectRatio", "1:1") not in rules["ratios"]:
        raise wrong("no such ratio", "generation_config.image_config.aspect_ratio")
    if "imageSize" in image and image["imageSize"] not in rules["sizes"]:
        raise wrong("no such size", "generation_config.image_config.image_size")
    seed = config.get("seed", 0)
    if type(seed) is not int or not -(2**31) <= seed < 2**31:
        raise wrong("no such seed", "generation_config.seed")
    if "thinkingConfig" in config and config["thinkingConfig"].get("thinkingLevel") not in rules["levels"]:
        raise wrong("Thinking level is not supported for this model.")
    for setting in body.get("safetySettings", ()):
        if setting.get("category", "").removeprefix("HARM_CATEGORY_") not in CATEGORIES:
            raise wrong("no such category", "safety_settings")
        if setting.get("threshold") not in THRESHOLDS:
            raise wrong("no such threshold", "safety_settings")
    return config


def ended(prompt: str, seed: int | None) -> Response | None:
    """Give the answer that the prompt orders, if it does for this seed."""
    order = re.search(r"\[\[([a-z-]+)(?::(-?\d+))?\]\]", prompt)
    return None if order is None or order[2] not in (None, str(seed)) else ENDS[order[1]]


def answer(model: str, rules: Mapping[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """Paint: a draft first where the model thinks, and a few words."""
    image = config.get("imageConfig", {})
    tier = image.get("imageSize", "1K")
    size = made(model, image.get("aspectRatio", "1:1"), tier)
    kind = rules["kind"]

    def inline(seed: int | None) -> dict[str, Any]:
        data = base64.b64encode(picture(kind, size, seed)).decode()
        return {"inlineData": {"mimeType": f"image/{kind}", "data": data}}

    thoughts = 0 if model == "gemini-2.5-flash-image" else 160
    draft = [{"text": "Sketch", "thought": True}, inline(-99) | {"thought": True}] if thoughts else []
    parts = [*draft, {"text": "Here it is."}, inline(config.get("seed"))]
    drawn = rules["tokens"][tier]
    usage = {
        "promptTokenCount": 6,
        "candidatesTokenCount": drawn + 88,
        "thoughtsTokenCount": thoughts,
        "totalTokenCount": 6 + drawn + 88 + thoughts,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 6}],
        "candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": drawn}],
    }
    candidate = {"content": {"role": "model", "parts": parts}, "finishReason": "STOP", "index": 0}
    return {"candidates": [candidate], "usageMetadata": usage, "modelVersion": model, "responseId": "r-1"}
