"""API keys while their database is away, held by others, or replaced; and the thread that looks."""

import os
import shutil
import signal
import sqlite3
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from pathlib import Path

import anyio
import httpx2  # noqa: TID251, the test's client
import psycopg
import pytest
import sqlalchemy as sa

from amux_asgi import AuthMiddleware
from amux_asgi.errors import GatewayError, StorageUnavailableError
from amux_asgi.keys import make_key
from amux_asgi.stores.sql import open_store
from amux_asgi.stores.sql.keys import UNSEEN, SqlKeys
from amux_asgi.stores.sql.schema import OWNERS
from tests.databases import PostgreSQL, fresh_database, postgresql
from tests.middleware.apps import client, hello
from tests.stores.key_rows import PEER, Rows, Store, opened, same_id

pytestmark = pytest.mark.anyio


@contextmanager
def away(url: str) -> Generator[None]:
    """Take a database away: its file, or everybody's connections to it."""
    parsed = sa.make_url(url)
    if parsed.get_backend_name() == "sqlite":
        folder = Path(str(parsed.database)).parent
        (folder / "elsewhere").mkdir()
        moved = [path.rename(folder / "elsewhere" / path.name) for path in folder.glob("amux.db*")]
        yield
        for path in moved:
            path.rename(folder / path.name)
        return
    name = str(parsed.database)
    other = parsed.set(database="postgres").render_as_string(hide_password=False)
    with psycopg.connect(other, autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false".encode())
        connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,))
        yield
        connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true".encode())


@contextmanager
def cut(url: str) -> Generator[None]:
    """Cut everybody's connections to a PostgreSQL database; new ones can be made at once."""
    with away(url):
        pass
    yield


async def until(met: Callable[[], bool]) -> None:
    """Wait for what another thread does, not for ever."""
    with anyio.fail_after(20):
        while not met():  # noqa: ASYNC110, a thread sets no event
            await anyio.sleep(0.005)


async def test_known_keys_are_let_in_for_a_minute_while_the_database_is_away(
    database: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody else is; after the minute nobody at all is, and when it is back, all are, by themselves."""
    with opened(database) as (rows, store):
        known, new = rows.many(2)
        await store.show(known)
        with away(database):
            during = await store.show(known, new, make_key(), same_id(known), "no key")
            store.clock += UNSEEN
            store.look()
            store.at_once(known)
            store.clock += 0.001
            late = await store.show(known, new)
        store.look()
        after = await store.show(known, new)

    assert during == ["team", "storage_unavailable", "storage_unavailable", "invalid_api_key", "invalid_api_key"]
    assert late == ["storage_unavailable"] * 2
    assert after == ["team"] * 2
    assert [record.message[:29] for record in caplog.records] == ["API keys cannot be looked up:"]


async def test_who_waits_while_it_is_away_is_told_when_to_come_back(database: str) -> None:
    """503 with Retry-After, in the request that noticed and in those after it."""
    with opened(database) as (rows, store):
        key = rows.make()
        with away(database):
            errors = [await refusal(store, key), await refusal(store, key)]

    assert all(isinstance(error, StorageUnavailableError) and error.retry_after for error in errors)


async def refusal(store: Store, key: str) -> GatewayError | None:
    errors: list[GatewayError] = []

    async def one() -> None:
        try:
            await store.keys.authenticate(key, PEER)
        except GatewayError as error:
            errors.append(error)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(one)
        await anyio.wait_all_tasks_blocked()
        store.look()
    return errors[0] if errors else None


async def test_a_revoked_key_is_noticed_when_the_database_is_back(database: str) -> None:
    """What was changed meanwhile counts from the first look on."""
    with opened(database) as (rows, store):
        key = rows.make()
        await store.show(key)
        with away(database):
            store.look()
            store.at_once(key)
        rows.revoke(key)
        store.look()

        assert await store.show(key) == ["api_key_disabled"]


async def test_a_connection_that_was_cut_is_made_again_at_once(postgresql_server: PostgreSQL) -> None:
    """A restarted server costs nobody a 503."""
    with opened(fresh_database(postgresql_server)) as (rows, store):
        known, new = rows.many(2)
        await store.show(known)

        with cut(str(rows.engine.url.render_as_string(hide_password=False)).replace("+psycopg", "")):
            ends = await store.show(new)

        assert ends == ["team"]


async def test_a_removed_file_is_not_made_again(tmp_path: Path) -> None:
    """An empty database in its place would say that all keys are wrong."""
    url = f"sqlite:///{tmp_path}/amux.db"
    with opened(url) as (rows, store):
        key = rows.make()
        await store.show(key)
        with away(url):
            assert await store.show(make_key()) == ["storage_unavailable"]
            assert files(tmp_path) == []


async def test_a_file_that_was_replaced_is_read_anew(tmp_path: Path) -> None:
    """A backup that was put in its place counts from the next look on."""
    url, backup = f"sqlite:///{tmp_path}/amux.db", tmp_path / "backup.db"
    with opened(url) as (rows, store):
        key, later = rows.make(), rows.make()
        rows.revoke(later)
        with closing(sqlite3.connect(tmp_path / "amux.db")) as connection:
            connection.execute("VACUUM INTO ?", (str(backup),))
        rows.change(sa.text("DELETE FROM keys"), {})
        assert await store.show(key, later) == ["invalid_api_key"] * 2

        for path in files(tmp_path):
            path.unlink()
        shutil.move(backup, tmp_path / "amux.db")

        assert await store.show(key, later) == ["team", "api_key_disabled"]


async def test_a_database_that_is_no_plain_file_is_read_too(tmp_path: Path) -> None:
    """SQLite's own URIs are left to SQLite."""
    url = f"sqlite:///file:{tmp_path}/amux.db?uri=true"
    with opened(url) as (rows, store):
        assert await store.show(rows.make()) == ["team"]


def files(folder: Path) -> list[Path]:
    """List what there is of a SQLite database."""
    return [*folder.glob("amux.db*")]


@contextmanager
def held(url: str) -> Generator[None]:
    """Keep every writer waiting."""
    parsed = sa.make_url(url)
    if parsed.get_backend_name() == "sqlite":
        with closing(sqlite3.connect(str(parsed.database), isolation_level=None)) as holding:
            holding.execute("BEGIN EXCLUSIVE")
            yield
        return
    with psycopg.connect(url) as connection:
        connection.execute(f"LOCK TABLE {OWNERS.name} IN ACCESS EXCLUSIVE MODE".encode())
        yield


@pytest.mark.parametrize("hold", [nullcontext, held], ids=["free", "writers wait"])
async def test_a_revoked_key_is_refused_everywhere_within_a_second(
    database: str, hold: Callable[[str], AbstractContextManager[None]]
) -> None:
    """Under load, in real time, in two processes' stores, and while their writers wait for a lock."""
    rows = Rows(database)
    key = rows.make()
    admitted = [0.0, 0.0]
    acknowledged = 0.0
    ended: list[str] = []

    async def load(i: int, keys: SqlKeys) -> None:
        try:
            while True:
                await keys.authenticate(key, PEER)
                admitted[i] = time.monotonic()
                await anyio.sleep(0.001)
        except GatewayError as error:
            ended.append(error.code)

    async with (
        open_store(database, clock=time.monotonic, now=lambda: 1) as one,
        open_store(database, clock=time.monotonic, now=lambda: 1) as two,
        anyio.create_task_group() as tasks,
    ):
        for i, stores in enumerate((one, two)):
            for _ in range(5):
                tasks.start_soon(load, i, stores.keys)
        await until(lambda: all(admitted))
        rows.revoke(key)
        acknowledged = time.monotonic()
        with hold(database):
            await until(lambda: len(ended) == 10)
    rows.engine.dispose()

    assert ended == ["api_key_disabled"] * 10
    assert max(admitted) <= acknowledged + 1


async def test_a_key_is_rolled_under_load_without_a_failure(database: str) -> None:
    """The old and the new one, in real time, while other keys come and go."""
    rows = Rows(database)
    now = [1_700_000_000_000]
    old, other = rows.many(2)
    shown = {old: 0, other: 0}
    ends: list[str] = []

    async def load(keys: SqlKeys, key: str) -> None:
        try:
            while True:
                await keys.authenticate(key, PEER)
                shown[key] = shown.get(key, 0) + 1
                await anyio.sleep(0.001)
        except GatewayError as error:
            ends.append(f"{shown[key] > 0} {key == old} {error.code}")

    async with (
        open_store(database, clock=time.monotonic, now=lambda: now[0]) as stores,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(load, stores.keys, old)
        tasks.start_soon(load, stores.keys, other)
        await until(lambda: all(shown.values()))
        new = rows.make()
        rows.change(sa.text("UPDATE keys SET expires = :at WHERE id = :id"), {"at": now[0] + 60_000, "id": old[4:12]})
        tasks.start_soon(load, stores.keys, new)
        seen = stores.keys.look_ups.latest.revision
        await until(lambda: stores.keys.look_ups.latest.revision > seen and shown.get(new, 0) > 10)
        rows.revoke(other)
        await until(lambda: ends == ["True False api_key_disabled"])
        now[0] += 60_000
        await until(lambda: len(ends) == 2)
        before = shown[new]
        await until(lambda: shown[new] > before)
        tasks.cancel_scope.cancel()
    rows.engine.dispose()

    assert ends == ["True False api_key_disabled", "True True api_key_expired"]


@pytest.fixture
def server() -> Generator[PostgreSQL]:
    # Not below pytest's folder, which every other run shuts for the user that the server runs as.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, postgresql(Path(folder)) as server:
        yield server


async def test_a_server_that_stops_and_comes_back_needs_nobodys_help(server: PostgreSQL) -> None:
    """PostgreSQL killed: known keys go on; started again: new ones too."""
    url = fresh_database(server)
    rows = Rows(url)
    known, new = rows.many(2)
    rows.engine.dispose()
    async with open_store(url, clock=time.monotonic, now=lambda: 1) as stores:
        await stores.keys.authenticate(known, PEER)
        process = server.get_postmaster_info().process
        assert process is not None
        os.kill(process.pid, signal.SIGQUIT)
        process.wait()
        with pytest.raises(StorageUnavailableError):
            await stores.keys.authenticate(new, PEER)
        during = await stores.keys.authenticate(known, PEER)
        server.ensure_postgres_running()
        after = await patiently(stores.keys, new)

    assert (during.account, after) == ("team", "team")


async def patiently(keys: SqlKeys, key: str) -> str:
    """Try as a client does that is told to come back."""
    with anyio.fail_after(20):
        while True:
            try:
                return (await keys.authenticate(key, PEER)).account
            except StorageUnavailableError:
                await anyio.sleep(0.05)


async def test_a_store_that_was_closed_says_so(database: str) -> None:
    """Whoever still asks is not kept waiting, nor let in by what was known."""
    rows = Rows(database)
    key = rows.make()
    rows.engine.dispose()
    async with open_store(database, clock=time.monotonic, now=lambda: 1) as stores:
        await stores.keys.authenticate(key, PEER)

    for late in (key, make_key()):
        with pytest.raises(StorageUnavailableError):
            await stores.keys.authenticate(late, PEER)


async def test_whoever_waits_when_a_store_is_closed_hears_of_it(database: str) -> None:
    """503, at once."""
    with opened(database) as (rows, store):
        key = rows.make()
        errors: list[str] = []

        async def one() -> None:
            try:
                await store.keys.authenticate(key, PEER)
            except StorageUnavailableError as error:
                errors.append(error.code)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one)
            await anyio.wait_all_tasks_blocked()
            store.keys.look_ups.close()

    assert errors == ["storage_unavailable"]


def test_a_loop_that_closed_while_it_asked_is_no_trouble(database: str, anyio_backend_name: str) -> None:
    """Nobody waits there any more."""
    with opened(database) as (rows, store):
        key = rows.make()

        async def leave() -> None:
            with anyio.move_on_after(0):
                await store.keys.authenticate(key, PEER)

        anyio.run(leave, backend=anyio_backend_name)
        store.look()

        assert key[4:12] in store.keys.look_ups.proven


async def test_over_http_a_key_of_the_database_lets_in(database: str) -> None:
    """Through the middleware; and guessing is answered with when to come back."""
    rows = Rows(database)
    bound, free = rows.make(networks='["10.0.0.0/8"]'), rows.make()
    rows.engine.dispose()
    async with (
        open_store(database, clock=time.monotonic, now=lambda: 1) as stores,
        client(AuthMiddleware(hello, keys=stores.keys)) as asking,
    ):
        answers = [await ask(asking, key) for key in (free, bound, make_key(), *(make_key() for _ in range(20)))]

    told = [(answer.status_code, answer.json()["error"]["code"]) for answer in answers[1:]]
    assert answers[0].text == "hello, team"
    assert told[:2] == [(403, "network_not_allowed"), (401, "invalid_api_key")]
    assert told[-1] == (429, "rate_limit_exceeded")
    assert 0 < int(answers[-1].headers["retry-after"]) <= 60


async def ask(asking: httpx2.AsyncClient, key: str) -> httpx2.Response:
    return await asking.get("/", headers={"authorization": f"Bearer {key}"})
