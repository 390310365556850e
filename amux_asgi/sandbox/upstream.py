"""The sandbox's ASGI app: strict like OpenAI's images API, honest about what it is."""

import base64
import secrets
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any, Final

import anyio
import anyio.to_thread
import msgspec
from msgspec.structs import replace
from starlette.routing import BaseRoute, Route, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from amux_asgi.catalogue.openai import ROWS
from amux_asgi.errors import GatewayError, NotFoundError, RequestTooLargeError
from amux_asgi.sandbox.faults import (
    FAULTS,
    JSON,
    STREAMED,
    Cut,
    Sleep,
    error_body,
    fault_asked,
    play,
    whole,
)
from amux_asgi.sandbox.job import Job, echo, job_of, spec_of, usage
from amux_asgi.sandbox.paint import Order, paint
from amux_asgi.words import quote

OWNER: Final = "amux-sandbox"
LONGEST: Final = 1_048_576  # bytes of a request
WRONG: Final = b"bearer sk-wrong"  # how keys begin that are refused
Now = Callable[[], datetime]


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
        job = job_of(await _body(receive))
        fault, number = fault_asked(job.request.model or "", job.request.prompt) or ("", 0)
        if fault == "slow":
            await self._sleep(number)
        if fault == "fewer":
            job = replace(job, orders=job.orders[:-1])
        if job.request.stream and fault in STREAMED:
            await self._stream(job, send, fault, number)
            return
        answer = msgspec.json.encode(await self._answer(job, scope))
        if fault in STREAMED - {"cut"}:
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
        names = [*ROWS, *(f"sandbox-{name}" for name in FAULTS)]
        await whole(send, 200, msgspec.json.encode({"object": "list", "data": [_card(name) for name in names]}), JSON)

    async def model(self, scope: Scope, _receive: Receive, send: Send) -> None:
        _check_method(scope, "GET")
        name = str(scope["path_params"]["id"])
        spec_of(name)
        await whole(send, 200, msgspec.json.encode(_card(name)), JSON)

    async def _answer(self, job: Job, scope: Scope) -> dict[str, Any]:
        pictures = [await self._item(job, order, scope) for order in job.orders]
        answer: dict[str, Any] = {"created": int(self._now().timestamp()), "data": pictures}
        return answer if "response_format" in job.spec.fields else answer | echo(job) | {"usage": usage(job)}

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

    async def _stream(self, job: Job, send: Send, fault: str, number: float) -> None:
        headers = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        async with aclosing(self._events(job, broken=fault == "stream-error")) as events:
            async for event in events:
                if fault == "paced":
                    await self._sleep(number)
                text = f"event: {event['type']}\ndata: ".encode() + msgspec.json.encode(event) + b"\n\n"
                await send({"type": "http.response.body", "body": text, "more_body": True})
                if fault == "cut":
                    raise Cut
        await send({"type": "http.response.body"})

    async def _events(self, job: Job, *, broken: bool) -> AsyncGenerator[dict[str, Any]]:
        partials = job.request.partial_images or 0
        single = replace(job, orders=job.orders[:1])
        for order in job.orders:
            common = {"created_at": int(self._now().timestamp()), **echo(job)}
            for i in range(partials):
                early = replace(order, blur=1 - i / partials)
                text = base64.b64encode(await _painted(early)).decode()
                yield {"type": f"{_EVENT}.partial_image", "b64_json": text, "partial_image_index": i, **common}
            if broken:
                error = {"type": "image_generation_server_error", "code": "image_generation_failed"}
                yield {"type": "error", "error": {**error, "message": "Image generation failed", "param": None}}
                return
            text = base64.b64encode(await _painted(order)).decode()
            yield {"type": f"{_EVENT}.completed", "b64_json": text, **common, "usage": usage(single)}


async def _nothing(scope: Scope, _receive: Receive, _send: Send) -> None:
    raise NotFoundError(f"the sandbox has nothing at {quote(scope['path'])}")


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


def _card(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": OWNER}


def _url(scope: Scope, order: Order) -> str:
    host = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"host"), "127.0.0.1")
    written = base64.urlsafe_b64encode(msgspec.json.encode(order)).decode()
    return f"{scope['scheme']}://{host}{scope.get('root_path', '')}/pictures/{written}"


async def _painted(order: Order) -> bytes:
    return await anyio.to_thread.run_sync(paint, order)


_EVENT: Final = "image_generation"
app: Final = sandbox_app()
