"""Hosted pictures in a folder: several processes, full disks, what crashes leave."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from amux_asgi.errors import ConfigError, StorageUnavailableError
from amux_asgi.pictures import fresh_name
from amux_asgi.stores.folder import Folder
from tests.painted import painted
from tests.stores.hosting import START, Time, opened

ROOT = Path(__file__).parents[2]

PROCESS = """
import sys, anyio
from amux_asgi.build_pictures import pictures_of
from amux_asgi.config import Config, GatewayConfig
from tests.painted import heavy

async def main():
    config = Config(gateway=GatewayConfig(pictures=sys.argv[1]))
    async with pictures_of(config, now=lambda: 1_800_000_000)() as pictures:
        for i in range(100):
            print(await pictures.put(heavy(1000 + i), expires=1_800_000_060), flush=True)
        sys.stdin.readline()
        for name in sys.stdin.read().split():
            print(len(await pictures.get(name)))

anyio.run(main)
"""


def test_two_processes_share_a_folder(tmp_path: Path) -> None:
    """Each finds all that the other hosts; nothing is half there, nothing is left over."""
    command = [sys.executable, "-c", PROCESS, f"file:{tmp_path}/hosted"]
    both = [subprocess.Popen(command, stdin=-1, stdout=-1, text=True, cwd=ROOT) for _ in range(2)]
    names = [[read(process) for _ in range(100)] for process in both]

    told = [process.communicate("\n" + "\n".join(names[1 - i]))[0] for i, process in enumerate(both)]

    assert [process.returncode for process in both] == [0, 0]
    assert [text.split() for text in told] == [[str(1000 + i) for i in range(100)]] * 2
    assert sorted(names_in(tmp_path / "hosted")) == sorted(names[0] + names[1])


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def read(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.anyio
async def test_nobody_else_reads_the_folder(tmp_path: Path) -> None:
    """It and its files are the user's alone, whatever the umask."""
    umask = os.umask(0)
    try:
        async with opened(f"file:{tmp_path}/deep/er/hosted", Time()) as pictures:
            name = await pictures.put(painted(), expires=START + 60)
    finally:
        os.umask(umask)

    folder = tmp_path / "deep" / "er" / "hosted"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600


@pytest.mark.anyio
async def test_what_a_crash_left_unfinished_is_swept_after_an_hour(tmp_path: Path) -> None:
    """What another process writes just now stays."""
    old, new = (tmp_path / f".{fresh_name(START + 9)}.part" for _ in range(2))
    for path, age in ((old, 3601), (new, 3599)):
        path.write_bytes(b"half")
        os.utime(path, (START - age, START - age))

    async with opened(f"file:{tmp_path}", Time()):
        left = names_in(tmp_path)

    assert left == [new.name]


@pytest.mark.anyio
async def test_a_folder_that_vanished_is_made_again(tmp_path: Path) -> None:
    """Somebody tidied up: what was there is gone, the next picture is kept."""
    async with opened(f"file:{tmp_path}/hosted", Time()) as pictures:
        (tmp_path / "hosted").rmdir()
        with pytest.raises(StorageUnavailableError):
            await pictures.sweep()

        await pictures.check_room(100)
        (tmp_path / "hosted").rmdir()
        name = await pictures.put(painted(), expires=START + 60)

        assert await pictures.get(name) == painted()


FULL = """
import json, os, resource, sys, anyio
from amux_asgi.build_pictures import pictures_of
from amux_asgi.config import Config, GatewayConfig
from amux_asgi.errors import StorageUnavailableError
from tests.painted import heavy

async def main():
    config = Config(gateway=GatewayConfig(pictures="file:" + sys.argv[1]))
    async with pictures_of(config, now=lambda: 1_800_000_000)() as pictures:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))
        told = []
        for size in (100_000, 100_000, 40_000):
            try:
                await pictures.put(heavy(size), expires=1_800_000_060)
            except StorageUnavailableError as error:
                told.append([error.status, error.code, error.retry_after])
        left = sorted(os.path.getsize(entry) for entry in os.scandir(sys.argv[1]))
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        name = await pictures.put(heavy(100_000), expires=1_800_000_060)
        again = len(await pictures.get(name))
        print(json.dumps([told, left, again, pictures.shelf.used]))

anyio.run(main)
"""


def test_a_disk_that_is_full_is_a_503_until_it_has_room(tmp_path: Path) -> None:
    """L24: no half picture stays, its room is given back, and it works again without a restart."""
    command = [sys.executable, "-c", FULL, str(tmp_path / "hosted")]

    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)

    told, left, again, used = json.loads(done.stdout)
    assert told == [[503, "storage_unavailable", 5]] * 2
    assert (left, again, used) == ([40_000], 100_000, 140_000)
    assert "the store of hosted pictures fails: File too large" in done.stderr


@pytest.mark.anyio
async def test_a_disk_with_too_little_room_is_told_before_anybody_is_asked(tmp_path: Path) -> None:
    """However much the configuration allows."""
    async with opened(f"file:{tmp_path}/hosted", Time(), most=10**17) as pictures:
        await pictures.check_room(1)
        with pytest.raises(StorageUnavailableError) as caught:
            await pictures.check_room(10**16)

    assert caught.value.retry_after == 5


def test_one_file_that_cannot_be_deleted_keeps_no_other(tmp_path: Path) -> None:
    """A folder in the place of a picture, say."""
    names = [fresh_name(START - i) for i in range(3)]
    (tmp_path / names[0]).mkdir()
    for name in names[1:]:
        (tmp_path / name).write_bytes(painted())

    with pytest.raises(OSError):  # noqa: PT011, whichever the system says
        Folder(os.fspath(tmp_path), now=Time()).remove(names)

    assert names_in(tmp_path) == [names[0]]


@pytest.mark.anyio
@pytest.mark.parametrize("place", ["", "/inside"])
async def test_a_file_in_the_place_of_the_folder_is_told_at_start(tmp_path: Path, place: str) -> None:
    """A configuration that cannot work."""
    (tmp_path / "hosted").write_text("a file")

    with pytest.raises(ConfigError, match=r"^\[gateway\.pictures\] cannot be used: (File exists|Not a directory)$"):
        async with opened(f"file:{tmp_path}/hosted{place}", Time()):
            pass


def test_a_folder_that_nobody_writes_to_is_told_before_anybody_is_asked() -> None:
    """Not even root."""
    if not Path("/proc/self").exists():
        pytest.skip("this system has no such folder")

    with pytest.raises(OSError):  # noqa: PT011, whichever the system says
        Folder("/proc/self", now=Time()).check(1)
