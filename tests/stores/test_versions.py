"""Databases of one version and programs of another: money that was held is still there."""

from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from amux_asgi.errors import ConfigError
from amux_asgi.stores.sql.engine import open_engine, prepare
from amux_asgi.stores.sql.schema import MIGRATIONS, USAGE
from tests.databases import fresh_database
from tests.stores import version_1
from tests.stores.world import QUICK, give, opened_store, order, paid, rows, states, sums


@pytest.fixture
def another(request: pytest.FixtureRequest, database: str) -> str:
    """Give the URL of a second fresh database of the same kind."""
    if database.startswith("sqlite"):
        return f"{database}.another"
    return fresh_database(request.getfixturevalue("postgresql_server"))


def shape(url: str) -> Any:
    """Tell what the usage table looks like."""
    engine = open_engine(url)
    inspector = sa.inspect(engine)
    columns = [
        (column["name"], str(column["type"]), column["nullable"], str(column["default"]).strip("'").partition("'")[0])
        for column in inspector.get_columns("usage")
    ]
    checks = {check["name"] for check in inspector.get_check_constraints("usage")}
    indexes = {index["name"] for index in inspector.get_indexes("usage")}
    engine.dispose()
    return columns, checks, indexes


def test_an_old_database_comes_to_look_like_a_new_one(database: str, another: str) -> None:
    """The same columns in the same order, and the same nets below the money."""
    version_1.make(database)

    for url in (database, another):
        engine = open_engine(url)
        prepare(engine)
        engine.dispose()

    assert shape(database) == shape(another)
    assert shape(database)[1] == {"at_most_held", "earned_at_most_held", "earned_is_charged"}


@pytest.mark.anyio
async def test_what_the_old_version_held_is_given_back_by_the_new_one(database: str) -> None:
    """Its process is gone; what it captured stays captured."""
    version_1.make(database)

    async with opened_store(database, QUICK) as stores:
        while sums(database)[1]:
            await stores.ledger.get("account:a")

    assert sums(database) == (94, 0, 6)
    assert states(database) == {"gen_held": "swept", "gen_done": "captured"}
    assert rows(database, sa.select(USAGE.c.earned)) == [(0,), (0,)]


@pytest.mark.anyio
async def test_a_stream_may_be_of_a_hold_of_the_old_version(database: str) -> None:
    """Each row that was there already can earn."""
    version_1.make(database)
    async with opened_store(database) as stores:
        await stores.ledger.earn(order("gen_held"), 4, 2)

        charged = await stores.ledger.capture(order("gen_held"), paid(7))

    assert charged == 7
    assert sums(database) == (87, 0, 13)


def test_an_old_program_leaves_a_new_database_alone(database: str) -> None:
    """It says whom to ask for a newer one, and does not start."""
    engine = open_engine(database)
    prepare(engine)

    with pytest.raises(ConfigError, match="of version 2, and this program knows 1; use a newer"):
        prepare(engine, MIGRATIONS[:1])
    engine.dispose()


@pytest.mark.anyio
async def test_an_old_process_goes_on_beside_new_ones_and_sweeps_no_stream(database: str) -> None:
    """It adds rows without knowing of the new column; what a stream has earned it cannot give away."""
    async with opened_store(database) as stores:
        await give(stores, 100)
        await stores.ledger.hold(order("gen_stream"))
        await stores.ledger.earn(order("gen_stream"), 4, 1)
        version_1.write(database, version_1.HOLD.format(id="gen_1"), version_1.CAPTURE.format(id="gen_1"))

        with pytest.raises(IntegrityError):
            version_1.write(database, version_1.SWEEP.format(id="gen_stream"))

        assert rows(database, sa.select(USAGE.c.id, USAGE.c.earned).order_by(USAGE.c.id)) == [
            ("gen_1", 0),
            ("gen_stream", 4),
        ]
