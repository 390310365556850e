"""Who may pass, alone in front of an app that knows nothing of keys."""

from collections.abc import Generator
from datetime import UTC, datetime
from typing import Any

import anyio
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
