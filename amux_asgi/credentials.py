"""A channel's credentials: read from the files that hold them, and exchanged for tokens where they are not shown."""

import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Final

from amux_asgi import plugins
from amux_asgi.adapters._base import Adapter, TokenFlow
from amux_asgi.config import Config
from amux_asgi.toml_lines import Path as Where

FILE: Final = "file:"
SIGNER: Final = "amux_asgi.transport.rs256:sign"
_VISIBLE: Final = re.compile(r"[!-~]+")


def read_credentials(config: Config, where: Where, told: Iterable[str]) -> tuple[str, ...]:
    """Put in place of `file:PATH`, relative to the configuration's file, what stands in the file.

    Raises:
        ConfigError: a file cannot be read.
    """
    folder = Path(config.file or "").parent

    def read(path: str) -> str:
        try:
            return (folder / path).read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as exc:
            reason = getattr(exc, "strerror", None) or "it is no text"
            raise config.fault((*where, "credentials"), f"the file {path!r} cannot be read: {reason}") from exc

    return tuple(read(text.removeprefix(FILE)) if text.startswith(FILE) else text for text in told)


def exchanges_of(
    config: Config, where: Where, credentials: Iterable[str], adapter: Adapter
) -> Mapping[str, Callable[[int], TokenFlow]]:
    """Find the credentials that a token stands for, and how it is got; the first step, which signs, is tried.

    Raises:
        ConfigError: one of them cannot be used, or what signs is not installed.
    """
    where = (*where, "credentials")
    found: dict[str, Callable[[int], TokenFlow]] = {}
    for credential in credentials:
        try:
            exchange = adapter.exchange(credential)
            if exchange is not None:
                found[credential] = partial(exchange, plugins.load(SIGNER))
                next(found[credential](0))
        except ValueError as exc:
            raise config.fault(where, f"a credential cannot be used: {exc}") from exc
        if credential not in found and not _VISIBLE.fullmatch(credential):
            raise config.fault(where, "a credential is empty, or holds a blank or a character that HTTP does not allow")
    return found
