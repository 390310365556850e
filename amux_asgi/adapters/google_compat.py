"""Google's interface for clients of OpenAI: few models and fewer fields; `gemini` says more.

Source: https://ai.google.dev/gemini-api/docs/openai
"""

import re
from typing import Final

import msgspec
from msgspec import Raw
from msgspec.structs import replace

from amux_asgi.adapters._base import Adapter, Fitted, pixels_of
from amux_asgi.adapters._gemini_fit import Shape, rules_of, shape_of, size_changes
from amux_asgi.adapters._google import kind_of, opened
from amux_asgi.catalogue import google
from amux_asgi.errors import ContentPolicyError, UpstreamBadResponseError
from amux_asgi.schema import BAD_JSON, FIELDS, NOTHING, GenerationRequest, ImagesResponse, Json, images_response
from amux_asgi.wire import Flow, Target, post


def fit(model: str, request: GenerationRequest) -> Fitted:
    """Fit a request: the models make their smallest tier here, in the shape that is asked for.

    Afterwards `size` is the tier, and the size that is written stands in `extra`.

    Raises:
        InvalidRequestError: the size is none.
    """
    rules = rules_of(model)
    ratio = shape_of(request.size, rules).ratio
    got = Shape(ratio, "1K")
    changes = size_changes(request.size, got, rules)
    extra = dict(request.extra)
    if ratio is not None:
        size = request.size if pixels_of(request.size or "") else google.pixels(model, ratio, "1K")
        extra["size"] = Raw(msgspec.json.encode(size))
    return Fitted(request=replace(request, size="1K", extra=extra), changes=tuple(changes), per_ask=1)


def generate(target: Target, request: GenerationRequest) -> Flow:
    """Ask for one picture."""
    answer = yield post(f"{target.base_url}/images/generations", order(target, request))
    return pictures(opened(answer, request.extra), answer.body)


def order(target: Target, request: GenerationRequest) -> dict[str, Json]:
    """Write what was fitted; other fields than OpenAI's stand as they came."""
    said = {"model": target.model, "prompt": request.prompt, "n": 1, "response_format": "b64_json"}
    return {**request.extra, **said}


def pictures(fields: dict[str, Raw], body: bytes) -> ImagesResponse:
    """Read the picture.

    Raises:
        GatewayError: there is none; an empty list is how this interface withholds one.
    """
    if _EMPTY.fullmatch(memoryview(fields.get("data", NOTHING))):
        raise ContentPolicyError("the upstream's content policy withheld the picture")
    try:
        if not body.isascii():
            body.decode()  # pictures are handed on undecoded, so nobody else would notice
        answer = images_response(fields, body)
    except BAD_JSON as exc:
        raise UpstreamBadResponseError("the upstream answered without a picture") from exc
    kind = kind_of(answer.data[0].b64_json)
    told = {} if kind is None else {"output_format": Raw(msgspec.json.encode(kind))}
    return replace(answer, extra=answer.extra | told)


_EMPTY: Final = re.compile(rb"\[\s*\]")
SAID: Final = frozenset({"prompt", "model", "n", "size", "response_format", "partial_images", "stream"})

COMPAT: Final = Adapter(
    name="google-openai",
    base_url="https://generativelanguage.googleapis.com/v1beta/openai",
    generate=generate,
    fit=fit,
    ignores=FIELDS - SAID,
    closed=True,
    forms=("b64_json",),
)
ROWS: Final = (COMPAT,)
