"""A strict DashScope in miniature: it holds asks to the vendor's own rules, and keeps them.

What a prompt says decides how the work ends: see `Task.script`.
"""

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from msgspec import Struct
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.vendors.dashscope_rules import MODELS, Model, RefusedError, check_body, check_mode, count_of

KEY: Final = "sk-emulated-dashscope"
PATHS: Final[Mapping[str, str]] = {
    "sync": "/api/v1/services/aigc/multimodal-generation/generation",
    "async": "/api/v1/services/aigc/image-generation/generation",
    "async-old": "/api/v1/services/aigc/text2image/image-synthesis",
}
HOST: Final = "https://dashscope-result.example"
SIGNED: Final = "Expires=1&Signature=a%2Bb"
PNG: Final = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de"
    "0000000c49444154789c63f8cfc0000003010100c9fe92ef0000000049454e44ae426082"
)
QUESTIONS: Final = 2  # that a task takes until it has ended: it waits, then it works
REFUSALS: Final[Mapping[str, tuple[int, str]]] = {
    "forbidden": (400, "DataInspectionFailed"),
    "arrears": (400, "Arrearage"),
    "throttled": (429, "Throttling.RateQuota"),
    "overloaded": (503, "ModelServingError"),
    "failing": (500, "InternalError.Algo"),
}
"""Words in a prompt, with what the vendor then answers: at once, or when the task has ended."""

SCRIPTS: Final = (*REFUSALS, "in band", "half", "stuck", "endless", "lost", "hiccups", "all gone", "one gone")
"""Others: an error with status 200, the last picture fails, a task never begins, never ends, is forgotten, cannot be
asked for a while, no picture or not the first can be fetched."""


class Task(Struct, kw_only=True):
    """Work that goes on: `left` is how many more questions it takes."""

    model: Model
    route: str
    parameters: Mapping[str, Any]
    prompt: str
    headers: Mapping[str, str]
    status: str = "PENDING"
    left: int = QUESTIONS
    hiccups: int = 3

    @property
    def script(self) -> str:
        return next((script for script in SCRIPTS if script in self.prompt), "")


class Ask(Struct, frozen=True, kw_only=True):
    """What came."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: Any


Work = Callable[[Request, Ask], Awaitable[dict[str, Any]]]


class DashScope:
    """The emulator: `app` is to be served, `asks` is all that came, `made` counts the pictures that cost.

    Pictures lie at `host`: nowhere, or at the address that the app is served at.
    """

    def __init__(self, host: str = HOST) -> None:
        self.host = host
        self.asks: list[Ask] = []
        self.tasks: dict[str, Task] = {}
        self.made = 0
        self.app = Starlette(
            routes=[
                *(Route(path, self._answering(self._ordering(name)), methods=["POST"]) for name, path in PATHS.items()),
                Route("/api/v1/tasks/{task}", self._answering(self._asked), methods=["GET"]),
                Route("/api/v1/tasks/{task}/cancel", self._answering(self._called_off), methods=["POST"]),
                Route("/{name}.png", _picture, methods=["GET"]),
            ]
        )

    def orders(self, prompt: str) -> list[Ask]:
        """Give the asks for pictures of one prompt."""
        ordered = [ask for ask in self.asks if ask.path in PATHS.values()]
        return [ask for ask in ordered if f'"{prompt}"' in json.dumps(ask.body)]

    def _answering(self, work: Work) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            body = await request.body()
            ask = Ask(
                method=request.method,
                path=request.url.path,
                headers=dict(request.headers),
                body=json.loads(body) if body else None,
            )
            self.asks.append(ask)
            try:
                _check_headers(ask)
                status, fields = 200, await work(request, ask)
            except RefusedError as refused:
                status, code, message = refused.args
                fields = {"code": code, "message": message}
            return JSONResponse({"request_id": f"req-{len(self.asks)}", **fields}, status)

        return answer

    def _ordering(self, route: str) -> Work:
        async def ordered(_request: Request, ask: Ask) -> dict[str, Any]:
            model = MODELS.get(ask.body.get("model"))
            if model is None:
                raise RefusedError(404, "ModelNotFound", "no such model")
            check_mode(route, model, ask.headers)
            prompt = check_body(route, model, ask.body)
            task = Task(model=model, route=route, parameters=ask.body["parameters"], prompt=prompt, headers=ask.headers)
            if route == "sync":
                return self._pictures(task)
            name = f"task-{len(self.tasks)}"
            self.tasks[name] = task
            return {"output": {"task_id": name, "task_status": "PENDING"}}

        return ordered

    async def _asked(self, request: Request, ask: Ask) -> dict[str, Any]:
        name = request.path_params["task"]
        task = self.tasks.get(name)
        if task is None or task.headers.get(WORKSPACE) != ask.headers.get(WORKSPACE):
            return {"output": {"task_id": name, "task_status": "UNKNOWN"}}
        if task.script == "hiccups" and task.hiccups:
            task.hiccups -= 1
            raise RefusedError(429, "Throttling.RateQuota", "too many questions")
        self._go_on(task)
        state: dict[str, Any] = {"task_id": name, "task_status": task.status}
        if task.status in ("PENDING", "RUNNING", "UNKNOWN"):
            return {"output": state}
        try:
            made = self._pictures(task)
        except RefusedError as refused:
            _, code, message = refused.args
            return {"output": {**state, "task_status": "FAILED", "code": code, "message": message}}
        return {**made, "output": {**state, **made["output"]}}

    def _go_on(self, task: Task) -> None:
        if task.script == "stuck":
            return
        task.status = "RUNNING"
        task.left -= 1
        if task.left <= 0 and task.script != "endless":
            task.status = "UNKNOWN" if task.script == "lost" else "SUCCEEDED"

    async def _called_off(self, request: Request, _ask: Ask) -> dict[str, Any]:
        task = self.tasks[request.path_params["task"]]
        if task.status != "PENDING":
            raise RefusedError(400, "UnsupportedOperation", "only what has not begun is called off")
        task.status = "CANCELED"
        return {}

    def _pictures(self, task: Task) -> dict[str, Any]:
        if task.script in REFUSALS:
            status, code = REFUSALS[task.script]
            raise RefusedError(status, code, f"the prompt or the picture: {task.script}")
        if task.script == "in band":
            return {"code": "Throttling", "message": "too many requests"}
        count = count_of(task.model, task.parameters)
        gone = {"all gone": count, "one gone": 1}.get(task.script, 0)
        names = ["gone" if number < gone else f"{len(self.asks)}-{number}" for number in range(count)]
        urls = [f"{self.host}/{name}.png?{SIGNED}" for name in names]
        missing = 1 if task.script == "half" else 0
        self.made += count - missing
        usage = {"image_count": count - missing}
        return {"output": _output(task, urls[: count - missing], missing), "usage": usage}


WORKSPACE: Final = "x-dashscope-workspace"


async def _picture(request: Request) -> Response:
    """Show a picture to whoever has its signed URL, and who shows no key."""
    if request.url.query != SIGNED or "authorization" in request.headers:
        return Response(status_code=403)
    if request.path_params["name"] == "gone":
        return Response(status_code=404)
    return Response(PNG, media_type="image/png")


def _check_headers(ask: Ask) -> None:
    if ask.headers.get("authorization") != f"Bearer {KEY}":
        raise RefusedError(401, "InvalidApiKey", "no such key")
    if ask.method == "POST" and ask.headers.get("content-type") != "application/json":
        raise RefusedError(400, "BadRequest.IllegalInput", "JSON is asked for")


def _output(task: Task, urls: list[str], missing: int) -> dict[str, Any]:
    """Show the pictures as the models do: plain, one message for each, or all in one message."""
    if task.route == "async-old":
        results: list[dict[str, Any]] = [{"url": url, "actual_prompt": f"{task.prompt}, at dusk"} for url in urls]
        results += [{"code": "DataInspectionFailed", "message": "the picture"}] * missing
        return {"results": results, "task_metrics": {"TOTAL": len(results), "FAILED": missing}}
    if "thinking_mode" in task.model.takes:
        contents = [[{"type": "image", "image": url}] for url in urls]
    else:
        text = (
            [{"text": f"{task.prompt}, at dusk"}]
            if task.parameters.get("prompt_extend") and task.model.most == 1
            else []
        )
        contents = [[*({"image": url} for url in urls), *text]]
    choices = [{"finish_reason": "stop", "message": {"role": "assistant", "content": content}} for content in contents]
    return {"choices": choices, "finished": True}
