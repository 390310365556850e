"""From the configuration to the store of hosted pictures: `public_url`, `pictures` and `pictures_max`, each checked."""

import re
from collections.abc import Callable
from functools import partial
from typing import Final
from urllib.parse import urlsplit

import anyio

from amux_asgi import plugins
from amux_asgi.config import Config
from amux_asgi.errors import ConfigError
from amux_asgi.pictures import OpenPictures
from amux_asgi.stores.folder import Folder
from amux_asgi.stores.pictures import Files, Sleep, in_memory, open_files
from amux_asgi.toml_lines import Path as Where

MEMORY: Final = "memory://"
FOLDER: Final = "file:"
MOST_IN_MEMORY: Final = 256 * 2**20  # bytes, if nothing is said
MOST: Final = 10 * 2**30
_PUBLIC_URL: Where = ("gateway", "public_url")
_PICTURES: Where = ("gateway", "pictures")
_PICTURES_MAX: Where = ("gateway", "pictures_max")


def pictures_of(config: Config, *, now: Callable[[], float], sleep: Sleep = anyio.sleep) -> OpenPictures:
    """Say how the store of hosted pictures is opened; opens nothing yet. `now` is Unix time in seconds.

    Raises:
        ConfigError: the store, its size or the public URL cannot be, or an extra is not installed.
    """
    _check_public_url(config)
    url = config.gateway.pictures
    if url is None or url == MEMORY:
        return in_memory(most=_most(config, MOST_IN_MEMORY), now=now, sleep=sleep)
    return partial(open_files, _files(config, url, now), most=_most(config, MOST), now=now, sleep=sleep)


def check_workers(config: Config, workers: int) -> None:
    """Check that what one worker hosts is found by the others.

    Raises:
        ConfigError: it is not, as each has its own memory.
    """
    if workers > 1 and config.gateway.pictures in (None, MEMORY):
        raise config.fault(
            _PICTURES,
            f"hosted pictures are in memory, so each of {workers} workers would know only its own; write "
            '[gateway] pictures = "file:amux-pictures", or an object store',
        )


def bytes_of(text: str) -> int | None:
    """Read a size: "10 GiB", "500 MB", or a number of bytes; `None` if it is none."""
    found = _SIZE.fullmatch(text.strip())
    return None if found is None else int(found[1]) * _UNITS[(found[2] or "B").upper()]


def _files(config: Config, url: str, now: Callable[[], float]) -> Callable[[], Files]:
    folder = url.removeprefix(FOLDER)
    if url.startswith(FOLDER) and folder and not _HOST.match(folder):
        return partial(Folder, folder, now=now)
    if not _OBJECTS.fullmatch(url):
        raise config.fault(
            _PICTURES,
            "is no store of pictures; write 'file:FOLDER', 'memory://', 's3://BUCKET/PREFIX', 'gs://BUCKET/PREFIX' or "
            "'az://CONTAINER/PREFIX'",
        )
    try:
        objects: Callable[[str], Files] = plugins.load("amux_asgi.stores.objects:Objects")
    except ConfigError as exc:
        raise config.fault(_PICTURES, str(exc)) from exc
    return partial(objects, url)


def _most(config: Config, usual: int) -> int:
    told = config.gateway.pictures_max
    size = usual if told is None else bytes_of(str(told))
    if size is None or size <= 0:
        raise config.fault(
            _PICTURES_MAX, "is no size above zero; write it as '10 GiB' or '500 MB', or as a number of bytes"
        )
    return size


def _check_public_url(config: Config) -> None:
    url = config.gateway.public_url
    if url is not None and not (_URL.fullmatch(url) and _has_port(url)):
        raise config.fault(
            _PUBLIC_URL,
            "is no public URL; write it as 'https://host/path', without user, query or fragment, and without a slash "
            "at its end",
        )


def _has_port(url: str) -> bool:
    """Tell whether a URL's port, if it names one, can be one."""
    try:
        return urlsplit(url).port != 0
    except ValueError:
        return False


_SIZE: Final = re.compile(r"([0-9]{1,18}) *(B|[KMGT]i?B)?", re.IGNORECASE)
_UNITS: Final = {
    "B": 1,
    **{f"{letter}B": 1000 ** (i + 1) for i, letter in enumerate("KMGT")},
    **{f"{letter}IB": 1024 ** (i + 1) for i, letter in enumerate("KMGT")},
}
_HOST: Final = re.compile(r"//[^/]")  # what would be a host in a URL of other schemes
_OBJECTS: Final = re.compile(r"(?:s3|gs|az)://[A-Za-z0-9][A-Za-z0-9._-]*(?:/(?!\.{1,2}(?:/|$))[A-Za-z0-9._-]+)*/?")
_URL: Final = re.compile(r"https?://(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]+)?(?:/[A-Za-z0-9._~%:-]+)*")
