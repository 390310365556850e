"""Run by each version of the OpenAI SDK for Python, in its own environment: prints what it saw, a JSON line a case.

Usage: python check_python.py BASE_URL API_KEY
"""

import base64
import json
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import openai

URL, KEY = sys.argv[1:]
client = openai.OpenAI(base_url=URL, api_key=KEY, max_retries=0)


def seen(call: Callable[[], Any]) -> dict[str, Any]:
    """Say what came of a call: the answer's facts, or the error's."""
    try:
        answer = call()
    except openai.APIStatusError as error:
        return {
            "error": type(error).__name__,
            "status": error.status_code,
            "code": error.code,
            "param": error.param,
            "type": error.type,
            "request_id": error.request_id == error.response.headers["x-request-id"],
        }
    return facts(answer)


def facts(answer: Any) -> dict[str, Any]:
    """Say what an answer holds."""
    first = answer.data[0]
    raw = base64.b64decode(first.b64_json or "")
    return {
        "n": len(answer.data),
        "png": raw[:4] == b"\x89PNG",
        "url": bool(first.url),
        "usage": answer.usage.total_tokens if answer.usage else None,
        "size": getattr(answer, "size", None),
        "created": isinstance(answer.created, int),
        "request_id": bool(answer._request_id),
    }


def generate(**fields: Any) -> Callable[[], Any]:
    """Prepare a generation."""
    images: Any = client.images
    return partial(images.generate, **fields)


PROMPT = "a red paper lantern"
CASES: dict[str, Callable[[], Any]] = {
    "minimal": generate(model="gpt-image-2", prompt=PROMPT),
    "three": generate(model="gpt-image-2", prompt=PROMPT, n=3, size="1024x1024", quality="low"),
    "nulls": generate(model="gpt-image-2", prompt=PROMPT, n=None, size=None, quality=None, output_compression=None),
    "url": generate(model="dall-e-3", prompt=PROMPT, response_format="url"),
    "b64": generate(model="dall-e-3", prompt=PROMPT, response_format="b64_json"),
    "extra body": generate(model="gpt-image-2", prompt=PROMPT, extra_body={"watermark": False, "negative_prompt": "x"}),
    "extra headers": generate(
        model="gpt-image-2",
        prompt=PROMPT,
        extra_headers={"x-request-id": "mine-1"},
        extra_query={"api-version": "1"},
        timeout=30,
    ),
    "too many": generate(model="gpt-image-2", prompt=PROMPT, n=11),
    "no such model": generate(model="nothing", prompt=PROMPT),
    "wrong key": lambda: client.with_options(api_key="sk-wrong-key-0123456789").images.generate(
        model="gpt-image-2", prompt=PROMPT
    ),
    "blocked": generate(model="gpt-image-2", prompt=PROMPT + " [[fault:moderation]]"),
    "limited": generate(model="gpt-image-2", prompt=PROMPT + " [[fault:rate-limited]]"),
    "failed": generate(model="gpt-image-2", prompt=PROMPT + " [[fault:server-error]]"),
}

for name, call in CASES.items():
    print(json.dumps({"case": name, **seen(call)}), flush=True)
models = sorted(model.id for model in client.models.list())
print(json.dumps({"case": "models", "ids": models, "one": client.models.retrieve(models[0]).id == models[0]}))
raw = client.images.with_raw_response.generate(model="gpt-image-2", prompt=PROMPT)
print(json.dumps({"case": "raw", "status": raw.status_code, "parsed": len(raw.parse().data or [])}))
