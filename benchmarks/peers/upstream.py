"""The upstream that all ask: nginx with canned answers; where an answer takes its time, a server of ours."""

import os
import re
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from benchmarks.peers.answers import answer
from benchmarks.peers.cells import BODIES, Cell
from benchmarks.peers.nginx import configuration
from benchmarks.peers.processes import free_port, running

REST: Final = 0.1  # seconds
SERVER: Final = """
server {{
    listen 127.0.0.1:{port} backlog=4096;
    location = /count {{ stub_status; }}
    location ~ ^/0/([^/]+)/ {{ error_page 405 =200 /answers/$1; return 405; }}
    location /answers/ {{ internal; root "{folder}"; error_page 405 =200 $uri; }}
}}
"""


class Upstream:
    """Where the answers come from."""

    def __init__(self, painter: int, nginx: int | None) -> None:
        """Ports; without nginx, ours gives all answers."""
        self._painter = f"http://127.0.0.1:{painter}"
        self._nginx = f"http://127.0.0.1:{nginx}" if nginx else self._painter
        self._questions: Counter[str] = Counter()

    def place(self, cell: Cell) -> str:
        """Give the server for a cell."""
        return self._painter if cell.delay or cell.body.stream else self._nginx

    def url(self, cell: Cell) -> str:
        """Give the base URL of a cell's answers."""
        return f"{self.place(cell)}/{cell.delay:g}/{cell.body.path}/v1"

    def failing(self, status: int) -> str:
        """Give the base URL of an upstream that fails."""
        return f"{self._painter}/fails/{status}/v1"

    def settled(self, place: str) -> int:
        """Wait until a server has seen all that was sent before, and tell how many requests that were."""
        while True:
            before = self.count(place)
            time.sleep(REST)
            seen = self.count(place)
            if seen == before:
                return seen

    def count(self, place: str | None = None) -> int:
        """Tell how many requests a server has seen, beside these questions."""
        place = place or self._painter
        self._questions[place] += 1
        with urllib.request.urlopen(f"{place}/count") as told:  # noqa: S310, ours
            return requests_of(told.read().decode()) - self._questions[place]


def requests_of(text: str) -> int:
    """Read a count: a number, or the third one of nginx's own page.

    Raises:
        ValueError: it is neither.
    """
    if text.strip().isdecimal():
        return int(text)
    found = re.search(r"^\s*\d+ +\d+ +(\d+)", text, re.MULTILINE)
    if found is None:
        raise ValueError(f"no count: {text!r}")
    return int(found[1])


@contextmanager
def upstream(folder: Path, nginx: Path | None, core: int) -> Generator[Upstream]:
    """Serve until left."""
    ports = free_port(), free_port()
    with ExitStack() as stack:
        painting = [sys.executable, "-m", "benchmarks.peers.painter", str(ports[0])]
        variables = {"PYTHONPATH": os.fspath(Path(__file__).parents[2])}
        stack.enter_context(running(painting, ports[0], folder / "painter.log", cores={core}, variables=variables))
        if nginx:
            (folder / "answers").mkdir(exist_ok=True)
            for body in BODIES:
                if not body.stream:
                    (folder / "answers" / body.path).write_bytes(answer(body))
            file = configuration(folder / "upstream", SERVER.format(port=ports[1], folder=folder))
            command = [nginx, "-c", file, "-e", file.with_name("error.log")]
            stack.enter_context(running(command, ports[1], folder / "upstream.log", cores={core}))
        yield Upstream(ports[0], ports[1] if nginx else None)
