"""Hosted pictures in a folder, which several processes may share."""

import errno
import os
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from amux_asgi.pictures import fresh_name

LEFT_OVER: Final = 3600  # seconds after which an unfinished file is nobody's
_PART: Final = ".part"  # the ending of what is not finished


class Folder:
    """Files of one folder, which nobody else may read. `now` is Unix time in seconds."""

    def __init__(self, path: str, *, now: Callable[[], float]) -> None:
        self._path = Path(path)
        self._now = now

    def make(self) -> None:
        """Make the folder, if it is not there."""
        self._path.mkdir(mode=0o700, parents=True, exist_ok=True)

    def check(self, size: int) -> None:
        """Check that a file can be made in the folder, and that its disk has the room."""
        part = self._part(fresh_name(1))
        self._begin(part, b"")
        part.unlink()
        if shutil.disk_usage(self._path).free < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def write(self, name: str, data: bytes) -> None:
        """Write a file under another name first, so that nobody reads half of it."""
        part = self._part(name)
        try:
            self._begin(part, data)
            part.replace(self._path / name)
        except OSError:
            part.unlink(missing_ok=True)
            raise

    def read(self, name: str) -> bytes | None:
        """Give a file's bytes, if there is such a file."""
        try:
            return (self._path / name).read_bytes()
        except FileNotFoundError:
            return None

    def listed(self) -> Iterator[tuple[str, int]]:
        """Give the names and sizes of all files; removes what somebody began long ago and never finished."""
        with os.scandir(self._path) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):  # another process was quicker
                    status = entry.stat(follow_symlinks=False)
                    if not _is_left_over(entry.name, self._now() - status.st_mtime):
                        yield entry.name, status.st_size
                    else:
                        Path(entry).unlink()

    def remove(self, names: Collection[str]) -> None:
        """Remove files; what cannot be removed stays for the next time."""
        failed: OSError | None = None
        for name in names:
            try:
                (self._path / name).unlink(missing_ok=True)
            except OSError as exc:
                failed = exc
        if failed is not None:
            raise failed

    def _part(self, name: str) -> Path:
        return self._path / f".{name}{_PART}"

    def _begin(self, part: Path, data: bytes) -> None:
        self.make()
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(data)


def _is_left_over(name: str, age: float) -> bool:
    return age > LEFT_OVER and name.startswith(".") and name.endswith(_PART)
