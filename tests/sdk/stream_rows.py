"""What may stand on the wire of a stream, and what OpenAI's SDKs make of it; served row by row."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec
from msgspec import Raw, Struct
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from amux_asgi.sse import HEARTBEAT, frame

PYTHON: Final = ("openai>=1.109,<2", "openai>=2.40,<3", "openai>=3.54,<4")
NODE: Final = ("openai@5", "openai@6", "openai@7")
Fields = dict[str, Any]


class Seen(Struct, frozen=True):
    """What a client sees: events, and the error they end in."""

    events: tuple[Any, ...] = ()
    error: str | None = None  # the exception's name
    fault: Fields | None = None  # what it tells, if it is one of the SDK's own


class Row(Struct, frozen=True):
    """Bytes on the wire, and what each version sees. They come in pieces of `size` bytes."""

    wire: bytes
    seen: Mapping[str, Seen]
    size: int = 2**16
    kind: str = "text/event-stream"
    status: int = 200
    stream: bool = True  # as the client asked


def event(fields: Any, *, name: str = "", end: str = "\n") -> bytes:
    """Write an event as vendors do; without a name there is no line for it."""
    lines = [f"event: {name}"] * bool(name) + [f"data: {msgspec.json.encode(fields).decode()}", ""]
    return "".join(line + end for line in lines).encode()


def fault(**said: Any) -> Fields:
    return {"message": None, "type": None, "param": None, "code": None, "status": None, **said}


def each(python: Seen, node: Seen | None = None, *, newest: Seen | None = None) -> dict[str, Seen]:
    """Say what each version sees; `newest` is Node's."""
    node = node or python
    return dict.fromkeys(PYTHON, python) | dict.fromkeys(NODE, node) | {NODE[-1]: newest or node}


FAULT: Final[Fields] = {
    "type": "image_generation_server_error",
    "code": "image_generation_failed",
    "message": "it \u2028 failed\n\n",
    "param": None,
}
FAILED: Final[Fields] = {"type": "error", "error": FAULT}
FLAT: Final[Fields] = {"type": "error", "message": "it failed", "code": "image_generation_failed", "param": None}
COMPLETED: Final[Fields] = {
    "type": "image_generation.completed",
    "b64_json": "aGk=",
    "created_at": 1761112880,
    "size": "1024x1024",
    "quality": "high",
    "background": "opaque",
    "output_format": "png",
    "usage": {
        "total_tokens": 4467,
        "input_tokens": 7,
        "output_tokens": 4460,
        "input_tokens_details": {"text_tokens": 7, "image_tokens": 0},
    },
}
PARTIAL: Final[Fields] = {
    **{name: value for name, value in COMPLETED.items() if name != "usage"},
    "type": "image_generation.partial_image",
    "partial_image_index": 0,
}
ODD: Final[Fields] = {**COMPLETED, "size": "\n\ndata: {}\r\r\u2028event: error\u2029\x85\x0b \u2019中"}
ONE: Final = event(PARTIAL, name=PARTIAL["type"])
BOTH: Final = ONE + event(COMPLETED, name=COMPLETED["type"])
RETURNS: Final = event(PARTIAL, name=PARTIAL["type"], end="\r") + event(COMPLETED, name=COMPLETED["type"], end="\r")
OURS: Final = bytes(HEARTBEAT + frame(PARTIAL["type"], PARTIAL) + HEARTBEAT)
ENDED: Final = OURS + frame(COMPLETED["type"], {**COMPLETED, "b64_json": Raw(b'"aGk="')})
PRETTY: Final = {**ODD, "usage": Raw(msgspec.json.format(msgspec.json.encode(ODD["usage"])).replace(b"\n", b"\r\n"))}

ALL: Final = Seen((PARTIAL, COMPLETED))
HALF: Final = Seen((PARTIAL,))
UNREADABLE: Final = (Seen((PARTIAL,), "JSONDecodeError"), Seen((PARTIAL,), "SyntaxError"))
RAISED: Final = Seen((PARTIAL,), "APIError", fault(**FAULT))
MISSED: Final = Seen((PARTIAL, FLAT))
GENERIC: Final = Seen((PARTIAL,), "APIError", fault(message="An error occurred during streaming"))
TEXT: Final = Seen((PARTIAL,), "APIError", fault(message='"text"'))

ROWS: Final[dict[str, Row]] = {
    "lines that end in LF": Row(BOTH, each(ALL), size=7),
    "lines that end in CRLF": Row(BOTH.replace(b"\n", b"\r\n"), each(ALL), size=1),
    "lines that end in CR": Row(RETURNS, each(ALL), size=7),
    "no names": Row(event(PARTIAL) + event(COMPLETED), each(ALL)),
    "a mark of the end": Row(BOTH + b"data: [DONE]\n\n", each(ALL)),
    "more than a mark of the end": Row(BOTH + b"data: [DONE]!\n\n", each(ALL, newest=Seen(ALL.events, "SyntaxError"))),
    "comments": Row(b": a\n\n" + ONE + b":\n\n: b\n" + BOTH[len(ONE) :], each(ALL)),
    "a name without data": Row(ONE + b"event: ping\n\n" + BOTH, each(*UNREADABLE)),
    "a name with empty data": Row(ONE + b"event: ping\ndata: {}\n\n", each(Seen((PARTIAL, {})))),
    "a time to wait": Row(ONE + b"retry: 3000\n\n", each(UNREADABLE[0], HALF)),
    "an id and one more blank line": Row(b"id: 1\n" + ONE + b"\n", each(UNREADABLE[0], HALF)),
    "no blank line at the end": Row(BOTH[:-1], each(HALF, newest=ALL)),
    "an error": Row(ONE + event(FAILED, name="error"), each(RAISED)),
    "an error without a name": Row(ONE + event(FAILED), each(RAISED)),
    "an error without its object": Row(
        ONE + event(FLAT, name="error"), each(MISSED, newest=Seen((PARTIAL,), "APIError", fault(**FLAT)))
    ),
    "an error that is a text": Row(ONE + event({"error": "text"}), each(GENERIC, TEXT)),
    "no completed picture": Row(ONE, each(HALF)),
    "nothing": Row(b"", each(Seen())),
    "JSON in place of a stream": Row(b'{"created":1,"data":[]}', each(Seen()), kind="application/json"),
    "a stream in place of JSON": Row(BOTH, each(Seen((BOTH.decode(),))), stream=False),
    "an error before the stream": Row(
        msgspec.json.encode({"error": FAULT}),
        each(Seen((), "BadRequestError", fault(**{**FAULT, "status": 400}))),
        kind="application/json",
        status=400,
    ),
    "our events": Row(ENDED + HEARTBEAT, each(ALL)),
    "our events in small pieces": Row(ENDED, each(ALL), size=7),
    "our error": Row(OURS + frame("error", FAILED), each(RAISED)),
    "our events with odd texts": Row(OURS + frame("x", PRETTY), each(Seen((PARTIAL, ODD)))),
}


async def answer(request: Request) -> StreamingResponse:
    """Answer with the row whose number the path begins with."""
    row = list(ROWS.values())[int(request.path_params["row"])]
    return StreamingResponse(pieces(row), row.status, media_type=row.kind)


def pieces(row: Row) -> Iterator[bytes]:
    return (row.wire[at : at + row.size] for at in range(0, len(row.wire), row.size))


app: Final = Starlette(routes=[Route("/{row}/images/generations", answer, methods=["POST"])])
