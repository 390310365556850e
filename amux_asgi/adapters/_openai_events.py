"""What a server says in a stream that speaks OpenAI's dialect, or Seedream's, which is the same but for its words.

Source: https://platform.openai.com/docs/api-reference/images-streaming, https://www.volcengine.com/docs/82379/1824137
"""

from typing import Final

import msgspec
from msgspec import Raw

from amux_asgi.errors import GatewayError, UpstreamBadResponseError
from amux_asgi.faults import Fault, failure, fault_of
from amux_asgi.schema import BAD_JSON, NOTHING, Preview, fields_of, finished, preview
from amux_asgi.sse import ServerEvent
from amux_asgi.wire import Heard

UNSAID: Final = 500  # the status that an error inside a 200 stands for: the vendor's own failure


def hear(event: ServerEvent) -> Heard:
    """Read one event.

    OpenAI's `partial_image` is a preview, and `completed` holds the picture. Seedream's `partial_succeeded` is a
    finished picture, `partial_failed` one of several that will not come, and `completed` holds tokens, told too late.

    Raises:
        GatewayError: it says that the stream failed, or nothing that can be understood.
    """
    if event.data.strip() in _ENDS:
        return None
    try:
        return _read(event, fields_of(event.data))
    except BAD_JSON as exc:
        raise UpstreamBadResponseError("an event of the upstream's stream is not what its protocol promises") from exc


def _read(event: ServerEvent, fields: dict[str, Raw]) -> Heard:
    if not event.data.isascii():
        event.data.decode()  # pictures are handed on undecoded, so nobody else would notice
    error = fields.pop("error", _NULL)  # an empty one is none, and some SDKs would raise at it
    kind = bytes(fields.get("type", NOTHING)).strip(b'"').decode()
    match (event.name if kind in _UNSAID_KINDS else kind).rpartition(".")[2]:
        case "partial_failed":
            return _failure(event.data)
        case "error":
            raise _failure(event.data)
        case _ if msgspec.json.decode(error):
            raise _failure(event.data)
        case "partial_image":
            return _shown(fields)
        case "partial_succeeded":
            return finished(fields)
        case "completed" if "b64_json" in fields or "url" in fields:
            return finished(fields)
        case _:
            return None


def _shown(fields: dict[str, Raw]) -> Preview | None:
    """Read a preview; one that shows nothing is passed over, since the picture is paid for and may still come."""
    try:
        return preview(fields)
    except BAD_JSON:
        return None


def _failure(data: bytes) -> GatewayError:
    """Say what an error means; it may stand below `error`, or be the event itself."""
    return failure(UNSAID, fault_of(data) or fault_of(b'{"error":%s}' % data) or Fault(), {})


_ENDS: Final = (b"", b"[DONE]")
_NULL: Final = Raw(b"null")
_UNSAID_KINDS: Final = ("", "null")
