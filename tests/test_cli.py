"""The command, as a person runs it."""

import os
import signal
import subprocess
import sys
import zlib
from pathlib import Path

import httpx2  # noqa: TID251, the test's client
import pytest

from amux_asgi.keys import make_key
from tests.app.test_mounting import asked_until_it_listens, free_port

CONFIG = """
[[channels]]
name = "sandbox"
adapter = "sandbox"
models = ["gpt-image-2", { name = "old", upstream = "gpt-image-1" }]

[[keys]]
name = "me"
key = "mount-key-of-the-tests-1"
"""


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "amux_asgi", *arguments], capture_output=True, text=True, check=False)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "amux.toml"
    path.write_text(CONFIG)
    return path


@pytest.mark.parametrize("workers", ["1", "2"])
def test_serve_serves_until_sigterm_and_ends_with_0(config: Path, workers: str) -> None:
    """One worker or several, each from the file."""
    config.write_text('[gateway]\npictures = "file:pictures"\n' + CONFIG)
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "amux_asgi",
        "serve",
        "--config",
        config,
        "--port",
        str(port),
        "--workers",
        workers,
    ]

    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        answer = asked_until_it_listens(f"http://127.0.0.1:{port}")
        process.send_signal(signal.SIGTERM)
        process.communicate()

    assert (answer.status_code, process.returncode) == (200, 0)


def test_the_sandbox_runs_alone() -> None:
    """It speaks OpenAI's protocol on a port of its own."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"

    with subprocess.Popen(
        [sys.executable, "-m", "amux_asgi", "sandbox", "--port", str(port)], stderr=subprocess.DEVNULL
    ) as process:
        answer = asked_until_it_listens(url)
        models = httpx2.get(f"{url}/v1/models").json()["data"]
        process.send_signal(signal.SIGTERM)

    assert answer.status_code == 200
    assert {model["owned_by"] for model in models} == {"amux-sandbox"}


def test_check_says_what_would_run(config: Path) -> None:
    """Channels, models and the names of keys; never a key."""
    done = run("check", "--config", config)

    assert done.returncode == 0
    assert "old -> gpt-image-1" in done.stdout
    assert "keys: me" in done.stdout
    assert "mount-key" not in done.stdout


@pytest.mark.parametrize("command", ["check", "serve"])
def test_a_configuration_that_cannot_work_is_told_on_one_line(config: Path, command: str) -> None:
    """File, line, reason, mend; exit code 2; no traceback."""
    config.write_text(CONFIG.replace('adapter = "sandbox"', 'adapter = "sandbx"'))

    done = run(command, "--config", config)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"{config}:4: [channels.0.adapter] there is no adapter 'sandbx'; do you mean 'sandbox'?\n"


def test_several_workers_share_what_they_host(config: Path) -> None:
    """In memory they cannot: refused before anything is served, with the mend."""
    done = run("serve", "--config", config, "--workers", "2")

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"{config}:1: [gateway.pictures] hosted pictures are in memory, so each of 2 workers")
    assert done.stderr.endswith('write [gateway] pictures = "file:amux-pictures", or an object store\n')


def test_several_workers_that_count_apart_know_how_many_they_are(config: Path) -> None:
    """Otherwise each would admit all of a limit: refused before anything is served, with the mend."""
    text = '[gateway]\npictures = "file:amux-pictures"\n[limits]\nkey = ["1 requests/day"]\n'
    config.write_text(text + config.read_text())

    done = run("serve", "--config", config, "--workers", "2")

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"{config}:1: [gateway.nodes] 2 workers that count in memory would each admit")


def test_nobody_serves_without_saying_who_may_call(config: Path) -> None:
    """An open gateway would be everybody's."""
    config.write_text(CONFIG.partition("[[keys]]")[0])

    done = run("serve", "--config", config)

    assert done.returncode == 2
    assert done.stderr.startswith(f"{config}:1: [keys] nobody said who may call: add a key (`amux-asgi key` makes one)")


def test_a_missing_extra_is_told_without_a_traceback() -> None:
    """What to install, and no more."""
    code = "import sys; sys.modules['typer'] = None; from amux_asgi.cli import main; main()"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (2, 'typer is not installed: pip install "amux-asgi[cli]"\n')


def test_a_worker_without_its_file_says_so() -> None:
    """`amux_asgi.app:from_environment` is for other servers too."""
    environment = {name: value for name, value in os.environ.items() if name != "AMUX_CONFIG"}
    code = "from amux_asgi.app import from_environment; from_environment()"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)

    assert "AMUX_CONFIG is not set" in done.stderr


def test_help_and_version_are_told() -> None:
    """With nothing said, the help."""
    nothing, version = run(), run("--version")

    assert (nothing.returncode, version.returncode) == (0, 0)
    for word in ("serve", "sandbox", "check", "key"):
        assert word in nothing.stdout
    assert version.stdout.startswith("amux-asgi 0.")


def test_a_new_key_can_be_told_from_a_slip_of_the_pen() -> None:
    """An id, 32 random characters, and a checksum over both; no two alike."""
    printed = run("key").stdout.strip()
    keys = {printed, *(make_key() for _ in range(100))}

    assert len(keys) == 101
    for key in keys:
        body, _, checksum = key.rpartition("_")
        assert [len(part) for part in key.split("_")] == [3, 8, 32, 6]
        digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
        value = 0
        for digit in checksum:
            value = value * 62 + digits.index(digit)
        assert value == zlib.crc32(body.encode())
