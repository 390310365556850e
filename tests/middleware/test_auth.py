"""Who may pass, alone in front of an app that knows nothing of keys."""

from collections.abc import AsyncGenerator, Generator
from datetime import UTC, datetime
from typing import Any

import anyio
import httpx2  # noqa: TID251, the test's client
import pytest
import websockets
from starlette.authentication import SimpleUser, UnauthenticatedUser
from starlette.requests import HTTPConnection

from amux_asgi import (
    AuthMiddleware,
    ConfigError,
    ErrorMiddleware,
    KeyConfig,
    Principal,
    anyone,
    fixed_keys,
    from_user,
    outer,
)
from amux_asgi.scope import PRINCIPAL
from tests.middleware.apps import BEARER, KEY, call, client, hello, shouting
from tests.serve import serve

pytestmark = pytest.mark.anyio

KEYS = fixed_keys(
    [
        KeyConfig(name="team", key=KEY, account="the-team"),
        KeyConfig(name="old", key="an-old-key-of-the-team-1", expires=datetime(2020, 1, 1, tzinfo=UTC)),
    ]
)
APP = AuthMiddleware(hello, keys=KEYS)


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_a_valid_key_lets_in(scheme: str) -> None:
    """The scheme has no case."""
    async with client(APP) as asking:
        answer = await asking.get("/", headers={"authorization": f"{scheme} {KEY}"})

    assert (answer.status_code, answer.text) == (200, "hello, the-team")


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ([], "invalid_api_key"),
        ([("authorization", f"Bearer {KEY}"), ("authorization", f"Bearer {KEY}")], "invalid_api_key"),
        ([("authorization", KEY)], "invalid_api_key"),
        ([("authorization", f"Basic {KEY}")], "invalid_api_key"),
        ([("authorization", "Bearer ")], "invalid_api_key"),
        ([("authorization", "Bearer")], "invalid_api_key"),
        ([("authorization", f"Bearer {KEY} x")], "invalid_api_key"),
        ([("authorization", f"Bearer {KEY[:-1]}")], "invalid_api_key"),
        ([("authorization", "Bearer " + "x" * 600)], "invalid_api_key"),
        ([("authorization", b"Bearer \xff\xfe\xfd")], "invalid_api_key"),
        ([("authorization", "Bearer ' OR 1=1 --")], "invalid_api_key"),
        ([("x-api-key", KEY)], "invalid_api_key"),
        ([("authorization", "Bearer an-old-key-of-the-team-1")], "api_key_expired"),
    ],
)
async def test_anything_else_is_refused(headers: list[tuple[str, str | bytes]], code: str) -> None:
    """One header, one scheme, one key; the key itself is never shown."""
    async with client(APP) as asking:
        answer = await asking.get(
            "/",
            headers=[(name.encode(), value.encode() if isinstance(value, str) else value) for name, value in headers],
        )

    assert (answer.status_code, answer.json()["error"]["code"]) == (401, code)
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert KEY[:-1] not in answer.text


async def test_a_key_in_the_query_does_not_count() -> None:
    """Queries end up in logs."""
    async with client(APP) as asking:
        assert (await asking.get(f"/?api_key={KEY}&key={KEY}")).status_code == 401


async def test_a_function_of_the_teams_may_decide() -> None:
    """It sees the connection, and `None` is nobody."""

    async def authenticate(connection: HTTPConnection) -> Principal | None:
        await anyio.lowlevel.checkpoint()
        name = connection.headers.get("x-team")
        return Principal(account=name, key="header") if name else None

    async with client(AuthMiddleware(hello, authenticate=authenticate)) as asking:
        known, unknown = await asking.get("/", headers={"x-team": "blue"}), await asking.get("/")

    assert (known.text, unknown.status_code) == ("hello, blue", 401)


async def test_anyone_may_be_let_in_by_name() -> None:
    """It has to be said."""
    async with client(AuthMiddleware(hello, authenticate=anyone)) as asking:
        assert (await asking.get("/")).text == "hello, anyone"


async def test_a_principal_from_outside_counts_if_it_is_one() -> None:
    """Two layers ask once; something else under the same name does not count."""
    inner = AuthMiddleware(hello, authenticate=outer)
    async with client(AuthMiddleware(inner, keys=KEYS)) as asking, client(inner) as alone:
        assert (await asking.get("/", headers=BEARER)).text == "hello, the-team"
        assert (await alone.get("/", headers=BEARER)).status_code == 401

    sent = await call(inner, {"type": "http", "method": "GET", PRINCIPAL: "the-team"})
    assert sent[0]["status"] == 401


@pytest.mark.parametrize(
    ("user", "status"), [(SimpleUser("ann"), 200), (UnauthenticatedUser(), 401), (None, 401), ("ann", 401)]
)
async def test_the_hosts_own_user_counts_if_it_is_authenticated(user: Any, status: int) -> None:
    """Starlette's `UnauthenticatedUser` is truthy, and does not count."""

    def resolve(found: SimpleUser) -> Principal:
        return Principal(account=found.display_name, key="user")

    app = AuthMiddleware(hello, authenticate=from_user(resolve))

    sent = await call(app, {"type": "http", "method": "GET", "user": user})

    assert sent[0]["status"] == status


def test_who_may_call_is_said_in_one_way() -> None:
    """Neither is nobody, both is unclear."""
    with pytest.raises(ConfigError):
        AuthMiddleware(hello)
    with pytest.raises(ConfigError):
        AuthMiddleware(hello, keys=KEYS, authenticate=anyone)


async def test_a_scope_that_nobody_knows_does_not_pass() -> None:
    """It might be a request of a kind that is yet to come."""
    with pytest.raises(NotImplementedError, match="'webtransport'"):
        await call(AuthMiddleware(hello, keys=KEYS), {"type": "webtransport"})


async def test_what_is_merely_true_lets_nobody_in(caplog: pytest.LogCaptureFixture) -> None:
    """A bug in the team's own function is a 500 for the client, and told to the operator."""

    async def careless(_connection: Any) -> Any:
        await anyio.lowlevel.checkpoint()
        return "yes"

    sent = await call(AuthMiddleware(hello, authenticate=careless), {"type": "http", "method": "GET"})

    assert sent[0]["status"] == 500
    assert "`authenticate` gave a str" in caplog.text


async def test_only_lifespan_passes_unasked() -> None:
    """It is no request."""
    seen: list[str] = []

    async def app(scope: Any, _receive: Any, _send: Any) -> None:
        await anyio.lowlevel.checkpoint()
        seen.append(scope["type"])

    guarded = AuthMiddleware(app, keys=KEYS)
    await call(guarded, {"type": "lifespan"})
    await call(guarded, {"type": "websocket"}, {"type": "websocket.connect"})
    await call(guarded, {"type": "http", "method": "GET"})

    assert seen == ["lifespan"]


async def test_the_hosts_access_log_learns_who_it_was() -> None:
    """Facts stand in the scope's state, the key itself not among them."""
    scope: dict[str, Any] = {
        "type": "http",
        "method": "GET",
        "headers": [(b"authorization", f"Bearer {KEY}".encode())],
        "state": {},
    }

    await call(ErrorMiddleware(APP), scope)

    assert scope["state"]["amux"] == {
        "key": "team",
        "account": "the-team",
        "request_id": scope["state"]["amux"]["request_id"],
    }


@pytest.fixture(scope="module")
def websocket_url() -> Generator[str]:
    with serve(ErrorMiddleware(AuthMiddleware(shouting, keys=KEYS)), lifespan="off") as url:
        yield url.replace("http", "ws")


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_websockets_are_asked_like_http(websocket_url: str) -> None:
    """Over a real socket: with a key it talks, without it is refused with the same words."""
    async with websockets.connect(websocket_url, additional_headers=BEARER) as talking:
        await talking.send("hello")
        assert await talking.recv() == "HELLO"

    with pytest.raises(websockets.InvalidStatus) as caught:
        async with websockets.connect(websocket_url):
            pass
    assert caught.value.response.status_code == 401
    assert b"invalid_api_key" in (caught.value.response.body or b"")


async def bound(connection: HTTPConnection) -> Principal | None:
    """Let the team in, each time from the networks that a header of the test names."""
    await anyio.lowlevel.checkpoint()
    networks = connection.headers.get("x-networks", "")
    return Principal(account="team", key="team-a", networks=tuple(networks.split()))


BOUND = AuthMiddleware(hello, authenticate=bound)


def coming(peer: Any, networks: str, **more: Any) -> dict[str, Any]:
    return {"type": "http", "method": "GET", "client": peer, "headers": [(b"x-networks", networks.encode())], **more}


@pytest.mark.parametrize(
    ("peer", "networks", "status"),
    [
        (("10.1.2.3", 5), "10.0.0.0/8", 200),
        (("11.1.2.3", 5), "10.0.0.0/8", 403),
        (["::ffff:10.1.2.3", 5], "10.0.0.0/8", 200),
        (("2001:db8::1", 5), "10.0.0.0/8 2001:db8::/32", 200),
        (("2001:db9::1", 5), "10.0.0.0/8 2001:db8::/32", 403),
        (("10.1.2.3", 5), "", 403),
        (None, "0.0.0.0/0 ::/0", 403),
        (("", 0), "0.0.0.0/0 ::/0", 403),
        (("/run/gateway.sock", None), "0.0.0.0/0 ::/0", 403),
    ],
)
async def test_a_key_is_used_only_from_its_networks(peer: Any, networks: str, status: int) -> None:
    """Whoever authenticated it; a client without an address is nowhere."""
    sent = await call(BOUND, coming(peer, networks))

    assert sent[0]["status"] == status


async def test_the_refusal_of_a_network_says_so_and_the_log_learns_whose_key_it_was() -> None:
    """403 in the common form; with the key's name the operator finds who uses it elsewhere."""
    scope = coming(("11.1.2.3", 5), "10.0.0.0/8", state={})

    sent = await call(BOUND, scope)

    error = httpx2.Response(403, content=sent[1]["body"]).json()["error"]
    assert (sent[0]["status"], error["type"], error["code"]) == (403, "permission_error", "network_not_allowed")
    assert (scope["state"]["amux"]["key"], scope["state"]["amux"]["code"]) == ("team-a", "network_not_allowed")


async def test_a_network_that_is_none_lets_nobody_in(caplog: pytest.LogCaptureFixture) -> None:
    """A bug in the team's own function is a 500 for the client, and told to the operator."""
    sent = await call(BOUND, coming(("10.1.2.3", 5), "10.0.0.1/8"))

    assert sent[0]["status"] == 500
    assert "'team-a' cannot be read" in caplog.text


async def test_a_websocket_from_elsewhere_is_closed() -> None:
    """As it is for a wrong key."""
    scope = coming(("11.1.2.3", 5), "10.0.0.0/8", type="websocket")

    sent = await call(BOUND, scope, {"type": "websocket.connect"})

    assert sent == [{"type": "websocket.close", "code": 1008, "reason": "network_not_allowed"}]


FORGED = [
    {"x-forwarded-for": "10.1.2.3"},
    {"x-forwarded-for": "127.0.0.1, 10.1.2.3"},
    {"forwarded": "for=10.1.2.3"},
    {"x-real-ip": "10.1.2.3"},
    {"cf-connecting-ip": "10.1.2.3"},
    {"true-client-ip": "10.1.2.3"},
    {"x-client-ip": "10.1.2.3"},
]


@pytest.fixture(scope="module")
def bound_url() -> Generator[str]:
    with serve(BOUND, lifespan="off", proxy_headers=False) as url:
        yield url


@pytest.fixture
async def asking(bound_url: str) -> AsyncGenerator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=bound_url) as asking:
        yield asking


@pytest.mark.parametrize("forged", FORGED)
async def test_what_a_request_says_of_its_own_address_does_not_count(
    asking: httpx2.AsyncClient, forged: dict[str, str]
) -> None:
    """Over a real socket: it can neither get in by saying so, nor be kept out."""
    elsewhere = await asking.get("/", headers={"x-networks": "10.0.0.0/8", **forged})
    here = await asking.get("/", headers={"x-networks": "127.0.0.0/8", **forged})

    assert (elsewhere.status_code, here.status_code) == (403, 200)
    assert elsewhere.json()["error"]["code"] == "network_not_allowed"


async def test_the_store_of_keys_learns_where_a_key_came_from() -> None:
    """So that it can make guessing slow."""
    seen: list[str | None] = []

    class Noting:
        async def authenticate(self, key: str, peer: str | None = None) -> Principal:
            await anyio.lowlevel.checkpoint()
            seen.append(peer)
            return Principal(account=key, key="k")

    app = AuthMiddleware(hello, keys=Noting())
    for peer in (("10.1.2.3", 5), None):
        await call(
            app, {"type": "http", "method": "GET", "client": peer, "headers": [(b"authorization", b"Bearer xyz")]}
        )

    assert seen == ["10.1.2.3", None]
