"""Programs that tests start: what they inherit, and how one waits for them."""

import os
import socket
import threading
from collections.abc import Callable
from typing import Final, TypeVar

PAUSE: Final = 0.01  # seconds
PATIENCE: Final = 60  # seconds
CERTIFICATES: Final = "SSL_CERT_FILE"  # the variable that names whom OpenSSL trusts
_TRUSTED: Final = {name: value for name, value in os.environ.items() if name == CERTIFICATES}  # before the tests began

T = TypeVar("T")


def until(true: Callable[[], T | None]) -> T:
    """Wait until something in another process is true, which wants the processor meanwhile, and give it."""
    never = threading.Event()
    for _ in range(round(PATIENCE / PAUSE)):
        if found := true():
            return found
        never.wait(PAUSE)
    raise AssertionError("it did not come true")


def listens(port: int) -> bool:
    """Tell whether somebody listens at a port of this machine."""
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return False
    return True


def unmeasured() -> dict[str, str]:
    """Give the environment of a program without code of ours: measuring it would tell nothing, and take long."""
    return {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}


def installing() -> dict[str, str]:
    """Give the environment of what installs: it talks to servers of the world, and trusts whom it is told to trust."""
    return {name: value for name, value in unmeasured().items() if name != CERTIFICATES} | _TRUSTED
