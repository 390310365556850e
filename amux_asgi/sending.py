"""Ask one candidate after the other, until one delivers or an end forbids another attempt."""

import logging
from collections.abc import Callable, Iterator, Mapping

from msgspec import Struct
from msgspec.structs import replace

from amux_asgi.adapt import Adapted, adapt, refuse_changes
from amux_asgi.errors import End, GatewayError, InvalidRequestError, UpstreamTimeoutError
from amux_asgi.explain import parse
from amux_asgi.models import find
from amux_asgi.quota import Attempt
from amux_asgi.redact import hide
from amux_asgi.routing import EXTRA_ATTEMPTS, Candidate, may_go_on
from amux_asgi.schema import GenerationRequest, ImagesResponse
from amux_asgi.transport.base import Transport
from amux_asgi.transport.carry import carry
from amux_asgi.wire import Target

BILLED = "billed"  # the end of an attempt that delivered

logger: logging.Logger = logging.getLogger("amux_asgi")


class Choice(Struct, frozen=True):
    """A candidate, and the request in its terms."""

    candidate: Candidate
    adapted: Adapted


class Sending(Struct, frozen=True, kw_only=True):
    """What is to be sent: the valid request, whom to ask first, and who may follow.

    `attempts` is filled as they end, also when nothing is delivered; `deadline` is by the sender's clock; `fits` tells
    whether another candidate may be asked at all.
    """

    id: str
    request: GenerationRequest
    first: Choice
    others: Iterator[Candidate]
    fits: Callable[[Candidate], bool]
    strict: bool
    hops: int
    deadline: float
    attempts: list[Attempt]


class Sent(Struct, frozen=True):
    """What came of it, and from whom."""

    images: ImagesResponse
    choice: Choice


class Sender:
    """Sends, each attempt within its channel's time, at most `max_answer` bytes for each picture asked."""

    def __init__(self, *, clock: Callable[[], float], max_answer: int) -> None:
        self._clock = clock
        self._max_answer = max_answer

    async def send(self, sending: Sending, transports: Mapping[str, Transport]) -> Sent:
        """Deliver pictures.

        Raises:
            GatewayError: how the last attempt ended, with the number of attempts and its channel.
        """
        choice = sending.first
        while True:
            try:
                images = await self._attempt(choice, sending, transports)
            except GatewayError as error:
                self._note(sending, choice, error)
                following = self._next(sending, choice, error)
                if following is None:
                    raise
                choice = following
            except BaseException:  # cut off, or a bug: it may have been paid
                unknown = Attempt(channel=choice.candidate.channel.name, end=End.UNKNOWN.value)
                sending.attempts.append(unknown)
                raise
            else:
                sending.attempts.append(Attempt(channel=choice.candidate.channel.name, end=BILLED))
                return Sent(_cut(images, choice.adapted.request.n or 1, sending.id), choice)

    async def _attempt(self, choice: Choice, sending: Sending, transports: Mapping[str, Transport]) -> ImagesResponse:
        candidate, request = choice.candidate, choice.adapted.request
        channel = candidate.channel
        timeout = min(channel.timeout, sending.deadline - self._clock())
        if timeout <= 0:
            raise UpstreamTimeoutError("the deadline passed before an upstream could be asked", end=End.NEVER_SENT)
        target = Target(base_url=channel.base_url, model=candidate.model, options=channel.options)
        return await carry(
            channel.adapter.generate(target, request),
            transports[channel.name],
            sign=channel.adapter.sign,
            credential=candidate.credential,
            hosts=channel.adapter.hosts,
            base_url=channel.base_url,
            headers={**channel.headers, "x-amux-hop": str(sending.hops + 1)},
            timeout=timeout,
            cap=self._max_answer * (request.n or 1),
        )

    def _next(self, sending: Sending, before: Choice, error: GatewayError) -> Choice | None:
        """Find who may be asked next; a candidate that cannot be asked this is passed over."""
        if len(sending.attempts) > EXTRA_ATTEMPTS or not may_go_on(error.end, before.candidate.channel):
            return None
        for candidate in sending.others:
            if not sending.fits(candidate):
                continue
            try:
                request = parse(sending.request, find(candidate.model))
                return fit(candidate, request, strict=sending.strict)
            except InvalidRequestError:
                continue
        return None

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


def fit(candidate: Candidate, request: GenerationRequest, *, strict: bool) -> Choice:
    """Say a request that is valid for a candidate's model in the candidate's terms.

    Raises:
        InvalidRequestError: the candidate cannot be asked this; strict, not exactly this.
    """
    adapted = adapt(request, candidate.channel, find(candidate.model))
    if strict:
        refuse_changes(adapted.changes)
    return Choice(candidate, adapted)


def _cut(images: ImagesResponse, wanted: int, generation: str) -> ImagesResponse:
    """Keep what was asked for."""
    if len(images.data) > wanted:
        logger.warning(
            "%s: the upstream made %d pictures of %d asked; the rest is cut off", generation, len(images.data), wanted
        )
    return replace(images, data=images.data[:wanted])
