"""Zhipu's image API as it is documented, stricter than the real one: whatever is not documented is refused.

What shall go wrong stands in the prompt: `answer 429 1113`, `refuse the prompt`, `refuse the picture`, `first 2 fail`,
`task fails`, `task fails 1301`, `first 2 gone` (the pictures cannot be fetched).

Source: https://docs.z.ai/api-reference/image/generate-image, .../generate-image-async, .../api-code
"""

import base64
import re
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

MAINLAND: Final = ("glm-image", "cogview-4-250304", "cogview-4", "cogview-3-flash", "cogview-3-plus")
INTERNATIONAL: Final = ("glm-image", "cogview-4-250304")
KEY: Final = "0123456789abcdef0123456789abcdef.ZhipuSecret16"
PATH: Final = "/api/paas/v4"
PNG: Final = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
PROCESSING: Final = 2  # times that a task says so before it is done


class RefusedError(Exception):
    """An answer of the vendor's that is no picture."""

    def __init__(self, status: int, code: str, message: str, **beside: Any) -> None:
        super().__init__(message)
        self.status = status
        self.body: dict[str, Any] = {"error": {"code": code, "message": message}, **beside}


class Zhipu:
    """One region. `asks` are the bodies sent to it, `paths` where to, `polls` how often each task was asked for."""

    def __init__(self, models: tuple[str, ...] = MAINLAND) -> None:
        self.asks: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.polls: Counter[str] = Counter()
        self.made = 0
        self._models = models
        self._tasks: dict[str, dict[str, Any]] = {}
        self._ids: set[str] = set()
        self._failed: Counter[str] = Counter()
        self._gone: Counter[str] = Counter()
        self.app = Starlette(
            routes=[
                Route(f"{PATH}/images/generations", self._answer(self._at_once), methods=["POST"]),
                Route(f"{PATH}/async/images/generations", self._answer(self._ordered), methods=["POST"]),
                Route(f"{PATH}/async-result/{{id}}", self._asked_for, methods=["GET"]),
                Route("/cdn/{name}", picture),
            ],
            exception_handlers={RefusedError: refuse, HTTPException: astray},
        )

    def _answer(self, make: Callable[[Request, dict[str, Any]], dict[str, Any]]) -> Callable[[Request], Any]:
        async def endpoint(request: Request) -> Response:
            authenticate(request)
            if request.headers.get("content-type") != "application/json":
                raise RefusedError(400, "1210", "the body is not JSON")
            fields = await request.json()
            self.asks.append(fields)
            self.paths.append(request.url.path.removeprefix(PATH))
            check(fields, self._models)
            if (name := fields.get("request_id")) is not None:
                if name in self._ids:
                    raise RefusedError(400, "1231", f"there is a request {name} already")
                self._ids.add(name)
            return JSONResponse(make(request, fields))

        return endpoint

    def _at_once(self, request: Request, fields: dict[str, Any]) -> dict[str, Any]:
        self._misbehave(fields["prompt"])
        if "refuse the picture" in fields["prompt"]:
            raise sensitive("assistant")
        return {
            "created": 1793779201,
            "id": f"2026110412{len(self.asks):04}",
            "request_id": fields.get("request_id", "of-the-vendor"),
            "data": [{"url": self._url(request, fields)}],
            "content_filter": [{"role": "assistant", "level": 3}],
        }

    def _ordered(self, _request: Request, fields: dict[str, Any]) -> dict[str, Any]:
        if fields["model"] != "glm-image":
            raise RefusedError(400, "1212", "this model cannot be asked this way")
        self._misbehave(fields["prompt"])
        task = f"task-{len(self._tasks)}"
        self._tasks[task] = fields
        return {"model": fields["model"], "id": task, "request_id": "r", "task_status": "PROCESSING"}

    async def _asked_for(self, request: Request) -> Response:
        authenticate(request)
        if await request.body():
            raise RefusedError(400, "1210", "a question has no body")
        name: str = request.path_params["id"]
        if name not in self._tasks:
            raise RefusedError(400, "1214", "there is no such task")
        fields = self._tasks[name]
        self.polls[name] += 1
        answer: dict[str, Any] = {"model": fields["model"], "request_id": "r", "task_status": "PROCESSING"}
        if self.polls[name] > PROCESSING:
            answer |= self._end(request, fields)
        return JSONResponse(answer)

    def _end(self, request: Request, fields: dict[str, Any]) -> dict[str, Any]:
        if "refuse the picture" in fields["prompt"]:
            return {"task_status": "FAIL", **sensitive("assistant").body}
        if match := re.search(r"task fails ?(\d*)", fields["prompt"]):
            error = {"error": {"code": match[1], "message": "it did not work"}} if match[1] else {}
            return {"task_status": "FAIL", **error}
        return {"task_status": "SUCCESS", "image_result": [{"url": self._url(request, fields)}]}

    def _misbehave(self, prompt: str) -> None:
        if match := re.search(r"answer (\d{3}) (\d+)", prompt):
            raise RefusedError(int(match[1]), match[2], f"[{match[2]}][of the vendor's making][2026110412-ab]")
        if "refuse the prompt" in prompt:
            raise sensitive("user")
        if match := re.search(r"first (\d+) fail", prompt):
            self._failed[prompt] += 1
            if self._failed[prompt] <= int(match[1]):
                raise RefusedError(500, "1234", "network error, id 77")

    def _url(self, request: Request, fields: dict[str, Any]) -> str:
        size = fields.get("size", "1280x1280" if fields["model"] == "glm-image" else "1024x1024")
        mark = "_watermark" if fields.get("watermark_enabled", True) else ""
        self.made += 1
        name = f"{size}_{self.made}{mark}.png"
        if match := re.search(r"first (\d+) gone", fields["prompt"]):
            self._gone[fields["prompt"]] += 1
            name = f"gone_{name}" if self._gone[fields["prompt"]] <= int(match[1]) else name
        return f"{request.url.scheme}://{request.url.netloc}/cdn/{name}"


def authenticate(request: Request) -> None:
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    if not key:
        raise RefusedError(401, "1001", "no Authentication in the header")
    if scheme != "Bearer" or key != KEY:
        raise RefusedError(401, "1002", "the token is not valid")


def check(fields: dict[str, Any], models: tuple[str, ...]) -> None:
    """Hold the documented rules, in the vendor's codes."""
    for name in ("model", "prompt"):
        if not fields.get(name):
            raise RefusedError(400, "1213", f"{name} was not received")
    if unknown := fields.keys() - RULES.keys():
        raise RefusedError(400, "1210", f"unknown: {sorted(unknown)}")
    if fields["model"] not in models:
        raise RefusedError(400, "1211", "the model does not exist")
    large = fields["model"] == "glm-image"
    for name, value in fields.items():
        if not RULES[name](value, large):
            raise RefusedError(400, "1214", f"{name} is not valid")
    if large and len(fields["prompt"]) > 1000:
        raise RefusedError(400, "1261", "the prompt is too long")


def fits(size: Any, large: bool) -> bool:  # noqa: FBT001, a rule's second argument
    match = re.fullmatch(r"(\d+)x(\d+)", size)
    if match is None:
        return False
    step, shortest, most = (32, 1024, 2**22) if large else (16, 512, 2**21)
    width, height = int(match[1]), int(match[2])
    edges = all(shortest <= edge <= 2048 and edge % step == 0 for edge in (width, height))
    return edges and width * height <= most


Rule = Callable[[Any, bool], bool]
RULES: Final[dict[str, Rule]] = {
    "model": lambda value, _: isinstance(value, str),
    "prompt": lambda value, _: isinstance(value, str),
    "size": fits,
    "quality": lambda value, large: value == "hd" or (value == "standard" and not large),
    "watermark_enabled": lambda value, _: isinstance(value, bool),
    "user_id": lambda value, _: isinstance(value, str) and 6 <= len(value) <= 128,
    "request_id": lambda value, _: isinstance(value, str),
    "sensitive_word_check": lambda value, _: (
        value in ({"type": "ALL", "status": "ENABLE"}, {"type": "ALL", "status": "DISABLE"})
    ),
}


def sensitive(role: str) -> RefusedError:
    return RefusedError(400, "1301", "unsafe or sensitive content", contentFilter=[{"level": 1, "role": role}])


async def refuse(_request: Request, exc: Exception) -> Response:
    assert isinstance(exc, RefusedError)
    return Response(msgspec.json.encode(exc.body), status_code=exc.status, media_type="application/json")


async def astray(_request: Request, _exc: Exception) -> Response:
    return JSONResponse({"code": 500, "msg": "404 NOT_FOUND", "success": False}, status_code=404)


async def picture(request: Request) -> Response:
    """Show a picture to whoever shows no key."""
    if "authorization" in request.headers:
        return Response(status_code=403)
    if request.path_params["name"].startswith("gone_"):
        return Response(status_code=404)
    return Response(PNG, media_type="image/png")
