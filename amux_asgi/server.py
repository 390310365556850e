"""The standalone server: uvicorn with httptools, and the limits that it lacks.

`python -m benchmarks.servers` measures it beside plain uvicorn and granian.
"""

import asyncio  # noqa: TID251, the server is asyncio's
import ctypes
import gc
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from types import FrameType
from typing import Final, cast

from msgspec import Struct
from starlette.types import ASGIApp
from uvicorn import Config, Server
from uvicorn.supervisors.multiprocess import Multiprocess

from amux_asgi.outgoing import Outgoing
from amux_asgi.plugins import load
from amux_asgi.protocol import StrictProtocol
from amux_asgi.signals import Signals, Stoppable

SWITCH: Final = 0.0002  # seconds that one thread may keep the interpreter while another waits for it
KEPT: Final = 2**30  # bytes that nobody uses, and that are not given back to the system
COLLECT: Final = 10_000  # objects that come to be, less those that go, until cycles among them are looked for


class ServerSettings(Struct, frozen=True, kw_only=True):
    """How to serve: times in seconds."""

    host: str = "127.0.0.1"
    port: int = 8000
    workers: int = 1
    head_timeout: float = 10
    write_timeout: float = 60
    drain: float = 0  # of the grace time, in which requests are still taken
    grace: float = 540
    trusted_proxies: tuple[str, ...] = ()


def serve(factory: str, settings: ServerSettings) -> None:
    """Run the app that `package.module:function` makes, until SIGTERM or SIGINT; each worker makes its own.

    Requests under way are finished within the grace time, which `drain` is a part of.
    """
    config = uvicorn_config(factory, settings)
    # uvicorn raises the signal once more when all is done; we end by ourselves then, with exit code 0.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _ignore)
    if settings.workers > 1:
        Workers(config, [config.bind_socket()]).run()
    else:
        Server(config).run()


def uvicorn_config(factory: str, settings: ServerSettings) -> Config:
    """Say all of it in uvicorn's terms."""
    protocol = partial(StrictProtocol, head_timeout=settings.head_timeout, write_timeout=settings.write_timeout)
    return Config(
        partial(_served, factory, settings.drain),
        factory=True,
        interface="asgi3",  # which uvicorn sees by itself only where `__call__` is a coroutine function
        host=settings.host,
        port=settings.port,
        workers=settings.workers,
        http=cast("type[asyncio.Protocol]", protocol),
        ws="none",
        lifespan="on",
        access_log=False,
        server_header=False,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=list(settings.trusted_proxies),
        timeout_graceful_shutdown=max(1, int(settings.grace - settings.drain)),
    )


class Workers(Multiprocess):
    """uvicorn's supervisor; at SIGHUP its workers read the configuration anew, rather than be replaced."""

    def handle_hup(self) -> None:
        """Tell all workers."""
        for pid in filter(None, (process.pid for process in self.processes)):
            os.kill(pid, signal.SIGHUP)


def _served(factory: str, drain: float) -> ASGIApp:
    make: Callable[[], ASGIApp] = load(factory)
    made = make()
    _spare_collections()
    _keep_memory()
    sys.setswitchinterval(SWITCH)  # with Python's 5 ms, who writes to the database holds its lock for that much longer
    app = Outgoing(made)
    return Signals(app, made, drain=drain) if isinstance(made, Stoppable) else app


def _spare_collections() -> None:
    """Look for garbage in cycles seldom, and never in what is there before the first request: it stays."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT)


def _keep_memory() -> None:
    """Have the C library keep what large answers had, if it is glibc, for the next ones.

    From the system, memory comes page by page and cleared: for 16 MB a fourth of all work.
    """
    with suppress(AttributeError, OSError, TypeError):
        adjust = ctypes.CDLL(None).mallopt
        adjust(_OF_ITS_OWN, _LARGEST)
        adjust(_TRIM, KEPT)


_OF_ITS_OWN: Final = -3  # glibc's M_MMAP_THRESHOLD: larger ones go back to the system at once
_TRIM: Final = -1  # glibc's M_TRIM_THRESHOLD
_LARGEST: Final = 32 * 2**20  # bytes; glibc takes no more


def _ignore(_signal: int, _frame: FrameType | None) -> None: ...
