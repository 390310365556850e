"""Run by each version of the OpenAI SDK for Python, in its own environment: writes what it saw, a JSON line a row.

First by the client that blocks, then by the other one, which reads streams in code of its own.
Usage: python stream_python.py BASE_URL STREAMS, where STREAMS says of each row whether a stream is asked for.
"""

import json
import sys
from collections.abc import AsyncGenerator, Generator
from contextlib import contextmanager
from typing import Any

import anyio
import openai

URL, STREAMS = sys.argv[1], json.loads(sys.argv[2])
CLIENT: dict[str, Any] = {"base_url": URL, "api_key": "none", "max_retries": 0}
ASK = {"model": "gpt-image-2", "prompt": "a red paper lantern"}


def now() -> None:
    with openai.OpenAI(**CLIENT) as client:
        for row, stream in enumerate(STREAMS):
            with noting() as events:
                images: Any = client.with_options(base_url=f"{URL}/{row}").images
                answer = images.generate(**ASK, stream=stream)
                events.extend(map(fields, answer if stream else [answer]))


async def soon() -> None:
    async with openai.AsyncOpenAI(**CLIENT) as client:
        for row, stream in enumerate(STREAMS):
            with noting() as events:
                images: Any = client.with_options(base_url=f"{URL}/{row}").images
                answer = await images.generate(**ASK, stream=stream)
                async for event in answer if stream else one(answer):
                    events.append(fields(event))


@contextmanager
def noting() -> Generator[list[Any]]:
    """Collect the events of a row and its error, then write them down."""
    seen: dict[str, Any] = {"events": []}
    try:
        yield seen["events"]
    except (openai.APIError, ValueError) as exc:
        seen["error"] = type(exc).__name__
        seen["fault"] = told(exc) if isinstance(exc, openai.APIError) else None
    sys.stdout.write(json.dumps(seen) + "\n")


async def one(answer: Any) -> AsyncGenerator[Any]:
    yield answer


def fields(event: Any) -> Any:
    """Take an event for the JSON that it came as."""
    return event if isinstance(event, str) else event.to_dict(mode="json")


def told(error: openai.APIError) -> dict[str, Any]:
    """Say what an error tells; the message of one with a status would hold the whole body."""
    body: Any = error.body
    return {
        "message": body["message"] if isinstance(body, dict) else error.message,
        "type": error.type,
        "param": error.param,
        "code": error.code,
        "status": getattr(error, "status_code", None),
    }


now()
anyio.run(soon)
