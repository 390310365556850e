"""Chosen paths go to a vendor and back, over real sockets, with nothing on the way that is not meant for it."""

from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import ASGIApp

from amux_asgi import AuthMiddleware, ConfigError, KeyConfig, Passthrough, PassthroughMiddleware, fixed_keys
from amux_asgi.routing import Channel
from amux_asgi.transport.base import Transport
from amux_asgi.transport.httpx import open_httpx2
from tests.middleware.apps import BEARER, KEY, call, client, hello
from tests.middleware.vendor import SPEECH, Vendor, channel, passing
from tests.serve import serve

pytestmark = pytest.mark.anyio

OTHER = "another-key-of-somebody"
KEYS = fixed_keys(
    [
        KeyConfig(name="team", key=KEY, passthrough=("spee*",)),
        KeyConfig(name="other", key=OTHER, passthrough=("voices",)),
    ]
)

TURNS: list[tuple[tuple[str, ...], list[list[str]]]] = [
    ((), [[], []]),
    (("one", "two"), [["Bearer one"], ["Bearer two"]]),
]


@pytest.fixture(scope="module")
def serving() -> Generator[tuple[Vendor, str]]:
    vendor = Vendor()
    with serve(vendor, lifespan="off") as url:
        yield vendor, url


@pytest.fixture
def vendor(serving: tuple[Vendor, str]) -> Vendor:
    serving[0].asks.clear()
    return serving[0]


@pytest.fixture
def url(serving: tuple[Vendor, str]) -> str:
    return serving[1]


def guarded(*passthroughs: Passthrough, app: ASGIApp = hello, **options: Any) -> ASGIApp:
    return AuthMiddleware(PassthroughMiddleware(app, passthroughs, **options), keys=KEYS)


async def test_a_request_goes_up_with_our_credential_and_little_else(vendor: Vendor, url: str) -> None:
    """The vendor sees what it needs: never the client's key, cookies, query, or another tenant's idempotency key."""
    headers = {
        **BEARER,
        "accept": "audio/mpeg",
        "content-type": "application/json",
        "cookie": "session=1",
        "idempotency-key": "mine",
        "openai-organization": "theirs",
        "x-forwarded-for": "10.0.0.1",
    }

    async with client(guarded(passing(channel(url)))) as asking:
        await asking.post("/v1/speech?key=secret&api-version=1", headers=headers, content=b'{"input":"hi"}')

    (ask,) = vendor.asks
    assert (ask.line, ask.body) == ("POST /v1/audio/speech?", b'{"input":"hi"}')
    assert dict(ask.headers) == {
        "host": url.removeprefix("http://"),
        "connection": ask.header("connection")[0],
        "accept": "audio/mpeg",
        "accept-encoding": "identity",
        "authorization": "Bearer vendor-credential-1",
        "content-length": "14",
        "content-type": "application/json",
        "user-agent": "amux-asgi",
        "x-amux-hop": "1",
        "x-project": "ours",
    }


@pytest.mark.usefixtures("vendor")
async def test_the_answer_comes_back_without_what_is_the_vendors(url: str) -> None:
    """No cookie, no account, no rate limit that all tenants share; the request id is ours."""
    async with client(guarded(passing(channel(url)))) as asking:
        answer = await asking.post("/v1/speech", headers={**BEARER, "x-request-id": "mine"})

    assert (answer.status_code, answer.content) == (201, SPEECH)
    assert dict(answer.headers) == {
        "content-type": "audio/mpeg",
        "content-length": str(len(SPEECH)),
        "content-disposition": 'attachment; filename="\xe9.mp3"',
        "x-request-id": "mine",
    }


async def test_only_named_parameters_of_the_query_are_passed_on(vendor: Vendor, url: str) -> None:
    """They are written anew, so that nothing hides in their spelling."""
    passthrough = passing(channel(url), methods=("GET",), query=("page", "q"))

    async with client(guarded(passthrough)) as asking:
        await asking.get("/v1/speech?page=2&key=x&q=a%26key%3Dy&page=&api_key=z", headers=BEARER)

    assert [ask.line for ask in vendor.asks] == ["GET /v1/audio/speech?page=2&q=a%26key%3Dy&page="]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/speech"),
        ("POST", "/v1/speech/"),
        ("POST", "/v1/Speech"),
        ("POST", "//v1/speech"),
        ("POST", "/v1%2fspeech"),
        ("POST", "/v1/speech/../speech"),
        ("POST", "/speech"),
        ("POST", "/"),
    ],
)
async def test_everything_else_is_the_wrapped_apps(vendor: Vendor, url: str, method: str, path: str) -> None:
    """Exact paths, in one spelling, with their methods; a key was asked for all the same."""
    raw_path, decoded = path.encode(), path.replace("%2f", "/")
    scope = {"type": "http", "method": method, "path": decoded, "raw_path": raw_path, "query_string": b""}
    key = (b"authorization", f"Bearer {KEY}".encode())

    sent = await call(guarded(passing(channel(url))), {**scope, "headers": [key]})
    refused = await call(guarded(passing(channel(url))), scope)

    assert (sent[1]["body"], refused[0]["status"], vendor.asks) == (b"hello, team", 401, [])


async def test_an_escaped_letter_is_the_letter(vendor: Vendor, url: str) -> None:
    """Paths are compared decoded, as servers hand them over."""
    async with client(guarded(passing(channel(url)))) as asking:
        await asking.post("/v1/%73peech", headers=BEARER)

    assert [ask.line for ask in vendor.asks] == ["POST /v1/audio/speech?"]


async def test_it_works_below_a_mount(vendor: Vendor, url: str) -> None:
    """The path is the one below the mount."""
    async with client(Starlette(routes=[Mount("/ai", guarded(passing(channel(url))))])) as asking:
        answer = await asking.post("/ai/v1/speech", headers=BEARER)

    assert (answer.status_code, len(vendor.asks)) == (201, 1)


async def test_only_keys_that_name_it_may_use_it(vendor: Vendor, url: str) -> None:
    """Without a glob that matches it is 403, without anybody 401; the vendor hears nothing."""
    app = guarded(passing(channel(url)))
    async with client(app) as asking, client(PassthroughMiddleware(hello, [passing(channel(url))])) as alone:
        other = await asking.post("/v1/speech", headers={"authorization": f"Bearer {OTHER}"})
        nobody = await alone.post("/v1/speech", headers=BEARER)

    assert (other.status_code, other.json()["error"]["code"]) == (403, "passthrough_not_allowed")
    assert (nobody.status_code, nobody.json()["error"]["code"]) == (401, "invalid_api_key")
    assert vendor.asks == []


# httpcore leaves its own generators to the collector, which trio reports; the socket is closed all the same.
@pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <async_generator object:pytest.PytestUnraisableExceptionWarning"
)
@pytest.mark.usefixtures("vendor")
@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/400", 400, "c_1"),
        ("/401", 502, "upstream_auth_failed"),
        ("/403", 502, "upstream_auth_failed"),
        ("/429", 429, "rate_limit_exceeded"),
        ("/500", 502, "upstream_error"),
        ("/503", 503, "upstream_unavailable"),
        ("/302", 502, "upstream_redirect"),
        ("/zip", 502, "upstream_bad_response"),
        ("/babble", 502, "upstream_error"),
    ],
)
async def test_a_vendors_refusal_is_told_in_our_form(url: str, path: str, status: int, code: str) -> None:
    """Four keys, the vendor's own code beside them, and none of its secrets."""
    async with client(guarded(passing(channel(url), path))) as asking:
        answer = await asking.post("/v1/speech", headers=BEARER)

    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert not any(word in answer.text for word in ("sk-secret", "vendor.com", "Traceback", "credential-1"))
    assert answer.headers.get("retry-after") == ("7" if status in (429, 503) else None)


async def test_an_upstream_that_is_not_there_is_unreachable() -> None:
    """Nothing was sent, so a retry is safe."""
    with serve(hello, lifespan="off") as gone:
        pass

    async with client(guarded(passing(channel(gone)))) as asking:
        answer = await asking.post("/v1/speech", headers=BEARER, content=b"x")

    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_unreachable")
    assert "x-should-retry" not in answer.headers


async def test_a_body_that_says_it_is_too_large_is_refused_unread(vendor: Vendor, url: str) -> None:
    """The vendor never hears of it."""
    app = guarded(passing(channel(url), max_body=10))
    async with client(app) as asking:
        answer = await asking.post("/v1/speech", headers=BEARER, content=b"x" * 11)
        fitting = await asking.post("/v1/speech", headers=BEARER, content=b"x" * 10)

    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")
    assert (fitting.status_code, [ask.body for ask in vendor.asks]) == (201, [b"x" * 10])


async def test_a_header_that_http_does_not_allow_is_not_passed_on(vendor: Vendor, url: str) -> None:
    """It is the client's fault, and says so."""
    async with client(guarded(passing(channel(url)))) as asking:
        answer = await asking.post(
            "/v1/speech", headers=[(b"authorization", f"Bearer {KEY}".encode()), (b"content-type", b"audio/\xff")]
        )

    assert (answer.status_code, answer.json()["error"]["param"], vendor.asks) == (400, "content-type", [])


@pytest.mark.parametrize(("said", "sent"), [("0", "1"), ("1", "2"), ("2", None), ("many", None)])
async def test_a_loop_of_gateways_is_refused(vendor: Vendor, url: str, said: str, sent: str | None) -> None:
    """Each gateway counts itself."""
    async with client(guarded(passing(channel(url)))) as asking:
        answer = await asking.post("/v1/speech", headers={**BEARER, "x-amux-hop": said})

    assert [ask.header("x-amux-hop") for ask in vendor.asks] == ([] if sent is None else [[sent]])
    assert answer.status_code == (400 if sent is None else 201)


@pytest.mark.parametrize(("credentials", "shown"), TURNS)
async def test_credentials_take_turns(
    vendor: Vendor, url: str, credentials: tuple[str, ...], shown: list[list[str]]
) -> None:
    """Or there is none, and none is shown."""
    async with client(guarded(passing(channel(url, credentials=credentials)))) as asking:
        await asking.post("/v1/speech", headers=BEARER)
        await asking.post("/v1/speech", headers=BEARER)

    assert [ask.header("authorization") for ask in vendor.asks] == shown


@pytest.mark.usefixtures("vendor")
async def test_the_transport_may_be_the_hosts(url: str) -> None:
    """One for all calls of an event loop, found by the channel."""
    asked: list[str] = []
    async with open_httpx2() as shared:

        @asynccontextmanager
        async def transport_of(found: Channel) -> AsyncGenerator[Transport]:
            asked.append(found.name)
            yield shared

        async with client(guarded(passing(channel(url)), transport_of=transport_of)) as asking:
            statuses = [(await asking.post("/v1/speech", headers=BEARER)).status_code for _ in range(2)]

    assert (statuses, asked) == ([201, 201], ["vendor", "vendor"])


@pytest.mark.usefixtures("vendor")
async def test_the_hosts_access_log_learns_where_it_went(url: str) -> None:
    """Facts stand in the scope's state, with no key or credential among them."""
    scope: dict[str, Any] = {"type": "http", "method": "POST", "path": "/v1/speech", "query_string": b"", "state": {}}
    headers = [(b"authorization", f"Bearer {KEY}".encode()), (b"x-request-id", b"mine")]

    await call(guarded(passing(channel(url))), {**scope, "headers": headers}, {"type": "http.request"})

    assert scope["state"]["amux"] == {
        "key": "team",
        "account": "team",
        "passthrough": "speech",
        "channel": "vendor",
        "request_id": "mine",
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"unmetered": False}, "must say either a price, or unmetered=True"),
        ({"price": "0.01", "unmetered": True}, "must say either a price, or unmetered=True"),
        ({"price": "cheap", "unmetered": False}, "has a price that cannot be: 'cheap'"),
        ({"path": "v1/speech"}, "does not begin with a slash"),
        ({"upstream_path": "audio"}, "does not begin with a slash"),
        ({"methods": ()}, "name its methods"),
        ({"methods": ("post",)}, "name its methods"),
        ({"max_body": 0}, "lets nothing through"),
        ({"upstream_path": "/Files?purpose=x"}, "leads to 'files'"),
        ({"upstream_path": "/threads/runs"}, "leads to 'threads'"),
    ],
)
def test_a_passthrough_that_cannot_work_is_refused_when_made(options: dict[str, Any], message: str) -> None:
    """What a vendor keeps for a whole account would be shared by all tenants."""
    with pytest.raises(ConfigError, match=message):
        passing(channel("http://127.0.0.1:9"), **options)


def test_a_price_wants_a_ledger() -> None:
    """Said when it is made, not when the first call comes."""
    with pytest.raises(ConfigError, match="'speech' has a price, and there is no ledger"):
        PassthroughMiddleware(hello, [passing(channel("http://127.0.0.1:9"), price="0.01", unmetered=False)])


def test_one_path_has_one_way() -> None:
    """Two of one method and path are a mistake; of two methods they are not."""
    first, again = passing(channel("http://127.0.0.1:9")), passing(channel("http://127.0.0.1:9"), "/audio/other")
    get = passing(channel("http://127.0.0.1:9"), methods=("GET",))

    PassthroughMiddleware(hello, [first, get])
    with pytest.raises(ConfigError, match="two passthroughs take POST /v1/speech"):
        PassthroughMiddleware(hello, [first, again])


def test_an_upstream_in_the_process_wants_its_transport() -> None:
    """Sockets do not lead there."""
    with pytest.raises(ConfigError, match="transport_of"):
        PassthroughMiddleware(hello, [passing(channel("asgi://sandbox"))])
