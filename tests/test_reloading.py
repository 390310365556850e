"""A file that is looked at: what is done when something in it, or around it, cannot work."""

import logging
from pathlib import Path

import anyio
import pytest

from amux_asgi.config import GatewayConfig
from amux_asgi.errors import StorageUnavailableError
from amux_asgi.reloading import FOR_GOOD, Watch

pytestmark = pytest.mark.anyio


class Taking:
    """What takes a file over: fails as often as it is told to."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.times = 0

    async def __call__(self) -> None:
        await anyio.lowlevel.checkpoint()
        self.times += 1
        if self.errors:
            raise self.errors.pop(0)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "amux.toml"
    path.write_text("new")
    return path


async def test_a_store_that_is_away_is_tried_again_at_each_look(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is said once; then the file is taken, and left alone."""
    taking = Taking(StorageUnavailableError("away"), StorageUnavailableError("away"))
    watch = Watch(str(file), b"old", taking)

    for _ in range(5):
        await watch.look()

    assert taking.times == 3
    assert [record.message for record in caplog.records if record.levelno == logging.ERROR] == [
        "the new configuration is not used, the old one lives on: away"
    ]


async def test_a_bug_is_shown_with_its_traceback_and_ends_nothing(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever an adapter of others raises."""
    watch = Watch(str(file), b"old", Taking(ZeroDivisionError("oops")))

    await watch.look()

    assert "ZeroDivisionError" in caplog.text


async def test_a_file_whose_content_is_the_same_is_not_taken(file: Path) -> None:
    """Only its date is another."""
    taking = Taking()
    watch = Watch(str(file), b"new", taking)

    await watch.look()
    file.write_text("new")  # noqa: ASYNC240, a small file
    await watch.look()
    await watch.look(anyway=True)

    assert taking.times == 1


async def test_it_looks_once_a_second(file: Path) -> None:
    """As long as the app runs."""
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        await anyio.lowlevel.checkpoint()
        if len(waits) == 3:
            await anyio.sleep_forever()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(Watch(str(file), b"old", Taking()).run, sleep)
        while len(waits) < 3:
            await anyio.lowlevel.checkpoint()
            await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()

    assert waits == [1, 1, 1]


TAKEN_OVER = {
    "body_timeout",
    "default_model",
    "heartbeat",
    "max_answer",
    "max_body",
    "public_url",
    "reveal",
    "strict",
    "timeout",
}


async def test_each_key_of_the_gateway_is_taken_over_or_wants_a_restart() -> None:
    """A new one is put into one of the two lists."""
    assert {*FOR_GOOD, *TAKEN_OVER} == {*GatewayConfig.__struct_fields__}
