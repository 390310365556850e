"""Calls of any app are limited, over real sockets, in memory and in a real Redis."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import httpx2  # noqa: TID251, the test's client
import pytest
import websockets
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from starlette.types import Receive, Scope, Send

from amux_asgi import (
    AuthMiddleware,
    ConfigError,
    ErrorMiddleware,
    LimitMiddleware,
    Limits,
    by_account,
    by_address,
    by_key,
    rules,
)
from amux_asgi.admission import Hit, enter
from amux_asgi.scope import admission_of, with_principal
from tests.limit_stores import store
from tests.limits.clocks import Clock
from tests.middleware.apps import BEARER, call, hello, shouting
from tests.middleware.bank import KEYS, Shop, ask, asking
from tests.middleware.vendor import until
from tests.serve import serve

pytestmark = pytest.mark.anyio
SCOPE = "key:team/team-key"
MICROSECONDS = 1_000_000


def stack(app: Any, *texts: str, limits: Limits | None = None, **options: Any) -> Any:
    """Put errors, keys and limits in front of an app."""
    limited = LimitMiddleware(app, rules=texts, limiter=limits or Limits(), **options)
    return ErrorMiddleware(AuthMiddleware(limited, keys=KEYS))


async def left(limits: Limits, text: str, scope: str = SCOPE) -> int:
    """Say how much is left, without taking any."""
    admitted = await limits.admit([Hit(rule=rules(text)[0], scope=scope, weight=0)])
    return admitted.standings[0].left


def get(client: httpx2.Client, path: str = "/") -> httpx2.Response:
    return client.get(path, headers=BEARER)


def test_of_a_thousand_in_ten_seconds_exactly_sixty_pass() -> None:
    """R01: and each refusal says truly when to come back."""
    clock = Clock()
    shop = Shop()
    app = stack(shop, "60 requests/minute", limits=Limits(clock=clock))
    answers: Counter[int] = Counter()
    waits: set[int] = set()
    with serve(app, lifespan="off") as url, httpx2.Client(base_url=url) as client:
        for _ in range(1000):
            clock.go(MICROSECONDS // 100)
            answer = get(client)
            answers[answer.status_code] += 1
            if answer.status_code == 429:
                waits.add(int(answer.headers["retry-after"]) * MICROSECONDS + clock.micro)
        clock.go(min(waits) - clock.micro - MICROSECONDS)
        early = get(client).status_code
        clock.go(MICROSECONDS)
        again = get(client).status_code

    assert answers == {200: 60, 429: 940}
    assert (shop.seen, early, again) == (61, 429, 200)


def test_answers_say_how_the_limits_stand() -> None:
    """Good ones and refusals, as the IETF's draft writes it; a refusal is one JSON document with its four keys."""
    clock = Clock()
    app = stack(hello, "2 requests/minute", "5 concurrent", limits=Limits(clock=clock))
    with serve(app, lifespan="off") as url, httpx2.Client(base_url=url) as client:
        first = get(client)
        clock.go(20 * MICROSECONDS)
        get(client)
        refused = get(client)

    policy = '"key-requests-minute";q=2;qu="requests";w=60, "key-concurrent";q=5;qu="concurrent-requests"'
    assert first.headers["ratelimit-policy"] == refused.headers["ratelimit-policy"] == policy
    assert first.headers["ratelimit"] == '"key-requests-minute";r=1;t=60, "key-concurrent";r=4'
    assert refused.headers["ratelimit"] == '"key-requests-minute";r=0;t=40'
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "40")
    assert refused.json() == {
        "error": {
            "message": "this API key's limit of 2 requests/minute is reached",
            "type": "rate_limit_error",
            "param": None,
            "code": "rate_limit_exceeded",
        }
    }


async def test_of_fifty_slow_calls_the_app_never_sees_more_than_four() -> None:
    """R03: the rest is refused at once, and told to come back; then there is room again."""
    shop = Shop()
    answers: Counter[int] = Counter()

    async def one(url: str) -> None:
        status, _ = await ask(url, "/waits")
        answers[status] += 1
        if answers[429] == 46:
            shop.go_on.set()

    limits = Limits()
    with serve(stack(shop, "4 concurrent", limits=limits), lifespan="off") as url:
        async with anyio.create_task_group() as tasks:
            for _ in range(50):
                tasks.start_soon(one, url)
        after = await ask(url, "/")

    assert (answers, shop.seen, after[0]) == ({200: 4, 429: 46}, 5, 200)
    assert await left(limits, "4 concurrent") == 4


@pytest.mark.parametrize("path", ["/listens", "/breaks", "/streams"])
async def test_a_client_that_leaves_holds_its_place_until_the_app_has_ended(path: str) -> None:
    """Before the answer, in the middle of it, or while the app goes on and does not look."""
    shop, limits = Shop(), Limits()
    with serve(stack(shop, "4 concurrent", limits=limits), lifespan="off") as url:
        async with asking(url, path) as client:
            await until(shop.arrived)
            during = await left(limits, "4 concurrent")
            if path != "/listens":
                await client.read_until(b"one,")
        shop.go_on.set()
        with anyio.fail_after(30):
            while await left(limits, "4 concurrent") != 4:
                await anyio.lowlevel.checkpoint()

    assert during == 3


@pytest.mark.parametrize(("path", "status"), [("/raise", 500), ("/nothing", 500), ("/404", 404)])
async def test_an_app_that_fails_holds_no_place(path: str, status: int) -> None:
    """Whatever becomes of it; what was admitted counts all the same."""
    limits = Limits()
    app = stack(Shop(), "4 concurrent", "10 requests/minute", limits=limits)
    with serve(app, lifespan="off", log_level="critical") as url:
        answer = await ask(url, path)

    assert answer[0] == status
    assert await left(limits, "4 concurrent") == 4
    assert await left(limits, "10 requests/minute") == 9


async def test_work_after_the_answer_holds_no_place() -> None:
    """A background task of Starlette's runs when the answer has ended."""
    limits = Limits()
    seen: list[int] = []

    async def work() -> None:
        seen.append(await left(limits, "4 concurrent"))

    async def home(_request: object) -> PlainTextResponse:
        seen.append(await left(limits, "4 concurrent"))
        return PlainTextResponse("ok", background=BackgroundTask(work))

    app = stack(Starlette(routes=[Route("/", home)]), "4 concurrent", limits=limits)
    with serve(app, lifespan="off") as url:
        await ask(url)

    assert seen == [3, 4]


async def test_an_answer_with_trailers_ends_with_the_app() -> None:
    """Its body is not the last of it."""
    limits = Limits()
    seen: list[int] = []

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "trailers": True})
        await send({"type": "http.response.body", "body": b""})
        seen.append(await left(limits, "4 concurrent", "call"))
        await send({"type": "http.response.trailers", "headers": []})

    limited = LimitMiddleware(app, rules=rules("4 concurrent"), limiter=limits, key=lambda _: "call")
    sent = await call(limited, {"type": "http"})

    assert [name for name, _ in sent[0]["headers"]] == [b"ratelimit-policy", b"ratelimit"]
    assert (seen, await left(limits, "4 concurrent", "call")) == ([3], 4)


async def test_a_websocket_holds_its_place_while_it_is_open() -> None:
    """And one too many is refused before it is accepted."""
    limits = Limits()
    app = stack(shouting, "1 concurrent", limits=limits)
    with serve(app, lifespan="off") as url:
        address = url.replace("http", "ws")
        async with websockets.connect(address, additional_headers=BEARER) as socket:
            with pytest.raises(websockets.InvalidStatus) as refused:
                await websockets.connect(address, additional_headers=BEARER)
            await socket.send("hello")
            answer = await socket.recv()
        with anyio.fail_after(30):
            while await left(limits, "1 concurrent") != 1:
                await anyio.lowlevel.checkpoint()

    assert (answer, refused.value.response.status_code) == ("HELLO", 429)


test_a_websocket_holds_its_place_while_it_is_open = pytest.mark.parametrize("anyio_backend", ["asyncio"])(
    test_a_websocket_holds_its_place_while_it_is_open
)


async def test_whom_nobody_named_is_asked_for_a_key() -> None:
    """401, whatever the rules."""
    limited = LimitMiddleware(hello, rules=["1 requests/day"], limiter=Limits())

    sent = await call(limited, {"type": "http"})

    assert sent[0]["status"] == 401


async def test_only_lifespan_passes_unasked() -> None:
    """Nothing that could not be limited is let through."""
    seen: list[str] = []

    async def app(scope: Scope, _receive: Receive, _send: Send) -> None:
        seen.append(scope["type"])

    limited = LimitMiddleware(app, rules=["1 requests/day"], limiter=Limits())
    await call(limited, {"type": "lifespan"})
    with pytest.raises(NotImplementedError, match="'other'"):
        await call(limited, {"type": "other"})

    assert seen == ["lifespan"]


@pytest.mark.parametrize(
    ("client", "key", "scope"),
    [
        (None, by_key, "key:team/team-key"),
        (None, by_account, "account:team"),
        (("10.1.2.3", 5), by_address, "address:10.1.2.3"),
        (("2001:db8:1:2:3::4", 5), by_address, "address:2001:db8:1:2::/64"),
        (("testclient", 5), by_address, "address:testclient"),
        (None, by_address, "address:"),
    ],
)
async def test_by_whom_it_is_counted(client: object, key: Callable[[Scope], str], scope: str) -> None:
    """A key, an account, an address; of IPv6 the network, which one customer has."""
    principal = await KEYS.authenticate("a-key-of-twenty-characters")

    assert key(with_principal({"type": "http", "client": client}, principal)) == scope


@pytest.mark.parametrize("text", ["20 images/minute", "4 megapixels/minute", "nonsense"])
def test_what_a_head_does_not_tell_cannot_be_a_rule_here(text: str) -> None:
    """Pictures are counted by the images app, which reads the body."""
    with pytest.raises(ConfigError):
        LimitMiddleware(hello, rules=[text], limiter=Limits())


async def test_two_layers_that_count_in_one_place_count_once() -> None:
    """The inner one's rule must hold, and its own counters count."""
    limits = Limits()
    inner = LimitMiddleware(hello, rules=["1 requests/minute", "5 requests/hour", "3 concurrent"], limiter=limits)
    app = stack(inner, "3 requests/minute", "3 concurrent", limits=limits)
    with serve(app, lifespan="off") as url, httpx2.Client(base_url=url) as client:
        answers = [get(client) for _ in range(2)]

    assert [answer.status_code for answer in answers] == [200, 429]
    assert await left(limits, "3 requests/minute") == 1
    assert await left(limits, "5 requests/hour") == 4
    assert await left(limits, "3 concurrent") == 3
    assert answers[0].headers.get_list("ratelimit-policy") == [
        '"key-requests-hour";q=5;qu="requests";w=3600',
        '"key-requests-minute";q=3;qu="requests";w=60, "key-concurrent";q=3;qu="concurrent-requests"',
    ]


async def test_work_that_outlives_its_request_goes_on_holding_the_place() -> None:
    """As a generation does whose client has left: what was held outside is adopted, and held to its end."""
    limits = Limits()
    release: list[Callable[[], None]] = []
    hits = [Hit(rule=rule, scope=SCOPE) for rule in rules("4 concurrent", "20 images/minute")]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        admission = await enter(limits, hits, admission_of(scope))
        release.append(admission.leave)
        await hello(scope, receive, send)

    with serve(stack(app, "4 concurrent", limits=limits), lifespan="off") as url:
        await ask(url)
        held = await left(limits, "4 concurrent")
        release[0]()

    assert (held, await left(limits, "4 concurrent"), await left(limits, "20 images/minute")) == (3, 4, 19)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_workers_count_together_in_a_store(tmp_path: Path) -> None:
    """Two apps with one Redis; without its lifespan, the answer says what to do."""
    with store(tmp_path) as server:
        apps = [Limits(server.url), Limits(server.url)]
        served = [
            Starlette(
                routes=[Mount("/", hello)],
                middleware=[
                    Middleware(AuthMiddleware, keys=KEYS),
                    Middleware(LimitMiddleware, rules=["60 requests/minute", "4 concurrent"], limiter=limits),
                ],
                lifespan=limits.lifespan,
            )
            for limits in apps
        ]
        with serve(served[0]) as one, serve(served[1]) as other, serve(served[1], lifespan="off") as never:
            answers = Counter([(await ask(url))[0] for _ in range(40) for url in (one, other)])
            unstarted = await ask(never)

    assert answers == {200: 60, 429: 20}
    assert unstarted[0] == 503
    assert b"never opened" in unstarted[1]
