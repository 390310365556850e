"""Aliyun DashScope (Model Studio): Qwen-Image, Wan and Z-Image.

A model answers at once, or takes the order as a task that is asked for until it is done.
Source: help.aliyun.com/zh/model-studio/{qwen-image-api, text-to-image-v2-api-reference,
wan-image-generation-api-reference, z-image-api-reference}, autumn 2026.
"""

from collections.abc import Generator, Mapping
from typing import Annotated, Final
from urllib.parse import quote

from msgspec import Meta, Struct

from amux_asgi.adapters._base import Adapter
from amux_asgi.adapters.dashscope_answers import ENDED, Answer, Output, pictures
from amux_asgi.adapters.dashscope_faults import IN_BAND, WRONG_MODE, plain, refused, told
from amux_asgi.adapters.dashscope_orders import order
from amux_asgi.adapters.dashscope_rules import FIELDS, OBJECTS, fit
from amux_asgi.catalogue.dashscope import Route, rules_of
from amux_asgi.errors import GatewayError
from amux_asgi.schema import FIELDS as OPENAI_FIELDS
from amux_asgi.schema import GenerationRequest
from amux_asgi.wire import Flow, Headers, HttpRequest, HttpResponse, Target, get, poll, post, read

FIRST: Final = 2.0  # seconds until a task is asked for
EVERY: Final = 3.0  # seconds between two questions, in the beginning
LONGEST: Final = 10.0  # seconds, at last: an account may ask 20 times a second
DAY: Final = 86_400  # seconds that a picture's URL lives

API: Final = "/api/v1"  # behind the host; a base URL may have it or not
PATHS: Final[Mapping[Route, str]] = {
    "sync": "multimodal-generation/generation",
    "async": "image-generation/generation",
    "async-old": "text2image/image-synthesis",
}
OTHER: Final[Mapping[Route, Route]] = {"sync": "async", "async": "sync", "async-old": "sync"}


class Options(Struct, frozen=True, forbid_unknown_fields=True):
    """What a channel may say: how its models are asked, if the catalogue does not know it, and from which workspace."""

    route: Route | None = None
    workspace: Annotated[str, Meta(pattern=r"\A[!-~]+\Z")] | None = None


def generate(target: Target, request: GenerationRequest) -> Flow:
    """Ask as the model is asked; if it is not asked like that, once as it may be instead."""
    first, second = _routes(target)
    try:
        output = yield from _ordered(target, request, first)
    except GatewayError as error:
        if plain(error.upstream_code or "") != WRONG_MODE:
            raise
        output = yield from _ordered(target, request, second)
    if output.task_id and output.task_status not in ENDED:
        output = yield from _awaited(target, output.task_id)
    return pictures(output)


def _ordered(target: Target, request: GenerationRequest, route: Route) -> Generator[HttpRequest, HttpResponse, Output]:
    """Ask for pictures, or for a task that will make them."""
    headers = _headers(target) if route == "sync" else (("x-dashscope-async", "enable"), *_headers(target))
    response = yield post(f"{_root(target)}/services/aigc/{PATHS[route]}", order(target, request, route), headers)
    if response.status != IN_BAND:
        raise refused(response.status, told(response.body), response.headers)
    return read(Answer, response).result()


def _awaited(target: Target, task: str) -> Generator[HttpRequest, HttpResponse, Output]:
    """Ask for a task until it has ended; one that has not begun when the time is over is called off."""
    url = f"{_root(target)}/tasks/{quote(task, safe='')}"
    cancel = post(f"{url}/cancel", {}, _headers(target))
    answer = yield from poll(
        Answer,
        get(url, _headers(target)),
        until=lambda answer: answer.result().task_status in ENDED,
        first=FIRST,
        every=EVERY,
        longest=LONGEST,
        cancel=cancel,
        agreed=lambda answer: not answer.result().code,
    )
    return answer.result()


def _routes(target: Target) -> tuple[Route, Route]:
    """Give the route to ask by, and the one for a model that is not asked like that."""
    known = rules_of(target.rules or target.model).routes
    first = _options(target).route or known[0]
    others: list[Route] = [route for route in known if (route == "sync") != (first == "sync")]
    return first, others[0] if others else OTHER[first]


def _options(target: Target) -> Options:
    return target.options or Options()


def _root(target: Target) -> str:
    return f"{target.base_url.removesuffix(API)}{API}"


def _headers(target: Target) -> Headers:
    workspace = _options(target).workspace
    return () if workspace is None else (("x-dashscope-workspace", workspace),)


DASHSCOPE: Final = Adapter(
    name="dashscope",
    base_url="https://dashscope-intl.aliyuncs.com",
    generate=generate,
    fit=fit,
    fields=frozenset(FIELDS).union(OBJECTS),
    objects=OBJECTS,
    ignores=OPENAI_FIELDS - {"prompt", "model", "n", "size", "quality", "response_format", "stream", "partial_images"},
    closed=True,
    options=Options,
    forms=("url",),
    url_life=DAY,
)
ROWS: Final = (DASHSCOPE,)
