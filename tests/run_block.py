"""Run Python code in a process that reaches this machine only. Usage: python run_block.py FILE NAME LINE.

NAME and LINE say where the code comes from, so that a traceback points there.
"""

import ast
import inspect
import ipaddress
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import anyio


def stay(event: str, told: tuple[Any, ...]) -> None:
    """Refuse to look up or to reach another machine (an audit hook)."""
    if event == "socket.getaddrinfo":
        check(told[0])
    elif event in ("socket.connect", "socket.sendto"):
        address: Any = told[1]
        if not isinstance(address, str | bytes):  # those are the paths of Unix sockets
            check(address[0])


def check(host: str | bytes | None) -> None:
    """Let only this machine's own names and addresses pass."""
    name = host.decode() if isinstance(host, bytes) else host or "localhost"
    if name != "localhost" and not is_loopback(name):
        raise PermissionError(f"the README's code works without a network, but wanted to reach {name}")


def is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def main(file: str, name: str, line: str) -> None:
    """Run the code as the main program, `await` allowed at its top."""
    source = "\n" * (int(line) - 1) + Path(file).read_text(encoding="utf-8")
    code = compile(source, name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    sys.addaudithook(stay)
    begun = eval(code, vars(sys.modules["__main__"]))  # noqa: S307, running it is what this is for
    if inspect.iscoroutine(begun):
        anyio.run(finish, begun)


async def finish(begun: Coroutine[Any, Any, None]) -> None:
    await begun


main(*sys.argv[1:])
