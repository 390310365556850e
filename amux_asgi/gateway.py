"""One generation, end to end: the order of the steps stands in `generate`, `_claim`, `_work` and `_paid`."""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from amux_asgi.adapters.openai import order as fields_of
from amux_asgi.admission import Admission, Standing, enter
from amux_asgi.admitting import Asked, Rulebook
from amux_asgi.asking import MAYBE_PAID, Choice, Sending, Sent, Watch
from amux_asgi.capabilities import Capabilities, capabilities
from amux_asgi.claims import NEVER
from amux_asgi.document import Body
from amux_asgi.errors import GatewayError, InvalidRequestError
from amux_asgi.generation import Generation, Streamed, error_kept, facts_about, said_again, streamed_again
from amux_asgi.health import Health
from amux_asgi.idempotency import DAY, is_terminal, life_of
from amux_asgi.in_flight import Held
from amux_asgi.keys import Principal
from amux_asgi.planning import Plan, Planner, Terms
from amux_asgi.postman import Postman
from amux_asgi.pricing import Prices
from amux_asgi.quota import Answer, Attempt, Order
from amux_asgi.rates import Range
from amux_asgi.routing import Routes
from amux_asgi.runtime import Runtime, Runtimes
from amux_asgi.schema import GenerationRequest, ImagesResponse, encode_response
from amux_asgi.sending import Sender
from amux_asgi.settling import Settler, capture, check_unlimited
from amux_asgi.streaming import Reveal, Streamer
from amux_asgi.streams import Stream
from amux_asgi.transport.carry import Sleep
from amux_asgi.transport.fetch import Fetcher
from amux_asgi.transport.tokens import Tokens
from amux_asgi.under_way import Admitted, Job, Reader, ledger_of
from amux_asgi.wire import Target
from amux_asgi.wiring import Lines

T = TypeVar("T")
USUAL: Final = Terms()


class Settings(Struct, frozen=True, kw_only=True):
    """What holds for every generation: times in seconds, sizes in bytes."""

    default_model: str | None = None
    timeout: float = 540
    max_answer: int = 67_108_864  # for each picture asked
    strict: bool = False
    public_url: str | None = None  # where the app is found, for hosted pictures
    reveal: tuple[Reveal, ...] = ()  # what clients are told of a generation


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
        self._settler = Settler(prices, now=now)
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
        return capabilities(model, self._routes.usual(model), self._prices)

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
        plan, deadline = self._planned(asked, principal, terms)
        if plan.request.stream:
            raise InvalidRequestError("a stream is read with Gateway.stream(); leave out 'stream' here", param="stream")
        reader = Reader()
        work = partial(self._claim, plan, deadline, reader, self._paid, said_again)
        gone = True
        try:
            made = await self._runtimes.run(work, self._lines)
            gone = terms.gone is not None and await terms.gone()
        except GatewayError:
            gone = False
            raise
        finally:
            (reader.leave if gone else reader.answer)()
        return made

    def stream(
        self,
        asked: Body | GenerationRequest,
        principal: Principal,
        terms: Terms = USUAL,
        *,
        count: Callable[[int], object] = lambda _: None,
    ) -> Stream:
        """Begin to make the pictures, and give their events as they come; as `generate`, whoever stops reading.

        `count` is told of the bytes that are kept for the reader.

        Raises:
            GatewayError: it is refused; whatever fails later is raised where the stream is read.
        """
        if isinstance(asked, GenerationRequest) and not asked.stream:
            asked = replace(asked, stream=True)
        plan, deadline = self._planned(asked, principal, terms)
        reader = Reader()
        stream = Stream(changes=plan.first.adapted.changes, count=count, left=reader.leave, answered=reader.answer)
        pay, again = partial(self._streamed, stream), partial(_told_again, stream)
        work = partial(self._claim, plan, deadline, reader, pay, again)
        reader.outcome = self._runtimes.begin(work, self._lines, stream.end)
        return stream

    def _planned(self, asked: Body | GenerationRequest, principal: Principal, terms: Terms) -> tuple[Plan, float]:
        """Say what is to be done, and until when by our clock."""
        seconds = self._settings.timeout if terms.timeout is None else min(terms.timeout, self._settings.timeout)
        deadline = (self._clock() if terms.begun is None else terms.begun) + seconds
        return self._planner.plan(asked, principal, terms), deadline

    async def _claim(  # noqa: PLR0913, PLR0917, what is done once for all twins, and by whom
        self,
        plan: Plan,
        deadline: float,
        reader: Reader,
        pay: Callable[[Job, Admitted], Awaitable[T]],
        again: Callable[[Answer], T],
        runtime: Runtime,
    ) -> T:
        """Do it, unless a twin has done it or does."""
        turn = await runtime.claims.begin(plan.terms.ask, deadline=deadline)
        if isinstance(turn, Answer):
            return again(turn)
        reader.take(turn)
        try:
            with runtime.in_flight.open(plan.principal.key) as held:
                pictures = plan.request.n or 1
                held.reserve(runtime.in_flight.expected(plan.model, pictures, longest=self._settings.max_answer))
                made = await self._work(Job(plan, deadline, turn, runtime, held), pay)
                runtime.in_flight.learn(plan.model, pictures, held.seen)
                return made
        except GatewayError as error:
            if is_terminal(error):
                body, facts = error_kept(error)
                turn.keep(turn.answer(body, facts=facts, life=DAY))
            raise
        finally:
            turn.drop()

    async def _work(self, job: Job, pay: Callable[[Job, Admitted], Awaitable[T]]) -> T:
        """Do it, if it can be done at present, within the limits: their places are held to its end, whoever leaves."""
        plan = job.plan
        if plan.resting is not None:
            raise plan.resting
        async with self._postman.ready(plan, job.runtime):
            if plan.cost is None and not plan.terms.paid:
                await check_unlimited(job.runtime.ledger, plan)
            admitted = Admitted(await self._admit(plan, job.runtime))
            try:
                return await pay(job, admitted)
            finally:
                admitted.leave()

    async def _admit(self, plan: Plan, runtime: Runtime) -> Admission:
        """Take what it weighs by every limit that it falls under, or nothing."""
        demand = Asked(plan.first.adapted.request, plan.first.candidate.rules)
        hits = self._limits.hits(plan.principal, plan.model, demand)
        return await enter(runtime.limiter, hits, plan.terms.admission)

    async def _paid(self, job: Job, admitted: Admitted) -> Generation:
        """Hold the most it can cost, send, and charge what it did cost, before any of it is delivered."""
        plan, ledger = job.plan, ledger_of(job)
        order = self._settler.order(plan)
        attempts: list[Attempt] = []
        sending = self._sending(order.id, job, attempts)
        settled = False
        await ledger.hold(order)
        try:
            sent = await self._sender.send(sending, job.runtime)
            images = await self._deliver(order.id, job, sent)
            price, settlement = self._settler.settled(plan, sent, len(images.data), attempts)
            made = self._made(order, sent, images, price, attempts, admitted.standings)
            answer = NEVER  # unless there is a claim, by which somebody might ask for it
            if job.work.claim is not None:
                answer = job.work.answer(made.body, facts=facts_about(made), life=life_of(made.images))
            await capture(ledger, order, settlement, job.work.with_capture(answer))
            settled = True
        except GatewayError as error:
            if any(attempt.end in MAYBE_PAID for attempt in attempts):
                error.retry = False  # the same once more could be paid once more
            raise
        finally:
            if not settled:
                ledger.release(order, self._settler.joined((), attempts))
        (job.work.keep if plan.terms.paid else job.work.finish)(answer)  # whoever charges further out keeps no answers
        return made

    async def _streamed(self, stream: Stream, job: Job, admitted: Admitted) -> Streamed:
        """Do the same picture by picture, as they come; who has them all may come again at once."""
        stream.standings = admitted.standings
        order = self._settler.order(job.plan)
        attempts: list[Attempt] = []
        streamer = Streamer(
            stream,
            job.plan,
            order,
            job.work,
            ledger=ledger_of(job),
            settler=self._settler,
            deliver=partial(self._deliver, order.id, job),
            attempts=attempts,
            reveal=self._settings.reveal,
            settled=admitted.leave,
        )
        sending = self._sending(order.id, job, attempts, watch=streamer)
        return await streamer.run(partial(self._sender.send, sending, job.runtime))

    async def _deliver(self, generation: str, job: Job, sent: Sent) -> ImagesResponse:
        left = job.deadline - self._clock()
        return await self._postman.deliver(job.plan, sent, generation, left, job.runtime, grow=job.held.grow)

    def _sending(self, generation: str, job: Job, attempts: list[Attempt], watch: Watch | None = None) -> Sending:
        plan, held = job.plan, job.held
        return Sending(
            id=generation,
            request=plan.request,
            first=plan.first,
            others=plan.others,
            fits=partial(self._fits, plan),
            strict=plan.terms.strict or self._settings.strict,
            hops=plan.terms.hops,
            deadline=job.deadline,
            attempts=attempts,
            key=held.key,
            grow=held.grow,
            forget=held.forget,
            watch=watch,
        )

    def _fits(self, plan: Plan, choice: Choice) -> bool:
        """Tell whether another may be asked: its pictures can be delivered, and cost no more than is held."""
        if not self._postman.can_deliver(plan, choice.candidate):
            return False
        if plan.cost is None:
            return True
        candidate, adapted = choice.candidate, choice.adapted
        rate = self._prices.rate(plan.model, candidate.model, candidate.rules)
        found = rate.estimate(adapted.request, sure=adapted.sure)
        return found is not None and found.most <= plan.cost.most

    def _made(  # noqa: PLR0913, PLR0917, all that is known of it
        self,
        order: Order,
        sent: Sent,
        images: ImagesResponse,
        price: int | None,
        attempts: Sequence[Attempt],
        standings: tuple[Standing, ...],
    ) -> Generation:
        if not images.created:
            images = replace(images, created=self._now() // 1000)
        return Generation(
            id=order.id,
            images=images,
            body=encode_response(images),
            changes=sent.choice.adapted.changes,
            channel=sent.choice.candidate.channel.name,
            attempts=len(attempts),
            cost=None if price is None else min(price, order.amount),
            standings=standings,
        )


def _told_again(stream: Stream, answer: Answer) -> Streamed:
    made = streamed_again(answer)
    stream.changes = made.changes
    stream.say_again(made)
    return made
