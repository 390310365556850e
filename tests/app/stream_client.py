"""Read a stream on a real socket, as far as a test wants."""

import re
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Final

import httpx2  # noqa: TID251, the tests' client

from tests.app.stream_app import KEY

BEARER: Final = {"authorization": f"Bearer {KEY}"}
PREVIEW: Final = "image_generation.partial_image"
COMPLETED: Final = "image_generation.completed"
COMMENT: Final = b": keep-alive\n\n"


class Reading:
    """One answer, and what has been read of it."""

    def __init__(self, answer: httpx2.Response) -> None:
        self.answer = answer
        self.text = b""
        self._pieces = answer.iter_raw()

    def until(self, wanted: bytes, times: int = 1) -> None:
        """Read until this has come so often."""
        while self.text.count(wanted) < times:
            piece = next(self._pieces, None)
            assert piece is not None, f"the stream ended without {wanted!r}: {self.text[-300:]!r}"
            self.text += piece

    def to_the_end(self) -> None:
        for piece in self._pieces:
            self.text += piece

    @property
    def events(self) -> list[str]:
        """The names of the events that are complete; comments are none."""
        return [name.decode() for name in re.findall(rb"^event: (.+)\ndata: .+\n\n", self.text, re.MULTILINE)]


@contextmanager
def streaming(
    url: str, prompt: str = "a lantern", *, http2: bool = False, headers: dict[str, str] | None = None, **fields: Any
) -> Generator[Reading]:
    """Ask for a stream; left, its connection is closed. Entered when the answer has begun."""
    body = {"model": "gpt-image-2", "prompt": prompt, "stream": True, "partial_images": 1, **fields}
    with (
        httpx2.Client(http1=not http2, http2=http2, timeout=60) as client,
        client.stream("POST", f"{url}/v1/images/generations", json=body, headers=BEARER | (headers or {})) as answer,
    ):
        yield Reading(answer)


def let_go(url: str, *, http2: bool = False) -> None:
    """Let the upstream send its next event."""
    get(f"{url}/go", http2=http2)


def asked(url: str, *, http2: bool = False) -> int:
    """Say how often the upstream was asked."""
    return int(get(f"{url}/asked", http2=http2).text)


def get(url: str, *, http2: bool) -> httpx2.Response:
    with httpx2.Client(http1=not http2, http2=http2, timeout=60) as client:
        return client.get(url).raise_for_status()
