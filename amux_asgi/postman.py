"""The last step before a generation is charged: its pictures in the form that its client wants."""

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from functools import partial
from typing import Final

from amux_asgi.asking import Sent
from amux_asgi.delivering import Deliverer
from amux_asgi.delivery import BASE64, HOUR, URL, Wish, check_form, form_of, handed_on
from amux_asgi.errors import InvalidRequestError
from amux_asgi.planning import Plan
from amux_asgi.routing import Candidate
from amux_asgi.runtime import Runtime
from amux_asgi.schema import ImagesResponse
from amux_asgi.transport.carry import Grow
from amux_asgi.transport.fetch import Fetcher

USUAL: Final = 4 * 2**20  # bytes that a picture is expected to have
LEAST: Final = 15.0  # seconds, also when the upstream took all there were: the pictures are made
LATER: Final = 60  # seconds that a hosted picture outlives its hour, so that an answer said again is still true


class Postman:
    """Delivers pictures: hands on what the upstream gave, fetches it, or hosts it."""

    def __init__(self, fetcher: Fetcher, *, public_url: str | None, max_picture: int, now: Callable[[], float]) -> None:
        """`public_url` is where this app is found, if not where its requests say; `now` is Unix time in seconds."""
        self._fetcher = fetcher
        self._public_url = public_url
        self._max_picture = max_picture
        self._now = now
        self._promised = 0  # bytes of pictures that are being made, and will be hosted

    def ready(self, plan: Plan, runtime: Runtime) -> AbstractAsyncContextManager[None]:
        """Check that the pictures can be delivered before anybody is asked to make them; keep room for them meanwhile.

        Raises:
            InvalidRequestError: URLs are wanted that nobody could give.
            StorageUnavailableError: there is no room for the pictures.
        """
        if _form(plan) != URL:
            return _NO_ROOM
        candidate = plan.first.candidate
        wish = self._wish(plan, candidate)
        check_form(wish, candidate.forms)
        if URL in candidate.forms and wish.hands_on:
            return _NO_ROOM
        return self._room(USUAL * (plan.first.adapted.request.n or 1), runtime)

    @asynccontextmanager
    async def _room(self, size: int, runtime: Runtime) -> AsyncGenerator[None]:
        self._promised += size
        try:
            await runtime.pictures.check_room(self._promised)
            yield
        finally:
            self._promised -= size

    def can_deliver(self, plan: Plan, candidate: Candidate) -> bool:
        """Tell whether this candidate's pictures could be given in the form that is wanted."""
        try:
            check_form(self._wish(plan, candidate), candidate.forms)
        except InvalidRequestError:
            return False
        return True

    async def deliver(  # noqa: PLR0913, all that is known of them
        self, plan: Plan, sent: Sent, generation: str, left: float, runtime: Runtime, *, grow: Grow
    ) -> ImagesResponse:
        """Give the same pictures, or those of them that can be had, in the form that the client wants.

        `left` is in seconds; `grow` counts what is fetched.

        Raises:
            GatewayError: none could be had.
        """
        wish = self._wish(plan, sent.choice.candidate)
        if (images := handed_on(sent.images, wish)) is not None:
            return images
        base = self._base(plan)
        deliverer = Deliverer(
            fetcher=self._fetcher,
            host=None if base is None else partial(self._host, base, runtime),
            cap=self._max_picture,
            id=generation,
            grow=grow,
        )
        return await deliverer.deliver(sent.images, wish, timeout=max(left, LEAST))

    async def _host(self, base: str, runtime: Runtime, picture: bytes) -> str:
        name = await runtime.pictures.put(picture, expires=int(self._now()) + HOUR + LATER)
        return f"{base}/pictures/{name}"

    def _wish(self, plan: Plan, candidate: Candidate) -> Wish:
        channel = candidate.channel
        return Wish(
            form=_form(plan),
            rehost=channel.rehost,
            url_life=channel.adapter.url_life,
            hosted=self._base(plan) is not None,
        )

    def _base(self, plan: Plan) -> str | None:
        return self._public_url or plan.terms.mount


def _form(plan: Plan) -> str | None:
    spec = plan.first.candidate.spec
    own = BASE64 if plan.request.stream else None if spec is None else spec.response_format
    return form_of(plan.request.response_format, own)


_NO_ROOM: Final = nullcontext()  # where nothing is hosted
