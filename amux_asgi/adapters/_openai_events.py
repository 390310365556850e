"""What a server says in a stream that speaks OpenAI's dialect, or Seedream's, which is the same but for its words.

Source: https://platform.openai.com/docs/api-reference/images-streaming, https://www.volcengine.com/docs/82379/1824137
"""

from typing import Final

from msgspec import Raw

from amux_asgi.errors import GatewayError, UpstreamBadResponseError
from amux_asgi.faults import Fault, failure, fault_of
from amux_asgi.schema import BAD_JSON, NOTHING, fields_of, finished, preview
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
    kind = bytes(fields.get("type", NOTHING)).strip(b'"').decode() or event.name
    match kind.rpartition(".")[2]:
        case "partial_image":
            return preview(fields)
        case "partial_succeeded":
            return finished(fields)
        case "partial_failed":
            return _failure(event.data)
        case "completed" if "b64_json" in fields or "url" in fields:
            return finished(fields)
        case "error":
            raise _failure(event.data)
        case _ if "error" in fields and bytes(fields["error"]) != b"null":
            raise _failure(event.data)
        case _:
            return None


def _failure(data: bytes) -> GatewayError:
    """Say what an error means; it may stand below `error`, or be the event itself."""
    return failure(UNSAID, fault_of(data) or fault_of(b'{"error":%s}' % data) or Fault(), {})


_ENDS: Final = (b"", b"[DONE]")
