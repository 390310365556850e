"""Write what DashScope is asked for, in the form of each of its addresses."""

from collections.abc import Mapping

import msgspec
from msgspec import Raw

from amux_asgi.adapters.dashscope_rules import OBJECTS, SEEDS
from amux_asgi.catalogue.dashscope import Route, Rules, rules_of
from amux_asgi.schema import GenerationRequest, Json
from amux_asgi.wire import Target


def order(target: Target, request: GenerationRequest, route: Route) -> dict[str, Json]:
    """Write the body; what the client says in the vendor's own objects stands above the rest."""
    said = dict(request.extra)
    above: dict[str, dict[str, Json]] = {name: msgspec.json.decode(said.pop(name, b"{}")) for name in OBJECTS}
    if route == "async-old":
        negative = {name: said.pop(name) for name in ("negative_prompt",) if name in said}
        asked: dict[str, Json] = {"prompt": request.prompt, **negative}
    else:
        asked = {"messages": [{"role": "user", "content": [{"text": request.prompt}]}]}
    return {
        "model": target.model,
        "input": asked | above["input"],
        "parameters": _counted(request, rules_of(target.rules or target.model))
        | said
        | _seeded(said, target.offset)
        | above["parameters"],
    }


def _counted(request: GenerationRequest, rules: Rules) -> dict[str, Json]:
    count = {"n": request.n or 1} if rules.says_n else {}
    return count if request.size is None else {**count, "size": request.size.replace("x", "*")}


def _seeded(said: Mapping[str, Raw], offset: int) -> dict[str, int]:
    """Go on where the other asks for the same request end: `n` pictures have `n` seeds in a row."""
    return {"seed": (msgspec.json.decode(said["seed"], type=int) + offset) % SEEDS} if "seed" in said else {}
