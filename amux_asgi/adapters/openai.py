"""OpenAI's own dialect, for OpenAI and for every server that speaks it.

Source: https://platform.openai.com/docs/api-reference/images/create
"""

from functools import partial
from typing import Final

from msgspec import Raw
from msgspec.structs import replace

from amux_asgi.adapters._base import Adapter
from amux_asgi.adapters._openai_events import UNSAID, hear
from amux_asgi.errors import GatewayError, ModelNotFoundError, UpstreamBadResponseError
from amux_asgi.faults import failure, fault_of
from amux_asgi.schema import BAD_JSON, FIELDS, GenerationRequest, ImagesResponse, Json, images_response
from amux_asgi.wire import Flow, Target, post, read_fields


def generate(target: Target, request: GenerationRequest, **always: Json) -> Flow:
    """Ask once; `always` is sent with every ask, whatever the client says."""
    try:
        said: Json = replace(request, model=target.model)  # is written as `order` says it, in a fifth of the time
        if request.extra or always:
            said = order(target, request) | always
        answer = yield post(f"{target.base_url}/images/generations", said)
        return pictures(read_fields(answer), answer.body)
    except GatewayError as error:
        raise refined(error) from error


def order(target: Target, request: GenerationRequest) -> dict[str, Json]:
    """Write what the client said, other fields than OpenAI's as they came, and the upstream's name of the model."""
    said = {name: value for name in _IN_ORDER if (value := getattr(request, name)) is not None}
    return {**request.extra, **said, "model": target.model}


def pictures(fields: dict[str, Raw], body: bytes) -> ImagesResponse:
    """Read the pictures in a body that has these fields; an error object in a 200 is an error."""
    if "error" in fields and (fault := fault_of(body)) is not None:
        raise failure(UNSAID, fault, {})
    try:
        if not body.isascii():
            body.decode()  # pictures are handed on undecoded, so nobody else would notice
        return images_response(fields, body)
    except BAD_JSON as exc:
        raise UpstreamBadResponseError("the upstream answered without a picture") from exc


def refined(error: GatewayError) -> GatewayError:
    """Tell OpenAI's 400 for a model that does not exist from other faults: another channel may know the model."""
    if error.param == "model" and error.upstream_code in _NO_MODEL:
        return ModelNotFoundError(
            "the upstream does not know this model", param="model", upstream_code=error.upstream_code
        )
    return error


_IN_ORDER: Final = tuple(name for name in GenerationRequest.__struct_fields__ if name in FIELDS)
_NO_MODEL: Final = frozenset({"invalid_value", "model_not_found"})

OPENAI: Final = Adapter(
    name="openai",
    base_url="https://api.openai.com/v1",
    generate=generate,
    hear=hear,
    closed=True,
)
COMPATIBLE: Final = Adapter(name="openai-compatible", generate=generate, hear=hear, needs_credential=False)
"""Any server that speaks the dialect and keeps to it: another gateway, a relay, a host of one's own."""

SANDBOX: Final = Adapter(
    name="sandbox",
    staged=True,
    base_url="asgi://amux_asgi.sandbox.app/v1",
    generate=generate,
    hear=hear,
    needs_credential=False,
    fields=frozenset({"seed"}),
    closed=True,
)
"""The painter in this process; as strict as OpenAI."""

RECRAFT: Final = Adapter(
    name="recraft",
    base_url="https://external.api.recraft.ai/v1",
    generate=generate,
    fields=frozenset({"controls", "negative_prompt", "style_id", "substyle"}),
    max_images=6,
)
"""Source: https://www.recraft.ai/docs/api-reference"""

MINIMAX_H3: Final = Adapter(
    name="minimax-h3",
    base_url="https://api.minimax.io/v1",
    generate=generate,
    hear=hear,
    fields=frozenset({"area", "aspect_ratio", "disable_prompt_enhanced"}),
)
"""Source: https://platform.minimax.io/docs/api-reference"""

QIANFAN: Final = Adapter(
    name="qianfan",
    base_url="https://qianfan.baidubce.com/v2",
    generate=generate,
    fields=frozenset({"guidance", "negative_prompt", "prompt_extend", "refer_image", "seed", "steps", "watermark"}),
    ignores=frozenset({"quality", "style"}),
    forms=("url",),
    max_images=4,
)
"""Source: https://cloud.baidu.com/doc/qianfan-api"""

LOCALAI: Final = Adapter(
    name="localai",
    generate=generate,
    needs_credential=False,
    fields=frozenset({"file", "files", "mode", "ref_images", "step"}),
)
"""Source: mudler/LocalAI core/http/endpoints/openai/image.go"""

_DIFFUSION: Final = frozenset({"guidance_scale", "negative_prompt", "num_inference_steps", "seed"})

SGLANG: Final = Adapter(
    name="sglang",
    generate=partial(generate, response_format="b64_json"),  # its default, `url`, needs a cloud store
    needs_credential=False,
    fields=_DIFFUSION,
    forms=("b64_json",),
)
"""Source: sgl-project/sglang python/sglang/multimodal_gen/runtime/entrypoints/openai"""

VLLM_OMNI: Final = Adapter(
    name="vllm-omni",
    generate=partial(generate, response_format="b64_json"),  # it refuses `url`
    needs_credential=False,
    fields=_DIFFUSION | {"layers", "lora", "true_cfg_scale"},
    forms=("b64_json",),
    closed=True,
)
"""Source: vllm-project/vllm-omni entrypoints/openai/protocol/images.py"""

ROWS: Final = (OPENAI, COMPATIBLE, SANDBOX, RECRAFT, MINIMAX_H3, QIANFAN, LOCALAI, SGLANG, VLLM_OMNI)
