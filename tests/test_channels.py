"""`amux-asgi channels`: what an operator sees of a running gateway."""

import json
import os
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx2  # noqa: TID251, the test's client
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from amux_asgi import ChannelConfig, KeyConfig, admin_app, images_app
from tests.app.test_mounting import free_port
from tests.children import until
from tests.command import Done
from tests.command import run as command
from tests.serve import serve
from tests.stub import Stub, sending, upstream, whole
from tests.test_signals import serving

KEY: Final = "channels-key-of-the-tests"
SECRET: Final = "channels-admin-secret-of-the-tests"
CREDENTIALS: Final = ("sk-channels-first-0001", "sk-channels-other-0002")
BUSY: Final = b'{"error":{"message":"slow down","type":"rate_limit_error","code":"rate_limit_exceeded"}}'


@pytest.fixture
def stub() -> Generator[Stub]:
    busy = sending(whole(BUSY, "429 Too Many Requests", "retry-after: 50", "connection: close"))
    with upstream(scripts={"/busy": busy}) as running:
        yield running


@contextmanager
def gateway(stub: Stub, path: str, **told: Any) -> Generator[str]:
    """Serve a gateway with its admin app at `/admin`."""
    channel = ChannelConfig(
        name="up",
        adapter="openai-compatible",
        base_url=stub.url + path,
        models=("m",),
        credentials=CREDENTIALS,
        concurrency=2,
        **told,
    )
    images = images_app(channels=[channel], keys=[KeyConfig(name="me", key=KEY)])
    admin = admin_app(None, secret=SECRET, images=images)
    with serve(Starlette(routes=[Mount("/admin", admin), Mount("/", images)], lifespan=images.lifespan)) as url:
        yield url


def ask(url: str) -> int:
    headers = {"authorization": f"Bearer {KEY}"}
    body = {"model": "m", "prompt": "a"}
    return httpx2.post(f"{url}/v1/images/generations", json=body, headers=headers, timeout=60).status_code


def seen(url: str, secret: str = SECRET, method: str = "GET") -> httpx2.Response:
    return httpx2.request(method, f"{url}/admin/channels", headers={"authorization": f"Bearer {secret}"})


def test_the_places_of_a_channel_are_seen(stub: Stub) -> None:
    """Taken by those who are served, waited for by the others."""
    with gateway(stub, "/wait", priority=5, weight=3) as url, ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(ask, url) for _ in range(3)]
        until(lambda: seen(url).json()["channels"][0]["waiting"])
        (now,) = seen(url).json()["channels"]
        stub.let_go()
        statuses = [answer.result() for answer in asked]

    assert statuses == [200] * 3
    assert (now["places"], now["taken"], now["priority"], now["weight"]) == (2, 2, 5, 3)
    assert (now["name"], now["adapter"], now["models"]) == ("up", "openai-compatible", ["m"])


def test_who_is_benched_is_seen_with_the_reason_and_the_return(stub: Stub) -> None:
    """A credential by its last four characters; nothing else of it, and no address."""
    with gateway(stub, "/busy") as url:
        ask(url)
        answer = seen(url)

    ways = answer.json()["channels"][0]["ways"]
    assert {way["credential"] for way in ways} == {"0001", "0002"}
    assert "benched" in {way["state"] for way in ways}
    assert all(40 < way["returns"] <= 60 for way in ways if way["state"] == "benched")
    assert CREDENTIALS[0] not in answer.text
    assert "127.0.0.1" not in answer.text
    assert answer.json()["process"] == os.getpid()


def test_only_the_operator_sees_it(stub: Stub) -> None:
    """Not with an API key; without a database, nothing else is there."""
    with gateway(stub, "/wait") as url:
        statuses = [seen(url, KEY).status_code, seen(url, method="POST").status_code]
        other = httpx2.get(f"{url}/admin/usage", headers={"authorization": f"Bearer {SECRET}"}).status_code

    assert (statuses, other) == ([401, 405], 404)


def test_before_the_lifespan_nothing_is_taken() -> None:
    """The configuration is known already."""
    images = images_app(
        channels=[ChannelConfig(name="s", adapter="sandbox", models=("gpt-image-2",))],
        keys=[KeyConfig(name="me", key=KEY)],
    )
    app = Starlette(routes=[Mount("/admin", admin_app(None, secret=SECRET, images=images))])

    with serve(app, lifespan="off") as url:
        [channel] = seen(url).json()["channels"]

    assert (channel["name"], channel["places"], channel["taken"]) == ("s", 64, 0)


CONFIG: Final = f"""
[[channels]]
name = "up"
adapter = "openai-compatible"
base_url = "https://images.internal/v1"
credentials = ["sk-channels-first-0001"]
models = ["m", "n"]
[[channels]]
name = "sandbox"
adapter = "sandbox"
models = ["gpt-image-2"]
[[keys]]
name = "me"
key = "{KEY}"
"""


def run(url: str, *options: str, secret: str = SECRET) -> Done:
    return command("channels", "--url", url, *options, AMUX_ADMIN_SECRET=secret)


def test_the_command_shows_a_standalone_gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line for each credential and model; JSON for programs."""
    monkeypatch.setenv("AMUX_ADMIN_SECRET", SECRET)
    file = tmp_path / "amux.toml"
    file.write_text(CONFIG)
    port = free_port()

    with serving(file, port) as process:
        table = run(f"http://127.0.0.1:{port}/admin/")
        told = json.loads(run(f"http://127.0.0.1:{port}/admin", "--json").stdout)
        wrong = run(f"http://127.0.0.1:{port}/admin", secret="another-secret-of-the-tests")

    lines = [line.split() for line in table.stdout.splitlines()]
    assert lines[0][:6] == ["channel", "adapter", "priority", "weight", "taken", "waiting"]
    assert lines[0][6:] == ["model", "credential", "state", "back"]
    assert lines[1] == ["up", "openai-compatible", "0", "1", "0", "of", "64", "0", "m", "...0001", "open", "-"]
    assert lines[3] == ["sandbox", "sandbox", "0", "1", "0", "of", "64", "0", "gpt-image-2", "-", "open", "-"]
    assert table.stderr == f"process {process.pid}; other workers and nodes have states of their own\n"
    assert [channel["name"] for channel in told["channels"]] == ["up", "sandbox"]
    assert (wrong.returncode, wrong.stderr) == (
        2,
        "the gateway's admin app has another secret than AMUX_ADMIN_SECRET says\n",
    )


def test_the_command_shows_who_is_benched(stub: Stub) -> None:
    """With the reason, and when it is back."""
    with gateway(stub, "/busy") as url:
        ask(url)
        table = run(f"{url}/admin")

    assert "benched: " in table.stdout
    assert " in 4" in table.stdout or " in 5" in table.stdout


@pytest.mark.parametrize("path", ["/other", "/text"])
def test_an_address_without_an_admin_app_is_told_apart(path: str) -> None:
    """With the mend."""

    async def text(_request: object) -> PlainTextResponse:
        return PlainTextResponse("hello")

    with serve(Starlette(routes=[Route("/text/channels", text)]), lifespan="off") as url:
        told = run(url + path)

    assert told.returncode == 2
    assert told.stderr.startswith(f"no admin app answers at {url}{path}; a standalone gateway has one at /admin when ")


def test_a_gateway_that_does_not_run_and_a_missing_secret_are_told() -> None:
    """Each on one line."""
    url = f"http://127.0.0.1:{free_port()}/admin"

    away, unset = run(url), run(url, secret="")

    assert away.stderr == f"nothing answers at {url}/channels; is the gateway running there?\n"
    assert unset.stderr == "the variable AMUX_ADMIN_SECRET is not set; it holds the admin app's secret\n"
