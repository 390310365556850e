"""Where hosted pictures are kept: in memory, in a folder, in S3; one promise for all, and what only some can break."""

import errno
from collections.abc import Awaitable, Callable, Collection, Iterator
from pathlib import Path

import anyio
import pytest

from amux_asgi.build_pictures import pictures_of
from amux_asgi.config import Config, GatewayConfig
from amux_asgi.errors import StorageUnavailableError, UpstreamBadResponseError
from amux_asgi.pictures import Pictures, fresh_name
from amux_asgi.stores.pictures import EVERY, KeptPictures, open_files
from tests.painted import heavy, painted
from tests.stores.hosting import START, Time, opened

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["memory", "folder", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Give the URL of each kind of store, a fresh one."""
    match request.param:
        case "memory":
            return "memory://"
        case "folder":
            return f"file:{tmp_path}/hosted"
        case _:
            return f"s3://{request.getfixturevalue('s3').bucket()}/some/prefix"


async def test_a_picture_is_there_until_it_expires(url: str) -> None:
    """To the byte, and to the second."""
    time = Time()
    async with opened(url, time) as pictures:
        name = await pictures.put(painted("WEBP"), expires=START + 60)

        time.now += 59
        found = await pictures.get(name)
        time.now += 1
        gone = await pictures.get(name)

    assert name.startswith(f"{START + 60}-")
    assert (found, gone) == (painted("WEBP"), None)


async def test_nobody_knows_other_names(url: str, tmp_path: Path) -> None:
    """Neither one that was never given, nor one that leads elsewhere."""
    (tmp_path / "secret").write_bytes(painted())
    async with opened(url, Time()) as pictures:
        name = await pictures.put(painted(), expires=START + 60)

        others = [fresh_name(START + 60), "../secret", "/etc/passwd", f"../hosted/{name}", f"{name}/", f"{name}\0", ""]
        found = [await pictures.get(other) for other in others]

    assert found == [None] * len(others)


async def test_what_is_no_picture_is_not_kept(url: str) -> None:
    """HTML under our name would be our own site's."""
    async with opened(url, Time()) as pictures:
        for data in (b"<html><script>alert(1)</script>" + painted(), b"", b"%PDF-1.7"):
            with pytest.raises(UpstreamBadResponseError):
                await pictures.put(data, expires=START + 60)


async def test_a_sweep_deletes_exactly_what_has_expired(url: str, tmp_path: Path) -> None:
    """Every minute, by itself; what is not ours stays."""
    time = Time()
    folder = tmp_path / "hosted"
    async with opened(url, time) as pictures:
        names = [await pictures.put(heavy(100 + i), expires=START + i) for i in range(1, 121, 20)]
        if url.startswith("file:"):
            (folder / "notes.txt").write_text("mine")
        time.now += 61

        await time.wake()

        found = [await pictures.get(name) is not None for name in names]
        time.now = START  # were they there still, they would be found
        left = [await pictures.get(name) is not None for name in names]

    assert time.slept == [EVERY, EVERY]
    assert found == left == [False, False, False, False, True, True]
    if url.startswith("file:"):
        assert {path.name for path in folder.iterdir()} == {"notes.txt", *names[4:]}


async def test_fifty_at_once_keep_no_more_than_fits(url: str) -> None:
    """Room for eight and a half: eight are kept, and each of the others is told so before anything is written."""
    time = Time()
    kept: list[str] = []
    refused: list[StorageUnavailableError] = []
    async with opened(url, time, most=8_500) as pictures:

        async def put() -> None:
            try:
                kept.append(await pictures.put(heavy(1000), expires=START + 60))
            except StorageUnavailableError as error:
                refused.append(error)

        async with anyio.create_task_group() as tasks:
            for _ in range(50):
                tasks.start_soon(put)

        found = [await pictures.get(name) for name in kept]

    assert (len(kept), len(refused)) == (8, 42)
    assert found == [heavy(1000)] * 8
    assert {(error.status, error.code, error.retry_after) for error in refused} == {(503, "storage_unavailable", 60)}


async def test_a_full_store_is_told_before_anybody_is_asked(url: str) -> None:
    """And has room again when the first picture's time is over, without waiting for the next sweep."""
    time = Time()
    async with opened(url, time, most=2_000) as pictures:
        await pictures.check_room(2_000)
        await pictures.put(heavy(1_500), expires=START + 60)

        with pytest.raises(StorageUnavailableError) as caught:
            await pictures.check_room(501)
        await pictures.check_room(500)
        time.now += 60
        await pictures.check_room(2_000)
        name = await pictures.put(heavy(2_000), expires=START + 120)

        assert await pictures.get(name) == heavy(2_000)
    assert caught.value.retry_after == 60


async def test_what_is_there_is_counted_when_it_is_opened(url: str) -> None:
    """A restart forgets no picture, and no room that is taken."""
    time = Time()
    config = Config(gateway=GatewayConfig(pictures=url, pictures_max=2_000))
    store = pictures_of(config, now=time, sleep=time.sleep)
    async with store() as pictures:
        name = await pictures.put(heavy(1_500), expires=START + 60)

    async with store() as pictures:
        found = await pictures.get(name)
        with pytest.raises(StorageUnavailableError) as caught:
            await pictures.check_room(501)

    assert found == heavy(1_500)
    assert caught.value.retry_after == 60


async def test_an_error_of_who_uses_it_comes_out_as_it_is(url: str) -> None:
    """No group of exceptions around it."""
    with pytest.raises(ZeroDivisionError):
        async with opened(url, Time()):
            raise ZeroDivisionError


async def test_two_nodes_on_one_store_see_the_same_pictures(url: str) -> None:
    """And after a sweep both know how much is there; both sweep, and neither minds that the other was quicker."""
    time = Time()
    if url == "memory://":
        return
    async with opened(url, time, 2_000) as one, opened(url, time, 2_000) as other:
        name = await one.put(heavy(1_500), expires=START + 60)
        found = await other.get(name)
        await other.sweep()
        with pytest.raises(StorageUnavailableError):
            await other.check_room(501)
        time.now += 60

        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(one.sweep)
                tasks.start_soon(other.sweep)

        await one.check_room(2_000)
        await other.check_room(2_000)
    assert found == heavy(1_500)


class Broken:
    """Files that fail as disks and networks do, after so many calls."""

    def __init__(self, error: OSError, *, after: int = 0) -> None:
        self.error = error
        self.after = after

    def _fail(self) -> None:
        self.after -= 1
        if self.after < 0:
            raise self.error

    def make(self) -> None:
        self._fail()

    def check(self, size: int) -> None:  # noqa: ARG002, a port's signature
        self._fail()

    def write(self, name: str, data: bytes) -> None:  # noqa: ARG002, a port's signature
        self._fail()

    def read(self, name: str) -> bytes | None:  # noqa: ARG002, a port's signature
        self._fail()

    def listed(self) -> Iterator[tuple[str, int]]:
        self._fail()
        yield fresh_name(START - 1), 70
        yield fresh_name(START + 9), 20

    def remove(self, names: Collection[str]) -> None:  # noqa: ARG002, a port's signature
        self._fail()


DOWN = OSError(errno.EIO, "Input/output error")


USES: dict[str, Callable[[Pictures], Awaitable[object]]] = {
    "put": lambda pictures: pictures.put(painted(), expires=START + 60),
    "get": lambda pictures: pictures.get(fresh_name(START + 60)),
    "check_room": lambda pictures: pictures.check_room(1),
    "sweep": lambda pictures: pictures.sweep(),
}


@pytest.mark.parametrize("use", USES)
async def test_a_store_that_fails_is_a_503(use: str, caplog: pytest.LogCaptureFixture) -> None:
    """Never a 500; the log says why, and takes no room for what is not there."""
    pictures = KeptPictures(Broken(DOWN), most=1000, now=Time())

    with pytest.raises(StorageUnavailableError) as caught:
        await USES[use](pictures)

    assert (caught.value.status, caught.value.retry_after) == (503, 5)
    assert "Input/output error" not in caught.value.message
    assert caplog.messages == ["the store of hosted pictures fails: Input/output error"]
    assert pictures.shelf.used == 0


async def test_a_store_that_is_away_stops_nobody_from_starting(caplog: pytest.LogCaptureFixture) -> None:
    """It is said in the log, and looked for again every minute."""
    time = Time()
    files = Broken(DOWN)
    async with open_files(lambda: files, most=1000, now=time, sleep=time.sleep) as pictures:
        await time.wake()
        with pytest.raises(StorageUnavailableError):
            await pictures.check_room(1)
        files.after = 9
        await time.wake()
        await pictures.check_room(1)

    assert caplog.messages == ["the store of hosted pictures fails: Input/output error"] * 4


async def test_what_cannot_be_deleted_still_takes_its_room(caplog: pytest.LogCaptureFixture) -> None:
    """The count goes on, also where somebody else has to delete."""
    pictures = KeptPictures(Broken(DOWN, after=1), most=100, now=Time())

    await pictures.sweep()

    assert pictures.shelf.used == 90
    assert caplog.messages == ["the store of hosted pictures fails: Input/output error"]
