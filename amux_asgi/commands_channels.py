"""`amux-asgi channels`: what the channels of a running gateway do now."""

import os
from collections.abc import Iterator
from functools import partial
from typing import Annotated, Final

import anyio
import msgspec
import typer
from msgspec import Struct

from amux_asgi.admin import Channels
from amux_asgi.app import ADMIN_VARIABLE
from amux_asgi.commands_base import JsonOption, show_json, show_table, tell
from amux_asgi.errors import ConfigError, GatewayError
from amux_asgi.live import ChannelState
from amux_asgi.transport.base import Progress
from amux_asgi.transport.httpx import open_httpx2
from amux_asgi.wire import HttpRequest

OK: Final = 200
UNAUTHORIZED: Final = 401
LONGEST: Final = 16_777_216  # bytes of an answer
PATIENCE: Final = 10  # seconds


class _Answer(Struct, frozen=True):
    status: int
    body: bytes


def channels(
    url: Annotated[str, typer.Option(help="Where the gateway's admin app is.")] = "http://127.0.0.1:8000/admin",
    *,
    as_json: JsonOption = False,
) -> None:
    """Show what each channel of a running gateway does now: places, credentials, and who rests for how long.

    The variable AMUX_ADMIN_SECRET holds the admin app's secret, here and where the gateway runs.
    """
    anyio.run(partial(_show, url, _secret(), as_json=as_json))


async def _show(url: str, secret: str, *, as_json: bool) -> None:
    told = _read(url, await _asked(f"{url.rstrip('/')}/channels", secret))
    if as_json:
        show_json(told)
        return
    tell(f"process {told.process}; other workers and nodes have states of their own")
    columns = ("channel", "adapter", "priority", "weight", "taken", "waiting", "model", "credential", "state", "back")
    show_table(columns, [row for one in told.channels for row in _rows(one)], right=("priority", "weight", "waiting"))


def _secret() -> str:
    secret = os.environ.get(ADMIN_VARIABLE)
    if not secret:
        raise ConfigError(f"the variable {ADMIN_VARIABLE} is not set; it holds the admin app's secret")
    return secret


async def _asked(url: str, secret: str) -> _Answer:
    headers = (("authorization", f"Bearer {secret}"), ("accept-encoding", "identity"))
    request = HttpRequest(method="GET", url=url, headers=headers)
    body = b""
    try:
        with anyio.fail_after(PATIENCE):
            async with open_httpx2(1) as transport, transport.send(request, Progress()) as incoming:
                async for chunk in incoming.chunks:
                    body += chunk[: LONGEST - len(body)]
                return _Answer(incoming.status, body)
    except (GatewayError, TimeoutError) as exc:
        raise ConfigError(f"nothing answers at {url}; is the gateway running there?") from exc


def _read(url: str, answer: _Answer) -> Channels:
    if answer.status == UNAUTHORIZED:
        raise ConfigError(f"the gateway's admin app has another secret than {ADMIN_VARIABLE} says")
    try:
        if answer.status == OK:
            return msgspec.json.decode(answer.body, type=Channels)
    except msgspec.DecodeError:
        pass
    raise ConfigError(
        f"no admin app answers at {url}; a standalone gateway has one at /admin when {ADMIN_VARIABLE} is set where it "
        "runs, an app of yours where admin_app(..., images=images) is mounted"
    )


def _rows(one: ChannelState) -> Iterator[tuple[object, ...]]:
    about = (one.name, one.adapter, one.priority, one.weight, f"{one.taken} of {one.places}", one.waiting)
    for way in one.ways:
        state = way.state if way.reason is None else f"{way.state}: {way.reason}"
        back = None if way.returns is None else f"in {way.returns:.0f} s"
        yield (*about, way.model, f"...{way.credential}" if way.credential else None, state, back)
