"""Imagen on the Gemini API, and Imagen and Gemini on Vertex, as strict as Google is: what it does not know, it refuses.

What a prompt says decides how it ends: `blocked`, `refused`, `nothing`, `half`, `busy`, `limited`, `broken`.
"""

import base64
import hashlib
import io
from collections.abc import Callable, Mapping
from itertools import count
from typing import Any, Final

from PIL import Image
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

from tests.vendors.token_desk import TokenDesk

API_KEY: Final = "AIzaSy-a-key-of-the-tests-0123456789"
TOKEN: Final = "ya29.a-token-of-the-tests"
RATIOS: Final = ("1:1", "3:4", "4:3", "9:16", "16:9")
MODELS: Final = ("imagen-4.0-generate-001", "imagen-4.0-ultra-generate-001", "imagen-4.0-fast-generate-001")

Check = Callable[[Any], bool]


def one_of(*values: Any) -> Check:
    return lambda value: value in values


def within(kind: type | tuple[type, ...], least: float, most: float) -> Check:
    return lambda value: isinstance(value, kind) and not isinstance(value, bool) and least <= value <= most


def of(kind: type) -> Check:
    return lambda value: isinstance(value, kind)


COMMON: Final[Mapping[str, Check]] = {
    "sampleCount": within(int, 1, 4),
    "aspectRatio": one_of(*RATIOS),
    "sampleImageSize": one_of("1K", "2K"),
    "personGeneration": one_of("dont_allow", "allow_adult", "allow_all"),
    "safetySetting": one_of("block_low_and_above", "block_medium_and_above", "block_only_high", "block_none"),
    "includeRaiReason": of(bool),
    "includeSafetyAttributes": of(bool),
    "language": of(str),
    "guidanceScale": within((int, float), 0, 500),
    "outputOptions": of(dict),
}
VERTEX_ONLY: Final[Mapping[str, Check]] = {
    "seed": within(int, 1, 2**31 - 1),
    "negativePrompt": of(str),
    "addWatermark": of(bool),
    "enhancePrompt": of(bool),
}
OPTIONS: Final[Mapping[str, Check]] = {
    "mimeType": one_of("image/png", "image/jpeg"),
    "compressionQuality": within(int, 0, 100),
}
IMAGE_CONFIG: Final[Mapping[str, Check]] = {
    "aspectRatio": one_of(*RATIOS, "2:3", "3:2", "4:5", "5:4", "21:9"),
    "imageSize": one_of("1K", "2K", "4K"),
    "personGeneration": one_of("ALLOW_ALL", "ALLOW_ADULT", "ALLOW_NONE"),
    "prominentPeople": one_of("ALLOW_PROMINENT_PEOPLE", "BLOCK_PROMINENT_PEOPLE"),
    "imageOutputOptions": of(dict),
}


class RefusedError(Exception):
    def __init__(self, status: int, name: str, message: str, reason: str | None = None) -> None:
        super().__init__(message)
        details = [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason}] if reason else []
        error = {"code": status, "message": message, "status": name} | ({"details": details} if details else {})
        self.answer = JSONResponse({"error": error}, status)


def refused(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RefusedError)
    return error.answer


class Google:
    """Both interfaces, with the service of tokens beside them; `asks` are the bodies that came, `tokens` who sent.

    `painted` are the digests of all pictures.
    """

    def __init__(self, desk: TokenDesk) -> None:
        self.desk = desk
        self.asks: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.tokens: list[str] = []
        self.revoked: set[str] = set()
        self.made = count()
        self.painted: set[str] = set()
        model = "/publishers/google/models/{model}:{verb}"
        self.app = Starlette(
            routes=[
                Route("/v1beta/models/{model}:predict", self._gemini_api, methods=["POST"]),
                Route("/v1/projects/{project}/locations/{location}" + model, self._vertex, methods=["POST"]),
                Route("/v1" + model, self._express, methods=["POST"]),
                Mount("/token", desk),
            ],
            exception_handlers={RefusedError: refused},
        )

    async def _gemini_api(self, request: Request) -> JSONResponse:
        return await self._serve(request, self._api_key, "predict", COMMON)

    async def _vertex(self, request: Request) -> JSONResponse:
        if request.path_params["project"] != "some-project":
            raise RefusedError(403, "PERMISSION_DENIED", "Permission denied on resource project")
        return await self._serve(request, self._token, request.path_params["verb"], {**COMMON, **VERTEX_ONLY})

    async def _express(self, request: Request) -> JSONResponse:
        return await self._serve(request, self._api_key, request.path_params["verb"], {**COMMON, **VERTEX_ONLY})

    async def _serve(
        self, request: Request, admit: Callable[[Request], None], verb: str, known: Mapping[str, Check]
    ) -> JSONResponse:
        admit(request)
        body = await request.json()
        self.asks.append(body)
        self.paths.append(request.url.path)
        model = request.path_params["model"]
        if verb == "predict" and model in MODELS:
            return JSONResponse(self._predict(body, known, fast="fast" in model))
        if verb == "generateContent" and model.startswith("gemini-"):
            return JSONResponse(self._generate(body))
        raise RefusedError(404, "NOT_FOUND", f"models/{model} is not found, or is not supported for {verb}.")

    def _api_key(self, request: Request) -> None:
        if "authorization" in request.headers:
            raise RefusedError(401, "UNAUTHENTICATED", "Expected OAuth 2 access token")
        if "x-goog-api-key" not in request.headers:
            raise RefusedError(403, "PERMISSION_DENIED", "Method doesn't allow unregistered callers")
        if request.headers["x-goog-api-key"] != API_KEY:
            raise RefusedError(400, "INVALID_ARGUMENT", "API key not valid.", "API_KEY_INVALID")

    def _token(self, request: Request) -> None:
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        self.tokens.append(token)
        known = {TOKEN, *self.desk.given} - self.revoked
        if kind != "Bearer" or token not in known or "x-goog-api-key" in request.headers:
            raise RefusedError(401, "UNAUTHENTICATED", "Request had invalid authentication credentials.")

    def _predict(self, body: dict[str, Any], known: Mapping[str, Check], *, fast: bool) -> dict[str, Any]:
        check(body, {"instances": of(list), "parameters": of(dict)}, "")
        parameters: dict[str, Any] = body["parameters"]
        check(parameters, known, "parameters.")
        options: dict[str, Any] = parameters.get("outputOptions", {})
        check(options, OPTIONS, "parameters.outputOptions.")
        if fast and parameters.get("sampleImageSize", "1K") != "1K":
            raise RefusedError(400, "INVALID_ARGUMENT", "sampleImageSize is not supported")
        if "seed" in parameters and parameters.get("addWatermark") is not False:
            raise RefusedError(400, "INVALID_ARGUMENT", "Seed is not supported when watermark is enabled.")
        if "compressionQuality" in options and options.get("mimeType") != "image/jpeg":
            raise RefusedError(400, "INVALID_ARGUMENT", "compressionQuality is for image/jpeg alone")
        [instance] = body["instances"]
        check(instance, {"prompt": of(str)}, "instances.")
        return self._predictions(instance["prompt"], parameters, options.get("mimeType", "image/png"))

    def _predictions(self, prompt: str, parameters: dict[str, Any], mime: str) -> dict[str, Any]:
        wanted = parameters.get("sampleCount", 4)
        reason = {"raiFilteredReason": "It may go against the guidelines. Support codes: 58061214"}
        reasons = [reason] if parameters.get("includeRaiReason") else []
        self._fail(prompt)
        if prompt == "nothing":
            return {}
        made = 0 if prompt == "blocked" else (wanted + 1) // 2 if prompt == "half" else wanted
        pictures: list[dict[str, Any]] = [
            {"mimeType": mime, "bytesBase64Encoded": self.paint(mime)} for _ in range(made)
        ]
        if parameters.get("enhancePrompt"):
            pictures = [{**picture, "prompt": f"{prompt}, but better"} for picture in pictures]
        return {"predictions": pictures + (reasons if made < wanted else [])}

    def _generate(self, body: dict[str, Any]) -> dict[str, Any]:
        check(body, {"contents": of(list), "generationConfig": of(dict), "safetySettings": of(list)}, "")
        [content] = body["contents"]
        if content.get("role") != "user":
            raise RefusedError(400, "INVALID_ARGUMENT", "Please use a valid role: user, model.")
        config = body["generationConfig"]
        check(config, {"responseModalities": of(list), "imageConfig": of(dict), "seed": of(int)}, "")
        image = config.get("imageConfig", {})
        check(image, IMAGE_CONFIG, "")
        options: dict[str, Any] = image.get("imageOutputOptions", {})
        check(options, OPTIONS, "")
        prompt = content["parts"][0]["text"]
        self._fail(prompt)
        if prompt == "blocked":
            return {"candidates": [{"content": {}, "finishReason": "IMAGE_SAFETY"}]}
        mime = options.get("mimeType", "image/png")
        part = {"inlineData": {"mimeType": mime, "data": self.paint(mime)}}
        tokens = {"promptTokenCount": 4, "candidatesTokenCount": 1120, "totalTokenCount": 1124}
        details = {"candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": 1120}]}
        candidate = {"content": {"role": "model", "parts": [part]}, "finishReason": "STOP"}
        return {"candidates": [candidate], "usageMetadata": tokens | details}

    def _fail(self, prompt: str) -> None:
        if prompt == "refused":
            raise RefusedError(400, "INVALID_ARGUMENT", "The prompt could not be submitted. Support codes: 42876398")
        if prompt == "busy":
            raise RefusedError(503, "UNAVAILABLE", "The model is overloaded.")
        if prompt == "limited":
            raise RefusedError(429, "RESOURCE_EXHAUSTED", "Resource exhausted. Please try again later.")
        if prompt == "broken":
            raise RefusedError(500, "INTERNAL", "Internal error encountered.")

    def paint(self, mime: str) -> str:
        """Paint a picture that no other is like."""
        number = next(self.made)
        file = io.BytesIO()
        Image.new("RGB", (8, 8), (number % 256, number // 256, 7)).save(file, mime.removeprefix("image/"))
        self.painted.add(hashlib.sha256(file.getvalue()).hexdigest())
        return base64.b64encode(file.getvalue()).decode()


def check(fields: dict[str, Any], known: Mapping[str, Check], place: str) -> None:
    """Refuse unknown names and values, as protocol buffers do."""
    for name, value in fields.items():
        if name not in known:
            message = f'Invalid JSON payload received. Unknown name "{name}": Cannot find field.'
            raise RefusedError(400, "INVALID_ARGUMENT", message)
        if not known[name](value):
            raise RefusedError(400, "INVALID_ARGUMENT", f"Invalid value at {place}{name}")
