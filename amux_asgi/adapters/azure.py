"""Azure OpenAI: OpenAI's dialect by deployment, on its v1 route and on the older route by deployment.

Source: https://learn.microsoft.com/azure/ai-foundry/openai/reference, .../concepts/content-filter, 2026-11
"""

import re
from collections.abc import Mapping
from functools import partial
from typing import Final
from urllib.parse import quote

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from amux_asgi.adapters import openai
from amux_asgi.adapters._base import Adapter, Fitted, bearer, header
from amux_asgi.adapters._openai_events import hear
from amux_asgi.catalogue.openai import ROWS as MODELS
from amux_asgi.errors import ContentPolicyError, GatewayError
from amux_asgi.faults import BLOCKED, Verdict, failure, fault_of, judged
from amux_asgi.schema import GenerationRequest, Json, fields_of
from amux_asgi.spec import ModelSpec
from amux_asgi.wire import Flow, HttpRequest, HttpResponse, Target, post, read_fields
from amux_asgi.words import as_object

API_VERSION: Final = "2025-04-01-preview"  # the first that makes gpt-image's pictures
V1: Final = "/openai/v1"
_OK: Final = 200
_VIOLATION: Final = "ResponsibleAIPolicyViolation"


class Options(Struct, frozen=True, kw_only=True):
    """A channel's options: without `api_version` the v1 route is asked for none, the older one for `API_VERSION`."""

    api_version: str | None = None


def sign(request: HttpRequest, credential: str) -> tuple[tuple[str, str], ...]:
    """Show an API key, or a token of Entra's: a JSON Web Token, which begins like any."""
    return (bearer if credential.startswith("eyJ") else _api_key)(request, credential)


def widened(spec: ModelSpec) -> ModelSpec:
    """Take the other family's words for quality too, and as many pictures as there may be: we say them otherwise."""
    qualities = tuple(dict.fromkeys((*spec.qualities, *_words(spec))))
    return replace(spec, qualities=qualities, n_max=10)


def fit(model: str, request: GenerationRequest) -> Fitted:
    """Say a request in the terms of the model's family; a deployment of an unknown model is taken for gpt-image."""
    spec = MODELS[model].spec if model in MODELS else None
    changes: list[str] = []
    if not _is_dalle(spec):
        changes += ["style: dropped"] if request.style is not None else []
        request = replace(request, response_format=None, style=None)
    quality = request.quality
    if quality is not None and quality in (words := _words(spec)):
        request = replace(request, quality=words[quality])
        changes += [f"quality: {quality} -> {words[quality]}"] if words[quality] is not None else []
    return Fitted(request=request, changes=tuple(changes), per_ask=1 if _is_dalle(spec) else 10)


def generate(target: Target, request: GenerationRequest, *, by_deployment: bool) -> Flow:
    """Ask once, at the resource's address however much of the path was said with it."""
    options: Options = target.options or Options()
    order = openai.order(target, request)
    place, version = target.base_url.removesuffix(V1).removesuffix("/openai"), options.api_version
    if by_deployment:
        del order["model"]  # the deployment knows it, and gpt-image refuses to be told
        place += f"/openai/deployments/{quote(target.model, safe='')}"
        version = version or API_VERSION
    else:
        place += V1
    query = f"?api-version={quote(version, safe='')}" if version else ""
    answer = yield post(f"{place}/images/generations{query}", order)
    if answer.status != _OK:
        raise openai.refined(refusal(answer))
    return openai.pictures(read_fields(answer), answer.body)


def refusal(answer: HttpResponse) -> GatewayError:
    """Say what a refusal means. Its code may be a bare number, and the reason may stand one level deeper."""
    fault = fault_of(answer.body)
    if fault is None:
        return failure(answer.status, None, answer.headers)
    inner = _inner(answer.body)
    if inner.get("code") == _VIOLATION and fault.code not in BLOCKED:
        fault = replace(fault, code="content_policy_violation")
    verdict = None if fault.code in BLOCKED else _verdict(answer.status, fault.code)
    error = failure(answer.status, fault, answer.headers) if verdict is None else judged(verdict, fault, answer.headers)
    if isinstance(error, ContentPolicyError) and (filtered := _filtered(inner)):
        error.message = f"{error.message.rstrip('.')} (filtered: {', '.join(filtered)})"
    if error.code == "invalid_request_error" or not _WORD.fullmatch(error.code):  # a type, a number or a class name
        error.code = type(error).code
    return error


def _verdict(status: int, code: str | None) -> Verdict | None:
    return _VERDICTS.get((status, code)) or _VERDICTS.get((status, None))


def _inner(body: bytes) -> Mapping[str, Json]:
    error = as_object(msgspec.json.decode(fields_of(body)["error"])) or {}
    return as_object(error.get("inner_error")) or as_object(error.get("innererror")) or {}


def _filtered(inner: Mapping[str, Json]) -> list[str]:
    """Name the categories that were filtered: they stand beside the message, never in it."""
    results = as_object(inner.get("content_filter_results")) or as_object(inner.get("content_filter_result")) or {}
    hit = (name for name, found in results.items() if (as_object(found) or {}).get("filtered") is True)
    return [name for name in hit if _WORD.fullmatch(name)]


def _is_dalle(spec: ModelSpec | None) -> bool:
    return spec is not None and "response_format" in spec.fields


def _words(spec: ModelSpec | None) -> Mapping[str, str | None]:
    return _DALLE_WORDS if _is_dalle(spec) else _GPT_WORDS


_api_key: Final = header("api-key")
_WORD: Final = re.compile(r"[a-z][a-z0-9_]{0,39}")
_GPT_WORDS: Final[Mapping[str, str | None]] = {"hd": "high", "standard": "medium"}
_DALLE_WORDS: Final[Mapping[str, str | None]] = {"high": "hd", "medium": "standard", "low": "standard", "auto": None}
_VERDICTS: Final[Mapping[tuple[int, str | None], Verdict]] = {
    (403, None): Verdict.DENIED,
    (404, "DeploymentNotFound"): Verdict.NO_MODEL,
    (404, "model_not_found"): Verdict.NO_MODEL,
    (404, None): Verdict.BROKEN,  # the address or the version that the operator configured is wrong
}

AZURE: Final = Adapter(
    name="azure",
    generate=partial(generate, by_deployment=False),
    hear=hear,
    sign=sign,
    spec=widened,
    fit=fit,
    ignores=frozenset({"safety_identifier"}),
    closed=True,
    options=Options,
    free_names=True,
    url_life=86_400,
)
DEPLOYMENT: Final = replace(AZURE, name="azure-deployment", generate=partial(generate, by_deployment=True))

ROWS: Final = (AZURE, DEPLOYMENT)
