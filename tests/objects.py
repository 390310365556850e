"""An S3 server as a child process: moto's, which knows its protocol and keeps objects in its memory."""

import itertools
import re
import subprocess
import sys
import threading
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Final

import httpx2  # noqa: TID251, the test's client

from tests.children import unmeasured

_BUCKETS: Final = itertools.count()


class S3:
    """The server at `url`."""

    def __init__(self, url: str, process: subprocess.Popen[str]) -> None:
        self.url = url
        self._process = process

    def bucket(self) -> str:
        """Make an empty bucket, and give its name."""
        name = f"bucket-{next(_BUCKETS)}"
        httpx2.put(f"{self.url}/{name}").raise_for_status()
        return name

    def environment(self) -> Mapping[str, str]:
        """Say what a client must know."""
        return {
            "AWS_ACCESS_KEY_ID": "any",
            "AWS_SECRET_ACCESS_KEY": "any",
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ALLOW_HTTP": "true",
        }

    def kill(self) -> None:
        """Let it die."""
        self._process.kill()
        self._process.wait()


@contextmanager
def s3_server() -> Generator[S3]:
    """Run one while entered."""
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
    with subprocess.Popen(
        command, env=unmeasured(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            found = re.search(r"http://127\.0\.0\.1:\d+", line)
            if found:
                break
        else:
            raise AssertionError("the S3 server did not start")
        reader = threading.Thread(target=process.stderr.read)  # what it says of each request would fill the pipe
        reader.start()
        try:
            yield S3(found[0], process)
        finally:
            process.kill()
            reader.join()
