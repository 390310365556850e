"""Who can be asked a request, of all that serve its model: as many as its attempts need."""

from collections.abc import Iterable
from typing import Final

from amux_asgi.asking import Choice, fit
from amux_asgi.attempts import EXTRA_ATTEMPTS
from amux_asgi.document import Body
from amux_asgi.errors import InvalidRequestError
from amux_asgi.explain import parse
from amux_asgi.health import Health
from amux_asgi.routing import Candidate, Kind
from amux_asgi.schema import GenerationRequest

ENOUGH: Final = 4  # channels that are open and can be asked: at most three of them are
OF_ONE: Final = 1 + EXTRA_ATTEMPTS  # credentials of a channel, likewise

_Tried = tuple[GenerationRequest, Choice] | InvalidRequestError


class Draw:
    """Who can be asked a request, in the order of drawing: so many channels that are open, or all that there are.

    Whether one can be asked is found out once for each kind.
    """

    def __init__(self, body: Body, *, strict: bool, health: Health) -> None:
        self._body = body
        self._strict = strict
        self._health = health
        self._found: list[Candidate] = []
        self._resting: list[Candidate] = []
        self._unable: list[Candidate] = []
        self._tried: dict[Kind, _Tried] = {}

    def fill(self, drawn: Iterable[Candidate]) -> None:
        """Take as many as one request needs."""
        tried, is_open = self._tried, self._health.is_open
        taken: dict[str, int] = {}  # by channel
        for candidate in drawn:
            if isinstance(tried.get(candidate.kind) or self._try(candidate), InvalidRequestError):
                self._unable.append(candidate)
            elif not is_open(candidate.seat):
                self._resting.append(candidate)
            elif (number := taken.get(candidate.channel.name, 0)) < OF_ONE:
                taken[candidate.channel.name] = number + 1
                self._found.append(candidate)
                if len(taken) == ENOUGH:
                    break

    def choose(self) -> tuple[GenerationRequest, Choice, tuple[Candidate, ...]]:
        """Give the first and who is behind it: those that are open, then those that may be asked when nobody is.

        Raises:
            InvalidRequestError: nobody can be asked this.
        """
        if len(self._resting) > 1:
            self._resting.sort(key=lambda candidate: not self._health.is_left(candidate.seat))
        first, *others = [*self._found, *self._resting] or [self._least_unable()]
        tried = self._tried[first.kind]
        if isinstance(tried, InvalidRequestError):
            raise tried
        request, choice = tried
        if choice.candidate is not first:
            choice = fit(first, request, strict=self._strict)
        return request, choice, tuple(others)

    def _try(self, candidate: Candidate) -> _Tried:
        tried: _Tried
        try:
            request = parse(self._body, candidate.spec)
            tried = request, fit(candidate, request, strict=self._strict)
        except InvalidRequestError as error:
            tried = error
        self._tried[candidate.kind] = tried
        return tried

    def _least_unable(self) -> Candidate:
        return next((one for one in self._unable if self._health.is_open(one.seat)), self._unable[0])
