"""Hosted pictures in S3, on a server that speaks its protocol."""

import logging
import os
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest
from starlette.responses import PlainTextResponse

from amux_asgi.errors import ConfigError, StorageUnavailableError
from amux_asgi.pictures import fresh_name
from amux_asgi.stores.objects import MARK, Objects
from tests.objects import S3, s3_server
from tests.painted import painted
from tests.serve import serve
from tests.stores.hosting import START, Time, opened

pytestmark = pytest.mark.anyio


@pytest.fixture
def denying() -> Generator[str]:
    """Serve a store that lets nobody in."""
    with serve(PlainTextResponse("no", status_code=403), lifespan="off") as url:
        yield url


async def test_a_bucket_that_is_not_there_is_told_at_start(s3: S3) -> None:
    """With the reason, and without the address."""
    with pytest.raises(ConfigError, match=r"^\[gateway\.pictures\] cannot be used: .*404") as caught:
        async with opened("s3://nobodys-bucket/x", Time()):
            pass

    assert s3.url not in str(caught.value)
    assert "127.0.0.1" not in str(caught.value)


async def test_an_environment_that_does_not_say_enough_is_told_at_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Azure wants to know whose account it is."""
    for name in list(os.environ):
        if name.startswith("AZURE_"):
            monkeypatch.delenv(name)

    with pytest.raises(ConfigError, match=r"^\[gateway\.pictures\] cannot be used: .*Account must be specified"):
        async with opened("az://container/x", Time()):
            pass


async def test_credentials_that_are_refused_are_told_at_start(
    denying: str, monkeypatch: pytest.MonkeyPatch, s3: S3
) -> None:
    """S3 says 403."""
    bucket = f"s3://{s3.bucket()}"
    monkeypatch.setenv("AWS_ENDPOINT_URL", denying)

    with pytest.raises(ConfigError, match=r"^\[gateway\.pictures\] cannot be used: "):
        async with opened(bucket, Time()):
            pass


async def test_a_mark_that_somebody_deleted_is_made_again(s3: S3) -> None:
    """By it we see that the store is there; a rule that tidies the bucket up must not stop us."""
    objects = Objects(f"s3://{s3.bucket()}/x")
    objects.make()
    objects.remove([MARK])

    objects.check(1)

    assert list(objects.listed()) == [(MARK, 0)]


async def test_what_another_node_deleted_first_keeps_nothing_else(tmp_path: Path) -> None:
    """Not every store forgives it, as S3 does; here one of obstore's own on the disk, which does not."""
    objects = Objects(f"file://{tmp_path}")
    names = [fresh_name(START - i) for i in range(3)]
    for name in (names[0], names[2]):
        objects.write(name, painted())

    objects.remove(names)
    objects.remove([])

    assert list(objects.listed()) == []


def test_a_missing_extra_is_told_with_its_place(tmp_path: Path) -> None:
    """And with the command that installs it."""
    file = tmp_path / "amux.toml"
    file.write_text("[gateway]\npictures = 's3://bucket'\n")
    code = (
        "import sys; sys.modules['obstore'] = None\n"
        "from amux_asgi.build_pictures import pictures_of\nfrom amux_asgi.config import load\n"
        "pictures_of(load(sys.argv[1]), now=lambda: 0)"
    )

    done = subprocess.run([sys.executable, "-c", code, file], capture_output=True, text=True, check=False)

    assert f"{file}:2: [gateway.pictures] obstore is not installed: pip install" in done.stderr
    assert '"amux-asgi[s3]"' in done.stderr


async def test_a_server_that_dies_is_a_503(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Within seconds, before anybody is asked; the log does not name it."""
    with s3_server() as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        async with opened(f"s3://{server.bucket()}/x", Time()) as pictures:
            server.kill()
            with pytest.raises(StorageUnavailableError):
                await pictures.check_room(1)
            with pytest.raises(StorageUnavailableError):
                await pictures.put(painted(), expires=START + 60)

    assert len(caplog.messages) == 2
    assert "127.0.0.1" not in caplog.text
    assert {record.levelno for record in caplog.records} == {logging.WARNING}
