"""How often an upstream is asked for one call of a client: POSTs a call, the OpenAI SDK's own retries on.

The SDK asks the upstream itself, then through the gateway: with one credential, and with two channels of two
credentials. Where a call was or may have been paid, one POST is the goal. `--calls N` says how often each is called.
"""

import argparse
import asyncio  # noqa: TID251, the scripted upstream's own loop
import logging
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import openai
from msgspec import Struct
from rich.console import Console
from rich.table import Table

from amux_asgi import ChannelConfig, KeyConfig, images_app
from tests.serve import serve
from tests.stub import GOOD, HALF, Reader, Script, Stub, Writer, reset, sending, upstream, whole

KEY: Final = "key-of-the-benchmark-01"
PATIENCE: Final = 1.0  # seconds, of channels with an upstream that never answers, and of clients that leave
SLOW: Final = 1.5  # seconds that an upstream works after its client has left
CLOSE: Final = "connection: close"
FAILED: Final = b'{"error":{"message":"failed","type":"server_error"}}'
BUSY: Final = b'{"error":{"message":"busy","type":"requests","code":"rate_limit_exceeded"}}'


async def slow(_stub: Stub, _reader: Reader, writer: Writer) -> None:
    """Answer after the client has left."""
    await asyncio.sleep(SLOW)
    writer.write(whole())
    await writer.drain()


class Case(Struct, frozen=True):
    """What an upstream does, and whether it may have been paid for it."""

    name: str
    script: Script
    paid: bool
    leaves: bool = False  # the client


CASES: Final = (
    Case("200", sending(whole(GOOD, "200 OK", CLOSE)), paid=True),
    Case("429, retry-after 1", sending(whole(BUSY, "429 Too Many Requests", CLOSE, "retry-after: 1")), paid=False),
    Case("500, says why", sending(whole(FAILED, "500 Internal Server Error", CLOSE)), paid=False),
    Case("502, says nothing", sending(whole(b"<html>", "502 Bad Gateway", CLOSE)), paid=True),
    Case("timeout", sending(b"", close=False), paid=True),
    Case("cut off before it", sending(b""), paid=True),
    Case("cut off in it", sending(HALF), paid=True),
    Case("reset", reset, paid=True),
    Case("client leaves", slow, paid=True, leaves=True),
)
WAYS: Final[Mapping[str, tuple[tuple[str, ...], ...]]] = {
    "SDK alone": (),
    "one credential": (("one",),),
    "two channels": (("one", "two"), ("three", "four")),
}


def posts(case: Case, channels: tuple[tuple[str, ...], ...], calls: int) -> float:
    """Call, and count what arrives: POSTs a call."""
    with upstream(scripts={"/v1": case.script}) as stub:
        if not channels:
            call(f"{stub.url}/v1", case, calls)
        else:
            told = [
                ChannelConfig(
                    name=f"channel-{i}",
                    adapter="openai",
                    base_url=f"{stub.url}/v1",
                    credentials=credentials,
                    models=("gpt-image-2",),
                    priority=-i,
                    timeout=300 if case.leaves else PATIENCE,
                )
                for i, credentials in enumerate(channels)
            ]
            with serve(images_app(channels=told, keys=[KeyConfig(name="app", key=KEY)])) as url:
                call(f"{url}/v1", case, calls)
        return stub.posts / calls


def call(url: str, case: Case, calls: int) -> None:
    """Call as an application does that has never heard of us."""
    patience = PATIENCE if case.leaves else PATIENCE * 3
    with openai.OpenAI(base_url=url, api_key=KEY, timeout=patience) as client:
        for i in range(calls):
            try:
                client.images.generate(model="gpt-image-2", prompt=f"a lantern, number {i}")
            except openai.APIError:
                continue


def main() -> int:
    """Measure, and show; the exit code says whether any paid call became two."""
    parser = argparse.ArgumentParser(prog="python3 -m benchmarks posts", description=__doc__)
    parser.add_argument("--calls", type=int, default=4, help="calls of each kind")
    calls = parser.parse_args().calls
    logging.disable()  # each failure is meant
    with ThreadPoolExecutor(len(CASES) * len(WAYS)) as threads:
        running = {
            (case.name, way): threads.submit(posts, case, channels, calls)
            for case in CASES
            for way, channels in WAYS.items()
        }
    table = Table("answer", "paid", *WAYS, title=f"POSTs at the upstream for one call, mean of {calls}")
    for case in CASES:
        figures = [running[case.name, way].result() for way in WAYS]
        table.add_row(case.name, "maybe" if case.paid else "no", *(f"{figure:.2f}" for figure in figures))
    Console().print(table)
    gateways = [way for way, channels in WAYS.items() if channels]
    twice = [case for case in CASES if case.paid and any(running[case.name, way].result() > 1 for way in gateways)]
    return 1 if twice else 0


if __name__ == "__main__":
    sys.exit(main())
