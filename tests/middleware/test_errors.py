"""Whatever an inner app raises, the client sees one form, and the host sees its own bugs."""

import logging

import pytest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException, WebSocketException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from amux_asgi.errors import End, GatewayError, InvalidRequestError, RateLimitError, UpstreamError
from amux_asgi.middleware.errors import ErrorMiddleware, reraise
from tests.middleware.apps import call, client, hello

pytestmark = pytest.mark.anyio


def raising(error: Exception) -> ErrorMiddleware:
    async def app(_scope: Scope, _receive: Receive, _send: Send) -> None:
        raise error

    return ErrorMiddleware(app)


async def test_a_good_answer_only_gets_a_request_id() -> None:
    """Nothing else is touched."""
    async with client(ErrorMiddleware(hello)) as asking:
        answer = await asking.get("/")

    assert (answer.status_code, answer.text) == (200, "hello")
    assert answer.headers["x-request-id"].startswith("req_")


@pytest.mark.parametrize(
    ("given", "echoed"), [("mine-1", True), ("a" * 64, True), ("a" * 65, False), ("a b", False), ("", False)]
)
async def test_a_clients_own_request_id_is_echoed_if_it_is_fit(given: str, *, echoed: bool) -> None:
    """A label, never a place to inject anything; on errors as well."""
    async with client(ErrorMiddleware(hello)) as good, client(raising(InvalidRequestError("no"))) as bad:
        answers = [
            await good.get("/", headers={"x-request-id": given}),
            await bad.get("/", headers={"x-request-id": given}),
        ]

    assert [answer.headers["x-request-id"] == given for answer in answers] == [echoed, echoed]


@pytest.mark.parametrize(
    ("error", "status", "headers"),
    [
        (InvalidRequestError("no", param="n"), 400, {}),
        (RateLimitError("slow down", retry_after=6.2), 429, {"retry-after": "7"}),
        (RateLimitError("much later", retry_after=61), 429, {"retry-after": "61", "x-should-retry": "false"}),
        (UpstreamError("gone", end=End.UNKNOWN), 502, {"x-should-retry": "false"}),
        (UpstreamError("no", end=End.REFUSED, upstream_code="x_1"), 502, {"x-amux-upstream-code": "x_1"}),
        (UpstreamError("no", end=End.REFUSED, retry=True), 502, {"x-should-retry": "true"}),
        (ExceptionGroup("one", [ExceptionGroup("inner", [InvalidRequestError("no")])]), 400, {}),
    ],
)
async def test_our_errors_become_answers(error: Exception, status: int, headers: dict[str, str]) -> None:
    """Four keys, always, and headers that say when a retry makes sense."""
    async with client(raising(error)) as asking:
        answer = await asking.get("/")

    assert answer.status_code == status
    assert answer.json()["error"].keys() == {"message", "type", "param", "code"}
    seen = {
        name: value
        for name, value in answer.headers.items()
        if name in ("retry-after", "x-should-retry", "x-amux-upstream-code")
    }
    assert seen == headers


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (401, "invalid_api_key"),
        (403, "model_not_allowed"),
        (404, "not_found"),
        (405, "method_not_allowed"),
        (413, "request_too_large"),
        (415, "unsupported_media_type"),
        (418, "invalid_value"),
        (429, "rate_limit_exceeded"),
        (500, "internal_error"),
        (503, "upstream_unavailable"),
    ],
)
async def test_starlettes_errors_look_like_ours(status: int, code: str) -> None:
    """The status stays, the words are ours, the app's own headers are kept."""
    async with client(raising(HTTPException(status, headers={"X-Own": "1", "Content-Length": "5"}))) as asking:
        answer = await asking.get("/")

    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert answer.headers["x-own"] == "1"


async def test_a_hosts_own_404_and_405_can_look_like_ours() -> None:
    """Starlette renders them itself unless its handlers leave them to the middleware."""

    async def endpoint(_request: Request) -> PlainTextResponse:
        raise HTTPException(404)

    app = Starlette(
        routes=[Route("/only-get", endpoint)],
        middleware=[Middleware(ErrorMiddleware)],
        exception_handlers={HTTPException: reraise},
    )
    async with client(app) as asking:
        missing, wrong = await asking.get("/nowhere"), await asking.post("/only-get")

    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "not_found")
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (405, "method_not_allowed")
    assert set(wrong.headers["allow"].split(", ")) == {"GET", "HEAD"}


async def test_a_bug_is_a_500_that_tells_nothing_and_is_raised_again(caplog: pytest.LogCaptureFixture) -> None:
    """The host's error reporting sees it; the client does not."""
    bug = ValueError("secret words")
    app = raising(bug)
    sent: list[object] = []

    async def send(message: object) -> None:
        sent.append(message)

    with pytest.raises(ValueError, match="secret words") as caught:
        await app({"type": "http", "method": "GET", "headers": []}, None, send)  # pyright: ignore[reportArgumentType]

    assert caught.value is bug
    assert b"internal_error" in str(sent).encode()
    assert "secret" not in str(sent) + caplog.text
    assert "ValueError" not in str(sent) + caplog.text
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


async def test_after_the_answer_began_everything_is_raised_again() -> None:
    """A second answer would be worse than a cut one."""

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise InvalidRequestError("late")

    with pytest.raises(InvalidRequestError):
        await call(ErrorMiddleware(app), {"type": "http", "method": "GET"})


async def test_an_app_that_gives_no_answer_is_a_500() -> None:
    """No client waits for nothing."""

    async def app(_scope: Scope, _receive: Receive, _send: Send) -> None:
        pass

    async with client(ErrorMiddleware(app)) as asking:
        assert (await asking.get("/")).json()["error"]["code"] == "internal_error"


async def test_a_long_name_is_not_echoed_whole() -> None:
    """A client can name a field by a megabyte."""
    name = "x" * 1_000_000

    async with client(raising(InvalidRequestError(f"unknown parameter: {name}", param=name))) as asking:
        answer = await asking.get("/")

    assert len(answer.content) < 5000


async def test_head_gets_no_body() -> None:
    """Its length says what GET would give."""
    async with client(raising(InvalidRequestError("no"))) as asking:
        answer = await asking.head("/")

    assert (answer.status_code, answer.content) == (400, b"")
    assert int(answer.headers["content-length"]) > 0


@pytest.mark.parametrize(("version", "closed"), [("1.1", True), ("2", False)])
async def test_a_request_that_is_not_read_to_its_end_closes_the_connection(version: str, *, closed: bool) -> None:
    """Otherwise its rest would be taken for the next request; HTTP/2 has no such rest."""
    error = GatewayError("too large")
    error.status = 413

    sent = await call(raising(error), {"type": "http", "method": "POST", "http_version": version})

    assert ((b"connection", b"close") in sent[0]["headers"]) is closed


async def test_lifespan_passes_untouched() -> None:
    """It is no request."""

    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": scope["type"]})

    assert await call(ErrorMiddleware(app), {"type": "lifespan"}) == [{"type": "lifespan"}]


@pytest.mark.parametrize("extensions", [{}, {"websocket.http.response": {}}])
async def test_a_websocket_is_refused_with_the_same_words_where_the_server_can(extensions: dict[str, object]) -> None:
    """Otherwise it is closed with 1008."""
    sent = await call(
        raising(InvalidRequestError("no")),
        {"type": "websocket", "extensions": extensions},
        {"type": "websocket.connect"},
    )

    if extensions:
        assert sent[0]["status"] == 400
        assert b'"code":"invalid_value"' in sent[1]["body"]
    else:
        assert sent == [{"type": "websocket.close", "code": 1008, "reason": "invalid_value"}]


WEBSOCKET = {"type": "websocket"}
CONNECT: Message = {"type": "websocket.connect"}


async def test_a_websockets_own_error_is_its_close_code() -> None:
    """Starlette's `WebSocketException` says how to close."""
    sent = await call(raising(WebSocketException(4001, "later")), WEBSOCKET, CONNECT)

    assert sent == [{"type": "websocket.close", "code": 4001, "reason": "later"}]


@pytest.mark.parametrize(
    "gone", [WebSocketDisconnect(1001), ClientDisconnect(), ExceptionGroup("one", [ClientDisconnect()])], ids=repr
)
async def test_a_client_that_left_is_no_error_to_answer(gone: Exception) -> None:
    """Nobody would read it; the server knows what to do."""
    with pytest.raises((WebSocketDisconnect, ClientDisconnect, ExceptionGroup)):
        await call(raising(gone), {"type": "http", "method": "GET"})


async def test_after_the_client_left_only_bugs_are_told() -> None:
    """Refusals are none of the host's business; they are answered, since some hosts miss an answer."""

    def leaving(error: Exception, *, begun: bool = False) -> ErrorMiddleware:
        async def app(_scope: Scope, receive: Receive, send: Send) -> None:
            if begun:
                await send({"type": "http.response.start", "status": 200})
            await receive()
            raise error

        return ErrorMiddleware(app)

    scope, left = {"type": "http", "method": "GET"}, {"type": "http.disconnect"}
    refusal = InvalidRequestError("too late")
    assert [message.get("status") for message in await call(leaving(refusal), scope, left)] == [400, None]
    assert len(await call(leaving(refusal, begun=True), scope, left)) == 1
    assert await call(leaving(refusal), {"type": "websocket"}, {"type": "websocket.disconnect"}) == []
    with pytest.raises(ZeroDivisionError):
        await call(leaving(ZeroDivisionError()), scope, left)


async def test_an_app_that_gives_no_answer_to_a_client_that_left_is_right() -> None:
    """There is nobody to answer."""

    async def app(_scope: Scope, receive: Receive, _send: Send) -> None:
        await receive()

    assert await call(ErrorMiddleware(app), {"type": "http", "method": "GET"}, {"type": "http.disconnect"}) == []


async def test_a_redirect_that_is_raised_stays_one() -> None:
    """An `HTTPException` below 400 is no error."""
    async with client(raising(HTTPException(307, headers={"location": "/there"}))) as asking:
        answer = await asking.get("/")

    assert (answer.status_code, answer.headers["location"], answer.content) == (307, "/there", b"")


async def test_a_group_of_several_errors_is_a_bug() -> None:
    """Which of them the client should see, nobody can say."""
    errors = ExceptionGroup("two", [InvalidRequestError("a"), InvalidRequestError("b")])

    async with client(raising(errors)) as asking:
        with pytest.raises(ExceptionGroup):
            await asking.get("/")


async def test_what_an_app_says_with_its_error_is_shown() -> None:
    """Its words below 500 (redacted), its wait, its methods; above 500 nothing."""
    app = {
        "/busy": HTTPException(429, "come back later", {"Retry-After": "7"}),
        "/bug": HTTPException(500, "table users is locked"),
        "/key": HTTPException(400, "the key sk-abcdefghijklmnopqrstuvwx is bad"),
        "/method": HTTPException(405, headers={"Allow": "GET, PUT"}),
    }

    async def choosing(scope: Scope, _receive: Receive, _send: Send) -> None:
        raise app[scope["path"]]

    async with client(ErrorMiddleware(choosing)) as asking:
        busy, bug, key, method = [await asking.get(path) for path in app]

    assert (busy.json()["error"]["message"], busy.headers["retry-after"]) == ("come back later", "7")
    assert "users" not in bug.text
    assert "abcdef" not in key.text
    assert method.headers.get_list("allow") == ["GET, PUT"]
