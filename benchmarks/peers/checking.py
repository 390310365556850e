"""Whether a contestant does the work at all: one request, whose answer is looked at."""

import urllib.request
from http.client import HTTPException
from typing import Final
from urllib.error import HTTPError

import msgspec
from msgspec import Struct

from benchmarks.peers.cells import Body
from benchmarks.peers.contestants import Ask

PATIENCE: Final = 60  # seconds
LONGEST: Final = 160  # bytes of what a contestant says of its failure


class Picture(Struct):
    """One of an answer."""

    b64_json: str | None = None
    url: str | None = None


class Answer(Struct):
    """What is looked at of an answer."""

    data: list[Picture]


def fault(ask: Ask, body: Body) -> str | None:
    """Say why this is not the work; `None` if it is."""
    first = ask.keys.open().readline().strip() if ask.keys else None
    headers = {**ask.headers, **({"authorization": f"Bearer {first}"} if first else {})}
    headers["content-type"] = "application/json"
    request = urllib.request.Request(ask.url, ask.body.encode(), headers)  # noqa: S310, on this machine
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:  # noqa: S310
            said = answer.read()
            kind = answer.headers.get_content_type()
    except HTTPError as exc:
        return f"it answers {exc.code}, {exc.read(LONGEST).decode(errors='replace')}"
    except (OSError, HTTPException) as exc:
        return f"it answers {exc}"
    return wrong(kind, said, body)


def wrong(kind: str, said: bytes, body: Body) -> str | None:
    """Say what is wrong with an answer of a media type; `None` if it is what was asked for."""
    if body.stream:
        events = said.count(b'"type":"image_generation.')
        expected = len(body.sizes)
        if kind != "text/event-stream":
            return f"it answers {kind} where a stream was asked for"
        return None if events == expected else f"it sends {events} of {expected} events"
    try:
        data = msgspec.json.decode(said, type=Answer).data
    except msgspec.DecodeError as exc:
        return f"its answer is no answer: {exc}"
    if body.url:
        return None if data and data[0].url else "it gives no URL"
    sizes = tuple(len(picture.b64_json or "") for picture in data)
    return None if all(sizes) and len(sizes) == len(body.sizes) else f"it gives {len(sizes)} pictures"
