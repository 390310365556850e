"""Work that was begun is finished, whoever leaves."""

import logging
from functools import partial

import anyio
import pytest

from amux_asgi.errors import InvalidRequestError, UpstreamTimeoutError
from amux_asgi.jobs import Jobs

pytestmark = pytest.mark.anyio


async def test_a_reader_gets_what_the_work_gives() -> None:
    """Value in, value out."""

    async def work() -> int:
        await anyio.lowlevel.checkpoint()
        return 42

    async with anyio.create_task_group() as tasks:
        assert await Jobs(tasks.start_soon).run(work) == 42


@pytest.mark.parametrize("error", [InvalidRequestError("no"), ValueError("bug")])
async def test_a_reader_gets_the_error_the_work_ends_with(error: Exception) -> None:
    """Errors belong to the reader, and do not end other jobs."""

    async def work() -> int:
        await anyio.lowlevel.checkpoint()
        raise error

    async with anyio.create_task_group() as tasks:
        with pytest.raises(type(error)) as caught:
            await Jobs(tasks.start_soon).run(work)
        assert caught.value is error


@pytest.mark.parametrize(
    ("error", "logged"), [(None, False), (InvalidRequestError("no"), False), (ValueError("bug"), True)]
)
async def test_the_work_goes_on_when_its_reader_leaves(
    error: Exception | None, *, logged: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """A client that hangs up changes nothing; a bug that nobody sees is logged."""
    begun, go_on, ended = anyio.Event(), anyio.Event(), anyio.Event()

    async def work() -> int:
        begun.set()
        await go_on.wait()
        ended.set()
        if error:
            raise error
        return 1

    async with anyio.create_task_group() as tasks:
        jobs = Jobs(tasks.start_soon)
        async with anyio.create_task_group() as readers:
            readers.start_soon(jobs.run, work)
            await begun.wait()
            readers.cancel_scope.cancel()
        go_on.set()
        await jobs.drain(60)

    assert ended.is_set()
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * logged


async def test_draining_gives_up_after_the_grace_time() -> None:
    """An app that stops does not wait for ever, and the reader learns that the end is unknown."""
    failures: list[UpstreamTimeoutError] = []

    async def read(jobs: Jobs, started: anyio.Event) -> None:
        with pytest.raises(UpstreamTimeoutError) as caught:
            await jobs.run(partial(hang, started))
        failures.append(caught.value)

    async def hang(started: anyio.Event) -> None:
        started.set()
        await anyio.sleep_forever()

    async with anyio.create_task_group() as readers, anyio.create_task_group() as tasks:
        jobs, started = Jobs(tasks.start_soon), anyio.Event()
        readers.start_soon(read, jobs, started)
        await started.wait()
        await jobs.drain(0)
        tasks.cancel_scope.cancel()

    assert len(failures) == 1
