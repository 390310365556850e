"""Whatever happens in whatever order, the sums add up."""

import random

import pytest

from tests.stores.simulation import World

OPERATIONS = 100_000


def simulate(seed: int, operations: int) -> World:
    """Run a world until so much was done; a failure says the seed."""
    world = World(seed)
    steps = 0
    try:
        while world.operations < operations:
            world.step()
            steps += 1
            if steps % 500 == 0:
                world.check_rows()
        world.check_rows()
    except Exception as exc:
        exc.add_note(f"seed {seed}, step {steps}")
        raise
    finally:
        world.close()
    return world


@pytest.mark.parametrize("part", range(4))
def test_every_interleaving_adds_up(part: int) -> None:
    """Holds, captures, releases, sweeps, late captures, crashes and repetitions: no nano-dollar comes or goes."""
    seed = random.SystemRandom().randrange(2**32)

    world = simulate(seed, OPERATIONS // 4)

    states = {stay.state for stay in world.reference.stays.values()}
    assert states == {"held", "captured", "released", "swept"}, (part, seed)


def test_a_wrong_sum_would_be_noticed() -> None:
    """The simulation itself can fail."""
    world = World(1)
    while "account:rich" not in world.reference.purses:
        world.step()
    world.reference.purses["account:rich"].taken += 1

    with pytest.raises(AssertionError):
        world.check()

    world.close()
