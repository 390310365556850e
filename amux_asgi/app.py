"""`images_app(...)`: the routes and the default stack; nothing else."""

import os
import random as chance
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime
from typing import Final
from urllib.parse import urlsplit

from msgspec.structs import replace
from starlette.routing import Router
from starlette.types import ASGIApp, Receive, Scope, Send

from amux_asgi.adapters import ADAPTERS
from amux_asgi.adapters._base import Adapter
from amux_asgi.build import channels_of, check_gateway, check_priced, keys_of, openings_of, prices_of
from amux_asgi.config import ChannelConfig, Config, KeyConfig, PriceConfig, load
from amux_asgi.database import Database
from amux_asgi.endpoints import nothing_here, routes
from amux_asgi.errors import ConfigError
from amux_asgi.gateway import Gateway, Settings
from amux_asgi.keys import KeysInTurn, KeyStore
from amux_asgi.middleware.auth import Authenticate, AuthMiddleware
from amux_asgi.middleware.errors import ErrorMiddleware
from amux_asgi.plugins import load as load_attribute
from amux_asgi.quota import Ledger, Opening
from amux_asgi.routing import Channel, Routes
from amux_asgi.runtime import OpenStores, Runtimes, Stores, forgetful, in_memory, on_asyncio
from amux_asgi.transport.asgi import open_app
from amux_asgi.transport.base import Open, Transport
from amux_asgi.transport.httpx import Client, open_httpx2, own_client

CONFIG_VARIABLE: Final = "AMUX_CONFIG"


class ImagesApp:
    """The gateway as an ASGI app, to be mounted or run alone.

    `gateway` generates without HTTP; `lifespan` belongs to the outermost app; `config` is what it was made of.
    """

    def __init__(
        self, gateway: Gateway, runtimes: Runtimes, config: Config, stack: Callable[[ASGIApp], ASGIApp]
    ) -> None:
        self.gateway = gateway
        self.config = config
        self._runtimes = runtimes
        settings = config.gateway
        router = Router(
            routes(gateway, longest=settings.max_body, timeout=settings.body_timeout, reveal=settings.reveal),
            redirect_slashes=False,
            default=nothing_here,
            lifespan=self.lifespan,
        )
        self._app = stack(router)

    def lifespan(self, app: object = None) -> AbstractAsyncContextManager[None]:  # noqa: ARG002, a lifespan gets its app
        """Run the gateway while entered: `Starlette(..., lifespan=images.lifespan)`.

        Entering it again on one event loop, for a second mount, joins what runs already.
        """
        return self._running()

    @asynccontextmanager
    async def _running(self) -> AsyncGenerator[None]:
        async with self._runtimes.running():
            yield

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope."""
        await self._app(scope, receive, send)


def images_app(  # noqa: PLR0913, every part can be given
    config: str | os.PathLike[str] | Config | None = None,
    *,
    channels: Iterable[ChannelConfig] | None = None,
    keys: KeyStore | Iterable[KeyConfig] | None = None,
    prices: Mapping[str, PriceConfig] | None = None,
    database: Database | str | None = None,
    ledger: Ledger | None = None,
    authenticate: Authenticate | None = None,
    adapters: Iterable[Adapter] = (),
    apps: Mapping[str, ASGIApp] | None = None,
    transport: Open | Client | None = None,
    clock: Callable[[], float] = time.monotonic,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    random: Callable[[], float] = chance.random,
) -> ImagesApp:
    """Make the gateway from a TOML file, from a `Config`, or from parts, which replace those of the configuration.

    Reads the configuration and does nothing else: opens no file, socket, thread or lock. `adapters` come beside those
    that ship; `database` keeps money and keys, or a `ledger` of yours keeps the money alone; `apps` are ASGI apps of
    yours that answer at `asgi://NAME/...`; `transport` carries the asks to all other upstreams: an `AsyncClient` of
    httpx or httpx2, which stays yours to close, or what opens a `Transport`; `clock` is monotonic, `now` the wall
    clock.

    Raises:
        ConfigError: it cannot work, or nobody said who may call.
    """
    told = _told(config, channels=channels, keys=keys, prices=prices, database=database)
    check_gateway(told)
    serving = channels_of(told, ADAPTERS | {adapter.name: adapter for adapter in adapters})
    priced = prices_of(told)
    check_priced(told, serving, priced)
    usual = _usual(told) if transport is None else transport if callable(transport) else own_client(transport)
    milliseconds = _milliseconds(now)
    kept = _database(told, database, clock, milliseconds)
    stores = _stores(kept, ledger, openings_of(told), clock=clock, now=milliseconds)
    runtimes = Runtimes(_openers(serving, usual, apps or {}), stores=stores, grace=told.gateway.grace)
    gateway = Gateway(
        Routes(serving), runtimes, _settings(told), prices=priced, clock=clock, now=milliseconds, random=random
    )
    store = keys if isinstance(keys, KeyStore) else _keys(told, kept if authenticate is None else None, now)
    if store is None and authenticate is None:
        raise told.fault(
            ("keys",),
            "nobody said who may call: add a key (`amux-asgi key` makes one), or a database of keys, or give "
            "images_app() `authenticate=`: a function of yours, `from_user(...)`, `outer` or `anyone`",
        )

    def stack(app: ASGIApp) -> ASGIApp:
        return ErrorMiddleware(AuthMiddleware(app, keys=store, authenticate=authenticate))

    return ImagesApp(gateway, runtimes, told, stack)


def from_environment() -> ImagesApp:
    """Make the gateway from the file that the variable `AMUX_CONFIG` names, as each worker of a server does."""
    path = os.environ.get(CONFIG_VARIABLE)
    if path is None:
        raise ConfigError(f"the variable {CONFIG_VARIABLE} is not set; it names the configuration file")
    return images_app(path)


def _told(
    config: str | os.PathLike[str] | Config | None,
    *,
    channels: Iterable[ChannelConfig] | None,
    keys: KeyStore | Iterable[KeyConfig] | None,
    prices: Mapping[str, PriceConfig] | None,
    database: Database | str | None,
) -> Config:
    told = Config() if config is None else config if isinstance(config, Config) else load(config)
    if channels is not None:
        told = replace(told, channels=tuple(channels))
    if keys is not None:
        told = replace(told, keys=() if isinstance(keys, KeyStore) else tuple(keys))
    if prices is not None:
        told = replace(told, prices=prices)
    if database is not None:
        url = database if isinstance(database, str) else database.url
        told = replace(told, gateway=replace(told.gateway, database=url))
    return told


def _database(
    config: Config, database: Database | str | None, clock: Callable[[], float], now: Callable[[], int]
) -> Database | None:
    if isinstance(database, Database):
        return database
    url = config.gateway.database
    if url is None:
        return None
    try:
        return Database(url, clock=clock, now=now)
    except ConfigError as exc:
        raise config.fault(("gateway", "database"), str(exc)) from exc


def _keys(config: Config, database: Database | None, now: Callable[[], datetime]) -> KeyStore | None:
    """Take the keys of the configuration first, then those of the database."""
    fixed = keys_of(config, now) if config.keys else None
    if database is None or fixed is None:
        return fixed if database is None else database.keys
    return KeysInTurn(fixed, database.keys)


def _stores(
    database: Database | None,
    ledger: Ledger | None,
    openings: Iterable[Opening],
    *,
    clock: Callable[[], float],
    now: Callable[[], int],
) -> OpenStores:
    if database is not None and ledger is not None:
        raise ConfigError("money is kept in one place: give either `database` or `ledger`")
    if database is not None:
        return _in_database(database, openings)
    return forgetful(clock=clock, now=now) if ledger is None else in_memory(ledger, clock=clock, now=now)


def _in_database(database: Database, openings: Iterable[Opening]) -> OpenStores:
    @asynccontextmanager
    async def opened() -> AsyncGenerator[Stores]:
        async with database.opened() as stores:
            await stores.open_wallets(openings)
            yield stores

    return opened


def _milliseconds(now: Callable[[], datetime]) -> Callable[[], int]:
    return lambda: int(now().timestamp() * 1000)


def _settings(config: Config) -> Settings:
    told = config.gateway
    return Settings(
        default_model=told.default_model, timeout=told.timeout, max_answer=told.max_answer, strict=told.strict
    )


def _openers(channels: Iterable[Channel], usual: Open, apps: Mapping[str, ASGIApp]) -> dict[str, Open]:
    """Say how each channel's transport is opened; channels of one app, and all others, share theirs."""
    in_process: dict[str, Open] = {}
    openers: dict[str, Open] = {}
    for channel in channels:
        url = urlsplit(channel.base_url)
        if url.scheme != "asgi":
            openers[channel.name] = usual
            continue
        name = url.netloc
        if name not in in_process:
            in_process[name] = open_app(apps[name] if name in apps else load_attribute(":".join(name.rsplit(".", 1))))
        openers[channel.name] = in_process[name]
    return openers


def _usual(config: Config) -> Open:
    match config.gateway.transport:
        case "httpx2":
            return open_httpx2
        case "aiohttp":
            return _aiohttp()
        case _:
            return _fastest


def _aiohttp() -> Open:
    opener: Open = load_attribute("amux_asgi.transport.aiohttp:open_aiohttp")
    return opener


def _fastest() -> AbstractAsyncContextManager[Transport]:
    """Open aiohttp where it is installed and the event loop is asyncio's, otherwise httpx2."""
    try:
        return _aiohttp()() if on_asyncio() else open_httpx2()
    except ConfigError:
        return open_httpx2()
