"""What all tests share."""

import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest
import trustme
from hypothesis import HealthCheck, settings

from tests.children import CERTIFICATES
from tests.databases import PostgreSQL, Reused, postgresql
from tests.objects import S3, s3_server

settings.register_profile("however slow the machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("however slow the machine")


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Run each async test on both event loops."""
    return str(request.param)


@pytest.fixture(scope="session", autouse=True)
def _few_certificates(tmp_path_factory: pytest.TempPathFactory) -> Generator[None]:
    """Let clients trust one authority, which signed nothing: to read those of the world takes each client 20 ms."""
    file = tmp_path_factory.mktemp("authority") / "ca.pem"
    trustme.CA().cert_pem.write_to_path(file)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CERTIFICATES, str(file))
        yield


@pytest.fixture(scope="session")
def postgresql_server() -> Generator[PostgreSQL]:
    """Run one PostgreSQL server for all tests of this process.

    Not in pytest's own folder, which every other run of pytest shuts for the user that the server runs as.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, postgresql(Path(folder)) as server:
        yield server


@pytest.fixture(scope="session")
def reused_database(postgresql_server: PostgreSQL) -> Reused:
    """Give the database that the tests of this process use in turn."""
    return Reused(postgresql_server)


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
    return request.getfixturevalue("reused_database").fresh()


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
