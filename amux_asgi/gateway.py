"""One generation, end to end: the order of the steps stands in `Gateway.generate`, `_claim` and `_work`."""

import logging
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Final

import anyio
from msgspec import Struct
from msgspec.structs import replace

from amux_asgi.adapters.openai import order as fields_of
from amux_asgi.claims import Work
from amux_asgi.document import Body
from amux_asgi.errors import End, GatewayError, StorageUnavailableError
from amux_asgi.generation import Generation, error_kept, facts_about, said_again
from amux_asgi.idempotency import DAY, is_terminal, life_of
from amux_asgi.keys import Principal
from amux_asgi.planning import Plan, Planner, Terms
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
from amux_asgi.schema import GenerationRequest, encode_response
from amux_asgi.sending import BILLED, Sender, Sending, Sent
from amux_asgi.wire import Target

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


class Estimate(Struct, frozen=True, kw_only=True):
    """What a request would cost, in nano-dollars, and what would be asked for it."""

    cost: Range
    request: dict[str, Any]
    changes: tuple[str, ...]


class Gateway:
    """Generates pictures for a principal, by whichever channel serves the model. Needs no HTTP on our side."""

    def __init__(  # noqa: PLR0913, its parts
        self,
        routes: Routes,
        runtimes: Runtimes,
        settings: Settings,
        *,
        prices: Prices,
        clock: Callable[[], float],
        now: Callable[[], int],
        random: Callable[[], float],
    ) -> None:
        """`clock` is monotonic, in seconds; `now` is Unix time in milliseconds; `random` gives 0 ≤ x < 1."""
        self._routes = routes
        self._runtimes = runtimes
        self._settings = settings
        self._prices = prices
        self._vendors = Prices()  # what the vendors themselves take
        self._planner = Planner(
            routes, prices, default_model=settings.default_model, strict=settings.strict, random=random
        )
        self._sender = Sender(clock=clock, max_answer=settings.max_answer)
        self._clock = clock
        self._now = now

    def models(self, principal: Principal) -> list[str]:
        """List the models that the principal may name."""
        return [model for model in self._routes.models if principal.may_use(model)]

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
        deadline = self._clock() + self._settings.timeout
        plan = self._planner.plan(asked, principal, terms)
        reader = _Reader()
        try:
            made = await self._runtimes.run(partial(self._claim, plan, deadline, reader))
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
            return await self._work(plan, deadline, turn, runtime)
        except GatewayError as error:
            if is_terminal(error):
                body, facts = error_kept(error)
                turn.keep(turn.answer(body, facts=facts, life=DAY))
            raise
        finally:
            turn.drop()

    async def _work(self, plan: Plan, deadline: float, work: Work, runtime: Runtime) -> Generation:
        """Hold the most it can cost, send, and charge what it did cost, before any of it is delivered."""
        ledger = MemoryLedger() if plan.terms.paid else runtime.ledger
        if plan.cost is None and not plan.terms.paid:
            await _check_unlimited(ledger, plan)
        order = self._order(plan)
        attempts: list[Attempt] = []
        settled = False
        await ledger.hold(order)
        try:
            sent = await self._sender.send(self._sending(order.id, plan, deadline, attempts), runtime.transports)
            price = self._price(plan, sent)
            made = self._made(order, sent, price, attempts)
            answer = work.answer(made.body, facts=facts_about(made), life=life_of(made.images))
            await _capture(ledger, order, self._settlement(sent, price or 0, attempts), work.with_capture(answer))
            settled = True
        finally:
            if not settled:
                ledger.release(order, self._unsettled(attempts))
        (work.keep if plan.terms.paid else work.finish)(answer)  # whoever charges further out keeps no answers
        return made

    def _price(self, plan: Plan, sent: Sent) -> int | None:
        """Say what it did cost; of what had a price, and gets none for its answer, the most."""
        request, upstream = sent.choice.adapted.request, sent.choice.candidate.model
        price = self._prices.cost(plan.model, upstream, request, sent.images)
        return plan.cost.most if price is None and plan.cost is not None else price

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

    def _sending(self, generation: str, plan: Plan, deadline: float, attempts: list[Attempt]) -> Sending:
        priced = plan.cost is not None
        return Sending(
            id=generation,
            request=plan.request,
            first=plan.first,
            others=iter(plan.others),
            fits=lambda other: not priced or self._prices.find(plan.model, other.model) is not None,
            strict=plan.terms.strict or self._settings.strict,
            hops=plan.terms.hops,
            deadline=deadline,
            attempts=attempts,
        )

    def _made(self, order: Order, sent: Sent, price: int | None, attempts: Sequence[Attempt]) -> Generation:
        images = replace(sent.images, created=sent.images.created or self._now() // 1000)
        return Generation(
            id=order.id,
            images=images,
            body=encode_response(images),
            changes=sent.choice.adapted.changes,
            channel=sent.choice.candidate.channel.name,
            attempts=len(attempts),
            cost=None if price is None else min(price, order.amount),
        )

    def _settlement(self, sent: Sent, price: int, attempts: Iterable[Attempt]) -> Settlement:
        candidate, request = sent.choice.candidate, sent.choice.adapted.request
        usage = sent.images.tokens()
        return Settlement(
            ended=self._now(),
            charged=price,
            cost=self._vendors.cost(candidate.model, candidate.model, request, sent.images),
            channel=candidate.channel.name,
            attempts=tuple(attempts),
            images=len(sent.images.data),
            input_tokens=_counted(usage and usage.input_tokens),
            output_tokens=_counted(usage and usage.output_tokens),
        )

    def _unsettled(self, attempts: Iterable[Attempt]) -> Settlement:
        """Say how it ended without pictures; of an attempt that may have been paid nobody knows what it cost."""
        attempts = tuple(attempts)
        unknown = any(attempt.end in _MAYBE_PAID for attempt in attempts)
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
    """Charge; a retry of what cannot be charged would be paid at the upstream twice."""
    try:
        charged = await ledger.capture(order, settlement, answer)
    except StorageUnavailableError as error:
        error.retry = False
        raise
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


_MAYBE_PAID: Final = (BILLED, End.UNKNOWN.value)
_MOST_TOKENS: Final = 10**12
