"""The vocabulary of adapters: a conversation with an upstream as a generator that asks and is answered."""

from collections.abc import Callable, Generator, Mapping
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace

from amux_asgi.errors import (
    End,
    GatewayError,
    RateLimitError,
    UpstreamBadResponseError,
    UpstreamError,
    UpstreamTimeoutError,
)
from amux_asgi.faults import failure, fault_of
from amux_asgi.schema import BAD_JSON, ImagesResponse, Json, Preview, fields_of
from amux_asgi.sse import ServerEvent

T = TypeVar("T")
Headers = tuple[tuple[str, str], ...]
ONE_POLL: Final = 30.0  # seconds for one question
FAILURES: Final = 5  # in a row, while work is waited for
_OK: Final = 200
_SERVER_ERROR: Final = 500
_USUAL: Final[Headers] = (("content-type", "application/json"), ("accept", "application/json"))
_UNREADABLE: Final = "the upstream's answer is not what its protocol promises"
_encoder: Final = msgspec.json.Encoder()


class HttpRequest(Struct, frozen=True, kw_only=True):
    """One ask. Header names are in lower case; the credential is added by the transport, which signs."""

    method: str
    url: str
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    delay: float = 0.0  # seconds to wait before it is sent, at least
    timeout: float | None = None  # seconds for this ask alone, within the attempt's


class HttpResponse(Struct, frozen=True, kw_only=True):
    """The whole answer to one ask. Header names are in lower case; of a repeated header the last value counts."""

    status: int
    headers: Mapping[str, str] = {}
    body: bytes = b""


class Target(Struct, frozen=True, kw_only=True):
    """What an adapter knows of the channel it speaks for.

    `base_url` has no slash at its end, `model` is the vendor's own name, `options` what the adapter declares them to
    be. `offset` says how many pictures of the same request other asks make before this one's. `rules` is the
    catalogue's name of the model.
    """

    base_url: str
    model: str
    options: Any = None
    offset: int = 0
    rules: str = ""


Flow = Generator[HttpRequest, HttpResponse, ImagesResponse]
"""It yields asks, is sent answers, and returns the pictures or raises a `GatewayError` that has an `end`.

What goes wrong on the way is raised at its `yield`; a `DeadlineError` there leaves it a last ask, to call work off.
"""


Heard = Preview | ImagesResponse | GatewayError | None
"""What an event of a stream says: how a picture looks so far, finished pictures, why one of several will not come, or
nothing of pictures."""

Hear = Callable[[ServerEvent], Heard]
"""Reads one event of a vendor's stream; raises a `GatewayError` that has an `end` where the stream says that it failed.

An ask that is answered by a stream gets no other answer: its flow goes on only where an error is thrown into it.
"""


class DeadlineError(UpstreamTimeoutError):
    """The attempt's time is over."""


def post(url: str, body: Json, headers: Headers = ()) -> HttpRequest:
    """Ask with a JSON body."""
    return HttpRequest(method="POST", url=url, headers=(*_USUAL, *headers), body=_encoder.encode(body))


def get(url: str, headers: Headers = ()) -> HttpRequest:
    """Ask without a body."""
    return HttpRequest(method="GET", url=url, headers=(("accept", "application/json"), *headers))


def read(answer: type[T], response: HttpResponse) -> T:
    """Decode a good answer, or raise what the bad one means.

    Raises:
        GatewayError: with `end` set: refused, final or unknown.
    """
    _check(response)
    try:
        return msgspec.json.decode(response.body, type=answer)
    except BAD_JSON as exc:
        raise UpstreamBadResponseError(_UNREADABLE) from exc


def read_fields(response: HttpResponse) -> dict[str, Raw]:
    """Take a good answer that is an object apart into its fields, or raise what the bad one means, as `read`."""
    _check(response)
    try:
        return fields_of(response.body)
    except BAD_JSON as exc:
        raise UpstreamBadResponseError(_UNREADABLE) from exc


def poll(  # noqa: PLR0913, the rhythm is the vendor's
    answer: type[T],
    ask: HttpRequest,
    *,
    until: Callable[[T], bool],
    first: float,
    every: float,
    longest: float,
    cancel: HttpRequest | None = None,
    agreed: Callable[[T], bool] = lambda _: True,
) -> Generator[HttpRequest, HttpResponse, T]:
    """Ask again and again for the state of work that the upstream has accepted, until it is the last one.

    First after `first` seconds, then after `every`, growing by a half each time up to `longest`. Failures in between
    are waited out, `FAILURES` in a row. When the time is over, `cancel` calls the work off, if the vendor has that:
    a good answer says that it was, unless it is not `agreed`.

    Raises:
        UpstreamError: nobody can tell what became of the work: it may have been paid.
    """
    delay, failures = first, 0
    while True:
        try:
            state = read(answer, (yield replace(ask, delay=delay, timeout=ONE_POLL)))
        except DeadlineError as error:
            if cancel is not None and agreed(read(answer, (yield replace(cancel, timeout=ONE_POLL)))):
                error.end = End.REFUSED  # called off before it began
            raise
        except GatewayError as error:
            failures += 1
            if failures > FAILURES or not _passes(error):
                raise UpstreamError(
                    "the upstream does not say what became of the work it accepted",
                    retry=False,
                    upstream_code=error.upstream_code,
                ) from error
        else:
            if until(state):
                return state
            failures = 0
        delay = every
        every = min(every * 1.5, longest)


def _check(response: HttpResponse) -> None:
    encoding = response.headers.get("content-encoding")
    if encoding is not None and encoding.lower() != "identity":
        raise UpstreamBadResponseError("the upstream compressed its answer although it was asked not to")
    if response.status != _OK:
        raise failure(response.status, fault_of(response.body), response.headers)


def _passes(error: GatewayError) -> bool:
    """Tell whether asking again may help."""
    return isinstance(error, RateLimitError) or error.status >= _SERVER_ERROR
