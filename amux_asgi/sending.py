"""Ask one candidate after the other, until one delivers or an end forbids another attempt."""

import logging
from collections.abc import Callable, Iterable
from itertools import accumulate
from math import inf
from typing import Final

import anyio
from msgspec.structs import replace

from amux_asgi.asking import BILLED, Choice, Sending, Sent, fit
from amux_asgi.attempts import EXTRA_ATTEMPTS, SHORTEST_TIME, Budget, in_turn, is_free, may_go_on, pause
from amux_asgi.errors import (
    End,
    GatewayError,
    OverloadedError,
    UpstreamTimeoutError,
    UpstreamUnavailableError,
)
from amux_asgi.fanout import joined, worst
from amux_asgi.health import Health
from amux_asgi.hearing import Hearing
from amux_asgi.quota import Attempt
from amux_asgi.redact import hide
from amux_asgi.resting import signal
from amux_asgi.routing import Candidate
from amux_asgi.runtime import Clock, Runtime
from amux_asgi.schema import NOTHING, ImagesResponse
from amux_asgi.transport.base import Transport
from amux_asgi.transport.carry import Sleep, Way, carry
from amux_asgi.transport.tokens import Tokens
from amux_asgi.wire import Flow, Target

logger: logging.Logger = logging.getLogger("amux_asgi")


class Sender:
    """Sends, each attempt within its channel's time, at most `max_answer` bytes for each picture asked."""

    def __init__(  # noqa: PLR0913, its parts
        self,
        *,
        tokens: Tokens,
        health: Health,
        clock: Clock,
        sleep: Sleep,
        random: Callable[[], float],
        max_answer: int,
        patience: float,
    ) -> None:
        """`patience` is how many seconds a request usually has."""
        self._tokens = tokens
        self._health = health
        self._budget = Budget(clock)
        self._clock = clock
        self._sleep = sleep
        self._random = random
        self._max_answer = max_answer
        self._patience = patience

    async def send(self, sending: Sending, runtime: Runtime) -> Sent:
        """Deliver pictures, at least one.

        Raises:
            GatewayError: how the last attempt ended, with the number of attempts and its channel.
        """
        others = list(sending.others)
        candidates = (sending.first.candidate, *others)
        choice = self._enter(sending, candidates, others) or self._enter(sending, candidates, others, last=True)
        if choice is None:
            raise self._health.refusal([candidate.seat for candidate in candidates])
        self._budget.earn(choice.asks)
        extra = 1
        while True:
            try:
                return Sent(await self._ask_all(choice, sending, runtime), choice)
            except GatewayError as error:
                following = await self._again(sending, choice, others, error, extra)
                if following is None:
                    self._tell(error, sending)
                    raise
            choice, extra = following, extra + 1

    async def _ask_all(self, choice: Choice, sending: Sending, runtime: Runtime) -> ImagesResponse:
        """Ask at once for what the model makes at once, otherwise several times."""
        try:
            runtime.places[choice.candidate.channel.name].check(sending.key, left=self._left(sending))
        except GatewayError as error:  # nobody was asked, so this is no attempt
            error.attempts, error.generation = len(sending.attempts), sending.id
            raise
        if len(choice.parts) == 1:
            return await self._ask(choice, sending, runtime, arrived=self._clock())
        return await self._ask_each(choice, sending, runtime)

    async def _ask_each(self, choice: Choice, sending: Sending, runtime: Runtime) -> ImagesResponse:
        """Ask side by side; what was made is delivered, however the other asks ended: they are not sent again."""
        parts = choice.parts
        outcomes: dict[int, ImagesResponse | Exception] = {}

        async def part(offset: int, number: int) -> None:
            request = replace(choice.adapted.request, n=number)
            share = Choice(choice.candidate, replace(choice.adapted, request=request))
            try:
                outcomes[offset] = await self._ask(share, sending, runtime, offset=offset)
            except Exception as error:  # noqa: BLE001, raised again below, in our order
                outcomes[offset] = error

        async with anyio.create_task_group() as tasks:
            for offset, number in zip(accumulate(parts, initial=0), parts, strict=False):
                tasks.start_soon(part, offset, number)
        ended = [outcomes[offset] for offset in sorted(outcomes)]
        made = [outcome for outcome in ended if isinstance(outcome, ImagesResponse)]
        if made and (len(made) == len(ended) or sending.watch is None):
            return joined(made)
        error = worst([outcome for outcome in ended if isinstance(outcome, Exception)])
        if made and sending.watch is not None:
            sending.watch.miss(error)
            return joined(made)
        if isinstance(error, GatewayError):
            error.attempts = len(sending.attempts)  # the last of them has ended by now
        raise error

    async def _ask(
        self, choice: Choice, sending: Sending, runtime: Runtime, *, offset: int = 0, arrived: float = inf
    ) -> ImagesResponse:
        """Ask once, unless others have failed there since it `arrived`, and keep how it ended."""
        channel = choice.candidate.channel
        hearing = self._hearing(choice, sending)
        places = runtime.places[channel.name]
        try:
            taken = await places.take(sending.key, self._left(sending))
            try:
                self._check(choice.candidate, arrived)
                images = await self._reported(choice, sending, runtime.transports[channel.name], offset, hearing)
            finally:
                places.leave(taken)
        except GatewayError as error:
            if hearing is not None and hearing.made:
                return await hearing.rest(error)
            self._note(sending, choice, error)
            raise
        except BaseException:  # cut off, or a bug: it may have been paid
            if hearing is None or not hearing.made:
                sending.attempts.append(Attempt(channel=channel.name, end=End.UNKNOWN.value))
            raise
        if hearing is not None and hearing.made:
            return images
        sending.attempts.append(Attempt(channel=channel.name, end=BILLED))
        images = _cut(images, choice.adapted.request.n or 1, sending.id)
        if sending.watch is not None:
            await sending.watch.finish(Sent(images, choice))
        return images

    def _hearing(self, choice: Choice, sending: Sending) -> Hearing | None:
        """Prepare to listen, where a stream is asked for that the upstream itself can give."""
        hear = choice.candidate.channel.adapter.hear
        if sending.watch is None or hear is None or not choice.adapted.request.stream:
            return None
        return Hearing(hear, choice, sending, sending.watch, most=self._max_answer)

    def _check(self, candidate: Candidate, arrived: float) -> None:
        """Check that it still makes sense to ask, after a wait for a place."""
        if self._health.rested_since(candidate.seat, arrived):
            raise UpstreamUnavailableError("the upstream failed others meanwhile", end=End.NEVER_SENT)

    async def _reported(
        self, choice: Choice, sending: Sending, transport: Transport, offset: int, hearing: Hearing | None
    ) -> ImagesResponse:
        """Carry it out, and keep what its end tells about who was asked."""
        candidate, begun = choice.candidate, self._clock()
        channel = candidate.channel
        timeout = min(channel.timeout, self._left(sending) + SHORTEST_TIME)
        exchange = channel.exchanges.get(candidate.credential)
        try:
            if exchange is None:
                flow, way = self._way(choice, sending, transport, offset, candidate.credential, hearing)
                images = await carry(flow, way, timeout=timeout)
            else:
                async with self._tokens.shown(exchange, transport, timeout=timeout) as token:
                    flow, way = self._way(choice, sending, transport, offset, token, hearing)
                    images = await carry(flow, way, timeout=min(timeout, self._left(sending) + SHORTEST_TIME))
        except GatewayError as error:
            said = signal(error, token=exchange is not None)
            short = timeout < min(channel.timeout, self._patience) / 2  # too short to blame the upstream
            if error.end is End.FINAL:
                self._health.answered(candidate.seat, begun)
            if said and not channel.adapter.staged and not (short and isinstance(error, UpstreamTimeoutError)):
                self._health.failed(candidate.seat, begun, said)
            raise
        self._health.delivered(candidate.seat, begun)
        return images

    def _left(self, sending: Sending) -> float:
        """Give for how many seconds an attempt may still wait until it begins.

        Raises:
            UpstreamTimeoutError: it must not begin any more: it could only be paid for and cut off.
        """
        left = sending.deadline - self._clock() - SHORTEST_TIME
        if left < 0:
            raise UpstreamTimeoutError("too little time is left for an upstream to be asked", end=End.NEVER_SENT)
        return left

    def _way(  # noqa: PLR0913, PLR0917, all that an attempt has
        self,
        choice: Choice,
        sending: Sending,
        transport: Transport,
        offset: int,
        credential: str,
        hearing: Hearing | None,
    ) -> tuple[Flow, Way]:
        """Say what is asked, and how it goes out."""
        candidate, request = choice.candidate, choice.adapted.request
        channel = candidate.channel
        target = Target(
            base_url=channel.base_url,
            model=candidate.model,
            options=channel.options,
            offset=offset,
            rules=candidate.rules,
        )
        return channel.adapter.generate(target, request), Way(
            transport=transport,
            sign=channel.adapter.sign,
            credential=credential,
            base_url=channel.base_url,
            hosts=channel.adapter.hosts,
            headers={**channel.headers, "x-amux-hop": str(sending.hops + 1)},
            cap=self._max_answer * (request.n or 1),
            sleep=self._sleep,
            random=self._random,
            grow=sending.grow,
            listen=None if hearing is None else hearing.listen,
        )

    async def _again(
        self, sending: Sending, before: Choice, others: list[Candidate], error: GatewayError, extra: int
    ) -> Choice | None:
        """Find who may be asked next, if anybody may, and wait a moment."""
        if extra > EXTRA_ATTEMPTS or not may_go_on(error.end, before.candidate.channel):
            return None
        if sending.watch is not None and sending.watch.begun:
            return None
        if not others or sending.deadline - self._clock() < SHORTEST_TIME:
            return None
        if not isinstance(error, OverloadedError):  # that is told at once, or somebody else has a place now
            await self._sleep(pause(extra, self._random))
        ordered = in_turn(others, before.candidate, error, extra=extra)
        return self._enter(sending, ordered, others, free=is_free(error), again=True)

    def _enter(  # noqa: PLR0913, what makes a candidate fit
        self,
        sending: Sending,
        candidates: Iterable[Candidate],
        others: list[Candidate],
        *,
        again: bool = False,
        free: bool = True,
        last: bool = False,
    ) -> Choice | None:
        """Take the first that can be asked this now; a retry has to be afforded, in time and, unless free, in number.

        It is no longer one of the others.
        """
        for candidate in candidates:
            is_open = self._health.is_open(candidate.seat) or (last and self._health.is_left(candidate.seat))
            if not is_open or (choice := self._choice(sending, candidate)) is None:
                continue
            if again and sending.deadline - self._clock() < max(SHORTEST_TIME, self._health.usual(candidate.seat)):
                continue
            if not free and not self._budget.spend(choice.asks):
                return None
            self._health.enter(candidate.seat, last=last)
            others[:] = [other for other in others if other is not candidate]
            return choice
        return None

    def _choice(self, sending: Sending, candidate: Candidate) -> Choice | None:
        """Say the request in a candidate's terms, if what comes can be delivered and paid."""
        if candidate is sending.first.candidate:
            return sending.first
        choice = fit(candidate, sending.request, strict=sending.strict)
        return choice if sending.fits(choice) else None

    def _tell(self, error: GatewayError, sending: Sending) -> None:
        """Say when another request makes sense, if nobody can be asked before."""
        wait = self._health.wait(other.seat for other in (sending.first.candidate, *sending.others))
        if wait and error.retry is not False and (error.retry_after is not None or error.status in _GATEWAY_FAULTS):
            error.retry_after = wait

    def _note(self, sending: Sending, choice: Choice, error: GatewayError) -> None:
        """Keep how an attempt ended, and tell the operator; what the client did wrong is no warning."""
        hide(error, choice.candidate.channel.secrets())
        channel = choice.candidate.channel.name
        end = "no end" if error.end is None else error.end.value
        sending.attempts.append(Attempt(channel=channel, end=end, code=error.code))
        error.attempts = len(sending.attempts)
        error.channel = channel
        error.generation = sending.id
        level = logging.INFO if error.end is End.FINAL else logging.WARNING
        logger.log(level, "%s attempt %d on %s: %s, %s", sending.id, error.attempts, channel, error.code, end)


def _cut(images: ImagesResponse, wanted: int, generation: str) -> ImagesResponse:
    """Keep what was asked for; tokens of what is cut off are nobody's, so the rest is priced by its pictures."""
    if len(images.data) <= wanted:
        return images
    logger.warning(
        "%s: the upstream made %d pictures of %d asked; the rest is cut off", generation, len(images.data), wanted
    )
    return replace(images, data=images.data[:wanted], usage=NOTHING)


_GATEWAY_FAULTS: Final = (502, 503)
