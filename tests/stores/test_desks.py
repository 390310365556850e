"""Where is waited for what is written: on a busy loop, what belongs together reaches the writer together."""

import asyncio  # noqa: TID251, its desk is tested here
import math
import threading
from typing import Any

import pytest

from amux_asgi.quota import Verb
from amux_asgi.stores.sql.desks import LONGEST, TURNS, AsyncioDesk, Desks
from amux_asgi.stores.sql.operation import FOR_EVER, Operation, Task
from amux_asgi.stores.sql.reservations import End, Hold
from tests.stores.world import give, opened_store, order, paid, sums


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


async def test_who_left_is_waited_for_no_more(world: World) -> None:
    """It is given to the writer, which begins nothing that nobody waits for, and holds nobody up who comes alone."""
    one, _ = world.ask(2)
    world.desk.tell([one])
    (late,) = world.ask(1)
    for operation in [*world.given[1:], late]:
        world.desk.leave(operation)
    await one.bell
    assert not world.desk.late
    assert world.given[-1] is late

    (alone,) = world.ask(1)

    assert world.given[-1] is alone


async def test_another_thread_may_give_what_is_late(world: World) -> None:
    """As the one that stops the writer does; nothing is given twice."""
    one, two = world.ask(2)
    world.desk.tell([one])
    late = world.ask(3)

    giving = threading.Thread(target=world.desk.give)
    giving.start()
    giving.join()
    for _ in range(TURNS + 2):
        await turn()

    assert world.given == [one, two, *late]


async def test_what_is_late_is_written_when_the_store_is_closed(database: str) -> None:
    """A capture that is gathered at that moment is charged, as the picture was made."""
    async with opened_store(database) as stores:
        await give(stores, 100)
        hold = Hold(order("gen_1"), FOR_EVER)
        await stores.writer.run(hold)
        assert isinstance(hold.desk, AsyncioDesk)
        hold.desk.tell([hold, hold])
        await turn()
        end = End("gen_1", ("account:a",), Verb.CAPTURE, paid(), deadline=FOR_EVER)
        capture = asyncio.create_task(stores.writer.run(end))
        await turn()
        assert list(hold.desk.late) == [end]

        stores.writer.stop(Task(lambda _: None, FOR_EVER))

        assert await capture == 10
    assert sums(database) == (90, 0, 10)


async def test_each_loop_has_a_desk_of_its_own() -> None:
    """And keeps it while it is open, whichever other loop asks in between."""
    given: list[Operation[Any]] = []
    desks = Desks(given.append, lambda: 0.0)
    other = asyncio.new_event_loop()

    async def here() -> Any:
        return desks.here()

    mine = desks.here()
    theirs = await asyncio.to_thread(other.run_until_complete, here())

    assert isinstance(mine, AsyncioDesk)
    assert theirs is not mine
    assert desks.here() is mine
    one, two = Operation[Any](math.inf), Operation[Any](math.inf)
    for desk, operation in ((mine, one), (theirs, two)):
        desk.tell([])
        desk.enter(operation)
    assert desks.late == 2
    desks.give()
    assert given == [one, two]
    other.close()
    third = asyncio.new_event_loop()
    await asyncio.to_thread(third.run_until_complete, here())
    third.close()
    assert desks.here() is mine
    theirs.enter(Operation[Any](math.inf))
    assert desks.late == 0  # that of the closed loop is forgotten


async def test_a_closed_loop_hears_nothing() -> None:
    """Whoever waits there is gone, and what was done for it is taken back by who tells."""
    loop = asyncio.new_event_loop()
    desk = AsyncioDesk(loop, lambda _: None, lambda: 0.0)
    operation = Operation[Any](math.inf)
    desk.enter(operation)
    loop.close()

    with pytest.raises(RuntimeError):
        desk.tell([operation])
