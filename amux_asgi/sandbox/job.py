"""What the sandbox is asked: read as strictly as OpenAI does, everything resolved that was left open."""

import math
from typing import Any, Final, get_args

from msgspec import Struct
from msgspec.structs import replace

from amux_asgi.catalogue.openai import GPT_IMAGE_2, ROWS
from amux_asgi.document import load
from amux_asgi.errors import InvalidRequestError
from amux_asgi.explain import EVERYWHERE, parse
from amux_asgi.sandbox.faults import is_fault_model
from amux_asgi.sandbox.paint import Format, Order
from amux_asgi.schema import GenerationRequest
from amux_asgi.spec import ModelSpec
from amux_asgi.tokens import PARTIAL, fixed_size_tokens, free_size_tokens
from amux_asgi.words import join, quote

SEED_MAX: Final = 2**53  # the largest integer that every reader of JSON reads alike


class Job(Struct, frozen=True, kw_only=True):
    """A valid request, with everything that was left open resolved."""

    request: GenerationRequest
    spec: ModelSpec
    orders: tuple[Order, ...]
    size: str
    quality: str
    background: str
    output_format: str


def job_of(body: bytes) -> Job:
    """Read a request.

    Raises:
        InvalidRequestError: OpenAI would refuse it.
    """
    document = load(body)
    if document.model is None:
        raise InvalidRequestError("the request names no model", param="model", code="missing_required_parameter")
    spec = spec_of(document.model)
    for name in sorted(EVERYWHERE - spec.fields):
        if name in document.values:
            raise InvalidRequestError(f"unknown parameter: {name!r}", param=name, code="unknown_parameter")
    unknown = [name for name in document.raw if name not in _KNOWN]
    request = parse(document, spec)
    if unknown:
        raise InvalidRequestError(f"unknown parameter: {quote(unknown[0])}", param=unknown[0], code="unknown_parameter")
    return _resolved(request, spec, _seed(document.values.get("seed")))


def spec_of(model: str) -> ModelSpec:
    """Say what a model takes; those that play a fault take what gpt-image-2 takes.

    Raises:
        InvalidRequestError: there is no such model.
    """
    if is_fault_model(model):
        return GPT_IMAGE_2
    if model not in ROWS:
        raise InvalidRequestError(
            f"the model {quote(model)} does not exist", param="model", type="image_generation_user_error"
        )
    return ROWS[model].spec


def echo(job: Job) -> dict[str, str]:
    """Tell what was made."""
    return {"background": job.background, "output_format": job.output_format, "quality": job.quality, "size": job.size}


def usage(job: Job) -> dict[str, Any]:
    """Count tokens by OpenAI's published formula; a text token is taken to be four bytes."""
    number = len(job.orders)
    first = job.orders[0] if number else Order(prompt="", seed=0, width=1, height=1)
    quality = job.quality if job.quality in ("low", "medium") else "high"
    each = (
        fixed_size_tokens(job.size, quality)
        if job.spec.pixels is None
        else free_size_tokens(first.width, first.height, quality)
    )
    inputs = number * math.ceil(len(job.request.prompt.encode()) / 4)
    outputs = number * ((each or 0) + PARTIAL * (job.request.partial_images or 0 if job.request.stream else 0))
    return {
        "input_tokens": inputs,
        "input_tokens_details": {"image_tokens": 0, "text_tokens": inputs},
        "output_tokens": outputs,
        "output_tokens_details": {"image_tokens": outputs, "text_tokens": 0},
        "total_tokens": inputs + outputs,
    }


def _seed(value: Any) -> int:  # noqa: ANN401, whatever JSON can say
    if value is None:
        return 0
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidRequestError("'seed' must be an integer", param="seed", code="invalid_type")
    if abs(value) > SEED_MAX:
        code = "integer_above_max_value" if value > 0 else "integer_below_min_value"
        raise InvalidRequestError(f"'seed' must be from -{SEED_MAX} to {SEED_MAX}", param="seed", code=code)
    return value


def _format(asked: str | None) -> Format:
    """Refuse what would come out as PNG, rather than say nothing."""
    match asked:
        case None:
            return "png"
        case "png" | "jpeg" | "webp":
            return asked
        case _:
            raise InvalidRequestError(
                f"the sandbox paints {join(get_args(Format))}, not {quote(asked)}",
                param="output_format",
                type="image_generation_user_error",
            )


def _resolved(request: GenerationRequest, spec: ModelSpec, seed: int) -> Job:
    """Choose what the request leaves open; nothing stays `auto`."""
    size = request.size if request.size not in (None, "auto") else "1024x1024"
    quality = request.quality if request.quality not in (None, "auto") else "medium" if spec.backgrounds else "standard"
    background = request.background if request.background not in (None, "auto") else "opaque"
    output_format = _format(request.output_format)
    width, height = map(int, size.split("x"))
    order = Order(
        prompt=request.prompt,
        seed=seed,
        width=width,
        height=height,
        quality=quality,
        transparent=background == "transparent",
        output_format=output_format,
        compression=100 if request.output_compression is None else request.output_compression,
    )
    orders = tuple(replace(order, seed=seed + i) for i in range(request.n or 1))
    return Job(
        request=request,
        spec=spec,
        orders=orders,
        size=size,
        quality=quality,
        background=background,
        output_format=output_format,
    )


_KNOWN: Final = frozenset(GenerationRequest.__struct_fields__) - {"extra"} | {"seed"}
