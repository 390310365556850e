"""The vendor's own rules, written down a second time from its documents, so that a mistake in the catalogue shows."""

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from msgspec import Struct


class RefusedError(Exception):
    """The vendor's no: status, code, message."""


class Model(Struct, frozen=True, kw_only=True):
    """What a model takes: `most` pictures in one ask, `usual` of them if `n` is not said."""

    routes: frozenset[str]
    takes: frozenset[str]
    sizes: Callable[[int, int], bool]
    most: int = 1
    usual: int = 1
    tiers: frozenset[str] = frozenset()
    prompt: int = 32_000


FIVE: Final = frozenset({"1664*928", "1472*1104", "1328*1328", "1104*1472", "928*1664"})
RECOMMENDED: Final = frozenset({"1280*1280", "1104*1472", "1472*1104", "960*1696", "1696*960"})
SYNC: Final = frozenset({"sync"})
NEW: Final = frozenset({"sync", "async"})
OLD: Final = frozenset({"async-old"})
COMMON: Final = frozenset({"size", "seed", "watermark", "prompt_extend", "negative_prompt"})
OLD_WAN: Final = frozenset({"n", "size", "seed", "watermark", "prompt_extend"})
WAN_27: Final = frozenset(
    {"n", "size", "seed", "watermark", "thinking_mode", "enable_sequential", "color_palette", "bbox_list"}
)
BOOLEANS: Final = frozenset({"watermark", "prompt_extend", "enable_thinking", "thinking_mode", "enable_sequential"})
SIZE: Final = re.compile(r"([0-9]+)\*([0-9]+)")


def area(fewest: int, most: int, ratio: float) -> Callable[[int, int], bool]:
    """Bound width * height by two squares."""
    return lambda w, h: fewest**2 <= w * h <= most**2 and max(w, h) <= ratio * min(w, h)


def five(width: int, height: int) -> bool:
    return f"{width}*{height}" in FIVE


def wan_25(width: int, height: int) -> bool:
    return f"{width}*{height}" in RECOMMENDED or area(1280, 1440, 4)(width, height)


def wan_22(width: int, height: int) -> bool:
    return min(width, height) >= 512 and max(width, height) <= 1440


_QWEN_3: Final = Model(
    routes=NEW,
    most=6,
    takes=COMMON | {"n", "prompt_extend_mode", "enable_thinking"},
    sizes=area(512, 2048, 8),
)
_QWEN_2: Final = Model(routes=SYNC, most=6, takes=COMMON | {"n"}, sizes=area(512, 2048, 8))
_WAN_22: Final = Model(routes=OLD, most=4, usual=4, takes=OLD_WAN, sizes=wan_22, prompt=800)
MODELS: Final[Mapping[str, Model]] = {
    "qwen-image-3.0": _QWEN_3,
    "qwen-image-3.0-pro": _QWEN_3,
    "qwen-image-2.0": _QWEN_2,
    "qwen-image-2.0-pro-2026-06-22": _QWEN_2,
    "qwen-image-max": Model(routes=SYNC, takes=COMMON, sizes=five),
    "qwen-image-plus": Model(routes=SYNC | OLD, takes=COMMON, sizes=five),
    "z-image-turbo": Model(
        routes=SYNC, takes=frozenset({"size", "seed", "prompt_extend"}), sizes=area(512, 2048, 100), prompt=800
    ),
    "wan2.7-image": Model(
        routes=NEW, most=4, takes=WAN_27, sizes=area(768, 2048, 8), tiers=frozenset({"1K", "2K"}), prompt=5000
    ),
    "wan2.7-image-pro": Model(
        routes=NEW, most=4, takes=WAN_27, sizes=area(768, 4096, 8), tiers=frozenset({"1K", "2K", "4K"}), prompt=5000
    ),
    "wan2.6-t2i": Model(routes=NEW, most=4, usual=4, takes=COMMON | {"n"}, sizes=wan_25, prompt=2100),
    "wan2.5-t2i-preview": Model(routes=OLD, most=4, usual=4, takes=OLD_WAN, sizes=wan_25, prompt=2000),
    "wan2.2-t2i-flash": _WAN_22,
    "wanx2.1-t2i-plus": _WAN_22,
    "ep-0123": _WAN_22,  # a name that says nothing
    # Not in the catalogue: of a family that is asked otherwise, and of one that nobody knows yet.
    "qwen-image-2.9-async": Model(routes=frozenset({"async"}), most=6, takes=COMMON | {"n"}, sizes=area(512, 2048, 8)),
    "wan9-image": Model(routes=SYNC, most=4, usual=4, takes=WAN_27, sizes=area(512, 4096, 8)),
}


def check_mode(route: str, model: Model, headers: Mapping[str, str]) -> None:
    """Refuse a header, or the lack of it, that the address or the model does not go with."""
    asynchronous = headers.get("x-dashscope-async") == "enable"
    if asynchronous and (route == "sync" or model.routes == SYNC):
        raise RefusedError(403, "AccessDenied", "current user api does not support asynchronous calls.")
    if not asynchronous and (route != "sync" or route not in model.routes):
        raise RefusedError(403, "AccessDenied", "current user api does not support synchronous calls.")
    if route not in model.routes:
        raise _invalid("url error, please check url")


def check_body(route: str, model: Model, body: Mapping[str, Any]) -> str:
    """Hold a body to its model's rules, and give the prompt."""
    _only(body, {"model", "input", "parameters"}, "body")
    prompt = _prompt_of(route, body.get("input", {}))
    if not 0 < len(prompt) <= model.prompt:
        raise _invalid("prompt length")
    parameters = body.get("parameters", {})
    _only(parameters, model.takes, "parameters")
    _check_count(model, parameters)
    _check_size(model, parameters)
    if any(not isinstance(parameters[name], bool) for name in BOOLEANS & parameters.keys()):
        raise _invalid("a boolean is asked for")
    if "seed" in parameters and not _is_within(parameters["seed"], 0, 2**31 - 1):
        raise _invalid("seed is out of range")
    return prompt


def count_of(model: Model, parameters: Mapping[str, Any]) -> int:
    usual = 12 if parameters.get("enable_sequential") else model.usual
    return parameters.get("n", usual)


def _prompt_of(route: str, said: Mapping[str, Any]) -> str:
    if route == "async-old":
        _only(said, {"prompt", "negative_prompt"}, "input")
        return said["prompt"]
    _only(said, {"messages"}, "input")
    match said:
        case {"messages": [{"role": "user", "content": [{"text": str(prompt)}]}]}:
            return prompt
        case _:
            raise RefusedError(400, "BadRequest.IllegalInput", "one message with one text is asked for")


def _check_count(model: Model, parameters: Mapping[str, Any]) -> None:
    most = 12 if parameters.get("enable_sequential") else model.most
    if not _is_within(count_of(model, parameters), 1, most):
        raise _invalid(f"n must be from 1 to {most}")


def _check_size(model: Model, parameters: Mapping[str, Any]) -> None:
    size = parameters.get("size")
    if size is None or size in model.tiers:
        return
    match = SIZE.fullmatch(size)
    if not match or not model.sizes(int(match[1]), int(match[2])):
        raise _invalid(f"size {size} is not valid for this model")


def _only(fields: Mapping[str, Any], known: frozenset[str] | set[str], where: str) -> None:
    if unknown := fields.keys() - known:
        raise _invalid(f"unknown in {where}: {sorted(unknown)}")


def _is_within(value: object, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _invalid(message: str) -> RefusedError:
    return RefusedError(400, "InvalidParameter", message)
