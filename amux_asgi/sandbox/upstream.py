"""The sandbox's ASGI app: strict like OpenAI's images API, honest about what it is."""

import base64
import math
import secrets
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any, Final

import anyio
import anyio.to_thread
import msgspec
from msgspec import Struct
from msgspec.structs import replace
from starlette.routing import BaseRoute, Route, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from amux_asgi.document import load
from amux_asgi.errors import GatewayError, InvalidRequestError, NotFoundError, RequestTooLargeError
from amux_asgi.explain import parse
from amux_asgi.models import CATALOGUE, GPT_IMAGE_2, find
from amux_asgi.sandbox.faults import (
    FAULTS,
    JSON,
    Sleep,
    error_body,
    fault_asked,
    is_fault_model,
    play,
    whole,
)
from amux_asgi.sandbox.paint import Order, paint
from amux_asgi.schema import GenerationRequest
from amux_asgi.spec import ModelSpec
from amux_asgi.tokens import PARTIAL, fixed_size_tokens, free_size_tokens

OWNER: Final = "amux-sandbox"
LONGEST: Final = 1_048_576  # bytes of a request
WRONG: Final = b"bearer sk-wrong"  # how keys begin that are refused
Now = Callable[[], datetime]


class Job(Struct, frozen=True, kw_only=True):
    """A valid request, with everything that was left open resolved."""

    request: GenerationRequest
    spec: ModelSpec
    orders: tuple[Order, ...]
    size: str
    quality: str
    background: str
    output_format: str


def sandbox_app(*, sleep: Sleep = anyio.sleep, now: Now = lambda: datetime.now(UTC)) -> ASGIApp:
    """Make the app; `sleep` is what slow faults wait with."""
    sandbox = _Sandbox(sleep, now)
    paths: list[tuple[str, Any]] = [
        ("/images/generations", sandbox.generations),
        ("/pictures/{order}", sandbox.picture),
        ("/models", sandbox.models),
        ("/models/{id:path}", sandbox.model),
    ]
    routes: list[BaseRoute] = [Route(prefix + path, _Answering(app)) for prefix in ("/v1", "") for path, app in paths]
    return Router(routes, redirect_slashes=False, default=_Answering(_nothing))


class _Answering:
    """Answers errors as OpenAI does, and gives every answer an id."""

    def __init__(self, app: Callable[[Scope, Receive, Send], Any]) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"].append((b"x-request-id", f"req_{secrets.token_hex(16)}".encode()))
            await send(message)

        try:
            _check_key(scope)
            await self._app(scope, receive, sending)
        except GatewayError as error:
            await whole(sending, error.status, error_body(error.message, error.type, error.code, error.param), JSON)


class _Sandbox:
    def __init__(self, sleep: Sleep, now: Now) -> None:
        self._sleep = sleep
        self._now = now

    async def generations(self, scope: Scope, receive: Receive, send: Send) -> None:
        _check_method(scope, "POST")
        job = _job(await _body(receive))
        fault, number = fault_asked(job.request.model or "", job.request.prompt) or ("", 0)
        if fault == "slow":
            await self._sleep(number)
        if fault == "fewer":
            job = replace(job, orders=job.orders[:-1])
        if job.request.stream:
            await self._stream(job, send, broken=fault == "stream-error")
            return
        answer = msgspec.json.encode(await self._answer(job, scope))
        if fault in ("", "slow", "fewer", "stream-error"):
            await whole(send, 200, answer, JSON)
        else:
            await play(fault, number, answer, receive, send, self._sleep)

    async def picture(self, scope: Scope, _receive: Receive, send: Send) -> None:
        _check_method(scope, "GET")
        try:
            order = msgspec.json.decode(base64.urlsafe_b64decode(scope["path_params"]["order"]), type=Order)
        except ValueError as exc:
            raise NotFoundError("there is no such picture") from exc
        await whole(send, 200, await _painted(order), (b"content-type", f"image/{order.output_format}".encode()))

    async def models(self, scope: Scope, _receive: Receive, send: Send) -> None:
        _check_method(scope, "GET")
        names = [*CATALOGUE, *(f"sandbox-{name}" for name in FAULTS)]
        await whole(send, 200, msgspec.json.encode({"object": "list", "data": [_card(name) for name in names]}), JSON)

    async def model(self, scope: Scope, _receive: Receive, send: Send) -> None:
        _check_method(scope, "GET")
        name = str(scope["path_params"]["id"])
        _spec(name)
        await whole(send, 200, msgspec.json.encode(_card(name)), JSON)

    async def _answer(self, job: Job, scope: Scope) -> dict[str, Any]:
        pictures = [await self._item(job, order, scope) for order in job.orders]
        answer: dict[str, Any] = {"created": int(self._now().timestamp()), "data": pictures}
        return answer if "response_format" in job.spec.fields else answer | _echo(job) | {"usage": _usage(job)}

    async def _item(self, job: Job, order: Order, scope: Scope) -> dict[str, Any]:
        item: dict[str, Any] = {}
        if "style" in job.spec.fields:
            item["revised_prompt"] = f"{order.prompt}, painted as paper hills below a large sun"
        form = job.request.response_format or job.spec.response_format
        if form == "url" and "amux.in_process" not in scope.get("extensions", {}):
            return item | {"url": _url(scope, order)}
        text = base64.b64encode(await _painted(order)).decode()
        return item | (
            {"url": f"data:image/{order.output_format};base64,{text}"} if form == "url" else {"b64_json": text}
        )

    async def _stream(self, job: Job, send: Send, *, broken: bool) -> None:
        headers = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        async for event in self._events(job, broken=broken):
            text = f"event: {event['type']}\ndata: ".encode() + msgspec.json.encode(event) + b"\n\n"
            await send({"type": "http.response.body", "body": text, "more_body": True})
        await send({"type": "http.response.body"})

    async def _events(self, job: Job, *, broken: bool) -> AsyncIterator[dict[str, Any]]:
        partials = job.request.partial_images or 0
        single = replace(job, orders=job.orders[:1])
        for order in job.orders:
            common = {"created_at": int(self._now().timestamp()), **_echo(job)}
            for i in range(partials):
                early = replace(order, blur=1 - i / partials)
                text = base64.b64encode(await _painted(early)).decode()
                yield {"type": f"{_EVENT}.partial_image", "b64_json": text, "partial_image_index": i, **common}
            if broken:
                error = {"type": "image_generation_server_error", "code": "image_generation_failed"}
                yield {"type": "error", "error": {**error, "message": "Image generation failed", "param": None}}
                return
            text = base64.b64encode(await _painted(order)).decode()
            yield {"type": f"{_EVENT}.completed", "b64_json": text, **common, "usage": _usage(single)}


async def _nothing(scope: Scope, _receive: Receive, _send: Send) -> None:
    raise NotFoundError(f"the sandbox has nothing at {scope['path']!r}")


def _check_key(scope: Scope) -> None:
    if any(name == b"authorization" and value.lower().startswith(WRONG) for name, value in scope["headers"]):
        raise _RefusedError("the sandbox refuses keys that begin with 'sk-wrong'")


def _check_method(scope: Scope, method: str) -> None:
    if scope["method"] != method:
        raise _WrongMethodError(f"this path takes {method} only")


class _RefusedError(GatewayError):
    status = 401
    type = "invalid_request_error"
    code = "invalid_api_key"


class _WrongMethodError(GatewayError):
    status = 405
    type = "invalid_request_error"
    code = "method_not_allowed"


async def _body(receive: Receive) -> bytes:
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > LONGEST:
            raise RequestTooLargeError(f"the sandbox reads at most {LONGEST} bytes")
        if not message.get("more_body", False):
            return body


def _job(body: bytes) -> Job:
    document = load(body)
    if document.model is None:
        raise InvalidRequestError("the request names no model", param="model", code="missing_required_parameter")
    spec = _spec(document.model)
    if "response_format" in document.values and "response_format" not in spec.fields:
        raise InvalidRequestError(
            "unknown parameter: 'response_format'", param="response_format", code="unknown_parameter"
        )
    unknown = [name for name in document.raw if name not in _KNOWN]
    request = parse(document, spec)
    if unknown:
        raise InvalidRequestError(f"unknown parameter: {unknown[0]!r}", param=unknown[0], code="unknown_parameter")
    return _resolved(request, spec, _seed(document.values.get("seed")))


def _seed(value: Any) -> int:  # noqa: ANN401, whatever JSON can say
    if value is None:
        return 0
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidRequestError("'seed' must be an integer", param="seed", code="invalid_type")
    return value


def _spec(model: str) -> ModelSpec:
    spec = GPT_IMAGE_2 if is_fault_model(model) else find(model)
    if spec is None:
        raise InvalidRequestError(
            f"the model {model!r} does not exist", param="model", type="image_generation_user_error"
        )
    return spec


def _resolved(request: GenerationRequest, spec: ModelSpec, seed: int) -> Job:
    """Choose what the request leaves open; nothing stays `auto`."""
    size = request.size if request.size not in (None, "auto") else "1024x1024"
    quality = request.quality if request.quality not in (None, "auto") else "medium" if spec.backgrounds else "standard"
    background = request.background if request.background not in (None, "auto") else "opaque"
    output_format = request.output_format if request.output_format in ("jpeg", "webp") else "png"
    width, height = map(int, size.split("x"))
    order = Order(
        prompt=request.prompt,
        seed=seed,
        width=width,
        height=height,
        quality=quality,
        transparent=background == "transparent",
        output_format=output_format,
        compression=100 if request.output_compression is None else request.output_compression,
    )
    orders = tuple(replace(order, seed=seed + i) for i in range(request.n or 1))
    return Job(
        request=request,
        spec=spec,
        orders=orders,
        size=size,
        quality=quality,
        background=background,
        output_format=output_format,
    )


def _echo(job: Job) -> dict[str, str]:
    return {"background": job.background, "output_format": job.output_format, "quality": job.quality, "size": job.size}


def _usage(job: Job) -> dict[str, Any]:
    """Count tokens by OpenAI's published formula; a text token is taken to be four bytes."""
    number = len(job.orders)
    first = job.orders[0] if number else Order(prompt="", seed=0, width=1, height=1)
    quality = job.quality if job.quality in ("low", "medium") else "high"
    each = (
        fixed_size_tokens(job.size, quality)
        if job.spec.pixels is None
        else free_size_tokens(first.width, first.height, quality)
    )
    inputs = number * math.ceil(len(job.request.prompt.encode()) / 4)
    outputs = number * ((each or 0) + PARTIAL * (job.request.partial_images or 0 if job.request.stream else 0))
    return {
        "input_tokens": inputs,
        "input_tokens_details": {"image_tokens": 0, "text_tokens": inputs},
        "output_tokens": outputs,
        "output_tokens_details": {"image_tokens": outputs, "text_tokens": 0},
        "total_tokens": inputs + outputs,
    }


def _card(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": OWNER}


def _url(scope: Scope, order: Order) -> str:
    host = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"host"), "127.0.0.1")
    written = base64.urlsafe_b64encode(msgspec.json.encode(order)).decode()
    return f"{scope['scheme']}://{host}{scope.get('root_path', '')}/pictures/{written}"


async def _painted(order: Order) -> bytes:
    return await anyio.to_thread.run_sync(paint, order)


_EVENT: Final = "image_generation"
_KNOWN: Final = frozenset(GenerationRequest.__struct_fields__) - {"extra"} | {"seed"}
app: Final = sandbox_app()
