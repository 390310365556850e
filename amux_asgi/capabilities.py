"""What a model can be asked, in words that are the same for every vendor: `x_amux` on a model's card."""

from itertools import product

from msgspec import Struct
from msgspec.structs import replace

from amux_asgi.catalogue._base import ALL_FIELDS
from amux_asgi.explain import N_MAX
from amux_asgi.models import CATALOGUE, find
from amux_asgi.pricing import Prices, dollars
from amux_asgi.rates import Range
from amux_asgi.routing import Candidate
from amux_asgi.schema import GenerationRequest
from amux_asgi.spec import ModelSpec, Pixels


class Number(Struct, frozen=True, omit_defaults=True):
    """How many pictures one request may ask for, and how many of them the model makes in one go, if that is known."""

    max: int
    native: int | None = None


class Price(Struct, frozen=True, omit_defaults=True):
    """US dollars for one picture, prompt aside; `most` is absent where a form of it has no known price."""

    least: str
    most: str | None = None


class Capabilities(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is absent is unknown, or nothing that this model has.

    `parameters` are the fields that are said upstream, the vendor's own among them. A size is one of `sizes`, or within
    `pixels`, or made of an aspect ratio and a tier; where `sizes_snap`, any other becomes the nearest.
    """

    parameters: tuple[str, ...]
    response_formats: tuple[str, ...]
    n: Number
    prompt_max: int | None = None  # code points
    sizes: tuple[str, ...] = ()
    pixels: Pixels | None = None
    sizes_snap: bool = False
    aspect_ratios: tuple[str, ...] = ()
    tiers: tuple[str, ...] = ()
    qualities: tuple[str, ...] = ()
    output_formats: tuple[str, ...] = ()
    backgrounds: tuple[str, ...] = ()
    price: Price | None = None


def capabilities(model: str, candidate: Candidate, prices: Prices) -> Capabilities:
    """Say what a client can ask of `model` where this candidate serves it, and what a picture costs there."""
    spec, adapter = candidate.spec, candidate.channel.adapter
    fields = (ALL_FIELDS if spec is None else spec.fields) | {"response_format", "stream"}
    unsaid = adapter.ignores if candidate.streams else adapter.ignores | {"partial_images"}
    told = Capabilities(
        parameters=tuple(sorted((fields | adapter.fields) - unsaid)),
        response_formats=("url", "b64_json"),
        n=Number(N_MAX),
        price=_price(model, candidate, prices),
    )
    return told if spec is None else _detailed(told, candidate, spec)


def _detailed(told: Capabilities, candidate: Candidate, spec: ModelSpec) -> Capabilities:
    entry = CATALOGUE[candidate.rules]
    native = min(entry.native, entry.spec.n_max, candidate.channel.adapter.max_images)
    return replace(
        told,
        n=Number(spec.n_max, native),
        prompt_max=spec.prompt_max,
        sizes=spec.sizes,
        pixels=spec.pixels,
        sizes_snap=spec.snaps,
        aspect_ratios=spec.ratios,
        tiers=spec.tiers,
        qualities=spec.qualities,
        output_formats=spec.output_formats,
        backgrounds=spec.backgrounds,
    )


def _price(model: str, candidate: Candidate, prices: Prices) -> Price | None:
    """Look at every form that has a price of its own: sizes or tiers, and qualities."""
    spec = find(candidate.rules)  # the vendor's own words, that prices are in
    sizes = ((spec.tiers or spec.sizes) if spec is not None and spec.pixels is None else ()) or (None,)
    qualities = (spec.qualities if spec is not None else ()) or (None,)
    forms = [
        GenerationRequest(prompt="?", size=size, quality=quality)
        for size, quality in product(sizes, qualities)
        if "auto" not in (size, quality)
    ]
    rate = prices.rate(model, candidate.model, candidate.rules)
    spans = [rate.estimate(form) for form in forms]
    known: list[Range] = [span for span in spans if span is not None]
    if not known:
        return None
    most = max(span.most for span in known) if len(known) == len(spans) else None
    return Price(dollars(min(span.least for span in known)), None if most is None else dollars(most))
