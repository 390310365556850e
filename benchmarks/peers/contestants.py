"""Who is measured: how each is started in front of an upstream, and how it is asked."""

import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from msgspec import Struct

from benchmarks.peers import ours
from benchmarks.peers.cells import Cell
from benchmarks.peers.nginx import configuration
from benchmarks.peers.through import UPSTREAM
from benchmarks.peers.tools import Tools

PROMPT: Final = "a paper lantern on a river at night"
MODEL: Final = "picture"  # the client's name of the model, where one can be given
SECRET: Final = "sk-of-the-benchmark"  # noqa: S105, opens nothing
DIRECT: Final = "direct"
BARE: Final = "amux-asgi, bare"
FULL: Final = "amux-asgi, all on"
BUFFERED: Final = "nginx"
UNBUFFERED: Final = "nginx, unbuffered"
THROUGH: Final = "uvicorn + aiohttp"
LITELLM: Final = "LiteLLM"
PORTKEY: Final = "Portkey"
GENERATIONS: Final = "/images/generations"
ROOT: Final = os.fspath(Path(__file__).parents[2])


class Place(Struct, frozen=True, kw_only=True):
    """Where a contestant runs: the upstream's base URL, its own port, a folder for what it writes."""

    upstream: str
    port: int
    folder: Path
    cell: Cell

    @property
    def url(self) -> str:
        """Give the base URL of a contestant that has OpenAI's paths."""
        return f"http://127.0.0.1:{self.port}/v1"


class Ask(Struct, frozen=True, kw_only=True):
    """One request, and where it goes; of the keys in a file, if there is one, each request has the next."""

    url: str
    headers: Mapping[str, str]
    body: str
    keys: Path | None = None


class Contestant(Struct, frozen=True, kw_only=True):
    """`start` writes what it needs and gives its command; without one, nothing is between load and upstream."""

    name: str
    ask: Callable[[Place], Ask]
    start: Callable[[Place], list[str | Path]] | None = None
    variables: Mapping[str, str] = {}
    cores: int = 1  # that its processes have


def contestants(tools: Tools) -> list[Contestant]:
    """Give all that this machine has, the direct line first."""
    found = [Contestant(name=DIRECT, ask=lambda place: _ask(place.upstream, place.cell, place.cell.body.model))]
    if tools.nginx:
        found += [_nginx(tools.nginx, UNBUFFERED, "proxy_buffering off;"), _nginx(tools.nginx, BUFFERED, "")]
    found += [_through(), amux(BARE, ours.Setting(database=False)), amux(FULL, ours.Setting())]
    if tools.portkey:
        found.append(_portkey(tools.portkey))
    if tools.litellm:
        found.append(_litellm(tools.litellm))
    return found


def amux(name: str, setting: ours.Setting, *, watched: bool = False) -> Contestant:
    """Give ourselves; `watched` tells how long its event loop is held up, and is not the command that people run."""

    def start(place: Place) -> list[str | Path]:
        file = ours.write(place.folder, place.upstream, MODEL, place.cell.body.model, setting)
        if watched:
            return [sys.executable, "-m", "benchmarks.peers.watched", file, str(place.port)]
        options = ["--port", str(place.port), "--workers", str(setting.workers)]
        return [sys.executable, "-m", "amux_asgi", "serve", "--config", file, *options]

    def ask(place: Place) -> Ask:
        keys = place.folder / ours.KEYS if setting.keys else None
        return _ask(place.url, place.cell, MODEL, {"authorization": f"Bearer {ours.KEY}"}, keys)

    return Contestant(name=name, start=start, ask=ask, variables={"PYTHONPATH": ROOT}, cores=setting.workers)


def _nginx(program: Path, name: str, how: str) -> Contestant:
    """Pass on what comes, over kept connections; nothing is looked at."""

    def start(place: Place) -> list[str | Path]:
        server = PROXY.format(port=place.port, upstream=urlsplit(place.upstream).netloc, how=how)
        file = configuration(place.folder, server)
        return [program, "-c", file, "-e", file.with_name("error.log")]

    def ask(place: Place) -> Ask:
        path = urlsplit(place.upstream).path
        return _ask(f"http://127.0.0.1:{place.port}{path}", place.cell, place.cell.body.model)

    return Contestant(name=name, start=start, ask=ask)


def _through() -> Contestant:
    """The server and the client that we use, with nothing between them: the floor of the design."""

    def start(place: Place) -> list[str | Path]:
        options = ["--http", "httptools", "--loop", "uvloop", "--no-access-log", "--log-level", "warning"]
        # `env`, as where the upstream is differs from one place to the next
        upstream = f"{UPSTREAM}={place.upstream}{GENERATIONS}"
        program = [sys.executable, "-m", "uvicorn", "benchmarks.peers.through:app"]
        return ["env", upstream, *program, *options, "--port", str(place.port)]

    def ask(place: Place) -> Ask:
        return _ask(place.url, place.cell, place.cell.body.model)

    return Contestant(name=THROUGH, start=start, ask=ask, variables={"PYTHONPATH": ROOT})


PROXY: Final = """
upstream answers {{ server {upstream}; keepalive 2048; keepalive_requests 1000000000; }}
server {{
    listen 127.0.0.1:{port} backlog=4096;
    {how}
    location / {{ proxy_pass http://answers; proxy_http_version 1.1; proxy_set_header Connection ""; }}
}}
"""


def _litellm(program: Path) -> Contestant:
    """One worker, its master key, no database, and no retries of its own."""

    def start(place: Place) -> list[str | Path]:
        model = f"openai/{place.cell.body.model}"
        params = {"model": model, "api_base": place.upstream, "api_key": SECRET, "max_retries": 0}
        config = {
            "model_list": [{"model_name": MODEL, "litellm_params": params}],
            "litellm_settings": {"num_retries": 0, "telemetry": False},
            "router_settings": {"num_retries": 0},
            "general_settings": {"master_key": SECRET},
        }
        file = place.folder / "litellm.yaml"
        file.write_text(json.dumps(config))  # which is YAML too
        return [program, "--config", file, "--host", "127.0.0.1", "--port", str(place.port), "--num_workers", "1"]

    variables = {
        "LITELLM_MODE": "PRODUCTION",
        "LITELLM_LOG": "ERROR",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_TELEMETRY": "False",
    }
    return Contestant(
        name=LITELLM,
        start=start,
        ask=lambda place: _ask(place.url, place.cell, MODEL, {"authorization": f"Bearer {SECRET}"}),
        variables=variables,
    )


def _portkey(command: tuple[Path, Path]) -> Contestant:
    """Asked with the upstream in a header; it knows no keys of its own."""

    def ask(place: Place) -> Ask:
        headers = {
            "authorization": f"Bearer {SECRET}",
            "x-portkey-provider": "openai",
            "x-portkey-custom-host": place.upstream,
        }
        return _ask(place.url, place.cell, place.cell.body.model, headers)

    return Contestant(
        name=PORTKEY,
        start=lambda place: [*command, "--headless", f"--port={place.port}"],
        ask=ask,
        variables={"NODE_ENV": "production", "TRUSTED_CUSTOM_HOSTS": "127.0.0.1"},
    )


def _ask(base: str, cell: Cell, model: str, headers: Mapping[str, str] | None = None, keys: Path | None = None) -> Ask:
    body = json.dumps({"model": model, "prompt": PROMPT, **cell.body.asked})
    return Ask(url=f"{base}{GENERATIONS}", headers=headers or {}, body=body, keys=keys)
