"""Credentials that stand in files of their own, and those that are exchanged for tokens."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest

from amux_asgi.adapters import ADAPTERS
from amux_asgi.build_channels import channel, channels_of
from amux_asgi.config import ChannelConfig, load
from amux_asgi.errors import ConfigError
from amux_asgi.middleware.passthrough import Passthrough
from tests.vendors.token_desk import account, pem_of, rsa_key

URI: Final = "https://tokens.example/token"
CHANNEL: Final = """
[[channels]]
name = "vertex"
adapter = "vertex"
models = ["imagen-4.0-generate-001"]
options = { project = "some-project" }
credentials = ["file:keys/account.json", "ya29.token"]
"""


def vertex(*credentials: str, **options: Any) -> ChannelConfig:
    return ChannelConfig(name="v", adapter="vertex", models=("m",), credentials=credentials, options=options)


def written(folder: Path, text: str) -> Path:
    (folder / "keys").mkdir()
    (folder / "keys" / "account.json").write_text(text, encoding="utf-8")
    (folder / "amux.toml").write_text(CHANNEL, encoding="utf-8")
    return folder / "amux.toml"


def test_a_service_account_stands_in_its_own_file_beside_the_configuration(tmp_path: Path) -> None:
    """A path is taken from where the configuration stands, and the token is got by what is in the file."""
    path = written(tmp_path, account(URI) + "\n")

    [made] = channels_of(load(path), ADAPTERS)

    assert made.credentials == (account(URI), "ya29.token")
    [(credential, begin)] = made.exchanges.items()
    assert (credential, next(begin(0)).url) == (account(URI), URI)


def test_any_credential_may_stand_in_a_file(tmp_path: Path) -> None:
    """Written in code, too, by its whole path; the end of the line is no part of it."""
    (tmp_path / "key").write_text("sk-secret\n", encoding="utf-8")

    made = channel(ChannelConfig(name="o", adapter="openai", models=(), credentials=(f"file:{tmp_path}/key",)))

    assert (made.credentials, made.exchanges) == (("sk-secret",), {})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "a credential is empty"),
        ("{", "not the JSON of a service account"),
        (account(URI, type="authorized_user"), "'type'"),
        (account("http://tokens.example/token"), "https"),
        (account(URI, private_key="none"), "no RSA key"),
        ("two words", "holds a blank"),
    ],
)
def test_a_file_that_holds_no_credential_is_refused_at_its_place(tmp_path: Path, text: str, words: str) -> None:
    """At start, not at the first picture; nothing of the file is shown."""
    path = written(tmp_path, text)

    with pytest.raises(ConfigError, match=words) as caught:
        channels_of(load(path), ADAPTERS)

    assert str(caught.value).startswith(f"{path}:7: [channels.0.credentials]")
    assert "painter" not in str(caught.value)


@pytest.mark.parametrize(("content", "words"), [(None, "No such file"), (b"\xff\xfe", "it is no text")])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None, words: str) -> None:
    """With the reason."""
    if content is not None:
        (tmp_path / "key").write_bytes(content)

    with pytest.raises(ConfigError, match=words) as caught:
        channel(vertex(f"file:{tmp_path}/key"))

    assert f"'{tmp_path}/key'" in str(caught.value)


def test_a_service_account_needs_its_extra() -> None:
    """The command that installs it is named."""
    told = json.dumps({"credential": account(URI)})
    code = (
        "import json, sys; sys.modules['jwt'] = None; from amux_asgi.build_channels import channel;"
        "from amux_asgi.config import ChannelConfig;"
        f"channel(ChannelConfig(name='v', adapter='vertex', models=(), credentials=({told}['credential'],)))"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert 'pip install "amux-asgi[vertex]"' in done.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"project": "a/b"}, "regex"),
        ({"project": "some-project\n"}, "regex"),
        ({"location": "evil.example/"}, "regex"),
        ({"location": "us-central1.evil"}, "regex"),
        ({"region": "us-central1"}, "known are express, location, project"),
        ({}, "say either the 'project'"),
        ({"project": "some-project", "express": True}, "say either the 'project'"),
    ],
)
def test_a_place_is_told_in_full_and_cannot_lead_elsewhere(options: dict[str, Any], words: str) -> None:
    """It becomes part of an address."""
    with pytest.raises(ConfigError, match=words):
        channel(vertex("ya29.token", **options))


def test_a_passthrough_shows_its_credential_as_it_is() -> None:
    """So a service account cannot be used there, and is never sent."""
    made = channel(vertex(account(URI, private_key=pem_of(rsa_key())), project="some-project"))

    with pytest.raises(ConfigError, match="exchanged for an access token"):
        Passthrough(
            name="speech", methods=("POST",), path="/speech", channel=made, upstream_path="/speech", unmetered=True
        )
