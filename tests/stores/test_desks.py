"""Where is waited for what is written: on a busy loop, what belongs together reaches the writer together."""

import asyncio  # noqa: TID251, its desk is tested here
import math
from typing import Any

import pytest

from amux_asgi.stores.sql.desks import LONGEST, TURNS, AsyncioDesk
from amux_asgi.stores.sql.operation import Operation


class World:
    """A desk on the loop that runs, and what the writer was given by it."""

    def __init__(self) -> None:
        self.given: list[Operation[Any]] = []
        self.desk = AsyncioDesk(asyncio.get_running_loop(), self.given.append, lambda: 0.0)

    def ask(self, number: int) -> list[Operation[Any]]:
        """Enter so many."""
        asked = [Operation[Any](math.inf) for _ in range(number)]
        for operation in asked:
            self.desk.enter(operation)
        return asked


@pytest.fixture
async def world() -> World:
    return World()


@pytest.fixture
def anyio_backend() -> str:
    """Run on asyncio alone, whose desk it is."""
    return "asyncio"


pytestmark = pytest.mark.anyio


async def turn() -> None:
    """Let the loop go round once."""
    await asyncio.sleep(0)


async def test_what_comes_behind_a_commit_is_given_together(world: World) -> None:
    """However many turns of the loop it comes in, up to a few."""
    one, two = world.ask(2)
    assert world.given == [one, two]
    world.desk.tell([one])
    late: list[Operation[Any]] = []
    for _ in range(TURNS):
        assert world.given == [one, two]
        late += world.ask(1)
        await turn()

    while world.desk.late:
        await turn()

    assert one.bell.result() is True
    assert not two.bell.done()
    assert world.given == [one, two, *late]
    assert world.ask(1) == world.given[-1:]


async def test_who_is_alone_waits_for_nobody(world: World) -> None:
    """What it asks for once it was told is given at once."""
    (one,) = world.ask(1)
    world.desk.tell([one])

    await one.bell

    (two,) = world.ask(1)
    assert world.given == [one, two]


async def test_one_commit_after_the_other_is_gathered_for_as_well(world: World) -> None:
    """The second ends while it is still gathered for the first: the count of turns begins again."""
    one, two, three = world.ask(3)
    world.desk.tell([one])
    for _ in range(TURNS - 1):
        await turn()
    world.desk.tell([two, three])
    late = world.ask(1)
    for _ in range(TURNS - 1):
        await turn()
        assert world.given == [one, two, three]

    while world.desk.late:
        await turn()

    assert world.given == [one, two, three, *late]


async def test_the_last_who_waits_does_not_cut_short_what_is_gathered(world: World) -> None:
    """A commit of one, told amid the turns after another one, leaves them as they are."""
    one, two = world.ask(2)
    world.desk.tell([one])
    await turn()
    world.desk.tell([two])
    await turn()
    late = world.ask(1)
    assert world.given == [one, two]

    while world.desk.late:
        await turn()

    assert world.given == [one, two, *late]


async def test_nothing_is_kept_for_long(world: World) -> None:
    """Turns of a loop that is held up may be long: what was gathered by then is given."""
    loop = asyncio.get_running_loop()
    one, two, *_ = world.ask(3)
    world.desk.tell([one, two])
    late = world.ask(1)
    await one.bell
    until = loop.time() + LONGEST
    while loop.time() < until:
        pass  # one long turn
    await turn()

    assert world.given[3:] == late


async def test_what_is_late_is_given_when_its_time_is_over_too(world: World) -> None:
    """Who was cancelled meanwhile is left to the writer, which begins nothing that nobody waits for."""
    one, _ = world.ask(2)
    world.desk.tell([one])
    (late,) = world.ask(1)
    late.bell.cancel()

    while world.desk.late:
        await turn()

    assert world.given[-1] is late


async def test_a_closed_loop_hears_nothing() -> None:
    """Whoever waits there is gone, and what was done for it is taken back by who tells."""
    loop = asyncio.new_event_loop()
    desk = AsyncioDesk(loop, lambda _: None, lambda: 0.0)
    operation = Operation[Any](math.inf)
    desk.enter(operation)
    loop.close()

    with pytest.raises(RuntimeError):
        desk.tell([operation])
