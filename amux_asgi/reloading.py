"""A configuration's file, looked at once a second: what changed in it is taken over while requests run."""

import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import anyio
from anyio import to_thread
from msgspec.structs import replace

from amux_asgi.config import Config
from amux_asgi.errors import ConfigError, GatewayError

EVERY: Final = 1.0  # seconds
FOR_GOOD: Final = (
    "database",
    "drain",
    "grace",
    "limits",
    "max_in_flight",
    "nodes",
    "pictures",
    "pictures_max",
    "transport",
    "trusted_proxies",
    "write_timeout",
)
"""Keys of `[gateway]` that what runs was opened with: another value wants a restart."""

logger: logging.Logger = logging.getLogger("amux_asgi")


class Watch:
    """Looks at a file: at its date and size first, at its content only where those changed.

    What it refuses is logged once, and again when the file changes; a store that is away is tried again each time.
    """

    def __init__(self, file: str, text: bytes | None, take: Callable[[], Awaitable[None]]) -> None:
        """`text` is what is in use of it; `take` reads it anew and puts it to use, or raises and changes nothing."""
        self._file = Path(file)
        self._text = text
        self._take = take
        self._status: tuple[int, ...] | None = ()
        self._told: tuple[bytes | None, str] | None = None
        self._turns = anyio.Lock()

    async def run(self, sleep: Callable[[float], Awaitable[None]]) -> None:
        """Look again and again."""
        while True:
            await sleep(EVERY)
            await self.look()

    async def look(self, *, anyway: bool = False) -> None:
        """Look once; `anyway` takes it also unchanged, as files and variables that it names may have changed."""
        async with self._turns:
            status = await to_thread.run_sync(self._stat)
            if status == self._status and not anyway:
                return
            text = await to_thread.run_sync(self._read)
            if text != self._text or anyway:
                try:
                    await self._take()
                except Exception as error:  # noqa: BLE001, whatever a file leads to, the old one lives on
                    self._tell(text, error)
                    if not isinstance(error, ConfigError):
                        return  # so that the next look tries again
                else:
                    self._told = None
                    logger.info("%s: read anew", self._file)
            self._status, self._text = status, text

    def _tell(self, text: bytes | None, error: Exception) -> None:
        if self._told != (text, str(error)):
            self._told = text, str(error)
            bug = None if isinstance(error, ConfigError | GatewayError) else error
            logger.error("the new configuration is not used, the old one lives on: %s", error, exc_info=bug)

    def _stat(self) -> tuple[int, ...] | None:
        try:
            found = self._file.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino, found.st_dev

    def _read(self) -> bytes | None:
        try:
            return self._file.read_bytes()
        except OSError:
            return None


def with_what_stays(old: Config, new: Config) -> Config:
    """Keep of the old configuration what only a restart can change, and say so."""
    changed = [name for name in FOR_GOOD if getattr(old.gateway, name) != getattr(new.gateway, name)]
    if changed:
        logger.warning("%s: wants a restart: [gateway] %s", new.file, ", ".join(changed))
    stays = {name: getattr(old.gateway, name) for name in FOR_GOOD}
    return replace(new, gateway=replace(new.gateway, **stays))
