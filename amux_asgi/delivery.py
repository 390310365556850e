"""Pictures in the form that the client wants, as a URL or as base64: what must be done, and how it becomes one answer.

Bytes are never encoded anew, so what they say of their origin (C2PA) stays.
"""

from collections.abc import Iterable, Sequence
from enum import Enum
from typing import Final

import msgspec
from msgspec import UNSET, Raw, Struct
from msgspec.structs import replace

from amux_asgi.encoding import start_of
from amux_asgi.errors import InvalidRequestError
from amux_asgi.pictures import Kind, kind_of
from amux_asgi.schema import NOTHING, Image, ImagesResponse

HOUR: Final = 3600  # seconds that a URL lives at least, ours or one that is handed on
BASE64: Final = "b64_json"
URL: Final = "url"


class Wish(Struct, frozen=True, kw_only=True):
    """What the client wants, and what the channel's URLs are good for.

    `form` is "url", "b64_json", or `None` if nobody said; `rehost` that the channel's URLs are never shown; `url_life`
    is in seconds; `hosted` tells whether there is a place for pictures of our own.
    """

    form: str | None
    rehost: bool
    url_life: int
    hosted: bool

    @property
    def hands_on(self) -> bool:
        """Tell whether a URL of the channel may go to the client."""
        return self.url_life >= HOUR and not self.rehost


class Step(Enum):
    """What must be done with a picture."""

    KEEP_URL = "keep the URL"
    KEEP_BASE64 = "keep the base64"
    FETCH = "fetch from the URL"
    HOST = "host what the base64 holds"
    REHOST = "fetch from the URL, and host"


KEPT: Final = (Step.KEEP_BASE64, Step.KEEP_URL)  # no set: an enum's members are hashed by a function in Python


class Delivered(Struct, frozen=True):
    """A picture as the client gets it, and what kind it is, if that is known."""

    image: Image
    kind: Kind | None


def form_of(request_form: str | None, own_form: str | None) -> str | None:
    """Say in which form the pictures are wanted: as asked, else in the model's own."""
    return request_form or own_form


def check_form(wish: Wish, forms: Iterable[str]) -> None:
    """Check that the form can be had from a channel that answers in one of `forms`: before it is asked for anything.

    Raises:
        InvalidRequestError: URLs are wanted, the channel's are not to be had, and there is no place for ours.
    """
    if wish.form == URL and not wish.hosted and not (URL in forms and wish.hands_on):
        raise InvalidRequestError(
            "this gateway keeps no pictures, so it has no URLs of this model's; ask for b64_json",
            param="response_format",
        )


def step_of(image: Image, wish: Wish) -> Step:
    """Say what must be done with a picture."""
    has_base64 = image.b64_json is not NOTHING
    if has_base64 and wish.form != URL:
        return Step.KEEP_BASE64
    hands_on = wish.hands_on and image.url is not UNSET and image.url.lower().startswith(_LINKS)
    form = wish.form or (URL if hands_on or wish.hosted else BASE64)
    if form == BASE64:
        return Step.FETCH
    if hands_on:
        return Step.KEEP_URL
    return Step.HOST if has_base64 else Step.REHOST


def with_url(image: Image, url: str) -> Image:
    """Give the same picture at a URL, and only there."""
    return replace(image, url=url, b64_json=NOTHING)


def with_base64(image: Image, text: Raw) -> Image:
    """Give the same picture as base64, and only so."""
    return replace(image, url=UNSET, b64_json=text)


def kept(image: Image, step: Step) -> Delivered:
    """Leave a picture as it is, in one form."""
    kind = None if step is Step.KEEP_URL else kind_of(start_of(image.b64_json))
    return Delivered(_in_one_form(image, step), kind)


def _in_one_form(image: Image, step: Step) -> Image:
    if step is Step.KEEP_URL:
        return image if image.b64_json is NOTHING else replace(image, b64_json=NOTHING)
    return image if image.url is UNSET else with_base64(image, image.b64_json)


def handed_on(images: ImagesResponse, wish: Wish) -> ImagesResponse | None:
    """Give the same answer if all its pictures are kept as they are; `None` if something must be done with one."""
    is_same = "output_format" in images.extra  # otherwise the pictures are looked at, to tell what they are
    for image in images.data:
        step = step_of(image, wish)
        if step not in KEPT:
            return None
        is_same = is_same and _in_one_form(image, step) is image
    return images if is_same else joined(images, [kept(image, step_of(image, wish)) for image in images.data])


def joined(images: ImagesResponse, outcomes: Sequence[Delivered | Exception]) -> ImagesResponse:
    """Put what could be delivered in the place of what the upstream gave, in order.

    Raises:
        Exception: the first failure, if nothing could be.
    """
    delivered = [outcome for outcome in outcomes if isinstance(outcome, Delivered)]
    if not delivered:
        raise next(outcome for outcome in outcomes if isinstance(outcome, Exception))
    data = tuple(one.image for one in delivered)
    return replace(images, data=data, extra={**_told(delivered), **images.extra})


def _told(delivered: Iterable[Delivered]) -> dict[str, Raw]:
    """Say what the pictures are where that is sure, and one thing."""
    kinds = {one.kind for one in delivered}
    kind = kinds.pop()
    name = kind and kind.media_type.removeprefix("image/")
    return {"output_format": Raw(msgspec.json.encode(name))} if name in _FORMATS and not kinds else {}


_LINKS: Final = ("https://", "http://")  # nothing else is a URL that a client could fetch, or should
_FORMATS: Final = ("png", "jpeg", "webp", "gif")
