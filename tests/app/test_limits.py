"""The limits of the whole gateway, over real sockets: who is counted, for what, for how long, and what clients see."""

import threading
from collections import Counter
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import anyio
import httpx2  # noqa: TID251, the test's client
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Mount
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from amux_asgi import (
    AuthMiddleware,
    ChannelConfig,
    Config,
    GatewayConfig,
    KeyConfig,
    LimitMiddleware,
    Limits,
    LimitsConfig,
    PriceConfig,
    Principal,
    fixed_keys,
    images_app,
    outer,
)
from amux_asgi.admission import SECOND
from amux_asgi.errors import RateLimitError
from amux_asgi.windows import Counters, MemoryLimiter
from tests.app.test_money import CENT, order, rows, wallet
from tests.app.test_reload import Running, soon, text
from tests.app.test_reload import painter as painting
from tests.app.test_twins import KEY, leave
from tests.limit_stores import store
from tests.limits.clocks import Clock
from tests.serve import serve
from tests.stub import Stub, upstream

SIBLING: Final = "sibling-key-of-the-tests"  # of the same account
OTHER: Final = "other-key-of-the-tests-1"
REQUEST: Final = {"prompt": "a lantern", "model": "m"}
MINUTE: Final = 60 * SECOND


@pytest.fixture
def stub() -> Generator[Stub]:
    with upstream() as running:
        yield running


@pytest.fixture
def clock() -> Clock:
    return Clock()


def limited(stub: Stub, script: str = "v1", *, settings: GatewayConfig | None = None, **limits: Any) -> Config:
    """Describe a gateway with these limits, two accounts, and an upstream that plays a script."""
    url = f"{stub.url}/{script}"
    return Config(
        gateway=settings or GatewayConfig(),
        channels=(ChannelConfig(name="up", adapter="openai-compatible", base_url=url, models=("m", "n")),),
        keys=(
            KeyConfig(name="me", key=KEY, account="us"),
            KeyConfig(name="sibling", key=SIBLING, account="us"),
            KeyConfig(name="other", key=OTHER),
        ),
        limits=LimitsConfig(**limits),
        prices={"m": PriceConfig(image="0.01")},
    )


@contextmanager
def client_of(images: Any, **options: Any) -> Generator[httpx2.Client]:
    headers = {"authorization": f"Bearer {KEY}"}
    with serve(images, **options) as url, httpx2.Client(base_url=url, headers=headers, timeout=60) as client:
        yield client


def ask(client: httpx2.Client, key: str = KEY, *, again: str | None = None, **fields: Any) -> httpx2.Response:
    headers = {"authorization": f"Bearer {key}"} | ({} if again is None else {"idempotency-key": again})
    return client.post("/v1/images/generations", json={**REQUEST, **fields}, headers=headers)


def until(client: httpx2.Client, status: int) -> httpx2.Response:
    """Ask until it is answered so."""
    while (answer := ask(client)).status_code != status:
        pass
    return answer


@pytest.mark.parametrize(
    ("limits", "statuses"),
    [
        ({"key": ("1 requests/minute",)}, [200, 429, 200, 200]),
        ({"account": ("1 requests/minute",)}, [200, 429, 429, 200]),
        ({"models": {"m": ("1 requests/minute",)}}, [200, 200, 429, 429]),
        ({"gateway": ("1 requests/minute",)}, [200, 429, 429, 429]),
    ],
)
def test_who_shares_a_limit(stub: Stub, limits: dict[str, Any], statuses: list[int]) -> None:
    """A key, an account with all its keys, a model for all callers, or everybody."""
    with client_of(images_app(limited(stub, **limits))) as client:
        answers = [ask(client), ask(client, model="n"), ask(client, SIBLING), ask(client, OTHER)]

    assert [answer.status_code for answer in answers] == statuses
    assert stub.posts == statuses.count(200)


def test_a_key_has_limits_of_its_own(stub: Stub) -> None:
    """In the place of those that every key has; an account's, a model's and the gateway's hold all the same."""
    own = KeyConfig(name="me", key=KEY, limits=("2 requests/minute",))
    with client_of(
        images_app(limited(stub, key=("1 requests/minute",), gateway=("3 requests/minute",)), keys=[own])
    ) as (client):
        statuses = [ask(client).status_code for _ in range(3)]

    assert statuses == [200, 200, 429]


@pytest.mark.parametrize(
    ("rule", "size"),
    [("5 images/minute", None), ("5 megapixels/minute", "1000x1000"), ("10 megapixels/day", "2000x1000")],
)
def test_pictures_count_by_their_number_and_size(stub: Stub, rule: str, size: str | None) -> None:
    """Three and two are five; more than the whole limit would never pass, so nobody is told to come again."""
    fields = {} if size is None else {"size": size}
    with client_of(images_app(limited(stub, key=(rule,)))) as client:
        answers = [ask(client, n=n, **fields) for n in (3, 3, 2, 6)]

    assert [answer.status_code for answer in answers] == [200, 429, 200, 429]
    assert "retry-after" in answers[1].headers
    assert ("retry-after" in answers[3].headers, answers[3].headers["x-should-retry"]) == (False, "false")


def test_all_limits_are_taken_or_none(stub: Stub, clock: Clock) -> None:
    """What one limit refuses uses nothing up of another."""
    config = limited(stub, key=("2 requests/hour",), account=("4 images/minute",))
    with client_of(images_app(config, clock=clock)) as client:
        statuses = [ask(client, n=4).status_code, *(ask(client).status_code for _ in range(5))]
        clock.go(MINUTE)
        later = [ask(client).status_code for _ in range(2)]

    assert statuses == [200, 429, 429, 429, 429, 429]
    assert later == [200, 429]


def test_of_fifty_at_once_the_upstream_sees_four(stub: Stub) -> None:
    """R03: the rest is refused at once and told to come back; then there is room again."""
    with (
        client_of(images_app(limited(stub, "wait", key=("4 concurrent",)))) as client,
        ThreadPoolExecutor(50) as threads,
    ):
        asked = [threads.submit(ask, client) for _ in range(50)]
        ended = as_completed(asked)
        refused = {next(ended).result().status_code for _ in range(46)}
        stub.wait_for(4)
        stub.let_go()
        made = [one.result().status_code for one in ended]
        seen = stub.posts
        again = ask(client).status_code

    assert (refused, made, seen, again) == ({429}, [200] * 4, 4, 200)


def test_who_left_holds_the_place_until_the_work_has_ended(stub: Stub) -> None:
    """Hanging up early and asking anew is no way around a limit."""
    with client_of(images_app(limited(stub, "wait", key=("1 concurrent",)))) as client:
        leave(client, stub)
        refused = ask(client)
        stub.let_go()
        made = until(client, 200)

    assert (refused.status_code, refused.headers["retry-after"], made.status_code) == (429, "1", 200)
    assert stub.posts == 2


@pytest.mark.parametrize("script", ["blocked", "close"])
def test_what_fails_gives_its_place_back(stub: Stub, script: str) -> None:
    """And counts among the requests of its time."""
    config = limited(stub, script, key=("1 concurrent", "2 requests/minute"))
    with client_of(images_app(config)) as client:
        answers = [ask(client) for _ in range(3)]

    assert 429 not in [answer.status_code for answer in answers[:2]]
    assert "2 requests/minute" in answers[2].json()["error"]["message"]


def test_a_refused_request_holds_no_money_and_asks_nobody(stub: Stub, database: str) -> None:
    """Nor does it write a row of usage; under its idempotency key, it may come again."""
    mine = KeyConfig(name="me", key=KEY, balance="1")
    clock = Clock()
    config = limited(stub, settings=GatewayConfig(database=database), account=("1 requests/minute",))
    with client_of(
        images_app(config, keys=[mine], clock=clock, prices={n: PriceConfig(image="0.01") for n in "mn"})
    ) as (client):
        first, *refused = [ask(client, again=f"k-{i}") for i in range(4)]
        before = wallet(database), stub.posts, rows(database, "SELECT count(*) FROM usage")
        clock.go(MINUTE)
        again = ask(client, again="k-1")

    assert [one.status_code for one in (first, *refused, again)] == [200, 429, 429, 429, 200]
    assert before == ((99, 0, 1), 1, [(1,)])
    assert rows(database, "SELECT charged FROM usage") == [(CENT,), (CENT,)]


def test_an_answer_said_again_counts_nowhere(stub: Stub) -> None:
    """A replay passes where nothing else would, and says nothing of limits."""
    with client_of(images_app(limited(stub, key=("1 requests/minute",)))) as client:
        first, again, other = ask(client, again="k-1"), ask(client, again="k-1"), ask(client)

    assert (first.status_code, again.status_code, other.status_code) == (200, 200, 429)
    assert ("ratelimit" in first.headers, "ratelimit" in again.headers) == (True, False)


def test_twins_count_once(stub: Stub) -> None:
    """Nine that join what runs are one."""
    with (
        client_of(images_app(limited(stub, "wait", key=("1 concurrent",)))) as client,
        ThreadPoolExecutor(9) as threads,
    ):
        asked = [threads.submit(ask, client, again="k-1") for _ in range(9)]
        stub.waiting.acquire()
        stub.let_go()
        statuses = {one.result().status_code for one in asked}

    assert (statuses, stub.posts) == ({200}, 1)


def test_answers_say_how_the_limits_stand(stub: Stub, clock: Clock) -> None:
    """Good ones and refusals; not those of everybody together; and `Retry-After` is true to the second."""
    config = limited(
        stub, key=("2 requests/minute", "9 concurrent"), account=("8 images/day",), gateway=("9 images/hour",)
    )
    with client_of(images_app(config, clock=clock)) as client:
        first = ask(client, n=2)
        clock.go(20 * SECOND)
        ask(client)
        refused = ask(client)
        clock.go(int(refused.headers["retry-after"]) * SECOND - 1)
        early = ask(client).status_code
        clock.go(1)
        later = ask(client).status_code

    policy = (
        '"key-requests-minute";q=2;qu="requests";w=60, "key-concurrent";q=9;qu="concurrent-requests", '
        '"account-images-day";q=8;qu="images";w=86400'
    )
    assert first.headers["ratelimit-policy"] == refused.headers["ratelimit-policy"] == policy
    assert first.headers["ratelimit"] == (
        '"key-requests-minute";r=1;t=60, "key-concurrent";r=8, "account-images-day";r=6;t=86400'
    )
    assert refused.headers["ratelimit"] == '"key-requests-minute";r=0;t=40'
    assert (refused.headers["retry-after"], early, later) == ("40", 429, 200)


def test_without_limits_nothing_is_said(stub: Stub) -> None:
    """No header hints at limits that there are not."""
    with client_of(images_app(limited(stub))) as client:
        answer = ask(client)

    assert (answer.status_code, "ratelimit" in answer.headers, "ratelimit-policy" in answer.headers) == (
        200,
        False,
        False,
    )


class Impatient:
    """A layer of the host's that ends a request as soon as its client has left, and then says so."""

    ended = threading.Semaphore(0)

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope."""
        read = anyio.Event()

        async def reading() -> Message:
            message = await receive()
            if not message.get("more_body", False):
                read.set()
            return message

        async def watch() -> None:
            await read.wait()
            await receive()
            tasks.cancel_scope.cancel()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch)
            await self._app(scope, reading, send)
            tasks.cancel_scope.cancel()
        self.ended.release()


def _adopting(stub: Stub, script: str, *rules: str) -> Starlette:
    """Put an app of the host's with keys and limits in front of the gateway, which counts in the same place."""
    limits = Limits()
    config = limited(stub, script, key=("3 requests/minute", "5 images/minute"))
    images = images_app(config, keys=(), authenticate=outer, limiter=limits)
    guards = [
        Middleware(AuthMiddleware, keys=fixed_keys([KeyConfig(name="me", key=KEY)])),
        Middleware(LimitMiddleware, rules=rules, limiter=limits),
        Middleware(Impatient),
    ]
    return Starlette(routes=[Mount("/v1", images, middleware=guards)], lifespan=images.lifespan)


def test_what_a_layer_in_front_has_counted_is_not_counted_twice(stub: Stub) -> None:
    """Two layers, one count; each says how its own limits stand."""
    with client_of(_adopting(stub, "v1", "3 requests/minute")) as client:
        answers = [ask(client) for _ in range(4)]

    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert answers[0].headers.get_list("ratelimit") == [
        '"key-images-minute";r=4;t=60',
        '"key-requests-minute";r=2;t=60',
    ]


def test_a_place_held_in_front_is_held_until_the_work_has_ended(stub: Stub) -> None:
    """Also when the request was ended because its client left, so that the layer in front holds nothing any more."""
    while Impatient.ended.acquire(blocking=False):
        pass  # those of the test before
    with client_of(_adopting(stub, "wait", "1 concurrent")) as client:
        leave(client, stub)
        Impatient.ended.acquire()
        refused = ask(client).status_code
        stub.let_go()
        made = until(client, 200).status_code

    assert (refused, made, stub.posts) == (429, 200, 2)


@pytest.mark.parametrize("lifespan", ["on", "off"])
@pytest.mark.parametrize("own", [True, False])
def test_a_limiter_of_your_own_counts(stub: Stub, clock: Clock, lifespan: str, own: bool) -> None:  # noqa: FBT001, a case
    """Without a lifespan too; two apps that were given the same one count together."""
    limiter = MemoryLimiter(Counters(clock)) if own else Limits(clock=clock)
    config = limited(stub, key=("3 requests/minute",))
    with (
        client_of(images_app(config, limiter=limiter), lifespan=lifespan) as one,
        client_of(images_app(config, limiter=limiter), lifespan=lifespan) as other,
    ):
        statuses = Counter(ask(client).status_code for _ in range(2) for client in (one, other))

    assert statuses == {200: 3, 429: 1}


def test_limits_in_memory_count_without_a_lifespan(stub: Stub) -> None:
    """A forgotten lifespan lets nobody around them."""
    with client_of(images_app(limited(stub, key=("1 requests/minute",))), lifespan="off") as client:
        statuses = [ask(client).status_code for _ in range(2)]

    assert statuses == [200, 429]


def test_limits_follow_the_file(tmp_path: Path) -> None:
    """What was counted before counts by the new numbers; where they are counted is for good."""
    file = tmp_path / "amux.toml"
    file.write_text(text(1) + '[limits]\nkey = ["2 requests/hour"]\n')
    images = images_app(file, apps={"up": painting}, sleep=soon)
    with serve(images) as url:
        app = Running(url, file, images)
        before = [app.ask().status_code for _ in range(3)]
        app.write(text(2, more="nodes = 2") + '[limits]\nkey = ["5 requests/hour"]\n')
        app.until(lambda answer: answer.status_code == 200)
        after = [app.ask().status_code for _ in range(3)]

    assert (before, after) == ([200, 200, 429], [200, 200, 429])
    assert images.config.gateway.nodes == 1


def test_two_gateways_on_one_redis_count_together(stub: Stub, tmp_path: Path) -> None:
    """Each request by either of them is one of all; so are those under way."""
    with store(tmp_path) as server:
        config = limited(stub, settings=GatewayConfig(limits=server.url), key=("9 requests/minute",))
        with client_of(images_app(config)) as one, client_of(images_app(config)) as other:
            answers = Counter(ask(client).status_code for _ in range(8) for client in (one, other))
        held = limited(stub, "wait", settings=GatewayConfig(limits=server.url), account=("1 concurrent",))
        with client_of(images_app(held)) as one, client_of(images_app(held)) as other:
            leave(one, stub)
            refused = ask(other).status_code
            stub.let_go()
            made = until(other, 200).status_code

    assert (answers, refused, made) == ({200: 9, 429: 7}, 429, 200)


@pytest.mark.anyio
async def test_the_library_is_limited_alike(stub: Stub) -> None:
    """`generate` says how the limits stand, and raises what a client would be answered."""
    images = images_app(limited(stub, account=("2 images/day",)))
    me = Principal(account="us", key="me")

    async with images.lifespan():
        made = await images.gateway.generate(order(n=2), me)
        with pytest.raises(RateLimitError) as caught:
            await images.gateway.generate(order(), me)

    assert [(one.hit.scope, one.left) for one in made.standings] == [("account:us", 0)]
    assert caught.value.retry_after
