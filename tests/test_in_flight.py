"""The bytes that requests hold: booked before anything is paid, counted as they come, never much more than allowed."""

import random
from collections.abc import Awaitable
from contextlib import suppress

import anyio
import pytest

from amux_asgi.errors import OverloadedError
from amux_asgi.in_flight import COPIES, LEAST, USUAL, Held, InFlight

pytestmark = pytest.mark.anyio
MOST = 4_000_000
ROOM = 3_000_000


def book() -> InFlight:
    return InFlight(MOST, clock=lambda: 0.0)


async def came(*pieces: Awaitable[None]) -> int:
    """Tell how many of several pieces need not wait."""
    done = 0

    async def one(piece: Awaitable[None]) -> None:
        nonlocal done
        await piece
        done += 1

    async with anyio.create_task_group() as tasks:
        for piece in pieces:
            tasks.start_soon(one, piece)
            await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    return done


def test_what_is_booked_is_free_again_when_it_is_left() -> None:
    """Also after an error."""
    flight = book()
    with suppress(ZeroDivisionError), flight.open("a") as held:
        held.reserve(700_000)
        held.add(5)
        assert flight.snapshot().held == 700_005
        raise ZeroDivisionError

    state = flight.snapshot()
    assert (state.most, state.held, state.waiting) == (MOST, 0, 0)


def test_beyond_the_room_nothing_is_begun() -> None:
    """503 with the time after which something is likely to have ended."""
    now = 0.0
    flight = InFlight(MOST, clock=lambda: now)
    for _ in range(50):
        with flight.open("a"):
            now += 30
    with flight.open("a") as first, flight.open("b") as second, flight.open("c") as third:
        first.reserve(700_000)
        second.reserve(700_000)
        third.add(1_500_000)
        with flight.open("d") as fourth, pytest.raises(OverloadedError) as caught:
            fourth.reserve(200_000)

    assert (caught.value.status, caught.value.code) == (503, "overloaded")
    assert caught.value.retry_after == pytest.approx(30 / 4, rel=0.01)


def test_one_key_leaves_room_for_others() -> None:
    """Alone it may have four fifths, and nothing of another's share after that."""
    flight = book()
    for _ in range(48):
        flight.open("a").reserve(50_000)
    with pytest.raises(OverloadedError):
        flight.open("a").reserve(50_000)
    flight.open("b").reserve(50_000)
    with pytest.raises(OverloadedError):
        flight.open("a").reserve(50_000)

    assert flight.snapshot().held == 49 * 50_000


def test_more_than_a_fourth_is_not_asked_for_beforehand() -> None:
    """A request for ten large pictures would never find room."""
    assert book().expected("m", 10, longest=2**30) == ROOM // 4


def test_what_is_expected_follows_what_came() -> None:
    """Up in a few answers, down in many, never beyond what an answer may have."""
    flight = InFlight(2**30, clock=lambda: 0.0)
    before = flight.expected("m", 2, longest=2**30)
    flight.learn("m", 2, 8_000_000)
    large = flight.expected("m", 1, longest=2**30)
    for _ in range(50):
        flight.learn("m", 1, 1000)
    small = flight.expected("m", 1, longest=2**30)
    flight.learn("m", 1, 10_000_000)

    assert before == LEAST + 2 * USUAL
    assert large == LEAST + 4_000_000
    assert small < LEAST + 10_000
    assert flight.expected("m", 1, longest=2**30) > LEAST + 5_000_000
    assert flight.expected("m", 3, longest=1000) == LEAST + 3000


async def test_what_comes_is_counted_beyond_what_was_expected() -> None:
    """All copies of it."""
    flight = book()
    with flight.open("a") as held:
        held.reserve(500_000)
        await held.grow(100_000)
        assert flight.snapshot().held == 500_000
        await held.grow(200_000)
        state = flight.snapshot()

    assert (state.held, held.seen) == (300_000 * COPIES, 300_000)


async def test_beyond_the_room_one_answer_goes_on_and_the_others_wait_their_turn() -> None:
    """They are paid, so none is given up; they stay with the upstream until there is room."""
    flight = book()
    helds = [flight.open("a") for _ in range(4)]
    for held in helds:
        held.add(700_000)

    assert await came(*(held.grow(400_000) for held in helds)) == 1
    assert await came(helds[0].grow(400_000)) == 1
    assert flight.snapshot().waiting == 0
    helds[0].__exit__(None, None, None)
    assert await came(helds[1].grow(1), helds[2].grow(1), helds[3].grow(100_000)) == 2


async def test_several_answers_of_the_one_that_goes_on_all_go_on() -> None:
    """A request for several pictures has several answers, and ends only with all of them."""
    flight = book()
    one, two, three = (flight.open("a") for _ in range(3))
    for held in (one, two, three):
        held.add(1_000_000)
    done: list[int] = []
    waiting, then = 0, list[int]()

    async def growing(held: Held, number: int) -> None:
        await held.grow(1_500_000)
        done.append(number)

    async with anyio.create_task_group() as tasks:
        for number, held in enumerate((one, two, three, two)):
            tasks.start_soon(growing, held, number)
            await anyio.wait_all_tasks_blocked()
        waiting = flight.snapshot().waiting
        one.__exit__(None, None, None)
        await anyio.wait_all_tasks_blocked()
        then = sorted(done)
        two.__exit__(None, None, None)

    assert (waiting, then, sorted(done)) == (3, [0, 1, 3], [0, 1, 2, 3])


async def test_all_come_to_their_end_and_nothing_stays_counted() -> None:
    """20,000 seeded steps of requests that begin, grow, are cancelled and end, in any order."""
    chance = random.Random(7)
    flight = book()
    steps = 0
    scopes: list[anyio.CancelScope] = []

    async def one(key: str, pieces: list[int]) -> None:
        nonlocal steps
        scope = anyio.CancelScope()
        scopes.append(scope)
        try:
            with scope, flight.open(key) as held:
                held.reserve(100_000)
                for piece in pieces:
                    steps += 1
                    await held.grow(piece)
                    await anyio.lowlevel.checkpoint()
                    state = flight.snapshot()
                    assert state.held <= ROOM + 2_000_000 * COPIES
        except OverloadedError:
            steps += 1
        finally:
            scopes.remove(scope)

    while steps < 20_000:
        async with anyio.create_task_group() as tasks:
            for _ in range(40):
                pieces = [chance.randrange(100_000) for _ in range(chance.randrange(20))]
                tasks.start_soon(one, chance.choice("abc"), pieces)
            await anyio.lowlevel.checkpoint()
            chance.choice(scopes or [anyio.CancelScope()]).cancel()

    state = flight.snapshot()
    assert (state.held, state.waiting, scopes) == (0, 0, [])
