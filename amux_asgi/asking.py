"""What is to be asked, of whom, and what came of it."""

from collections.abc import Callable, Sequence
from typing import Final, Protocol

from msgspec import Struct
from msgspec.structs import replace

from amux_asgi.adapt import adapt, refuse_changes
from amux_asgi.adapters._base import Fitted
from amux_asgi.errors import End
from amux_asgi.events import Preview
from amux_asgi.fanout import shares
from amux_asgi.quota import Attempt
from amux_asgi.routing import Candidate
from amux_asgi.schema import GenerationRequest, ImagesResponse
from amux_asgi.transport.carry import Grow

BILLED: Final = "billed"  # the end of an attempt that delivered
MAYBE_PAID: Final = (BILLED, End.UNKNOWN.value)
"""Ends of attempts that nobody can take back."""


class Choice(Struct, frozen=True):
    """A candidate, and the request in its terms."""

    candidate: Candidate
    adapted: Fitted

    @property
    def shown(self) -> GenerationRequest:
        """Give the request with what its model makes where nothing is said, to tell what a picture is."""
        request, spec = self.adapted.request, self.candidate.spec
        if spec is None or None not in (request.size, request.quality):
            return request
        size, quality = spec.defaults
        return replace(request, size=request.size or size, quality=request.quality or quality)

    @property
    def asks(self) -> int:
        """Say how many asks it takes."""
        return len(self.parts)

    @property
    def parts(self) -> list[int]:
        """Say how many pictures each ask is for."""
        return shares(self.adapted.request.n or 1, self.adapted.per_ask)


class Sent(Struct, frozen=True):
    """What came of it, and from whom."""

    images: ImagesResponse
    choice: Choice


class Watch(Protocol):
    """Who is told of pictures as they come. `begun` says that it was: from then on nothing is asked anew."""

    @property
    def begun(self) -> bool: ...  # noqa: D102

    def show(self, preview: Preview, choice: Choice) -> None:
        """Take what a picture looks like so far; never waits."""

    async def finish(self, sent: Sent) -> None:
        """Take finished pictures, no more than were asked for; raises nothing."""

    def miss(self, error: Exception) -> None:
        """Take why some of the pictures will not come, although others did."""


class Sending(Struct, frozen=True, kw_only=True):
    """What is to be sent: the request, whom to ask first, and who may follow; for all of them it is valid.

    `attempts` is filled as they end, also when nothing is delivered; `deadline` is by the sender's clock; `fits` tells
    whether another candidate may be asked at all. `key` is whose turn it is where requests must wait; `grow` counts the
    bytes that come, and `forget` those that are let go; `watch` is told of each picture, if somebody wants to know.
    """

    id: str
    request: GenerationRequest
    first: Choice
    others: Sequence[Candidate]
    fits: Callable[[Choice], bool]
    strict: bool
    hops: int
    deadline: float
    attempts: list[Attempt]
    key: str = ""
    grow: Grow | None = None
    forget: Callable[[int], None] | None = None
    watch: Watch | None = None


def fit(candidate: Candidate, request: GenerationRequest, *, strict: bool) -> Choice:
    """Say a request that is valid for a candidate's model in the candidate's terms.

    Raises:
        InvalidRequestError: the candidate cannot be asked this; strict, not exactly this.
    """
    adapted = adapt(request, candidate)
    if strict:
        refuse_changes(adapted.changes)
    return Choice(candidate, adapted)
