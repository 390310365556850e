"""The upstream's canned answers, in OpenAI's wire format."""

import base64
import random
from collections.abc import Iterator
from typing import Final

import msgspec

from benchmarks.peers.cells import Body

HOW: Final = {"size": "1024x1024", "quality": "low", "background": "opaque", "output_format": "png"}
USAGE: Final = {
    "input_tokens": 22,
    "input_tokens_details": {"image_tokens": 0, "text_tokens": 22},
    "output_tokens": 272,
    "total_tokens": 294,
}
CREATED: Final = 1_781_048_048


def answer(body: Body) -> bytes:
    """Give the whole answer to a request that is no stream."""
    if body.url:
        return msgspec.json.encode({"created": CREATED, "data": [{"url": body.url}]})
    data = [{"b64_json": picture} for picture in _pictures(body)]
    return msgspec.json.encode({"created": CREATED, "data": data, **HOW, "usage": USAGE})


def events(body: Body) -> list[bytes]:
    """Give the events of a stream: partial images, then the picture itself."""
    *partial, last = _pictures(body)
    told = [
        _event("partial_image", {"partial_image_index": i, "b64_json": picture}) for i, picture in enumerate(partial)
    ]
    return [*told, _event("completed", {"b64_json": last, "usage": USAGE})]


def _event(name: str, fields: dict[str, object]) -> bytes:
    kind = f"image_generation.{name}"
    data = msgspec.json.encode({"type": kind, "created_at": CREATED, **fields, **HOW})
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), data)


def _pictures(body: Body) -> Iterator[str]:
    chance = random.Random(1)  # noqa: S311, noise that is the same in every run
    for size in body.sizes:
        yield base64.b64encode(chance.randbytes(size * 3 // 4)).decode()
