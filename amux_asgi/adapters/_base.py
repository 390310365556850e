"""What an adapter is: one vendor's dialect as data plus a conversation."""

from collections.abc import Callable, Generator, Mapping
from math import log, sqrt
from re import compile as pattern
from typing import Final

from msgspec import Struct

from amux_asgi.schema import GenerationRequest, Json
from amux_asgi.spec import ModelSpec
from amux_asgi.wire import Flow, Hear, HttpRequest, HttpResponse, Target

Sign = Callable[[HttpRequest, str], tuple[tuple[str, str], ...]]
"""From an ask and a credential to the headers that prove who asks."""


def header(name: str, prefix: str = "") -> Sign:
    """Show the credential in one header."""

    def sign(_request: HttpRequest, credential: str) -> tuple[tuple[str, str], ...]:
        return ((name, prefix + credential),)

    return sign


bearer: Sign = header("authorization", "Bearer ")


class Fitted(Struct, frozen=True, kw_only=True):
    """A request as one model of a vendor can be asked it, and what had to be changed.

    Size and quality are those that it is priced by. Changes read `field: dropped` or `field: old -> new`. `per_ask` is
    how many pictures the model makes in one ask. Where they are not `sure`, nobody but the upstream knows what the
    client's words for size and quality come to there, and a catalogue's price by them would be of the client's choice.
    """

    request: GenerationRequest
    changes: tuple[str, ...] = ()
    per_ask: int = 10
    sure: bool = True


Fit = Callable[[str, GenerationRequest], Fitted]
"""From the catalogue's name of a model and a valid request to what can be asked; raises `InvalidRequestError`."""


class Token(Struct, frozen=True, kw_only=True):
    """What is shown to an upstream in a credential's place, good for `seconds` from when it was asked for."""

    value: str
    seconds: float


TokenFlow = Generator[HttpRequest, HttpResponse, Token]
"""It yields asks, is sent answers, and returns a token or raises `UpstreamAuthError`: nothing was paid yet."""

SignJwt = Callable[[str, str, Mapping[str, Json]], str]
"""From a private key in PEM, its id and claims to a JSON web token; raises `ValueError` if the key is none."""

Exchange = Callable[[SignJwt, int], TokenFlow]
"""From what signs and Unix time in seconds to the conversation that exchanges one credential for a token."""


def as_it_is(_credential: str) -> Exchange | None:
    """Exchange no credential."""
    return None


class Adapter(Struct, frozen=True, kw_only=True):
    """One vendor's dialect.

    `fields` are the vendor's own fields that it understands beside OpenAI's, `counts` those of them that mean `n`;
    `objects` tells what it knows inside fields that are objects. `ignores` are OpenAI's fields that cannot be said
    upstream and are dropped with a report. `closed` says that the vendor's server refuses fields it does not know.
    `options` is what a channel's options are read as. `hear` reads the events of its streams; without it, pictures are
    told of when an ask has been answered.
    """

    name: str
    generate: Callable[[Target, GenerationRequest], Flow]
    sign: Sign = bearer
    spec: Callable[[ModelSpec], ModelSpec] | None = None  # what a model of the catalogue takes through this vendor
    fit: Fit | None = None
    hear: Hear | None = None
    exchange: Callable[[str], Exchange | None] = as_it_is  # raises `ValueError` for a credential that is none
    base_url: str | None = None  # where the vendor has one address
    hosts: tuple[str, ...] = ()  # beside the base URL's own, where the credential may go; a suffix match
    fields: frozenset[str] = frozenset()
    counts: frozenset[str] = frozenset()
    objects: Mapping[str, frozenset[str]] = {}
    ignores: frozenset[str] = frozenset()
    closed: bool = False
    options: type[Struct] | None = None
    needs_credential: bool = True
    free_names: bool = False  # models are named by the operator there, so the client's name says what they are
    max_images: int = 10  # in one ask, where `fit` does not say
    forms: tuple[str, ...] = ("b64_json", "url")  # in which it can answer; a single one is never asked for
    url_life: int = 3600  # seconds that its URLs live
    staged: bool = False  # it fails when a prompt says so, which tells nothing about it


def pixels_of(size: str) -> tuple[int, int] | None:
    """Read "WIDTHxHEIGHT"; `None` for anything else."""
    match = _SIZE.fullmatch(size)
    return (int(match[1]), int(match[2])) if match else None


def nearest_size(width: int, height: int, sizes: tuple[str, ...]) -> str:
    """Choose the size of the most similar shape and, among those, of the most similar area. Pixels."""

    def distance(size: str) -> tuple[float, float]:
        w, h = _numbers(size)
        return round(abs(log(w / h) - log(width / height)), 6), abs(log(w * h) - log(width * height))

    return min(sizes, key=distance)


def nearest_ratio(width: int, height: int, ratios: tuple[str, ...]) -> str:
    """Choose the most similar of some aspect ratios, "W:H"."""
    return min(ratios, key=lambda ratio: abs(log(width / height) - log(_quotient(ratio))))


def clamp(  # noqa: PLR0913, the numbers of one rule
    width: int, height: int, *, step: int, shortest: int, longest: int, most: int
) -> tuple[int, int]:
    """Find the size nearest to one: edges are multiples of `step` between two bounds, at most `most` pixels in all.

    The shape is kept as far as the bounds allow.
    """
    shrink = min(1.0, longest / max(width, height), sqrt(most / (width * height)))
    grow = max(1.0, shortest / (min(width, height) * shrink))
    w, h = (_stepped(edge * shrink * grow, step, shortest, longest) for edge in (width, height))
    while w * h > most:
        w, h = w - step * (w >= h), h - step * (h >= w)  # a square stays one
    return w, h


def _stepped(edge: float, step: int, shortest: int, longest: int) -> int:
    lowest, highest = -(-shortest // step) * step, longest // step * step
    return min(max(round(edge / step) * step, lowest), highest)


def _numbers(size: str) -> tuple[int, int]:
    width, _, height = size.partition("x")
    return int(width), int(height)


def _quotient(ratio: str) -> float:
    width, _, height = ratio.partition(":")
    return int(width) / int(height)


_SIZE: Final = pattern(r"([1-9][0-9]{0,5})x([1-9][0-9]{0,5})")
