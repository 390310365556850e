"""Hosted pictures in an object store: S3 and what speaks like it, Google's, Azure's (extra `s3`).

obstore finds the credentials, and the endpoint if it is another, in the environment.
"""

from collections.abc import Collection, Generator, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Final

import obstore
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import from_url

from amux_asgi.errors import ConfigError
from amux_asgi.redact import redact

MARK: Final = ".amux-pictures"  # an empty object, by which we see that we may write and that the store is there
PAGE: Final = 1000  # objects that are listed at once
PATIENCE: Final = timedelta(seconds=20)  # in which an ask is sent again


class Objects:
    """Objects under one prefix."""

    def __init__(self, url: str) -> None:
        """Take `s3://bucket/prefix`, `gs://...` or `az://...`.

        Raises:
            ConfigError: the environment does not say enough to reach it.
        """
        try:
            self._store = from_url(url, retry_config={"max_retries": 3, "retry_timeout": PATIENCE})
        except BaseError as exc:
            raise ConfigError(f"[gateway.pictures] cannot be used: {redact(str(exc))}") from exc

    def make(self) -> None:
        """Leave a mark, which only works where we may write."""
        with _os_errors():
            obstore.put(self._store, MARK, b"", use_multipart=False)

    def check(self, size: int) -> None:  # noqa: ARG002, there is room without end
        """Check that the store answers us."""
        try:
            with _os_errors():
                obstore.head(self._store, MARK)
        except FileNotFoundError:  # somebody tidied up
            self.make()

    def write(self, name: str, data: bytes) -> None:
        """Write an object, which nobody sees before it is complete."""
        with _os_errors():
            obstore.put(self._store, name, data, use_multipart=False)

    def read(self, name: str) -> bytes | None:
        """Give an object's bytes, if there is such an object."""
        try:
            with _os_errors():
                return obstore.get(self._store, name).bytes().to_bytes()
        except FileNotFoundError:
            return None

    def listed(self) -> Iterator[tuple[str, int]]:
        """Give the names and sizes of all objects."""
        with _os_errors():
            for page in obstore.list(self._store, chunk_size=PAGE):  # pyright: ignore[reportUnknownMemberType]  Arrow's
                yield from ((found["path"], found["size"]) for found in page)

    def remove(self, names: Collection[str]) -> None:
        """Remove objects, many at once; if another node was quicker, one by one."""
        try:
            with _os_errors():
                obstore.delete(self._store, list(names))
        except FileNotFoundError:
            for name in names:
                with suppress(FileNotFoundError), _os_errors():
                    obstore.delete(self._store, name)


@contextmanager
def _os_errors() -> Generator[None]:
    """Say in Python's words what obstore says in its own; a missing object is Python's `FileNotFoundError` already."""
    try:
        yield
    except (PermissionDeniedError, UnauthenticatedError) as exc:
        raise PermissionError(str(exc)) from exc
    except BaseError as exc:
        raise OSError(str(exc)) from exc
