"""Run by each version of the OpenAI SDK for Python, in its own environment: prints what it saw, a JSON line a case.

Usage: python check_stream_python.py BASE_URL API_KEY CASES, where CASES is JSON: the fields of each stream by its name.
Cases that end in "async" are read by the client that does not block, which has code of its own for streams.
"""

import base64
import hashlib
import json
import sys
from typing import Any

import anyio
import openai

URL, KEY, CASES = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])


def read(case: str, fields: dict[str, Any], seen: dict[str, Any]) -> None:
    with openai.OpenAI(base_url=URL, api_key=KEY) as client:
        images: Any = client.images
        with images.generate(**asked(case, fields)) as stream:
            seen["request_id"] = stream.response.headers["x-request-id"] != ""
            for event in stream:
                seen["events"].append(told(event))


async def read_async(case: str, fields: dict[str, Any], seen: dict[str, Any]) -> None:
    async with openai.AsyncOpenAI(base_url=URL, api_key=KEY) as client:
        images: Any = client.images
        async with await images.generate(**asked(case, fields)) as stream:
            seen["request_id"] = stream.response.headers["x-request-id"] != ""
            async for event in stream:
                seen["events"].append(told(event))


def asked(case: str, fields: dict[str, Any]) -> dict[str, Any]:
    return {"model": "gpt-image-2", "stream": True, **fields, "extra_headers": {"x-case": case}}


def told(event: Any) -> dict[str, Any]:
    """Say what an event holds, by the names that the SDK gives."""
    picture = base64.b64decode(event.b64_json, validate=True)
    return {
        **event.to_dict(mode="json"),
        "b64_json": hashlib.sha256(picture).hexdigest(),
        "jpeg": picture.startswith(b"\xff\xd8\xff"),
        "class": type(event).__name__,
        "tokens": event.usage.total_tokens if hasattr(event, "usage") else None,
    }


def fault(error: openai.APIError) -> dict[str, Any]:
    status = getattr(error, "status_code", None)
    kept = {name: getattr(error, name) for name in ("code", "param", "type")}
    return {"error": type(error).__name__, "status": status, **kept}


for name, wanted in CASES.items():
    found: dict[str, Any] = {"case": name, "events": []}
    try:
        if name.endswith("async"):
            anyio.run(read_async, name, wanted, found)
        else:
            read(name, wanted, found)
    except openai.APIError as exc:
        found |= fault(exc)
        if isinstance(exc, openai.APIStatusError):
            found["request_id"] = exc.request_id == exc.response.headers["x-request-id"]
    sys.stdout.write(f"{json.dumps(found)}\n")
