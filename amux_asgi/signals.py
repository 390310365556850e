"""What the standalone server's processes are told by signals: end in steps, or read the configuration anew."""

import asyncio  # noqa: TID251, the server is asyncio's
import signal
from collections.abc import Awaitable, Callable, Generator, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Protocol, runtime_checkable

from starlette.types import ASGIApp, Message, Receive, Scope, Send


@runtime_checkable
class Stoppable(Protocol):
    """An app that wants to know before its server stops; `ImagesApp` is one."""

    @property
    def probed(self) -> bool:
        """Tell whether anybody asks if it is ready, and will so learn that it is not."""
        ...

    def stop(self) -> None:
        """Say from now on that it is not ready."""
        ...

    async def reload(self) -> None:
        """Read the configuration anew."""
        ...


class Signals:
    """Runs an app whose server has set its signals' handlers before the lifespan begins, as uvicorn does.

    SIGTERM: the app is told at once that it stops; the server, which then takes no more connections, only `drain`
    seconds later, so that load balancers have turned away by then. Meanwhile connections are closed after each answer.
    There is no such wait where nobody ever asked whether the app is ready, at SIGINT, and at the second SIGTERM.
    SIGHUP: the app reads its configuration anew.
    """

    def __init__(self, app: ASGIApp, told: Stoppable, *, drain: float) -> None:
        self._app = app
        self._told = told
        self._drain = drain
        self._stopping = False
        self._tasks: set[asyncio.Task[None]] = set()

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serve one ASGI scope."""
        if scope["type"] == "lifespan":
            return self._lifespan(scope, receive, send)
        return self._app(scope, receive, self._last(send))

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._heard(asyncio.get_running_loop()):
            await self._app(scope, receive, send)

    @contextmanager
    def _heard(self, loop: asyncio.AbstractEventLoop) -> Generator[None]:
        handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        for number, handler in handlers.items():
            signal.signal(number, self._ending(loop, handler))
        try:
            yield
        finally:
            loop.remove_signal_handler(signal.SIGHUP)

    def _ending(self, loop: asyncio.AbstractEventLoop, server: Any) -> Callable[[int, FrameType | None], None]:  # noqa: ANN401, as signal says
        def heard(number: int, frame: FrameType | None) -> None:
            first, self._stopping = not self._stopping, True
            self._told.stop()
            if first and number == signal.SIGTERM and self._drain and self._told.probed:
                loop.call_soon_threadsafe(loop.call_later, self._drain, server, number, frame)
            else:
                server(number, frame)

        return heard

    def _reload(self) -> None:
        task = asyncio.ensure_future(self._told.reload())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _last(self, send: Send) -> Send:
        def sent(message: Message) -> Awaitable[None]:
            if self._stopping and message["type"] == "http.response.start":
                message = {**message, "headers": [*_without(message.get("headers", ())), (b"connection", b"close")]}
            return send(message)

        return sent


def _without(headers: Any) -> Iterator[tuple[bytes, bytes]]:  # noqa: ANN401, pairs of bytes
    return ((name, value) for name, value in headers if name.lower() != b"connection")
