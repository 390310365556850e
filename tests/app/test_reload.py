"""A changed file is taken over while requests run: each request sees one version, and none is lost."""

import logging
import threading
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import anyio
import httpx2  # noqa: TID251, the test's client
import pytest
from starlette.types import Receive, Scope, Send

from amux_asgi import GenerationRequest, ImagesApp, Principal, images_app
from amux_asgi.pricing import NANO
from tests.app.test_money import rows
from tests.children import until
from tests.serve import serve
from tests.stub import Stub, upstream

KEY: Final = "reload-key-of-the-tests"
REQUEST: Final = GenerationRequest(prompt="a", model="m")
WAITING: Final = 0.001  # seconds in the place of one second between two looks


def text(version: int, *, url: str = "asgi://up/v1", more: str = "", models: str = '"m"') -> str:
    """Write a configuration in which all says which version it is: key, channel and price."""
    return f"""
[gateway]
reveal = ["channel", "cost"]
{more}
[[channels]]
name = "v{version}"
adapter = "openai-compatible"
base_url = "{url}"
models = [{models}]
[[keys]]
name = "fixed"
key = "{KEY}"
[[keys]]
name = "me"
key = "{KEY}-{version}"
[prices."m"]
image = "0.{version:03}"
"""


async def painter(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer each ask with one picture."""
    while (await receive()).get("more_body", False):
        pass
    body = b'{"created":1,"data":[{"b64_json":"aGVsbG8="}]}'
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": body})


async def soon(seconds: float) -> None:
    await anyio.sleep(min(seconds, WAITING))


class Running:
    """The app, its address and its file."""

    def __init__(self, url: str, file: Path, images: ImagesApp) -> None:
        self.url = url
        self.file = file
        self.images = images

    def ask(self, key: str = KEY) -> httpx2.Response:
        headers = {"authorization": f"Bearer {key}"}
        body = {"model": "m", "prompt": "a"}
        return httpx2.post(f"{self.url}/v1/images/generations", json=body, headers=headers, timeout=60)

    def write(self, content: str) -> None:
        """Change the file in one step, as deployments do."""
        fresh = self.file.with_suffix(".new")
        fresh.write_text(content)
        fresh.replace(self.file)

    def until(self, fact: Callable[[httpx2.Response], bool], key: str = KEY) -> httpx2.Response:
        """Ask until the answer shows it."""
        while not fact(answer := self.ask(key)):
            pass
        return answer


@contextmanager
def running(file: Path, content: str) -> Generator[Running]:
    file.write_text(content)
    images = images_app(file, apps={"up": painter}, sleep=soon)
    with serve(images) as url:
        yield Running(url, file, images)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "amux.toml"


@pytest.fixture
def stub() -> Generator[Stub]:
    with upstream() as running:
        yield running


def test_100_reloads_under_load_fail_no_request_and_mix_no_versions(file: Path) -> None:
    """Whoever asks all the time sees each time one version: its channel at its price."""
    stop = threading.Event()

    def client(app: Running) -> list[tuple[int, str, str]]:
        seen: list[tuple[int, str, str]] = []
        while not stop.is_set():
            answer = app.ask()
            seen.append(
                (answer.status_code, answer.headers.get("x-amux-channel", ""), answer.headers.get("x-amux-cost", ""))
            )
        return seen

    with running(file, text(0)) as app, ThreadPoolExecutor(2) as pool:
        clients = [pool.submit(client, app) for _ in range(2)]
        for version in range(1, 101):
            app.write(text(version))
            app.until(lambda answer, name=f"v{version}": answer.headers["x-amux-channel"] == name)
        stop.set()
        answers = [answer for client in clients for answer in client.result()]

    assert {status for status, _, _ in answers} == {200}
    assert all(float(cost) == int(channel[1:]) / 1000 for _, channel, cost in answers)
    assert len({channel for _, channel, _ in answers}) > 1


def test_keys_follow_the_file(file: Path) -> None:
    """A key that is taken out is refused, one that is added is let in."""
    with running(file, text(1)) as app:
        before = [app.ask(f"{KEY}-{version}").status_code for version in (1, 2)]
        app.write(text(2))
        app.until(lambda answer: answer.headers["x-amux-channel"] == "v2")
        after = [app.ask(f"{KEY}-{version}").status_code for version in (1, 2)]

    assert (before, after) == ([200, 401], [401, 200])


def test_a_request_under_way_ends_with_what_it_began_with(file: Path, stub: Stub) -> None:
    """A price that changes meanwhile is not its price (L17), and its channel may be gone."""
    old = text(1, url=f"{stub.url}/wait", more='transport = "httpx2"')
    with running(file, old) as app, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(app.ask)
        stub.wait_for(1)
        app.write(text(2, more='transport = "httpx2"'))
        until(lambda: app.images.config.channels[0].name == "v2")  # who asked too soon would wait at the stub too
        stub.let_go()
        answer = waiting.result()

    assert (answer.status_code, answer.headers["x-amux-channel"], answer.headers["x-amux-cost"]) == (200, "v1", "0.001")


BROKEN: Final = text(1).replace("[[keys]]", "[[kyes]]", 1)


def test_a_broken_file_leaves_the_old_one_and_is_told_once(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    """With file and line; again only when it changes, and a mended one is taken."""
    with running(file, text(1)) as app:
        app.write(BROKEN)
        still = app.until(lambda _: len(_errors(caplog)) == 1)
        app.write("nonsense")
        app.until(lambda _: len(_errors(caplog)) == 2)
        app.write(text(2))
        app.until(lambda answer: answer.headers["x-amux-channel"] == "v2")
        file.unlink()
        app.until(lambda _: len(_errors(caplog)) == 3)

    assert still.headers["x-amux-channel"] == "v1"
    first, second, third = _errors(caplog)
    assert f"{file}:10: [kyes] there is no such section; do you mean 'keys'?" in first
    assert f"{file}:1: this is not TOML" in second
    assert "the file cannot be read" in third


def _errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]


def test_what_wants_a_restart_is_said_by_its_keys(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Everything else of the file is taken all the same."""
    with running(file, text(1)) as app:
        app.write(text(2, more='pictures = "file:pictures"\ngrace = 1'))
        app.until(lambda answer: answer.headers["x-amux-channel"] == "v2")
        kept = app.images.config.gateway

    assert f"{file}: wants a restart: [gateway] grace, pictures" in caplog.text
    assert (kept.grace, kept.pictures) == (540, None)


def test_a_new_key_opens_its_account(file: Path, tmp_path: Path) -> None:
    """Its balance is credited once, as at start."""
    database = 'database = "sqlite:///amux.db"'
    with running(file, text(1, more=database)) as app:
        app.write(text(2, more=database) + '[[keys]]\nname = "new"\nkey = "a-new-key-of-the-tests"\nbalance = "5"\n')
        answer = app.until(lambda answer: answer.status_code == 200, "a-new-key-of-the-tests")

    assert answer.headers["x-amux-channel"] == "v2"
    assert rows(f"sqlite:///{tmp_path}/amux.db", "SELECT granted FROM wallets WHERE id = 'account:new'") == [
        (5 * NANO,)
    ]


def test_a_file_changed_before_the_start_is_seen(file: Path) -> None:
    """Also by the second of two mounts, which joins what runs."""
    file.write_text(text(1))
    images = images_app(file, apps={"up": painter}, sleep=soon)
    file.write_text(text(2))

    async def lived() -> int:
        async with images.lifespan(), images.lifespan():
            while images.config.channels[0].name != "v2":
                await soon(0)
            return images.config.gateway.max_body

    assert anyio.run(lived)


def test_reload_does_nothing_where_there_is_no_file(file: Path) -> None:
    """Nor before the app runs."""
    file.write_text(text(1))
    images = images_app(file, apps={"up": painter})
    file.write_text(text(2))

    anyio.run(images.reload)

    assert images.config.channels[0].name == "v1"


def test_the_library_goes_on_with_what_it_has_in_hand(file: Path) -> None:
    """A gateway of an older version opens its transports again; a new one is had by asking for it."""
    file.write_text(text(1, models='"m"'))
    images = images_app(file, apps={"up": painter}, sleep=anyio.sleep)
    me = Principal(account="me", key="me")

    async def lived() -> list[str]:
        async with images.lifespan():
            old = images.gateway
            await anyio.Path(file).write_text(text(2))
            await images.reload()
            made = [await gateway.generate(REQUEST, me) for gateway in (old, images.gateway, old)]
            return [one.channel for one in made]

    assert anyio.run(lived) == ["v1", "v2", "v1"]
