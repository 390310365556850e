"""Deliver pictures in the form that the client wants: fetch them, host them, several at a time."""

import logging
from collections.abc import Awaitable, Callable
from typing import Final

import anyio
from msgspec import UNSET, Struct

from amux_asgi.delivery import KEPT, Delivered, Step, Wish, handed_on, joined, kept, step_of, with_base64, with_url
from amux_asgi.encoding import quoted, unquoted
from amux_asgi.errors import GatewayError, StorageUnavailableError, UpstreamBadResponseError
from amux_asgi.pictures import check_picture, kind_of
from amux_asgi.schema import Image, ImagesResponse
from amux_asgi.transport.carry import Grow
from amux_asgi.transport.fetch import Fetcher, in_turns

AT_ONCE: Final = 4  # pictures of one answer
Host = Callable[[bytes], Awaitable[str]]
"""From a picture to the URL where it is kept; raises `GatewayError`."""

logger: logging.Logger = logging.getLogger("amux_asgi")


class Deliverer(Struct, frozen=True, kw_only=True):
    """Delivers the pictures of one generation.

    `host` keeps a picture, if there is a place for any; `cap` is in bytes, of each picture that is fetched, and `grow`
    counts them as they come; `id` names the generation in the log.
    """

    fetcher: Fetcher
    host: Host | None
    cap: int
    id: str = ""
    grow: Grow | None = None

    async def deliver(self, images: ImagesResponse, wish: Wish, *, timeout: float) -> ImagesResponse:
        """Give the same answer with its pictures in the form wished for, within `timeout` seconds.

        A picture that cannot be had is left out.

        Raises:
            GatewayError: no picture could be had; it says why the first one could not.
        """
        if (same := handed_on(images, wish)) is not None:
            return same
        deadline = anyio.current_time() + timeout
        outcomes: dict[int, Delivered | Exception] = {}
        places = anyio.Semaphore(AT_ONCE)

        async def one(index: int, image: Image) -> None:
            async with places:
                try:
                    outcomes[index] = await self._delivered(image, wish, deadline)
                except Exception as error:  # noqa: BLE001, one picture's fault is not the others'
                    outcomes[index] = self._said(index, error)

        async with anyio.create_task_group() as tasks:
            for index, image in enumerate(images.data):
                tasks.start_soon(one, index, image)
        return joined(images, [outcomes[index] for index in sorted(outcomes)])

    async def _delivered(self, image: Image, wish: Wish, deadline: float) -> Delivered:
        step = step_of(image, wish)
        if step in KEPT:
            return kept(image, step)
        picture = await self._bytes(image, step, deadline)
        if step is Step.FETCH:
            image = with_base64(image, await in_turns(quoted(picture)))
        else:
            image = with_url(image, await self._hosted(picture, deadline))
        return Delivered(image, kind_of(picture))

    async def _bytes(self, image: Image, step: Step, deadline: float) -> bytes:
        if step is not Step.HOST and image.url is not UNSET:
            left = deadline - anyio.current_time()
            return await self.fetcher.fetch(image.url, cap=self.cap, timeout=left, grow=self.grow)
        picture = await in_turns(unquoted(image.b64_json))
        check_picture(picture)
        return picture

    async def _hosted(self, picture: bytes, deadline: float) -> str:
        if self.host is None:
            raise UpstreamBadResponseError("the upstream gave a picture in a form that was not asked for")
        with anyio.move_on_after(deadline - anyio.current_time()):
            return await self.host(picture)
        raise StorageUnavailableError("the picture could not be stored in time")

    def _said(self, index: int, error: Exception) -> Exception:
        """Tell the operator; another try of the client's would pay for the picture a second time."""
        if isinstance(error, GatewayError):
            error.retry = False
            logger.warning("%s picture %d cannot be delivered: %s, %s", self.id, index, error.code, error.message)
        else:
            logger.error("%s picture %d cannot be delivered", self.id, index, exc_info=error)
        return error
