"""Zhipu: BigModel on the mainland and Z.ai elsewhere, one dialect; their keys are not interchangeable.

Source: https://docs.z.ai/api-reference/image/generate-image, .../generate-image-async
"""

from collections.abc import Mapping
from typing import Final, Literal
from urllib.parse import quote

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace

from amux_asgi.adapters import openai
from amux_asgi.adapters._base import Adapter
from amux_asgi.adapters.zhipu_faults import failed, heard, lost, refined
from amux_asgi.adapters.zhipu_fit import FIELDS, fit
from amux_asgi.catalogue.zhipu import RULES
from amux_asgi.errors import GatewayError
from amux_asgi.schema import BAD_JSON, NOTHING, GenerationRequest, ImagesResponse, Json
from amux_asgi.wire import Flow, Target, get, poll, post

FIRST: Final = 2.0  # seconds until the first question; a picture of a slow model takes about twenty
LONGEST: Final = 5.0  # seconds between two questions
URL_LIFE: Final = 30 * 86_400  # seconds
_LAST: Final = ("SUCCESS", "FAIL")


class Options(Struct, frozen=True, kw_only=True):
    """How a channel asks: `auto` orders pictures of slow models and asks until they are there.

    `sync` waits for the answer to the one ask; `async` orders from models that the catalogue does not know, too.
    """

    mode: Literal["auto", "sync", "async"] = "auto"


class Ticket(Struct, frozen=True):
    """What an order is answered with."""

    id: str


def generate(target: Target, request: GenerationRequest) -> Flow:
    """Ask for one picture, and wait for it or ask again."""
    try:
        return (yield from (_ordered if _is_slow(target) else _at_once)(target, order(target, request)))
    except GatewayError as error:
        raise refined(error, named="request_id" in request.extra) from error


def order(target: Target, request: GenerationRequest) -> dict[str, Json]:
    """Write the ask. Every ask of a request has its own `request_id`: the vendor refuses one that it has seen."""
    said = {"model": target.model.lower(), "prompt": request.prompt, "size": request.size, "quality": request.quality}
    told = dict(request.extra)
    if target.offset and "request_id" in told:
        told["request_id"] = f"{msgspec.json.decode(told['request_id'], type=str)}-{target.offset}"
    return {**told, **{name: value for name, value in said.items() if value is not None}}


def _at_once(target: Target, body: Json) -> Flow:
    answer = yield post(f"{target.base_url}/images/generations", body)
    return openai.pictures(heard(dict[str, Raw], answer), answer.body)


def _ordered(target: Target, body: Json) -> Flow:
    ticket = heard(Ticket, (yield post(f"{target.base_url}/async/images/generations", body)))
    task = yield from poll(
        dict[str, Raw],
        get(f"{target.base_url}/async-result/{quote(ticket.id, safe='')}"),
        until=_is_over,
        first=FIRST,
        every=FIRST,
        longest=LONGEST,
    )
    match _status(task):
        case "SUCCESS":
            return _pictures(task)
        case "FAIL":
            raise failed(msgspec.json.encode(task))
        case _:
            raise lost(msgspec.json.encode(task))


def _pictures(task: Mapping[str, Raw]) -> ImagesResponse:
    fields = {name: value for name, value in task.items() if name not in _OF_THE_TASK}
    fields["data"] = task.get("image_result", NOTHING)
    return openai.pictures(fields, msgspec.json.encode(fields))


def _is_slow(target: Target) -> bool:
    options: Options = target.options or Options()
    rules = RULES.get((target.rules or target.model).lower())
    return options.mode != "sync" and (options.mode == "async" if rules is None else rules.slow)


def _is_over(task: Mapping[str, Raw]) -> bool:
    """Tell whether nothing more will happen: an unknown state is work that goes on, an error without one is not."""
    status = _status(task)
    return status in _LAST or (not status and "error" in task)


def _status(task: Mapping[str, Raw]) -> str:
    try:
        return msgspec.json.decode(task.get("task_status", NOTHING), type=str)
    except BAD_JSON:
        return ""


_OF_THE_TASK: Final = frozenset({"image_result", "model", "task_status"})

ZHIPU: Final = Adapter(
    name="zhipu",
    base_url="https://open.bigmodel.cn/api/paas/v4",
    generate=generate,
    fit=fit,
    options=Options,
    fields=FIELDS,
    ignores=frozenset(
        {
            "background",
            "complexity",
            "frame_count",
            "frame_duration_ms",
            "moderation",
            "output_compression",
            "output_format",
            "safety_identifier",
            "style",
            "svg",
        }
    ),
    closed=True,
    max_images=1,
    forms=("url",),
    url_life=URL_LIFE,
)
ZAI: Final = replace(ZHIPU, name="zai", base_url="https://api.z.ai/api/paas/v4")

ROWS: Final = (ZHIPU, ZAI)
