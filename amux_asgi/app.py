"""`images_app(...)`: the routes and the default stack; nothing else."""

import os
import random as chance
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime
from typing import Final

import anyio
from anyio import to_thread
from msgspec.structs import replace
from starlette.routing import Router
from starlette.types import ASGIApp, Receive, Scope, Send

from amux_asgi.adapters._base import Adapter
from amux_asgi.admin import admin_app
from amux_asgi.admission import Limiter
from amux_asgi.build_limits import limits_of
from amux_asgi.build_pictures import pictures_of
from amux_asgi.config import ChannelConfig, Config, KeyConfig, PriceConfig, load
from amux_asgi.database import Database
from amux_asgi.errors import ConfigError
from amux_asgi.gateway import Gateway
from amux_asgi.health import Health
from amux_asgi.hosted import HostedPictures, picture_routes
from amux_asgi.keys import KeyStore
from amux_asgi.limit_store import opener_of
from amux_asgi.live import ChannelState, states
from amux_asgi.middleware.auth import Authenticate
from amux_asgi.middleware.errors import ErrorMiddleware
from amux_asgi.paths import Paths
from amux_asgi.places import PlacesState
from amux_asgi.probes import Probes
from amux_asgi.quota import Ledger
from amux_asgi.reloading import Watch, with_what_stays
from amux_asgi.runtime import OpenStores, Runtimes, Stores, forgetful, in_memory, unix_ms
from amux_asgi.setup import Facts, Parts, Setup, known, usual
from amux_asgi.transport.base import Open
from amux_asgi.transport.carry import Sleep
from amux_asgi.transport.fetch import PUBLIC, Fetcher, FetchPolicy
from amux_asgi.transport.httpx import Client, own_client
from amux_asgi.transport.tokens import Tokens
from amux_asgi.wallets import Opening

CONFIG_VARIABLE: Final = "AMUX_CONFIG"
ADMIN_VARIABLE: Final = "AMUX_ADMIN_SECRET"


class ImagesApp:
    """The gateway as an ASGI app, to be mounted or run alone.

    `gateway` generates without HTTP; `lifespan` belongs to the outermost app; `config` is what it was made of.
    """

    def __init__(
        self,
        parts: Parts,
        setup: Setup,
        runtimes: Runtimes,
        *,
        file: str | None,
        read: Callable[[], Config],
    ) -> None:
        """`file`, if there is one, is watched; `read` reads it anew."""
        self._parts = parts
        self._setup = setup
        self._runtimes = runtimes
        self._read = read
        self._file = file
        self._watch: Watch | None = None  # while it runs
        hosted = HostedPictures(runtimes.picture, now=_seconds(parts.now))
        self._probes = Probes(runtimes, parts.health, clock=parts.clock)
        outside = [*picture_routes(hosted), *self._probes.routes()]
        self._router = Router(outside, redirect_slashes=False, default=self._newest, lifespan=self.lifespan)
        self._paths = Paths(dict.fromkeys(setup.paths, self._newest), self._router)
        self._app = ErrorMiddleware(self._paths)

    @property
    def gateway(self) -> Gateway:
        """Give the gateway of the newest version of the configuration; ask each time, and a reload is seen."""
        return self._setup.gateway

    @property
    def config(self) -> Config:
        """Give the newest version of the configuration."""
        return self._setup.facts.config

    @property
    def openings(self) -> tuple[Opening, ...]:
        """Give the wallets that it wants."""
        return self._setup.facts.openings

    @property
    def probed(self) -> bool:
        """Tell whether anybody ever asked `/readyz`, and would so learn of a `stop`."""
        return self._probes.asked

    def channels(self) -> list[ChannelState]:
        """Say what each channel does now, as seen from this event loop."""
        home = self._runtimes.current
        places: Mapping[str, PlacesState] = {} if home is None else home.wires.snapshot()
        return list(states(self._setup.facts.channels, places, self._parts.health.snapshot()))

    def stop(self) -> None:
        """Say at `/readyz` from now on that this process is stopping, and let the grace time begin.

        Requests are served as before. For a server that calls it at SIGTERM, as the standalone one does.
        """
        self._runtimes.stop()

    def lifespan(self, app: object = None) -> AbstractAsyncContextManager[None]:  # noqa: ARG002, a lifespan gets its app
        """Run the gateway while entered: `Starlette(..., lifespan=images.lifespan)`.

        Entering it again on one event loop, for a second mount, joins what runs already.
        """
        return self._running()

    def mount(self, path: str, app: ASGIApp) -> None:
        """Serve another app at a path of this one's, outside of its keys."""
        self._router.mount(path, app)
        self._paths.leave(path)

    async def reload(self) -> None:
        """Read the configuration's file now, also unchanged; one that cannot work is logged, and changes nothing.

        Without a file, or where the lifespan is not entered, there is nothing to do.
        """
        if self._watch is not None:
            await self._watch.look(anyway=True)

    @asynccontextmanager
    async def _running(self) -> AsyncGenerator[None]:
        async with self._runtimes.running() as home:
            if self._file is None or self._watch is not None:
                yield
                return
            watch = self._watch = Watch(self._file, self.config.text, self._renew)
            home.start(watch.run, self._parts.sleep)
            try:
                yield
            finally:
                self._watch = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope."""
        await self._app(scope, receive, send)

    def _newest(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serve a request by the version that is the newest now, whatever comes meanwhile."""
        return self._setup.app(scope, receive, send)

    async def _renew(self) -> None:
        """Take the file over: checked and opened first, then swapped in one step."""
        facts = await to_thread.run_sync(self._read_anew)
        if self._parts.database is not None:
            async with self._parts.database.opened() as stores:
                await stores.open_wallets(facts.openings)
        await self._runtimes.renew(facts.lines)
        self._setup = self._parts.setup(facts, self._runtimes)  # nothing runs between this and the line before

    def _read_anew(self) -> Facts:
        return self._parts.facts(with_what_stays(self.config, self._read()))


def utc_now() -> datetime:
    """Tell the wall clock's time."""
    return datetime.now(UTC)


def images_app(  # noqa: PLR0913, every part can be given
    config: str | os.PathLike[str] | Config | None = None,
    *,
    channels: Iterable[ChannelConfig] | None = None,
    keys: KeyStore | Iterable[KeyConfig] | None = None,
    prices: Mapping[str, PriceConfig] | None = None,
    database: Database | str | None = None,
    ledger: Ledger | None = None,
    limiter: Limiter | None = None,
    authenticate: Authenticate | None = None,
    adapters: Iterable[Adapter] = (),
    apps: Mapping[str, ASGIApp] | None = None,
    transport: Open | Client | None = None,
    fetch: FetchPolicy = PUBLIC,
    clock: Callable[[], float] = time.monotonic,
    sleep: Sleep = anyio.sleep,
    now: Callable[[], datetime] = utc_now,
    random: Callable[[], float] = chance.random,
) -> ImagesApp:
    """Make the gateway from a TOML file, from a `Config`, or from parts, which replace those of the configuration.

    Reads the configuration, with the files that it says hold credentials, and does nothing else: opens no socket,
    thread or lock. A file is looked at once a second while the lifespan runs, and what changed is taken over.
    `adapters` come beside those that ship; `database` keeps money and keys, or a `ledger` of yours keeps the money
    alone; `limiter` counts the limits: a `Limits(...)` that a `LimitMiddleware` in front may share, or one of yours;
    `apps` are ASGI apps of yours that answer at `asgi://NAME/...`; `transport` carries the asks to all other upstreams:
    an `AsyncClient` of httpx or httpx2, which stays yours to close, or what opens a `Transport`; `fetch` says from
    where pictures are fetched; `clock` is monotonic, `now` the wall clock, `sleep` waits between two looks at work that
    a vendor does in the background.

    Raises:
        ConfigError: it cannot work, or nobody said who may call.
    """

    def read() -> Config:
        return _told(config, channels=channels, keys=keys, prices=prices, database=database)

    told = read()
    milliseconds, seconds = _milliseconds(now), _seconds(now)
    kept = _database(told, database, clock, milliseconds)
    parts = Parts(
        adapters=known(adapters),
        apps=apps or {},
        usual=usual(told) if transport is None else transport if callable(transport) else own_client(transport),
        keys=keys if isinstance(keys, KeyStore) else None,
        database=kept,
        authenticate=authenticate,
        fetcher=Fetcher(fetch),
        tokens=Tokens(clock=clock, now=milliseconds),
        health=Health(clock=clock, random=random),
        clock=clock,
        sleep=sleep,
        now=now,
        milliseconds=milliseconds,
        random=random,
        in_process={},
    )
    facts = parts.facts(told)
    runtimes = Runtimes(
        facts.lines,
        stores=_stores(kept, ledger, lambda: images.openings, clock=clock, now=milliseconds),
        pictures=pictures_of(told, now=seconds),
        limiter=opener_of(limits_of(told, clock) if limiter is None else limiter),
        grace=told.gateway.grace,
        max_in_flight=told.gateway.max_in_flight,
        clock=clock,
    )
    images = ImagesApp(parts, parts.setup(facts, runtimes), runtimes, file=told.file, read=read)
    return images


def from_environment() -> ImagesApp:
    """Make the gateway from the file that the variable `AMUX_CONFIG` names, as each worker of a server does.

    Where the variable `AMUX_ADMIN_SECRET` is set, whoever shows it sees at `/admin/channels` what the channels do.
    """
    path = os.environ.get(CONFIG_VARIABLE)
    if path is None:
        raise ConfigError(f"the variable {CONFIG_VARIABLE} is not set; it names the configuration file")
    images = images_app(path)
    secret = os.environ.get(ADMIN_VARIABLE)
    if secret:
        images.mount("/admin", admin_app(None, secret=secret, images=images))
    return images


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


def _stores(
    database: Database | None,
    ledger: Ledger | None,
    openings: Callable[[], Iterable[Opening]],
    *,
    clock: Callable[[], float],
    now: Callable[[], int],
) -> OpenStores:
    if database is not None and ledger is not None:
        raise ConfigError("money is kept in one place: give either `database` or `ledger`")
    if database is not None:
        return _in_database(database, openings)
    return forgetful(clock=clock, now=now) if ledger is None else in_memory(ledger, clock=clock, now=now)


def _in_database(database: Database, openings: Callable[[], Iterable[Opening]]) -> OpenStores:
    @asynccontextmanager
    async def opened() -> AsyncGenerator[Stores]:
        async with database.opened() as stores:
            await stores.open_wallets(openings())
            yield stores

    return opened


def _milliseconds(now: Callable[[], datetime]) -> Callable[[], int]:
    if now is utc_now:
        return unix_ms  # a fifth of the time, and each request asks several times
    return lambda: int(now().timestamp() * 1000)


def _seconds(now: Callable[[], datetime]) -> Callable[[], float]:
    return lambda: now().timestamp()
