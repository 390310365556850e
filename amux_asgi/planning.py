"""What is to be done for a request: parse it, resolve its model, and find out what it can cost. Nothing is begun."""

from collections.abc import Awaitable, Callable, Iterable
from itertools import count

from msgspec import Struct

from amux_asgi.admission import Admission
from amux_asgi.asking import Choice, fit
from amux_asgi.document import Body, body_of
from amux_asgi.drawing import Draw
from amux_asgi.errors import (
    GatewayError,
    InvalidRequestError,
    ModelNotFoundError,
    ModelUnpricedError,
    PermissionDeniedError,
)
from amux_asgi.explain import parse
from amux_asgi.health import Health
from amux_asgi.idempotency import Ask
from amux_asgi.keys import Principal
from amux_asgi.pricing import Prices, dollars
from amux_asgi.rates import Range
from amux_asgi.routing import Candidate, Routes
from amux_asgi.schema import GenerationRequest
from amux_asgi.words import quote

HOPS = 2  # gateways in a row at most


class Terms(Struct, frozen=True, kw_only=True):
    """What a client says beside its request.

    `strict` refuses what would have to be changed; `hops` counts the gateways that the request came through;
    `max_cost` (nano-dollars) refuses what could cost more; `paid` says that somebody further out charges for it;
    `mount` is where this app is found, for URLs of hosted pictures; `request_id` is a label for the usage row. `ask` is
    what it claims by an idempotency key, or as an SDK's retry; `gone` tells whether the client has left, so that its
    retry finds the answer. `timeout` is for how many seconds the client waits, since `begun` by the gateway's clock,
    or from now on. `admission` is what an app further out has counted already, and holds.
    """

    strict: bool = False
    hops: int = 0
    max_cost: int | None = None
    paid: bool = False
    mount: str | None = None
    request_id: str | None = None
    ask: Ask | None = None
    gone: Callable[[], Awaitable[bool]] | None = None
    timeout: float | None = None
    begun: float | None = None
    admission: Admission | None = None


class Plan(Struct, frozen=True, kw_only=True):
    """The valid request, whom to ask for it, and what it can cost: `None` if nobody said."""

    model: str  # as the client says it
    request: GenerationRequest
    principal: Principal
    terms: Terms
    first: Choice
    others: tuple[Candidate, ...]
    cost: Range | None
    resting: GatewayError | None = None  # nobody can be asked at present: why, and for how long

    def unpriced(self) -> GatewayError:
        """Make the refusal of what has no price."""
        return ModelUnpricedError(
            f"nobody has said what the model {quote(self.model)} costs in this form", param="model"
        )


class Planner:
    """Plans requests."""

    def __init__(  # noqa: PLR0913, its parts
        self,
        routes: Routes,
        prices: Prices,
        *,
        default_model: str | None,
        strict: bool,
        random: Callable[[], float],
        health: Health,
    ) -> None:
        """`random` gives 0 ≤ x < 1."""
        self._routes = routes
        self._prices = prices
        self._default_model = default_model
        self._strict = strict
        self._random = random
        self._health = health
        self._turns = count()

    def plan(self, asked: Body | GenerationRequest, principal: Principal, terms: Terms) -> Plan:
        """Say what is to be done.

        Raises:
            GatewayError: it is refused.
        """
        if terms.hops >= HOPS:
            raise InvalidRequestError(
                "this request came through this kind of gateway before; a loop is refused", code="loop_detected"
            )
        body = body_of(asked) if isinstance(asked, GenerationRequest) else asked
        model = self._resolve(body.model, principal)
        request, first, others = self._choose(model, body, strict=terms.strict or self._strict)
        plan = Plan(
            model=model,
            request=request,
            principal=principal,
            terms=terms,
            first=first,
            others=others,
            cost=self._cost(model, first, others, request) if others else self._range(model, first),
            resting=self._resting(first, others),
        )
        if terms.max_cost is not None:
            _check_most(plan, terms.max_cost)
        return plan

    def _choose(
        self, model: str, body: Body, *, strict: bool
    ) -> tuple[GenerationRequest, Choice, tuple[Candidate, ...]]:
        """Find the first that can be asked this, and who is behind it; if nobody can, the first one says why."""
        if (only := self._routes.only(model)) is not None:
            request = parse(body, only.spec)
            return request, fit(only, request, strict=strict), ()
        draw = Draw(body, strict=strict, health=self._health)
        draw.fill(self._routes.candidates(model, turn=next(self._turns), random=self._random))
        return draw.choose()

    def _resolve(self, model: str | None, principal: Principal) -> str:
        name = self._default_model if model is None else model
        if name is None:
            raise InvalidRequestError("the request names no model", param="model", code="missing_required_parameter")
        if name not in self._routes.models:
            raise ModelNotFoundError(f"no channel serves the model {quote(name)}", param="model")
        if not principal.may_use(name):
            raise PermissionDeniedError(f"this API key may not use the model {quote(name)}", param="model")
        return name

    def _resting(self, first: Choice, others: tuple[Candidate, ...]) -> GatewayError | None:
        """Say why nobody can be asked, if so: the first is the one most open."""
        seat = first.candidate.seat
        if self._health.is_open(seat) or self._health.is_left(seat):
            return None
        return self._health.refusal([seat, *(other.seat for other in others)])

    def _range(self, model: str, choice: Choice) -> Range | None:
        candidate, adapted = choice.candidate, choice.adapted
        rate = self._prices.rate(model, candidate.model, candidate.rules)
        return rate.estimate(adapted.request, sure=adapted.sure)

    def _cost(self, model: str, first: Choice, others: Iterable[Candidate], request: GenerationRequest) -> Range | None:
        """Say what it can cost, whoever serves it; `None` if nobody said what the first one takes."""
        kinds = {other.kind: other for other in others}
        kinds.pop(first.candidate.kind, None)
        if not kinds:
            return self._range(model, first)
        choices = [first, *(fit(other, request, strict=False) for other in kinds.values())]
        ranges = [self._range(model, choice) for choice in choices]
        if ranges[0] is None:
            return None
        known = [found for found in ranges if found is not None]
        return Range(least=min(found.least for found in known), most=max(found.most for found in known))


def _check_most(plan: Plan, most: int) -> None:
    if plan.cost is None:
        raise plan.unpriced()
    if plan.cost.most > most:
        raise InvalidRequestError(
            f"this could cost {dollars(plan.cost.most)} USD, which is more than 'x-amux-max-cost' allows",
            param="x-amux-max-cost",
            code="cost_above_max",
        )
