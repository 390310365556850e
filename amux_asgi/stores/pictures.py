"""Hosted pictures kept outside of this process: the port made real over anything that reads and writes by name.

All that may wait for a disk or a network runs in threads, so it works on asyncio and on trio.
"""

import logging
from collections.abc import AsyncGenerator, Callable, Collection, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, Protocol, TypeVar

import anyio
from anyio import CapacityLimiter, to_thread
from msgspec import Struct

from amux_asgi.errors import ConfigError, StorageUnavailableError
from amux_asgi.pictures import (
    NEVER,
    MemoryPictures,
    OpenPictures,
    Pictures,
    Shelf,
    check_picture,
    expiry_of,
    fresh_name,
    is_over,
)
from amux_asgi.redact import redact

T = TypeVar("T")
Now = Callable[[], float]
Sleep = Callable[[float], Any]

EVERY: Final = 60.0  # seconds between two sweeps
AGAIN: Final = 5.0  # seconds a client is asked to wait while the store is away
THREADS: Final = 16  # that wait for one store at most, apart from those of the host
UNUSABLE: Final = (FileExistsError, FileNotFoundError, NotADirectoryError, PermissionError)

logger: logging.Logger = logging.getLogger("amux_asgi")


class Files(Protocol):
    """Keeps bytes by name, and blocks meanwhile. What it cannot do is an `OSError`, and nothing else."""

    def make(self) -> None:
        """Make it ready; called again when it is, it changes nothing."""
        ...

    def check(self, size: int) -> None:
        """Check that `size` more bytes could be written now."""
        ...

    def write(self, name: str, data: bytes) -> None:
        """Write all of it, or nothing that anybody would find."""
        ...

    def read(self, name: str) -> bytes | None:
        """Give what has this name, if anything has."""
        ...

    def listed(self) -> Iterator[tuple[str, int]]:
        """Give the names and sizes of all that is there, ours or not."""
        ...

    def remove(self, names: Collection[str]) -> None:
        """Remove what is still there of these; what cannot be removed keeps nothing else from it."""
        ...


class KeptPictures:
    """Pictures in `files`, at most so many bytes.

    Several processes may share the files: what the others put is known from the last sweep.
    """

    def __init__(self, files: Files, *, most: int, now: Now) -> None:
        self._files = files
        self._now = now
        self._threads = CapacityLimiter(THREADS)
        self._sweeping = anyio.Lock()
        self.shelf: Shelf = Shelf(most, now)

    async def start(self) -> None:
        """Make the files ready, and count them; a store that is only away for now is said in the log.

        Raises:
            ConfigError: they cannot be used.
        """
        try:
            await to_thread.run_sync(self._files.make, limiter=self._threads)
        except UNUSABLE as exc:
            raise ConfigError(f"[gateway.pictures] cannot be used: {_reason(exc)}") from exc
        except OSError as exc:
            _say(exc)
        with suppress(StorageUnavailableError):  # is said already
            await self.sweep()

    async def put(self, data: bytes, *, expires: int) -> str:
        """Keep a picture, and give its name.

        Raises:
            StorageUnavailableError: there is no room, or the store is away.
            UpstreamBadResponseError: it is no picture.
        """
        check_picture(data)
        await self._make_room(len(data))
        name = fresh_name(expires)
        self.shelf.add(name, len(data))
        try:
            await self._run(self._files.write, name, data)
        except StorageUnavailableError:
            self.shelf.drop(name)
            raise
        return name

    async def get(self, name: str) -> bytes | None:
        """Give the picture of this name; `None` if there is none, or its time is over.

        Raises:
            StorageUnavailableError: the store is away.
        """
        return None if is_over(name, self._now()) else await self._run(self._files.read, name)

    async def check_room(self, size: int) -> None:
        """Check that `size` more bytes could be kept now.

        Raises:
            StorageUnavailableError: they could not, or the store is away.
        """
        await self._make_room(size)
        self.shelf.check(size)
        await self._run(self._files.check, size)

    async def sweep(self) -> None:
        """Delete what has expired, and count what is there.

        Raises:
            StorageUnavailableError: the store is away.
        """
        async with self._sweeping:
            count = await self._run(_sweep, self._files, self._now())
            self.shelf.counted(count.sizes, count.soonest)

    async def _make_room(self, size: int) -> None:
        if self.shelf.wants_sweep(size):
            await self.sweep()

    async def _run(self, work: Callable[..., T], *arguments: Any) -> T:  # noqa: ANN401, whatever the work takes
        try:
            return await to_thread.run_sync(work, *arguments, limiter=self._threads)
        except OSError as exc:
            _say(exc)
            raise StorageUnavailableError("hosted pictures cannot be kept at present", retry_after=AGAIN) from exc


class _Count(Struct, frozen=True):
    sizes: dict[str, int]
    soonest: int


def _sweep(files: Files, now: float) -> _Count:
    sizes: dict[str, int] = {}
    over: dict[str, int] = {}
    soonest = NEVER
    for name, size in files.listed():
        expires = expiry_of(name)
        if expires is None:
            continue  # not ours, so it stays
        if expires <= now:
            over[name] = size
        else:
            sizes[name] = size
            soonest = min(soonest, expires)
    try:
        files.remove(over)
    except OSError as exc:
        _say(exc)
        sizes |= over  # they still take their room
    return _Count(sizes, soonest)


def _say(exc: OSError) -> None:
    logger.warning("the store of hosted pictures fails: %s", _reason(exc))


def _reason(exc: OSError) -> str:
    return redact(exc.strerror or str(exc))


@asynccontextmanager
async def open_files(
    make: Callable[[], Files], *, most: int, now: Now, sleep: Sleep = anyio.sleep
) -> AsyncGenerator[Pictures]:
    """Keep pictures in the files that `make` gives while entered, and sweep them every minute.

    Raises:
        ConfigError: they cannot be used.
    """
    pictures = KeptPictures(await to_thread.run_sync(make), most=most, now=now)
    await pictures.start()
    async with _swept(pictures, sleep):
        yield pictures


def in_memory(*, most: int, now: Now, sleep: Sleep = anyio.sleep) -> OpenPictures:
    """Keep pictures in memory, which is there all the time; they are swept while entered."""
    pictures = MemoryPictures(most=most, now=now)
    return lambda: _swept(pictures, sleep)


@asynccontextmanager
async def _swept(pictures: Pictures, sleep: Sleep) -> AsyncGenerator[Pictures]:
    error: Exception | None = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_keep_sweeping, pictures, sleep)
        try:
            yield pictures
        except Exception as exc:  # noqa: BLE001, raised again below, where no task group wraps it
            error = exc
        tasks.cancel_scope.cancel()
    if error is not None:
        raise error


async def _keep_sweeping(pictures: Pictures, sleep: Sleep) -> None:
    while True:
        await sleep(EVERY)
        with suppress(StorageUnavailableError):  # is said already, and the next one may do better
            await pictures.sweep()
