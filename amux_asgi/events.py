"""The events of a stream of pictures as clients get them: OpenAI's, with every field that it promises.

Source: openai/openai-openapi openapi.yaml, ImageGenPartialImageEvent and ImageGenCompletedEvent.
"""

import base64
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct

from amux_asgi.errors import GatewayError
from amux_asgi.fanout import divided
from amux_asgi.schema import (
    NOTHING,
    GenerationRequest,
    ImagesResponse,
    Json,
    Preview,
    TokensDetails,
    Usage,
    image_fields,
)
from amux_asgi.sse import frame

PREVIEW: Final = "image_generation.partial_image"
COMPLETED: Final = "image_generation.completed"
ERROR: Final = "error"


class Event(Struct, frozen=True):
    """One event, a preview or a finished picture; `frame` is what is sent of it."""

    type: str
    frame: bytearray

    def fields(self) -> dict[str, Any]:
        """Read it: `type`, `b64_json` (or `url`), `created_at`, `size`, `quality`, `background`, `output_format`.

        A preview has its `partial_image_index` besides, a finished picture its `usage`.
        """
        return msgspec.json.decode(memoryview(self.frame)[self.frame.index(b"{") :])

    def read(self) -> bytes:
        """Give the picture's bytes.

        Raises:
            ValueError: the picture is only there as a URL, or its base64 is broken.
        """
        fields = self.fields()
        if "b64_json" not in fields:
            raise ValueError("this picture is only there as a URL")
        return base64.b64decode(fields["b64_json"], validate=True)


def preview_event(preview: Preview, request: GenerationRequest, *, now: int) -> Event:
    """Tell how a picture looks so far; `request` is what was asked for, `now` is in seconds of Unix time."""
    told = {
        "type": PREVIEW,
        "b64_json": preview.b64_json,
        "partial_image_index": preview.index,
        "created_at": preview.created or now,
    }
    return Event(PREVIEW, frame(PREVIEW, {**told, **_usual(request), **preview.extra, **told}))


def completed_events(
    images: ImagesResponse, request: GenerationRequest, *, now: int, x_amux: Mapping[str, Json]
) -> list[Event]:
    """Tell of finished pictures, one by one; `x_amux` is what the gateway says of all so far, if anything."""
    events: list[Event] = []
    for image, usage in zip(images.data, _usages(images), strict=True):
        told = {
            "type": COMPLETED,
            **image_fields(image),
            "created_at": images.created or now,
            "usage": usage,
        }
        if x_amux:
            told["x_amux"] = x_amux
        events.append(Event(COMPLETED, frame(COMPLETED, {**told, **_usual(request), **images.extra, **told})))
    return events


def error_frame(error: GatewayError) -> bytearray:
    """Write the event that makes every SDK raise."""
    return frame(ERROR, {"type": ERROR, "error": error.envelope()})


def _usual(request: GenerationRequest) -> dict[str, str]:
    """Say of the picture what was asked for, where the upstream does not say what it is."""
    return {
        "size": request.size or "auto",
        "quality": request.quality or "auto",
        "background": request.background or "auto",
        "output_format": request.output_format or "png",
    }


def _usages(images: ImagesResponse) -> Sequence[Json]:
    """Give each picture's tokens; none are counted where the upstream counts none."""
    count = len(images.data)
    if count == 1 and images.usage is not NOTHING:
        return [images.usage]
    usage = images.tokens()
    return [_NONE] * count if usage is None else divided(usage, count)


_NONE: Final = Usage(total_tokens=0, input_tokens=0, output_tokens=0, input_tokens_details=TokensDetails())
