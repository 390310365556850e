"""The paths of the images app: each an ASGI app that checks its method, asks the gateway, and writes one answer."""

import re
from collections.abc import Sequence
from functools import partial
from typing import Final

import msgspec
from msgspec.structs import replace
from starlette.routing import BaseRoute, Route
from starlette.types import Message, Receive, Scope, Send

from amux_asgi.adapt import report
from amux_asgi.capabilities import Capabilities
from amux_asgi.document import Body, load
from amux_asgi.errors import GatewayError, InvalidRequestError, MethodNotAllowedError, ModelNotFoundError, NotFoundError
from amux_asgi.gateway import Gateway
from amux_asgi.generation import REPLAYED
from amux_asgi.hosted import mount_of
from amux_asgi.idempotency import asked
from amux_asgi.in_flight import Held
from amux_asgi.keys import Principal
from amux_asgi.patience import at_once
from amux_asgi.planning import Terms
from amux_asgi.pricing import dollars, parse_dollars
from amux_asgi.receive import receive_json
from amux_asgi.refusals import headers_of
from amux_asgi.respond import encoded
from amux_asgi.scope import admission_of, facts_of, header_values, principal_of, request_id_of, reservation_of
from amux_asgi.streamed import Pace, StreamAnswer
from amux_asgi.streaming import Reveal
from amux_asgi.words import quote

Headers = tuple[tuple[str, str], ...]
PATH: Final = "/images/generations"  # of the request, wherever the app is mounted


class Generations:
    """`POST /v1/images/generations`."""

    def __init__(self, gateway: Gateway, *, longest: int, timeout: float, reveal: Sequence[Reveal], pace: Pace) -> None:
        """`longest` (bytes) and `timeout` (seconds) are of the request's body; `reveal` names what clients are told.

        `pace` is that of streams.
        """
        self._gateway = gateway
        self._longest = longest
        self._timeout = timeout
        self._reveal = reveal
        self._pace = pace

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        begun = self._gateway.clock()
        principal, terms = _asked(scope, begun)
        with self._gateway.receiving(principal) as held:
            seconds = self._timeout if terms.timeout is None else min(terms.timeout, self._timeout)
            text = await receive_json(scope, receive, longest=self._longest, timeout=seconds, count=held.reserve)
            await self._generate(scope, receive, send, text=text, principal=principal, terms=terms, held=held)

    async def _generate(  # noqa: PLR0913, an ASGI app's, and what was read of the request
        self, scope: Scope, receive: Receive, send: Send, *, text: bytes, principal: Principal, terms: Terms, held: Held
    ) -> None:
        body = load(text)
        facts = facts_of(scope)
        facts["model"] = body.model
        ask = asked(principal, PATH, text, scope["headers"])
        if ask is not None:
            terms = replace(terms, ask=ask, gone=partial(_is_gone, receive))
        outer = reservation_of(scope)
        if outer is not None and not outer.fixed:
            outer.hand_over()  # we know the price, and charge it in one step with the answer that is kept
        try:
            if body.values.get("stream") is True:
                await self._stream(scope, receive, send, body=body, terms=terms, held=held)
                return
            made = await self._gateway.generate(body, principal, terms)
        except GatewayError as error:
            facts.update(generation=error.generation, channel=error.channel, attempts=error.attempts)
            error.headers = (*error.headers, *_revealed(self._reveal, error.channel, error.attempts, 0))
            raise
        facts.update(
            generation=made.id,
            channel=made.channel,
            attempts=made.attempts,
            images=len(made.images.data),
            cost=made.cost,
        )
        held.add(len(made.body))
        headers = (
            *_revealed(self._reveal, made.channel, made.attempts, made.cost),
            *_adapted(made.changes),
            *headers_of(made.standings),
        )
        await _answer(send, made.body, (*headers, REPLAYED) if made.replayed else headers)

    async def _stream(  # noqa: PLR0913, likewise
        self, scope: Scope, receive: Receive, send: Send, *, body: Body, terms: Terms, held: Held
    ) -> None:
        """Answer with events. One who charges further out is told of a price when an answer begins: with a picture."""
        pace = replace(self._pace, waits=terms.paid, says_done=_says_done(scope))
        stream = self._gateway.stream(body, principal_of(scope), terms, count=held.add)

        def headers() -> Headers:
            replayed = (REPLAYED,) if stream.made is not None and stream.made.replayed else ()
            return (*_adapted(stream.changes), *headers_of(stream.standings), *replayed)

        try:
            await StreamAnswer(scope, receive, send, pace=pace).send(stream, headers)
        finally:
            if (made := stream.made) is not None:
                facts_of(scope).update(
                    generation=made.id,
                    channel=made.channel,
                    attempts=made.attempts,
                    images=made.images,
                    cost=made.cost,
                )


class Estimates:
    """`POST /v1/images/estimate`: what a request would cost, without asking anybody."""

    def __init__(self, gateway: Gateway, *, longest: int, timeout: float) -> None:
        """`longest` (bytes) and `timeout` (seconds) are of the request's body."""
        self._gateway = gateway
        self._longest = longest
        self._timeout = timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        principal, terms = _asked(scope, self._gateway.clock())
        with self._gateway.receiving(principal) as held:
            text = await receive_json(scope, receive, longest=self._longest, timeout=self._timeout, count=held.reserve)
            body = load(text)
        facts_of(scope)["model"] = body.model
        told = self._gateway.estimate(body, principal, terms)
        document = {
            "object": "image.estimate",
            "currency": "USD",
            "least": dollars(told.cost.least),
            "most": dollars(told.cost.most),
            "request": told.request,
        }
        await _answer(send, msgspec.json.encode(document), _adapted(told.changes))


class Models:
    """`GET /v1/models`: those that the principal may name."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002, an ASGI app's signature
        """Answer one request."""
        _allow(scope, "GET")
        cards = [_card(model, self._gateway) for model in self._gateway.models(principal_of(scope))]
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
                await _answer(send, msgspec.json.encode(_card(model, self._gateway)))
                return
        raise ModelNotFoundError(f"there is no model {quote(asked)} for this API key", param="model")


async def nothing_here(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001, an ASGI app's signature
    """Answer any other path."""
    raise NotFoundError(f"nothing answers at {quote(scope['path'])}; pictures are made at '/v1/images/generations'")


def routes(gateway: Gateway, *, longest: int, timeout: float, reveal: Sequence[Reveal], pace: Pace) -> list[BaseRoute]:
    """List the routes: with and without `/v1`, with and without a slash at the end, never a redirect."""
    generations = Generations(gateway, longest=longest, timeout=timeout, reveal=reveal, pace=pace)
    estimates = Estimates(gateway, longest=longest, timeout=timeout)
    models = Models(gateway)
    model = Model(gateway)
    return [
        Route(prefix + path + slash, app)
        for prefix in ("/v1", "")
        for path, app, slashes in (
            ("/images/generations", generations, ("", "/")),
            ("/images/estimate", estimates, ("", "/")),
            ("/models", models, ("", "/")),
            ("/models/{id:path}", model, ("",)),
        )
        for slash in slashes
    ]


def _allow(scope: Scope, method: str) -> None:
    if scope["type"] != "http" or scope["method"] != method:
        raise MethodNotAllowedError(f"this path takes {method} only", allow=method)


def _refuse_escaped_slash(scope: Scope) -> None:
    path = scope.get("raw_path", b"")
    if b"%" in path and b"%2f" in path.lower():
        raise NotFoundError("nothing answers at this path: it holds an escaped slash")


def _asked(scope: Scope, begun: float) -> tuple[Principal, Terms]:
    """Read who asks, and on which terms; the path and the method are looked at first."""
    _allow(scope, "POST")
    _refuse_escaped_slash(scope)
    principal = principal_of(scope)
    strict, hops, most, timeout = False, 0, None, None
    for name, value in scope["headers"]:
        if name not in _ASKING:
            continue
        if name == b"x-amux-strict":
            strict = _flag("x-amux-strict", value)
        elif name == b"x-amux-hop":
            hops = int(value) if value.isdigit() and len(value) < _LONGEST_NUMBER else _LONGEST_NUMBER
        elif name == b"x-amux-max-cost":
            most = _most(value)
        else:
            timeout = _seconds(value)
    outer = reservation_of(scope)
    return principal, Terms(
        strict=strict,
        hops=hops,
        max_cost=most,
        paid=outer is not None and outer.fixed,
        mount=mount_of(scope),
        request_id=request_id_of(scope),
        timeout=timeout,
        begun=begun,
        admission=admission_of(scope),
    )


async def _is_gone(receive: Receive) -> bool:
    """Tell whether the client has left, as far as the server knows now."""
    message = await at_once(_next(receive))
    return message is not None and message["type"] == "http.disconnect"


async def _next(receive: Receive) -> Message:
    return await receive()


def _most(value: bytes) -> int:
    try:
        return parse_dollars(value.decode("latin-1").strip())
    except ValueError as exc:
        raise InvalidRequestError(
            "the header 'x-amux-max-cost' takes US dollars as a decimal, as in '0.10'", param="x-amux-max-cost"
        ) from exc


def _seconds(value: bytes) -> float:
    if not _SECONDS.fullmatch(value.strip()) or not float(value):
        raise InvalidRequestError(
            "the header 'x-amux-timeout' takes seconds above zero, as in '30' or '2.5'", param="x-amux-timeout"
        )
    return float(value)


def _says_done(scope: Scope) -> bool:
    """Tell whether a client wants to hear `[DONE]`, which OpenAI does not say of pictures."""
    said = [_flag("x-amux-done", value) for value in header_values(scope, b"x-amux-done")]
    return any(said)


def _flag(name: str, value: bytes) -> bool:
    match value.strip().lower():
        case b"true" | b"1":
            return True
        case b"false" | b"0":
            return False
        case _:
            raise InvalidRequestError(f"the header {name!r} takes 'true' or 'false'", param=name)


def _revealed(
    reveal: Sequence[Reveal], channel: str | None, attempts: int, cost: int | None
) -> tuple[tuple[str, str], ...]:
    told: list[tuple[str, str]] = []
    for name in reveal:
        if name == "cost" and cost is not None:
            told.append(("x-amux-cost", dollars(cost)))
        elif name == "attempts" and attempts:
            told.append(("x-amux-attempts", str(attempts)))
        elif name == "channel" and channel is not None:
            told.append(("x-amux-channel", channel))
    return tuple(told)


def _adapted(changes: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    return (("x-amux-adapted", report(changes)),) if changes else ()


def _card(model: str, gateway: Gateway) -> dict[str, str | int | Capabilities]:
    usual = {"id": model, "object": "model", "created": 0, "owned_by": "amux"}
    return {**usual, "x_amux": gateway.capabilities(model)}


async def _answer(send: Send, body: bytes, headers: Headers = ()) -> None:
    usual = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": [*usual, *encoded(headers)]})
    await send({"type": "http.response.body", "body": body})


_ASKING: Final = frozenset({b"x-amux-strict", b"x-amux-hop", b"x-amux-max-cost", b"x-amux-timeout"})
_LONGEST_NUMBER: Final = 9  # digits
_SECONDS: Final = re.compile(rb"\d{1,9}(\.\d{1,9})?")
