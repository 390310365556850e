"""What all tests share."""

import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.databases import PostgreSQL, fresh_database, postgresql
from tests.objects import S3, s3_server


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Run each async test on both event loops."""
    return str(request.param)


@pytest.fixture(scope="session")
def postgresql_server() -> Generator[PostgreSQL]:
    """Run one PostgreSQL server for all tests of this process.

    Not in pytest's own folder, which every other run of pytest shuts for the user that the server runs as.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, postgresql(Path(folder)) as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Give the URL of a fresh database of each kind."""
    return _database(request, tmp_path)


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Give "memory", or the URL of a fresh database of each kind."""
    return "memory" if request.param == "memory" else _database(request, tmp_path)


def _database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/amux.db"
    return fresh_database(request.getfixturevalue("postgresql_server"))


@pytest.fixture(scope="session")
def s3_process() -> Generator[S3]:
    """Run one S3 server for all tests of this process."""
    with s3_server() as server:
        yield server


@pytest.fixture
def s3(s3_process: S3, monkeypatch: pytest.MonkeyPatch) -> S3:
    """Let clients find the server in the environment."""
    for name, value in s3_process.environment().items():
        monkeypatch.setenv(name, value)
    return s3_process
