"""One generation, end to end: the order of the steps stands in `Gateway.generate`, `_claim`, `_work` and `_paid`."""

import logging
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Final

import anyio
from msgspec import Struct
from msgspec.structs import replace

from amux_asgi.adapters.openai import order as fields_of
from amux_asgi.admission import Admission, enter
from amux_asgi.admitting import Rulebook, demand_of
from amux_asgi.capabilities import Capabilities, capabilities
from amux_asgi.claims import Work
from amux_asgi.document import Body
from amux_asgi.errors import End, GatewayError
from amux_asgi.generation import Generation, error_kept, facts_about, said_again
from amux_asgi.health import Health
from amux_asgi.idempotency import DAY, is_terminal, life_of
from amux_asgi.in_flight import Held
from amux_asgi.keys import Principal
from amux_asgi.planning import Plan, Planner, Terms
from amux_asgi.postman import Postman
from amux_asgi.pricing import NANO, Prices, Range
from amux_asgi.quota import (
    Answer,
    Attempt,
    Ledger,
    MemoryLedger,
    Order,
    Settlement,
    account_wallet,
    fresh_id,
)
from amux_asgi.routing import Routes
from amux_asgi.runtime import Runtime, Runtimes
from amux_asgi.schema import GenerationRequest, ImagesResponse, encode_response
from amux_asgi.sending import MAYBE_PAID, Choice, Sender, Sending, Sent
from amux_asgi.transport.carry import Sleep
from amux_asgi.transport.fetch import Fetcher
from amux_asgi.transport.tokens import Tokens
from amux_asgi.wire import Target
from amux_asgi.wiring import Lines

PREFIX: Final = "gen_"
UNBOUNDED: Final = 1_000 * NANO  # held where nobody can say the most; only accounts without limit may ask for that
USUAL: Final = Terms()

logger: logging.Logger = logging.getLogger("amux_asgi")


class Settings(Struct, frozen=True, kw_only=True):
    """What holds for every generation: times in seconds, sizes in bytes."""

    default_model: str | None = None
    timeout: float = 540
    max_answer: int = 67_108_864  # for each picture asked
    strict: bool = False
    public_url: str | None = None  # where the app is found, for hosted pictures


class Estimate(Struct, frozen=True, kw_only=True):
    """What a request would cost, in nano-dollars, and what would be asked for it."""

    cost: Range
    request: dict[str, Any]
    changes: tuple[str, ...]


class Gateway:
    """Generates pictures for a principal, by whichever channel serves the model. Needs no HTTP on our side.

    It is that of one version of the configuration, and nothing of it changes: a request stays with one to its end.
    """

    def __init__(  # noqa: PLR0913, its parts
        self,
        routes: Routes,
        runtimes: Runtimes,
        settings: Settings,
        *,
        lines: Lines | None = None,
        prices: Prices,
        limits: Rulebook,
        fetcher: Fetcher,
        tokens: Tokens,
        clock: Callable[[], float],
        sleep: Sleep,
        now: Callable[[], int],
        random: Callable[[], float],
        health: Health | None = None,
    ) -> None:
        """`lines` say how the channels are reached; `tokens` are kept from one version to the next.

        `clock` is monotonic, in seconds, as `sleep` takes them; `now` is Unix time in milliseconds; `random` gives
        0 ≤ x < 1. `health` is what an earlier gateway has learned of the same upstreams.
        """
        self.health: Health = health or Health(clock=clock, random=random)
        self.health.know(routes.groups())
        self._routes = routes
        self._runtimes = runtimes
        self._lines = lines
        self._settings = settings
        self._prices = prices
        self._limits = limits
        self._vendors = Prices()  # what the vendors themselves take
        self._planner = Planner(
            routes,
            prices,
            default_model=settings.default_model,
            strict=settings.strict,
            random=random,
            health=self.health,
        )
        self._sender = Sender(
            tokens=tokens,
            health=self.health,
            clock=clock,
            sleep=sleep,
            random=random,
            max_answer=settings.max_answer,
            patience=settings.timeout,
        )
        self._postman = Postman(
            fetcher, public_url=settings.public_url, max_picture=settings.max_answer, now=lambda: now() / 1000
        )
        self._clock = clock
        self._now = now

    def clock(self) -> float:
        """Tell the time that deadlines are measured by, in seconds."""
        return self._clock()

    def receiving(self, principal: Principal) -> Held:
        """Give what counts a request of this principal while it is received, and its answer while it is sent."""
        return self._runtimes.open(principal.key)

    def models(self, principal: Principal) -> list[str]:
        """List the models that the principal may name."""
        return [model for model in self._routes.models if principal.may_use(model)]

    def capabilities(self, model: str) -> Capabilities:
        """Say what a model that is served can be asked, as the channel takes it that comes first."""
        first = next(self._routes.candidates(model, turn=0, random=lambda: 0.5))  # the heaviest of the first tier
        return capabilities(model, first, self._prices)

    def estimate(self, asked: Body | GenerationRequest, principal: Principal, terms: Terms = USUAL) -> Estimate:
        """Say what a request would cost, and what would be asked for it, without asking anybody.

        Raises:
            GatewayError: it would be refused; `ModelUnpricedError` if nobody said what it costs.
        """
        plan = self._planner.plan(asked, principal, terms)
        if plan.cost is None:
            raise plan.unpriced()
        adapted = plan.first.adapted
        request = fields_of(Target(base_url="", model=plan.model), adapted.request)
        return Estimate(cost=plan.cost, request=request, changes=adapted.changes)

    async def generate(self, asked: Body | GenerationRequest, principal: Principal, terms: Terms = USUAL) -> Generation:
        """Make the pictures; whoever stops waiting, work that was begun is finished and charged.

        Raises:
            GatewayError: every failure, with its answer.
        """
        seconds = self._settings.timeout if terms.timeout is None else min(terms.timeout, self._settings.timeout)
        deadline = (self._clock() if terms.begun is None else terms.begun) + seconds
        plan = self._planner.plan(asked, principal, terms)
        reader = _Reader()
        try:
            made = await self._runtimes.run(partial(self._claim, plan, deadline, reader), self._lines)
            if terms.gone is not None and await terms.gone():
                reader.leave()
        except anyio.get_cancelled_exc_class():
            reader.leave()
            raise
        return made

    async def _claim(self, plan: Plan, deadline: float, reader: "_Reader", runtime: Runtime) -> Generation:
        """Do it, unless a twin has done it or does."""
        turn = await runtime.claims.begin(plan.terms.ask, deadline=deadline)
        if isinstance(turn, Answer):
            return said_again(turn)
        reader.take(turn)
        try:
            with runtime.in_flight.open(plan.principal.key) as held:
                pictures = plan.request.n or 1
                held.reserve(runtime.in_flight.expected(plan.model, pictures, longest=self._settings.max_answer))
                made = await self._work(plan, deadline, turn, runtime, held)
                runtime.in_flight.learn(plan.model, pictures, held.seen)
                return made
        except GatewayError as error:
            if is_terminal(error):
                body, facts = error_kept(error)
                turn.keep(turn.answer(body, facts=facts, life=DAY))
            raise
        finally:
            turn.drop()

    async def _work(self, plan: Plan, deadline: float, work: Work, runtime: Runtime, held: Held) -> Generation:
        """Do it, if it can be done at present, within the limits: their places are held to its end, whoever leaves."""
        if plan.resting is not None:
            raise plan.resting
        async with self._postman.ready(plan, runtime):
            if plan.cost is None and not plan.terms.paid:
                await _check_unlimited(runtime.ledger, plan)
            admission = await self._admit(plan, runtime)
            try:
                made = await self._paid(plan, deadline, work, runtime, held)
            finally:
                admission.leave()
        return replace(made, standings=admission.standings)

    async def _admit(self, plan: Plan, runtime: Runtime) -> Admission:
        """Take what it weighs by every limit that it falls under, or nothing."""
        demand = demand_of(plan.first.adapted.request, plan.first.candidate.rules)
        hits = self._limits.hits(plan.principal, plan.model, demand)
        return await enter(runtime.limiter, hits, plan.terms.admission)

    async def _paid(self, plan: Plan, deadline: float, work: Work, runtime: Runtime, held: Held) -> Generation:
        """Hold the most it can cost, send, and charge what it did cost, before any of it is delivered."""
        ledger = MemoryLedger() if plan.terms.paid else runtime.ledger
        order = self._order(plan)
        attempts: list[Attempt] = []
        sending = self._sending(order.id, plan, deadline, attempts, held)
        settled = False
        await ledger.hold(order)
        try:
            sent = await self._sender.send(sending, runtime)
            left = deadline - self._clock()
            images = await self._postman.deliver(plan, sent, order.id, left, runtime, grow=held.grow)
            price = self._price(plan, sent, images)
            made = self._made(order, sent, images, price, attempts)
            answer = work.answer(made.body, facts=facts_about(made), life=life_of(made.images))
            await _capture(
                ledger,
                order,
                self._settlement(sent, len(made.images.data), price or 0, attempts),
                work.with_capture(answer),
            )
            settled = True
        except GatewayError as error:
            if any(attempt.end in MAYBE_PAID for attempt in attempts):
                error.retry = False  # the same once more could be paid once more
            raise
        finally:
            if not settled:
                ledger.release(order, self._unsettled(attempts))
        (work.keep if plan.terms.paid else work.finish)(answer)  # whoever charges further out keeps no answers
        return made

    def _price(self, plan: Plan, sent: Sent, images: ImagesResponse) -> int | None:
        """Say what it did cost; of what had a price, and gets none for its answer, the most.

        Of pictures that were made and cannot be delivered the client pays nothing, though their tokens are told in one.
        """
        candidate, adapted = sent.choice.candidate, sent.choice.adapted
        price = self._prices.cost(
            plan.model, candidate.model, adapted.request, sent.images, rules=candidate.rules, sure=adapted.sure
        )
        price = plan.cost.most if price is None and plan.cost is not None else price
        made, delivered = len(sent.images.data), len(images.data)
        return price if price is None or delivered == made else -(-price * delivered // made)

    def _order(self, plan: Plan) -> Order:
        now = self._now()
        principal = plan.principal
        return Order(
            id=fresh_id(PREFIX, now),
            account=principal.account,
            key=principal.key,
            budget=None if plan.terms.paid else principal.budget,
            amount=UNBOUNDED if plan.cost is None else plan.cost.most,
            begun=now,
            model=plan.model,
            request_id=plan.terms.request_id,
        )

    def _sending(self, generation: str, plan: Plan, deadline: float, attempts: list[Attempt], held: Held) -> Sending:
        return Sending(
            id=generation,
            request=plan.request,
            first=plan.first,
            others=plan.others,
            fits=partial(self._fits, plan),
            strict=plan.terms.strict or self._settings.strict,
            hops=plan.terms.hops,
            deadline=deadline,
            attempts=attempts,
            key=held.key,
            grow=held.grow,
        )

    def _fits(self, plan: Plan, choice: Choice) -> bool:
        """Tell whether another may be asked: its pictures can be delivered, and cost no more than is held."""
        if not self._postman.can_deliver(plan, choice.candidate):
            return False
        if plan.cost is None:
            return True
        candidate, adapted = choice.candidate, choice.adapted
        found = self._prices.estimate(
            plan.model, candidate.model, adapted.request, rules=candidate.rules, sure=adapted.sure
        )
        return found is not None and found.most <= plan.cost.most

    def _made(
        self, order: Order, sent: Sent, images: ImagesResponse, price: int | None, attempts: Sequence[Attempt]
    ) -> Generation:
        images = replace(images, created=images.created or self._now() // 1000)
        return Generation(
            id=order.id,
            images=images,
            body=encode_response(images),
            changes=sent.choice.adapted.changes,
            channel=sent.choice.candidate.channel.name,
            attempts=len(attempts),
            cost=None if price is None else min(price, order.amount),
        )

    def _settlement(self, sent: Sent, delivered: int, price: int, attempts: Iterable[Attempt]) -> Settlement:
        candidate, request = sent.choice.candidate, sent.choice.adapted.request
        usage = sent.images.tokens()
        attempts = tuple(attempts)
        unknown = any(attempt.end == End.UNKNOWN.value for attempt in attempts)
        cost = self._vendors.cost(candidate.rules, candidate.rules, request, sent.images)
        return Settlement(
            ended=self._now(),
            charged=price,
            cost=None if unknown else cost,
            channel=candidate.channel.name,
            attempts=attempts,
            images=delivered,
            input_tokens=_counted(usage and usage.input_tokens),
            output_tokens=_counted(usage and usage.output_tokens),
        )

    def _unsettled(self, attempts: Iterable[Attempt]) -> Settlement:
        """Say how it ended without pictures; of an attempt that may have been paid nobody knows what it cost."""
        attempts = tuple(attempts)
        unknown = any(attempt.end in MAYBE_PAID for attempt in attempts)
        return Settlement(ended=self._now(), cost=None if unknown else 0, attempts=attempts)


class _Reader:
    """Who waits for a generation, and may leave before it has begun or after it has ended."""

    def __init__(self) -> None:
        self._work: Work | None = None
        self._gone = False

    def take(self, work: Work) -> None:
        self._work = work
        if self._gone:
            work.left()

    def leave(self) -> None:
        self._gone = True
        if self._work is not None:
            self._work.left()


async def _capture(ledger: Ledger, order: Order, settlement: Settlement, answer: Answer | None) -> None:
    charged = await ledger.capture(order, settlement, answer)
    if settlement.charged > charged:
        logger.warning("%s: undercharged, it cost more than was held for it", order.id)


async def _check_unlimited(ledger: Ledger, plan: Plan) -> None:
    """Let only those have what has no price who may spend without limit."""
    wallet = await ledger.get(account_wallet(plan.principal.account))
    if plan.principal.budget is not None or (wallet is not None and wallet.credit is not None):
        raise plan.unpriced()


def _counted(tokens: int | None) -> int:
    """Take an upstream's count only if it can be one."""
    return tokens if tokens is not None and 0 <= tokens <= _MOST_TOKENS else 0


_MOST_TOKENS: Final = 10**12
