"""One version of the configuration, as it runs: made whole, swapped whole; and what all versions of an app share."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from urllib.parse import urlsplit

from msgspec import Struct
from starlette.routing import Router
from starlette.types import ASGIApp

from amux_asgi.adapters import ADAPTERS
from amux_asgi.adapters._base import Adapter
from amux_asgi.admitting import Rulebook
from amux_asgi.build_channels import channels_of
from amux_asgi.build_checks import check_gateway
from amux_asgi.build_keys import check_priced, keys_of, openings_of
from amux_asgi.build_limits import rules_of
from amux_asgi.build_prices import prices_of
from amux_asgi.config import Config
from amux_asgi.database import Database
from amux_asgi.endpoints import nothing_here, routes
from amux_asgi.errors import ConfigError
from amux_asgi.gateway import Gateway, Settings
from amux_asgi.health import Health
from amux_asgi.keys import KeysInTurn, KeyStore
from amux_asgi.loops import on_asyncio
from amux_asgi.middleware.auth import Authenticate, AuthMiddleware
from amux_asgi.paths import Paths
from amux_asgi.paths import known as known_paths
from amux_asgi.plugins import load as load_attribute
from amux_asgi.pricing import Prices
from amux_asgi.routing import Channel, Routes
from amux_asgi.runtime import Runtimes
from amux_asgi.streamed import Pace
from amux_asgi.transport.asgi import open_app
from amux_asgi.transport.base import Open, Transport
from amux_asgi.transport.carry import Sleep
from amux_asgi.transport.fetch import Fetcher
from amux_asgi.transport.httpx import open_httpx2
from amux_asgi.transport.tokens import Tokens
from amux_asgi.wallets import Opening
from amux_asgi.wiring import Line, Lines


class Facts(Struct, frozen=True, eq=False):
    """What a configuration says, checked."""

    config: Config
    channels: tuple[Channel, ...]
    prices: Prices
    limits: Rulebook
    openings: tuple[Opening, ...]
    lines: Lines
    keys: KeyStore | None


class Setup(Struct, frozen=True, eq=False):
    """A version as it runs: a request takes it once, before its key is looked up, and stays with it to the end."""

    facts: Facts
    gateway: Gateway
    app: ASGIApp
    paths: tuple[str, ...]  # those that are known, the same in each version


class Parts(Struct, frozen=True, kw_only=True, eq=False):
    """What all versions share: what was given in code, and what goes on from one to the next."""

    adapters: Mapping[str, Adapter]
    apps: Mapping[str, ASGIApp]
    usual: Open
    keys: KeyStore | None  # in the place of the configuration's
    database: Database | None
    authenticate: Authenticate | None
    fetcher: Fetcher
    tokens: Tokens
    health: Health
    clock: Callable[[], float]
    sleep: Sleep
    now: Callable[[], datetime]
    milliseconds: Callable[[], int]
    random: Callable[[], float]
    in_process: dict[str, Open]  # by the names of apps: the same opener each time, so that it stays open

    def facts(self, config: Config) -> Facts:
        """Check what a configuration says; opens nothing.

        Raises:
            ConfigError: it cannot work, or nobody said who may call.
        """
        check_gateway(config)
        channels = channels_of(config, self.adapters)
        prices = prices_of(config)
        check_priced(config, channels, prices)
        return Facts(
            config,
            channels,
            prices,
            rules_of(config),
            openings_of(config),
            lines=self._lines(channels),
            keys=self._keys(config),
        )

    def setup(self, facts: Facts, runtimes: Runtimes) -> Setup:
        """Make a version, to be used at once: what is known of the upstreams is known of its channels from now on."""
        gateway = Gateway(
            Routes(facts.channels),
            runtimes,
            _settings(facts.config),
            lines=facts.lines,
            prices=facts.prices,
            limits=facts.limits,
            fetcher=self.fetcher,
            tokens=self.tokens,
            clock=self.clock,
            sleep=self.sleep,
            now=self.milliseconds,
            random=self.random,
            health=self.health,
        )
        told = facts.config.gateway
        listed = routes(
            gateway,
            longest=told.max_body,
            timeout=told.body_timeout,
            reveal=told.reveal,
            pace=Pace(heartbeat=told.heartbeat, write_timeout=told.write_timeout),
        )
        paths = known_paths(listed)
        guarded = Paths(paths, Router(listed, redirect_slashes=False, default=nothing_here))
        app = AuthMiddleware(guarded, keys=facts.keys, authenticate=self.authenticate)
        return Setup(facts, gateway, app, tuple(paths))

    def _keys(self, config: Config) -> KeyStore | None:
        """Take the keys of the configuration first, then those of the database."""
        if self.keys is not None:
            return self.keys
        fixed = keys_of(config, self.now) if config.keys else None
        kept = None if self.database is None or self.authenticate is not None else self.database.keys
        if fixed is None and kept is None and self.authenticate is None:
            raise config.fault(
                ("keys",),
                "nobody said who may call: add a key (`amux-asgi key` makes one), or a database of keys, or give "
                "images_app() `authenticate=`: a function of yours, `from_user(...)`, `outer` or `anyone`",
            )
        return fixed if kept is None else kept if fixed is None else KeysInTurn(fixed, kept)

    def _lines(self, channels: Iterable[Channel]) -> dict[str, Line]:
        """Say how each channel is reached; channels of one app, and all others, share a transport."""
        lines: dict[str, Line] = {}
        for channel in channels:
            url = urlsplit(channel.base_url)
            opener = self._in_process(url.netloc) if url.scheme == "asgi" else self.usual
            lines[channel.name] = Line(opener, channel.concurrency)
        return lines

    def _in_process(self, name: str) -> Open:
        if name not in self.in_process:
            app = self.apps[name] if name in self.apps else load_attribute(":".join(name.rsplit(".", 1)))
            self.in_process[name] = open_app(app)
        return self.in_process[name]


def known(adapters: Iterable[Adapter]) -> Mapping[str, Adapter]:
    """Give the adapters that ship, and these beside them."""
    return ADAPTERS | {adapter.name: adapter for adapter in adapters}


def usual(config: Config) -> Open:
    """Say what carries the asks to upstreams that are no app of this process."""
    match config.gateway.transport:
        case "httpx2":
            return open_httpx2
        case "aiohttp":
            return _named("aiohttp")
        case "direct":
            return _named("direct")
        case _:
            return _fastest


def _settings(config: Config) -> Settings:
    told = config.gateway
    return Settings(
        default_model=told.default_model,
        timeout=told.timeout,
        max_answer=told.max_answer,
        strict=told.strict,
        public_url=told.public_url,
        reveal=tuple(told.reveal),
    )


def _named(name: str) -> Open:
    opener: Open = load_attribute(f"amux_asgi.transport.{name}:open_{name}")
    return opener


def _fastest() -> AbstractAsyncContextManager[Transport]:
    """Open our own where what it needs is installed and the event loop is asyncio's, otherwise httpx2."""
    try:
        return _named("direct")() if on_asyncio() else open_httpx2()
    except ConfigError:
        return open_httpx2()
