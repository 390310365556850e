"""The paths of the images app: each an ASGI app that checks its method, asks the gateway, and writes one answer."""

from collections.abc import Sequence
from typing import Final, Literal

import msgspec
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from amux_asgi.adapt import report
from amux_asgi.document import load
from amux_asgi.errors import GatewayError, InvalidRequestError, MethodNotAllowedError, ModelNotFoundError, NotFoundError
from amux_asgi.gateway import Gateway, Generation
from amux_asgi.receive import receive_json
from amux_asgi.schema import encode_response
from amux_asgi.scope import facts_of, principal_of
from amux_asgi.words import quote

Reveal = Literal["attempts", "channel"]
Headers = tuple[tuple[bytes, bytes], ...]


class Generations:
    """`POST /v1/images/generations`."""

    def __init__(self, gateway: Gateway, *, longest: int, timeout: float, reveal: Sequence[Reveal]) -> None:
        """`longest` (bytes) and `timeout` (seconds) are of the request's body; `reveal` names what clients are told."""
        self._gateway = gateway
        self._longest = longest
        self._timeout = timeout
        self._reveal = reveal

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        _allow(scope, "POST")
        _refuse_escaped_slash(scope)
        principal = principal_of(scope)
        strict, hops = _asked(scope)
        body = load(await receive_json(scope, receive, longest=self._longest, timeout=self._timeout))
        facts = facts_of(scope)
        facts["model"] = body.model
        try:
            made = await self._gateway.generate(body, principal, strict=strict, hops=hops)
        except GatewayError as error:
            facts.update(channel=error.channel, attempts=error.attempts)
            error.headers = (*error.headers, *_revealed(self._reveal, error.channel, error.attempts))
            raise
        facts.update(generation=made.id, channel=made.channel, attempts=made.attempts, images=len(made.images.data))
        await _answer(send, encode_response(made.images), self._headers(made))

    def _headers(self, made: Generation) -> Headers:
        headers = _revealed(self._reveal, made.channel, made.attempts)
        if made.changes:
            headers = (*headers, ("x-amux-adapted", report(made.changes)))
        return tuple((name.encode(), value.encode("ascii", "replace")) for name, value in headers)


class Models:
    """`GET /v1/models`: those that the principal may name."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002, an ASGI app's signature
        """Answer one request."""
        _allow(scope, "GET")
        cards = [_card(model) for model in self._gateway.models(principal_of(scope))]
        await _answer(send, msgspec.json.encode({"object": "list", "data": cards}))


class Model:
    """`GET /v1/models/{id}`: one of them; an id may hold slashes, escaped or not."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002, an ASGI app's signature
        """Answer one request."""
        _allow(scope, "GET")
        asked = str(scope["path_params"]["id"])
        for model in (asked, asked.removesuffix("/")):
            if model in self._gateway.models(principal_of(scope)):
                await _answer(send, msgspec.json.encode(_card(model)))
                return
        raise ModelNotFoundError(f"there is no model {quote(asked)} for this API key", param="model")


async def nothing_here(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001, an ASGI app's signature
    """Answer any other path."""
    raise NotFoundError(f"nothing answers at {quote(scope['path'])}; pictures are made at '/v1/images/generations'")


def routes(gateway: Gateway, *, longest: int, timeout: float, reveal: Sequence[Reveal]) -> list[BaseRoute]:
    """List the routes: with and without `/v1`, with and without a slash at the end, never a redirect."""
    generations = Generations(gateway, longest=longest, timeout=timeout, reveal=reveal)
    models = Models(gateway)
    model = Model(gateway)
    return [
        Route(prefix + path + slash, app)
        for prefix in ("/v1", "")
        for path, app, slashes in (
            ("/images/generations", generations, ("", "/")),
            ("/models", models, ("", "/")),
            ("/models/{id:path}", model, ("",)),
        )
        for slash in slashes
    ]


def _allow(scope: Scope, method: str) -> None:
    if scope["type"] != "http" or scope["method"] != method:
        raise MethodNotAllowedError(f"this path takes {method} only", allow=method)


def _refuse_escaped_slash(scope: Scope) -> None:
    if b"%2f" in scope.get("raw_path", b"").lower():
        raise NotFoundError("nothing answers at this path: it holds an escaped slash")


def _asked(scope: Scope) -> tuple[bool, int]:
    strict, hops = False, 0
    for name, value in scope["headers"]:
        if name == b"x-amux-strict":
            strict = _flag(value)
        elif name == b"x-amux-hop":
            hops = int(value) if value.isdigit() and len(value) < _LONGEST_NUMBER else _LONGEST_NUMBER
    return strict, hops


def _flag(value: bytes) -> bool:
    match value.strip().lower():
        case b"true" | b"1":
            return True
        case b"false" | b"0":
            return False
        case _:
            raise InvalidRequestError("the header 'x-amux-strict' takes 'true' or 'false'", param="x-amux-strict")


def _revealed(reveal: Sequence[Reveal], channel: str | None, attempts: int) -> tuple[tuple[str, str], ...]:
    told = {"attempts": str(attempts) if attempts else None, "channel": channel}
    return tuple((f"x-amux-{name}", value) for name in reveal if (value := told[name]) is not None)


def _card(model: str) -> dict[str, str | int]:
    return {"id": model, "object": "model", "created": 0, "owned_by": "amux"}


async def _answer(send: Send, body: bytes, headers: Headers = ()) -> None:
    await send(
        {
            "type": "http.response.start",
            "status": 200,
            "headers": [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *headers],
        }
    )
    await send({"type": "http.response.body", "body": body})


_LONGEST_NUMBER: Final = 9  # digits
