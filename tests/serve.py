"""Serve an app on a real socket, in a thread of its own."""

import socket
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from starlette.types import ASGIApp
from uvicorn import Config, Server


@contextmanager
def serve(app: ASGIApp, **options: Any) -> Generator[str]:
    """Give the app's base URL while entered; fails when the server died. `options` are uvicorn's."""
    listening = socket.create_server(("127.0.0.1", 0))
    ready = threading.Event()
    faults: list[BaseException] = []

    class Ready(Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            ready.set()

    told: dict[str, Any] = {"log_level": "error", "lifespan": "on", "timeout_graceful_shutdown": 5, **options}
    server = Ready(Config(app, **told))

    def run() -> None:
        try:
            server.run([listening])
        except BaseException as exc:  # noqa: BLE001, shown to the test below
            faults.append(exc)
        finally:
            ready.set()

    thread = threading.Thread(target=run)
    thread.start()
    ready.wait()
    try:
        if server.started:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listening.close()
    assert server.started, f"the server did not start: {faults}"
    assert not faults, faults
