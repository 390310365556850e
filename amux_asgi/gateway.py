"""One generation, end to end: parse, resolve, send, deliver. The order of the steps stands in `Gateway.generate`."""

import logging
import secrets
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count

from msgspec import Struct
from msgspec.structs import replace

from amux_asgi.adapt import Adapted, adapt, refuse_changes
from amux_asgi.document import Body, body_of
from amux_asgi.errors import (
    End,
    GatewayError,
    InvalidRequestError,
    ModelNotFoundError,
    PermissionDeniedError,
    UpstreamTimeoutError,
)
from amux_asgi.explain import parse
from amux_asgi.keys import Principal
from amux_asgi.models import find
from amux_asgi.routing import EXTRA_ATTEMPTS, Candidate, Routes, may_go_on
from amux_asgi.runtime import Runtime, Runtimes
from amux_asgi.schema import GenerationRequest, ImagesResponse
from amux_asgi.transport.carry import carry
from amux_asgi.wire import Target
from amux_asgi.words import quote

HOPS = 2  # gateways in a row at most
logger: logging.Logger = logging.getLogger("amux_asgi")


class Settings(Struct, frozen=True, kw_only=True):
    """What holds for every generation: times in seconds, sizes in bytes."""

    default_model: str | None = None
    timeout: float = 540
    max_answer: int = 67_108_864  # for each picture asked
    strict: bool = False


class Generation(Struct, frozen=True, kw_only=True):
    """What came of a request: the pictures, our own id, what had to be changed, who made them and at which attempt."""

    id: str
    images: ImagesResponse
    changes: tuple[str, ...]
    channel: str
    attempts: int


class Gateway:
    """Generates pictures for a principal, by whichever channel serves the model. Needs no HTTP on our side."""

    def __init__(  # noqa: PLR0913, its parts
        self,
        routes: Routes,
        runtimes: Runtimes,
        settings: Settings,
        *,
        clock: Callable[[], float],
        now: Callable[[], int],
        random: Callable[[], float],
    ) -> None:
        """`clock` is monotonic, in seconds; `now` is Unix time; `random` gives 0 ≤ x < 1."""
        self._routes = routes
        self._runtimes = runtimes
        self._settings = settings
        self._clock = clock
        self._now = now
        self._random = random
        self._turns = count()

    def models(self, principal: Principal) -> list[str]:
        """List the models that the principal may name."""
        return [model for model in self._routes.models if principal.may_use(model)]

    async def generate(
        self, asked: Body | GenerationRequest, principal: Principal, *, strict: bool = False, hops: int = 0
    ) -> Generation:
        """Make the pictures; whoever stops waiting, work that was begun is finished.

        `strict` refuses what would have to be changed; `hops` counts the gateways that this request came through.

        Raises:
            GatewayError: every failure, with its answer.
        """
        deadline = self._clock() + self._settings.timeout
        if hops >= HOPS:
            raise InvalidRequestError(
                "this request came through this kind of gateway before; a loop is refused", code="loop_detected"
            )
        body = body_of(asked) if isinstance(asked, GenerationRequest) else asked
        candidates = self._resolve(body.model, principal)
        first = next(candidates)
        request = parse(body, find(first.model))
        adapted = self._adapt(request, first, strict=strict)
        work = _Work(
            request=request, first=(first, adapted), others=candidates, strict=strict, hops=hops, deadline=deadline
        )
        return await self._runtimes.run(partial(self._send, work))

    def _resolve(self, model: str | None, principal: Principal) -> Iterator[Candidate]:
        name = self._settings.default_model if model is None else model
        if name is None:
            raise InvalidRequestError("the request names no model", param="model", code="missing_required_parameter")
        candidates = list(self._routes.candidates(name, turn=next(self._turns), random=self._random))
        if not candidates:
            raise ModelNotFoundError(f"no channel serves the model {quote(name)}", param="model")
        if not principal.may_use(name):
            raise PermissionDeniedError(f"this API key may not use the model {quote(name)}", param="model")
        return iter(candidates)

    def _adapt(self, request: GenerationRequest, candidate: Candidate, *, strict: bool) -> Adapted:
        adapted = adapt(request, candidate.channel, find(candidate.model))
        if strict or self._settings.strict:
            refuse_changes(adapted.changes)
        return adapted

    async def _send(self, work: "_Work", runtime: Runtime) -> Generation:
        """Try one candidate after the other, until one delivers or an end forbids another attempt."""
        generation = f"gen_{secrets.token_hex(12)}"
        attempts = 1
        candidate, adapted = work.first
        while True:
            try:
                images = await self._attempt(candidate, adapted.request, work, runtime)
            except GatewayError as error:
                error.attempts = attempts
                error.channel = candidate.channel.name
                _log(generation, error)
                following = (
                    self._next(work) if attempts <= EXTRA_ATTEMPTS and may_go_on(error.end, candidate.channel) else None
                )
                if following is None:
                    raise
                candidate, adapted = following
                attempts += 1
            else:
                images = self._finished(images, adapted.request, generation)
                return Generation(
                    id=generation,
                    images=images,
                    changes=adapted.changes,
                    channel=candidate.channel.name,
                    attempts=attempts,
                )

    async def _attempt(
        self, candidate: Candidate, request: GenerationRequest, work: "_Work", runtime: Runtime
    ) -> ImagesResponse:
        channel = candidate.channel
        timeout = min(channel.timeout, work.deadline - self._clock())
        if timeout <= 0:
            raise UpstreamTimeoutError("the deadline passed before an upstream could be asked", end=End.NEVER_SENT)
        target = Target(base_url=channel.base_url, model=candidate.model, options=channel.options)
        return await carry(
            channel.adapter.generate(target, request),
            runtime.transports[channel.name],
            sign=channel.adapter.sign,
            credential=candidate.credential,
            hosts=channel.adapter.hosts,
            base_url=channel.base_url,
            headers={**channel.headers, "x-amux-hop": str(work.hops + 1)},
            timeout=timeout,
            cap=self._settings.max_answer * (request.n or 1),
        )

    def _next(self, work: "_Work") -> tuple[Candidate, Adapted] | None:
        """Find the next candidate that can be asked this; one that cannot is passed over."""
        for candidate in work.others:
            try:
                return candidate, self._adapt(parse(work.request, find(candidate.model)), candidate, strict=work.strict)
            except InvalidRequestError:
                continue
        return None

    def _finished(self, images: ImagesResponse, request: GenerationRequest, generation: str) -> ImagesResponse:
        wanted = request.n or 1
        if len(images.data) > wanted:
            logger.warning(
                "%s: the upstream made %d pictures of %d asked; the rest is cut off",
                generation,
                len(images.data),
                wanted,
            )
        return replace(images, data=images.data[:wanted], created=images.created or self._now())


class _Work(Struct, frozen=True, kw_only=True):
    """One job: the valid request, its first candidate with the request in its terms, and those that may follow."""

    request: GenerationRequest
    first: tuple[Candidate, Adapted]
    others: Iterator[Candidate]
    strict: bool
    hops: int
    deadline: float


def _log(generation: str, error: GatewayError) -> None:
    """Tell the operator of an attempt that failed; what the client did wrong is no warning."""
    level = logging.INFO if error.end is End.FINAL else logging.WARNING
    end = "no end" if error.end is None else error.end.value
    logger.log(level, "%s attempt %d on %s: %s, %s", generation, error.attempts, error.channel, error.code, end)
