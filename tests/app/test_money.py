"""What a picture costs whom: the whole gateway on real databases, with real upstreams."""

from datetime import UTC, datetime
from typing import Any

import anyio
import msgspec
import pytest
import sqlalchemy as sa
from starlette.types import ASGIApp, Receive, Scope, Send

from amux_asgi import (
    ChannelConfig,
    Config,
    ConfigError,
    GatewayConfig,
    GatewayError,
    GenerationRequest,
    ImagesApp,
    KeyConfig,
    MemoryLedger,
    ModelConfig,
    PriceConfig,
    Principal,
    anyone,
    images_app,
)
from amux_asgi.errors import InvalidRequestError, ModelUnpricedError, QuotaError, StorageUnavailableError
from amux_asgi.idempotency import Ask, Claim, Kind
from amux_asgi.planning import Terms
from amux_asgi.quota import Answer, Order, Settlement

pytestmark = pytest.mark.anyio

CENT = 10_000_000  # nano-dollars
PICTURE = b'{"b64_json":"aGVsbG8="}'
ME = Principal(account="me", key="me")
Reply = tuple[int, bytes]


class Upstream:
    """An upstream that counts its asks and answers them one after the other, the last one for ever."""

    def __init__(self, *answers: Reply) -> None:
        self.answers = list(answers)
        self.asked = 0

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        await receive()
        self.asked += 1
        status, body = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": body})


def made(pictures: int) -> Reply:
    return 200, b'{"created":5,"data":[%s]}' % b",".join([PICTURE] * pictures)


def gateway(database: str | None, upstream: ASGIApp, **options: Any) -> ImagesApp:
    """Make a gateway with one channel, whose pictures cost a cent each, and one account with a dollar."""
    told: dict[str, Any] = {
        "channels": [ChannelConfig(name="up", adapter="openai-compatible", base_url="asgi://up/v1", models=("m",))],
        "keys": [KeyConfig(name="me", key="key-of-the-tests-000001", balance="1")],
        "prices": {"m": PriceConfig(image="0.01")},
        **options,
    }
    return images_app(database=database, apps={"up": upstream}, **told)


def order(**fields: Any) -> GenerationRequest:
    return GenerationRequest(model="m", prompt="a lantern", **fields)


def rows(database: str, question: str) -> list[tuple[Any, ...]]:
    """Ask the database itself."""
    engine = sa.create_engine(database.replace("postgresql://", "postgresql+psycopg://"), poolclass=sa.NullPool)
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(sa.text(question))]


def wallet(database: str, name: str = "account:me") -> tuple[float, float, float]:
    """Give what is available, held and captured, in cents."""
    ((available, held, captured),) = rows(
        database,
        f"SELECT available, held, captured FROM wallets WHERE id = '{name}'",  # noqa: S608, a test's own name
    )
    return available / CENT, held / CENT, captured / CENT


async def test_a_picture_costs_what_was_delivered(database: str) -> None:
    """Four were asked and held for, two came and are paid."""
    images = gateway(database, Upstream(made(2)))
    async with images.lifespan():
        generation = await images.gateway.generate(order(n=4), ME)

    assert (len(generation.images.data), generation.cost) == (2, 2 * CENT)
    assert wallet(database) == (98, 0, 2)
    assert rows(database, "SELECT state, amount, charged, images, account, key, model, channel FROM usage") == [
        ("captured", 4 * CENT, 2 * CENT, 2, "me", "me", "m", "up")
    ]


@pytest.mark.parametrize(
    ("answer", "end"),
    [
        ((400, b'{"error":{"message":"no","code":"moderation_blocked"}}'), "final"),
        ((500, b'{"error":{"message":"no"}}'), "refused"),
        ((502, b"oops"), "unknown"),
        ((200, b'{"data":[]}'), "unknown"),
        ((200, b'{"error":{"message":"no"}}'), "refused"),
    ],
)
async def test_what_was_not_delivered_costs_nothing(database: str, answer: Reply, end: str) -> None:
    """And the books say how it ended; what may have been paid has an unknown cost."""
    images = gateway(database, Upstream(answer))
    async with images.lifespan():
        with pytest.raises(GatewayError):
            await images.gateway.generate(order(), ME)

    assert wallet(database) == (100, 0, 0)
    ((state, charged, cost, attempts),) = rows(database, "SELECT state, charged, cost, attempts FROM usage")
    assert (state, charged, cost) == ("released", 0, None if end == "unknown" else 0)
    assert f'"end":"{end}"' in attempts


async def test_tokens_are_priced_by_what_they_are(database: str) -> None:
    """The answer's usage counts, not the most that was held; our price and the vendor's are two things."""
    usage = b'"usage":{"total_tokens":201,"input_tokens":5,"output_tokens":196}'
    images = gateway(
        database,
        Upstream((200, b'{"data":[%s],"size":"1024x1024","quality":"low",%s}' % (PICTURE, usage))),
        channels=[
            ChannelConfig(
                name="up", adapter="openai-compatible", base_url="asgi://up/v1",
                models=(ModelConfig(name="m", upstream="gpt-image-2"),),
            )
        ],
        prices={"m": PriceConfig(text_in="10", image_out="60")},
    )  # fmt: skip
    async with images.lifespan():
        generation = await images.gateway.generate(order(quality="low", size="1024x1024"), ME)

    ours, theirs = 5 * 10_000 + 196 * 60_000, 5 * 5_000 + 196 * 30_000
    assert generation.cost == ours
    assert rows(database, "SELECT charged, cost, input_tokens, output_tokens FROM usage") == [(ours, theirs, 5, 196)]


async def test_one_refusal_and_one_picture_are_one_charge(database: str) -> None:
    """Two attempts stand in one usage row."""
    images = gateway(
        database,
        Upstream((500, b'{"error":{"message":"no"}}'), made(1)),
        channels=[
            ChannelConfig(
                name="up", adapter="openai-compatible", base_url="asgi://up/v1", models=("m",), credentials=("a", "b")
            )
        ],
    )
    async with images.lifespan():
        generation = await images.gateway.generate(order(), ME)

    assert (generation.attempts, generation.cost) == (2, CENT)
    ((attempts,),) = rows(database, "SELECT attempts FROM usage")
    assert [one["end"] for one in msgspec.json.decode(attempts)] == ["refused", "billed"]


async def test_what_the_balance_does_not_cover_is_refused_before_anybody_is_asked(database: str) -> None:
    """One dollar pays for a hundred pictures, and not for ten more."""
    upstream = Upstream(made(10))
    images = gateway(database, upstream)
    async with images.lifespan():
        for _ in range(10):
            await images.gateway.generate(order(n=10), ME)
        with pytest.raises(QuotaError):
            await images.gateway.generate(order(n=1), ME)

    assert upstream.asked == 10
    assert wallet(database) == (0, 0, 100)


async def test_a_thousand_at_once_with_money_for_a_hundred_are_a_hundred(database: str) -> None:
    """Exactly; the others hear it before anybody is asked."""
    upstream = Upstream(made(1))
    images = gateway(database, upstream)
    ends: list[str] = []

    async def ask() -> None:
        try:
            await images.gateway.generate(order(), ME)
        except QuotaError as error:
            ends.append(error.code)
        else:
            ends.append("made")

    async with images.lifespan(), anyio.create_task_group() as asking:
        for _ in range(1000):
            asking.start_soon(ask)

    assert (ends.count("made"), ends.count("insufficient_quota"), upstream.asked) == (100, 900, 100)
    assert wallet(database) == (0, 0, 100)


async def test_a_budget_caps_one_key_inside_the_account(database: str) -> None:
    """Ten for the one with a budget of ten, ninety for the other, nothing left."""
    upstream = Upstream(made(1))
    keys = [
        KeyConfig(name="capped", key="key-of-the-tests-000001", account="me", balance="1", budget="0.1"),
        KeyConfig(name="free", key="key-of-the-tests-000002", account="me"),
    ]
    images = gateway(database, upstream, keys=keys)
    done: list[str] = []

    async def ask(principal: Principal) -> None:
        try:
            await images.gateway.generate(order(), principal)
        except QuotaError:
            return
        done.append(principal.key)

    capped = Principal(account="me", key="capped", budget="capped")
    async with images.lifespan():
        async with anyio.create_task_group() as asking:
            for _ in range(200):
                asking.start_soon(ask, capped)
        async with anyio.create_task_group() as asking:
            for _ in range(200):
                asking.start_soon(ask, Principal(account="me", key="free"))

    assert (done.count("capped"), done.count("free")) == (10, 90)
    assert wallet(database) == (0, 0, 100)
    assert wallet(database, "budget:capped") == (0, 0, 10)


async def test_an_account_without_a_balance_is_only_metered(database: str) -> None:
    """It may spend without limit, and its books say what it spent; also what nobody gave a price in advance."""
    images = gateway(database, Upstream(made(1)), keys=[], prices={}, authenticate=anyone)
    priced = gateway(database, Upstream(made(1)), keys=[], authenticate=anyone)
    async with images.lifespan(), priced.lifespan():
        free = await images.gateway.generate(order(), ME)
        await priced.gateway.generate(order(), ME)

    assert free.cost is None
    assert wallet(database) == (-1, 0, 1)


async def test_what_has_no_price_is_not_free_for_an_account_with_a_balance(database: str) -> None:
    """Nobody is asked, and nothing is held."""
    upstream = Upstream(made(1))
    images = gateway(database, upstream, prices={"m": PriceConfig(image={"1024x1024": {"high": "0.01"}})})
    async with images.lifespan():
        for principal in (ME, Principal(account="other", key="x", budget="b")):
            with pytest.raises(ModelUnpricedError):
                await images.gateway.generate(order(size="16x16", quality="low"), principal)

    assert upstream.asked == 0
    assert wallet(database) == (100, 0, 0)


async def test_a_client_may_say_how_much_is_too_much(database: str) -> None:
    """What could cost more is refused, before anything is held."""
    upstream = Upstream(made(3))
    images = gateway(database, upstream)
    async with images.lifespan():
        await images.gateway.generate(order(n=3), ME, Terms(max_cost=3 * CENT))
        with pytest.raises(InvalidRequestError) as caught:
            await images.gateway.generate(order(n=4), ME, Terms(max_cost=3 * CENT))

    assert (caught.value.code, caught.value.param, upstream.asked) == ("cost_above_max", "x-amux-max-cost", 1)


async def test_a_dearer_picture_than_was_held_for_is_charged_as_held(
    database: str, caplog: pytest.LogCaptureFixture
) -> None:
    """And the operator hears of it."""
    table = {"1024x1024": {"low": "0.01", "high": "0.05"}}
    dear = b'{"data":[%s],"size":"1024x1024","quality":"high"}' % PICTURE
    images = gateway(database, Upstream((200, dear)), prices={"m": PriceConfig(image=table)})
    async with images.lifespan():
        generation = await images.gateway.generate(order(size="1024x1024", quality="low"), ME)

    assert generation.cost == CENT
    assert "undercharged" in caplog.text


async def test_work_whose_caller_left_is_charged(database: str) -> None:
    """The upstream was asked, so somebody pays: once."""
    asked, go_on = anyio.Event(), anyio.Event()

    async def slow(_scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        asked.set()
        await go_on.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": made(1)[1]})

    images = gateway(database, slow)
    async with images.lifespan():
        async with anyio.create_task_group() as callers:
            callers.start_soon(images.gateway.generate, order(), ME)
            await asked.wait()
            callers.cancel_scope.cancel()
        go_on.set()

    assert wallet(database) == (99, 0, 1)


async def test_work_that_is_cut_off_when_the_app_stops_costs_nothing(database: str) -> None:
    """Nothing was delivered; what it cost upstream, nobody knows."""
    asked = anyio.Event()

    async def endless(_scope: Scope, receive: Receive, _send: Send) -> None:
        await receive()
        asked.set()
        await anyio.sleep_forever()

    images = images_app(
        Config(gateway=GatewayConfig(grace=0)),
        channels=[ChannelConfig(name="up", adapter="openai-compatible", base_url="asgi://up/v1", models=("m",))],
        keys=[KeyConfig(name="me", key="key-of-the-tests-000001", balance="1")],
        prices={"m": PriceConfig(image="0.01")},
        database=database,
        apps={"up": endless},
    )

    async def ask() -> None:
        with pytest.raises(GatewayError):
            await images.gateway.generate(order(), ME)

    async with anyio.create_task_group() as callers, images.lifespan():
        callers.start_soon(ask)
        await asked.wait()

    assert wallet(database) == (100, 0, 0)
    assert rows(database, "SELECT state, cost FROM usage") == [("released", None)]


@pytest.mark.parametrize("seconds", [3_600, -3_600, 315_360_000])
async def test_the_wall_clock_does_not_matter_for_money(database: str, seconds: int) -> None:
    """It jumps while a picture is made: no hold is given back early, and the charge is the same."""
    shift = [0]

    class Jumping(Upstream):
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            shift[0] = seconds
            await super().__call__(scope, receive, send)

    images = gateway(database, Jumping(made(1)), now=lambda: datetime.fromtimestamp(1_800_000_000 + shift[0], tz=UTC))
    async with images.lifespan():
        await images.gateway.generate(order(), ME)

    assert wallet(database) == (99, 0, 1)


async def test_several_gateways_on_one_database_share_the_money(database: str) -> None:
    """Two apps, as two nodes: still exactly a hundred."""
    upstream = Upstream(made(1))
    nodes = [gateway(database, upstream), gateway(database, upstream)]
    ends: list[bool] = []

    async def ask(node: ImagesApp) -> None:
        try:
            await node.gateway.generate(order(), ME)
        except QuotaError:
            ends.append(False)
        else:
            ends.append(True)

    async with nodes[0].lifespan(), nodes[1].lifespan(), anyio.create_task_group() as asking:
        for i in range(400):
            asking.start_soon(ask, nodes[i % 2])

    assert (ends.count(True), upstream.asked) == (100, 100)
    assert wallet(database) == (0, 0, 100)


async def test_the_opening_balance_is_credited_once(database: str) -> None:
    """However often the app is started; a budget follows the configuration."""
    for budget in ("0.5", "0.7", "0.6"):
        keys = [KeyConfig(name="me", key="key-of-the-tests-000001", balance="1", budget=budget)]
        async with gateway(database, Upstream(made(1)), keys=keys).lifespan():
            pass

    assert wallet(database) == (100, 0, 0)
    assert wallet(database, "budget:me") == (60, 0, 0)


class Failing(MemoryLedger):
    """A ledger whose store goes away once money is held."""

    async def capture(self, order: Order, settlement: Settlement, answer: Answer | None = None) -> int:  # noqa: ARG002, the port's
        """Fail."""
        raise StorageUnavailableError("away", retry_after=5)


async def test_a_picture_that_cannot_be_charged_is_not_delivered() -> None:
    """And no SDK tries again: it would be paid upstream twice."""
    ledger = Failing()
    images = gateway(None, Upstream(made(1)), keys=[], authenticate=anyone, ledger=ledger)
    async with images.lifespan():
        with pytest.raises(StorageUnavailableError) as caught:
            await images.gateway.generate(order(), ME)

    wallet = await ledger.get("account:me")
    assert wallet is not None
    assert (caught.value.retry, wallet.available, wallet.held) == (False, 0, 0)


async def test_what_has_no_price_has_no_estimate_and_no_maximum(database: str) -> None:
    """Nobody can promise that it costs less."""
    images = gateway(database, Upstream(made(1)), keys=[], prices={}, authenticate=anyone)

    with pytest.raises(ModelUnpricedError):
        images.gateway.estimate(order(), ME)
    with pytest.raises(ModelUnpricedError):
        await images.gateway.generate(order(), ME, Terms(max_cost=CENT))


async def test_a_channel_without_a_price_is_passed_over(database: str) -> None:
    """What the first one refuses is asked of the next whose price is known."""
    busy, unpriced, good = Upstream((429, b'{"error":{"message":"busy"}}')), Upstream(made(1)), Upstream(made(1))
    apps = {"one": busy, "two": unpriced, "three": good}
    channels = [
        ChannelConfig(
            name=name,
            adapter="openai-compatible",
            base_url=f"asgi://{name}/v1",
            models=(ModelConfig(name="m", upstream=f"up-{name}"),),
            priority=-i,
        )
        for i, name in enumerate(apps)
    ]
    prices = {"up-one": PriceConfig(image="0.01"), "up-three": PriceConfig(image="0.03")}
    images = images_app(channels=channels, authenticate=anyone, prices=prices, database=database, apps=apps)
    async with images.lifespan():
        generation = await images.gateway.generate(order(), ME)

    assert (generation.channel, generation.cost, unpriced.asked) == ("three", 3 * CENT, 0)
    assert rows(database, "SELECT amount, charged FROM usage") == [(3 * CENT, 3 * CENT)]


async def test_a_caller_that_left_its_twin_still_counts_as_gone_when_it_takes_over() -> None:
    """The twin that takes over works for nobody who waits, and its answer is kept."""
    asked_once, go_on = anyio.Event(), anyio.Event()
    answers = [(500, b"{}"), made(1)]

    async def slow(_scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        asked_once.set()
        await go_on.wait()
        status, body = answers.pop(0)
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": body})

    images = gateway(None, slow, keys=[], authenticate=anyone, ledger=MemoryLedger())
    ask = Ask(Claim("name", "fingerprint"), Kind.KEYED)

    async def fail() -> None:
        with pytest.raises(GatewayError):
            await images.gateway.generate(order(), ME, Terms(ask=ask))

    async with images.lifespan():
        async with anyio.create_task_group() as first:
            first.start_soon(fail)
            await asked_once.wait()
            async with anyio.create_task_group() as second:
                second.start_soon(images.gateway.generate, order(), ME, Terms(ask=ask))
                await anyio.wait_all_tasks_blocked()
                second.cancel_scope.cancel()
            go_on.set()
        again = await images.gateway.generate(order(), ME, Terms(ask=ask))

    assert (again.replayed, answers) == (True, [])


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"database": "mysql://x/y"}, r"\[gateway.database\] there is no store for 'mysql'"),
        ({"database": "sqlite:///x.db", "ledger": MemoryLedger()}, "either `database` or `ledger`"),
    ],
)
def test_money_is_kept_in_one_place_that_exists(told: dict[str, Any], message: str) -> None:
    """Said when the app is made."""
    with pytest.raises(ConfigError, match=message):
        gateway(told.pop("database"), Upstream(made(1)), keys=[], authenticate=anyone, **told)
