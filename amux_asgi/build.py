"""From the configuration to what runs: channels, keys and prices, checked one by one."""

import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from difflib import get_close_matches
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
from msgspec.structs import replace

from amux_asgi import plugins
from amux_asgi.adapters import ADAPTERS
from amux_asgi.adapters._base import Adapter
from amux_asgi.build_limits import key_rules
from amux_asgi.catalogue._base import ImagePrices, TokenPrices
from amux_asgi.config import ChannelConfig, Config, KeyConfig, ModelConfig, PriceConfig
from amux_asgi.credentials import exchanges_of, read_credentials
from amux_asgi.keys import FixedKey, FixedKeys, Principal, digest_of
from amux_asgi.models import CATALOGUE
from amux_asgi.pricing import NANO, Prices, parse_dollars
from amux_asgi.quota import Opening, account_wallet, budget_wallet
from amux_asgi.rates import Priced
from amux_asgi.routing import Channel
from amux_asgi.toml_lines import Path as Where

SHORTEST_KEY: Final = 20  # characters
DAY: Final = 86_400  # seconds, the longest that anything waits
HEAVIEST: Final = 1_000_000
DEAREST: Final = 1_000_000 * NANO  # a price: with it, and all the tokens and pictures there can be, totals fit


def check_gateway(config: Config) -> None:
    """Check `[gateway]`.

    Raises:
        ConfigError: a number that cannot be, a network that is none, or a default model that no channel serves.
    """
    gateway = config.gateway
    for name in ("timeout", "body_timeout", "write_timeout", "heartbeat"):
        _check_seconds(config, ("gateway", name), getattr(gateway, name))
    if gateway.grace != 0:
        _check_seconds(config, ("gateway", "grace"), gateway.grace)
    if gateway.drain != 0:
        _check_seconds(config, ("gateway", "drain"), gateway.drain)
    for name in ("max_body", "max_answer", "max_in_flight"):
        if not getattr(gateway, name) > 0:
            raise config.fault(("gateway", name), "must be above zero")
    for i, network in enumerate(gateway.trusted_proxies):
        _check_network(config, ("gateway", "trusted_proxies", i), network)
    served = {_name(model) for channel in config.channels for model in channel.models}
    if gateway.default_model is not None and gateway.default_model not in served:
        raise config.fault(
            ("gateway", "default_model"), "no channel serves this model; name it in a channel's 'models'"
        )


def channels_of(config: Config, adapters: Mapping[str, Adapter]) -> tuple[Channel, ...]:
    """Make the channels.

    Raises:
        ConfigError: one of them cannot work.
    """
    if not config.channels:
        raise config.fault(("channels",), "there is no channel, so nothing could be generated; add one")
    for i, told in enumerate(config.channels):
        if not told.models:
            raise config.fault(("channels", i, "models"), "the channel serves no model; name at least one")
    channels = tuple(_channel(config, i, told, adapters) for i, told in enumerate(config.channels))
    _check_unique(config, "channels", [channel.name for channel in channels])
    return channels


def channel(told: ChannelConfig, *, adapters: Iterable[Adapter] = ()) -> Channel:
    """Make one channel in code, for a `Passthrough`; it needs no models. `adapters` come beside those that ship.

    Raises:
        ConfigError: it cannot work.
    """
    return _channel(Config(channels=(told,)), 0, told, ADAPTERS | {adapter.name: adapter for adapter in adapters})


def keys_of(config: Config, now: Callable[[], datetime]) -> FixedKeys:
    """Make the fixed keys; only their hashes are kept.

    Raises:
        ConfigError: one of them cannot work.
    """
    keys = [_key(config, i, key) for i, key in enumerate(config.keys)]
    _check_unique(config, "keys", [key.principal.key for key in keys])
    if len({key.digest for key in keys}) < len(keys):
        raise config.fault(("keys",), "two keys are the same; each must be its own")
    return FixedKeys(keys, now=now)


def openings_of(config: Config) -> tuple[Opening, ...]:
    """Say which wallets the keys want.

    Raises:
        ConfigError: an amount is none, or has no database to be kept in.
    """
    openings: dict[str, Opening] = {}
    for i, key in enumerate(config.keys):
        for name, wallet, told in (
            ("balance", account_wallet(key.account or key.name), key.balance),
            ("budget", budget_wallet(key.name), key.budget),
        ):
            if told is None:
                continue
            where: Where = ("keys", i, name)
            if config.gateway.database is None:
                raise config.fault(where, "needs a database, or a restart would forget it; say [gateway] database")
            opening = Opening(wallet=wallet, amount=_money(config, where, told))
            if openings.setdefault(wallet, opening) != opening:
                raise config.fault(where, "another key of this account says another balance; say it once")
    return tuple(openings.values())


def check_priced(config: Config, channels: Iterable[Channel], prices: Prices) -> None:
    """Check that whoever has a balance can only name models that have a price.

    Raises:
        ConfigError: one of them has none.
    """
    unpriced = {
        model
        for channel in channels
        for model, upstream in channel.models.items()
        if not prices.can_be_held(model, upstream, rules=channel.rules.get(model, upstream))
    }
    for i, key in enumerate(config.keys):
        if key.balance is None and key.budget is None:
            continue
        principal = _principal(key)
        for model in sorted(filter(principal.may_use, unpriced)):
            raise config.fault(
                ("keys", i, "budget" if key.balance is None else "balance"),
                f"this key may use {model!r}, whose price nobody can tell beforehand; say one per picture in "
                f"[prices.{model!r}], or limit 'models'",
            )


def fixed_keys(keys: Iterable[KeyConfig], *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> FixedKeys:
    """Make a key store of keys written in code.

    Raises:
        ConfigError: one of them cannot work, or says how much it may spend, which only a database can keep.
    """
    config = Config(keys=tuple(keys))
    openings_of(config)
    return keys_of(config, now)


def prices_of(config: Config) -> Prices:
    """Make the prices: the configuration's before the catalogue's.

    Raises:
        ConfigError: one of them is none.
    """
    return Prices({model: _priced(config, model, told) for model, told in config.prices.items()})


def _channel(config: Config, i: int, told: ChannelConfig, adapters: Mapping[str, Adapter]) -> Channel:
    where: Where = ("channels", i)
    if not _NAME.fullmatch(told.name):
        raise config.fault((*where, "name"), "a channel's name is 1 to 64 letters, digits, '.', '_' or '-'")
    adapter = adapters.get(told.adapter) or plugins.adapter(told.adapter)
    if adapter is None:
        close = get_close_matches(told.adapter, list(adapters), n=1)
        hint = f"do you mean {close[0]!r}?" if close else f"known are {', '.join(sorted(adapters))}"
        raise config.fault((*where, "adapter"), f"there is no adapter {told.adapter!r}; {hint}")
    if not 1 <= told.weight <= HEAVIEST:
        raise config.fault((*where, "weight"), f"must be from 1 to {HEAVIEST}")
    _check_seconds(config, (*where, "timeout"), told.timeout)
    if not 1 <= told.concurrency <= HEAVIEST:
        raise config.fault((*where, "concurrency"), f"must be from 1 to {HEAVIEST}")
    base_url = _base_url(config, where, told, adapter)
    told = replace(told, credentials=read_credentials(config, where, told.credentials))
    exchanges = exchanges_of(config, where, told.credentials, adapter)
    _check_credentials(config, where, told, adapter, base_url)
    _check_headers(config, where, told)
    return Channel(
        name=told.name,
        adapter=adapter,
        base_url=base_url,
        models=_models(config, where, told),
        rules=_rules(config, where, told, adapter),
        credentials=told.credentials,
        exchanges=exchanges,
        priority=told.priority,
        weight=told.weight,
        timeout=told.timeout,
        unknown_fields=told.unknown_fields,
        on_unknown=told.on_unknown,
        concurrency=told.concurrency,
        rehost=told.rehost,
        options=_options(config, (*where, "options"), told, adapter),
        headers={name.lower(): value for name, value in told.headers.items()},
    )


def _options(config: Config, where: Where, told: ChannelConfig, adapter: Adapter) -> Any:  # noqa: ANN401, the adapter's own
    if adapter.options is None:
        if told.options:
            raise config.fault(where, f"the adapter {adapter.name!r} takes no options; leave them out")
        return None
    known = adapter.options.__struct_fields__
    for name in told.options:
        if name not in known:
            raise config.fault((*where, name), f"there is no such option; known are {', '.join(sorted(known))}")
    try:
        return msgspec.convert(dict(told.options), adapter.options)
    except msgspec.ValidationError as exc:
        message, _, path = str(exc).partition(" - at ")
        inside = path.strip("`$").split(".")[1:]
        raise config.fault((*where, *inside), f"{message[:1].lower()}{message[1:]}") from exc


def _check_seconds(config: Config, where: Where, seconds: float) -> None:
    if not 0 < seconds <= DAY:
        raise config.fault(where, f"must be above zero, and at most {DAY} seconds")


def _models(config: Config, where: Where, told: ChannelConfig) -> dict[str, str]:
    models = {_name(model): model.upstream if isinstance(model, ModelConfig) else model for model in told.models}
    if len(models) < len(told.models):
        raise config.fault((*where, "models"), "a model is named twice")
    if not all(text.isprintable() and text.strip() == text != "" for text in (*models, *models.values())):
        raise config.fault(
            (*where, "models"), "a model's name is empty, or holds blanks at an end or unprintable characters"
        )
    return models


def _rules(config: Config, where: Where, told: ChannelConfig, adapter: Adapter) -> dict[str, str]:
    """Say by which row of the catalogue a model goes, where that is not the upstream's name."""
    rules: dict[str, str] = {}
    for model in told.models:
        name, upstream = _name(model), model.upstream if isinstance(model, ModelConfig) else model
        like = model.like if isinstance(model, ModelConfig) else None
        if like is not None and like not in CATALOGUE:
            close = get_close_matches(like, list(CATALOGUE), n=1)
            hint = f"do you mean {close[0]!r}?" if close else "leave 'like' out"
            raise config.fault((*where, "models"), f"the catalogue knows no model {like!r}; {hint}")
        known = upstream.lower() if upstream.lower() in CATALOGUE else name if adapter.free_names else upstream
        if (found := like or (upstream if upstream in CATALOGUE else known)) != upstream:
            rules[name] = found
    return rules


def _base_url(config: Config, where: Where, told: ChannelConfig, adapter: Adapter) -> str:
    where = (*where, "base_url")
    url = told.base_url or adapter.base_url
    if url is None:
        raise config.fault(where, f"the adapter {adapter.name!r} has no address of its own; say which server it is")
    if not _URL.fullmatch(url) or not _is_address(url):
        raise config.fault(where, "is no base URL; write it as 'https://host/path', without user, query or fragment")
    return url.rstrip("/")


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in _SCHEMES and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is none, or half an IPv6 address
        return False


def _check_credentials(config: Config, where: Where, told: ChannelConfig, adapter: Adapter, base_url: str) -> None:
    where = (*where, "credentials")
    if adapter.needs_credential and not told.credentials:
        raise config.fault(where, f"the adapter {adapter.name!r} needs a credential; give at least one")
    parts = urlsplit(base_url)
    if told.credentials and parts.scheme == "http" and not _is_near(parts.hostname or ""):
        raise config.fault(where, "a credential would cross the network unencrypted; use https in 'base_url'")


def _check_headers(config: Config, where: Where, told: ChannelConfig) -> None:
    for name, value in told.headers.items():
        if name.lower() in _RESERVED or not _HEADER_NAME.fullmatch(name):
            raise config.fault((*where, "headers", name), "this header is the gateway's own, or no header's name")
        if not _HEADER_VALUE.fullmatch(value):
            raise config.fault((*where, "headers", name), "the value holds a character that HTTP does not allow")


def _key(config: Config, i: int, told: KeyConfig) -> FixedKey:
    where: Where = ("keys", i)
    if not _NAME.fullmatch(told.name):
        raise config.fault((*where, "name"), "a key's name is 1 to 64 letters, digits, '.', '_' or '-'")
    if len(told.key) < SHORTEST_KEY or not _CREDENTIAL.fullmatch(told.key):
        raise config.fault((*where, "key"), f"a key has at least {SHORTEST_KEY} printable characters and no blank")
    if told.expires is not None and told.expires.tzinfo is None:
        raise config.fault((*where, "expires"), "say the offset too, as in 2027-01-01T00:00:00Z")
    for j, network in enumerate(told.networks or ()):
        _check_network(config, (*where, "networks", j), network)
    principal = replace(_principal(told), limits=key_rules(config, i, told))
    return FixedKey(digest=digest_of(told.key), principal=principal, expires=told.expires)


def _principal(told: KeyConfig) -> Principal:
    return Principal(
        account=told.account or told.name,
        key=told.name,
        models=told.models,
        passthrough=told.passthrough,
        budget=None if told.budget is None else told.name,
        networks=told.networks,
    )


def _money(config: Config, where: Where, text: str) -> int:
    try:
        return parse_dollars(text)
    except ValueError as exc:
        raise config.fault(where, f"{exc}; write US dollars as a decimal, as in '25.00'") from exc


def _check_network(config: Config, where: Where, network: str) -> None:
    try:
        ipaddress.ip_network(network)
    except ValueError as exc:
        raise config.fault(where, f"{network!r} is no network; write it as '10.0.0.0/8'") from exc


def _priced(config: Config, model: str, told: PriceConfig) -> Priced:
    where: Where = ("prices", model)
    tokens = {
        name: _dollars(config, (*where, name), value)
        for name in TokenPrices.__struct_fields__
        if (value := getattr(told, name)) is not None
    }
    if told.image is not None and tokens:
        raise config.fault((*where, "image"), "a model is priced by its tokens or by picture; leave one of them out")
    if tokens:
        return _token_prices(config, model, tokens)
    if isinstance(told.image, str):
        return ImagePrices(flat=_dollars(config, (*where, "image"), told.image))
    rows: dict[tuple[str, str], int] = {}
    for size, by_quality in (told.image or {}).items():
        for quality, price in by_quality.items():
            place = (*where, "image", size, quality)
            if "auto" in (size, quality):
                raise config.fault(place, "'auto' has no price of its own, it is held at the dearest; leave it out")
            rows[size, quality] = _dollars(config, place, price)
    if not rows:
        raise config.fault(where, "there is no price; give 'text_in' and 'image_out', or 'image'")
    return ImagePrices(prices=rows)


def _token_prices(config: Config, model: str, told: Mapping[str, int]) -> TokenPrices:
    """Complete what is told: from the catalogue's prices of the model, else cached as uncached, a picture as text."""
    entry = CATALOGUE.get(model)
    if entry is not None and isinstance(entry.prices, TokenPrices):
        return replace(entry.prices, **told)
    for name in ("text_in", "image_out"):
        if name not in told:
            raise config.fault(
                ("prices", model), f"the key {name!r} is missing; the catalogue has no price to take its place"
            )
    image_in = told.get("image_in", told["text_in"])
    others = {"cached_text_in": told["text_in"], "image_in": image_in, "cached_image_in": image_in}
    return TokenPrices(**{**others, **told})


def _dollars(config: Config, where: Where, text: str) -> int:
    try:
        nano = parse_dollars(text)
    except ValueError as exc:
        raise config.fault(where, f"{exc}; write US dollars as '0.211'") from exc
    if nano > DEAREST:
        raise config.fault(where, f"too large; a price is at most {DEAREST // NANO} dollars")
    return nano


def _check_unique(config: Config, section: str, names: list[str]) -> None:
    seen: set[str] = set()
    for i, name in enumerate(names):
        if name in seen:
            raise config.fault((section, i, "name"), f"{name!r} is taken by another one above; names must differ")
        seen.add(name)


def _name(model: str | ModelConfig) -> str:
    return model.name if isinstance(model, ModelConfig) else model


def _is_near(host: str) -> bool:
    """Tell whether a host is this machine or one of a private network, where plain HTTP is usual."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return "." not in host or host.endswith(_PRIVATE_ENDINGS)
    return address.is_private or address.is_loopback


_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_SCHEMES: Final = ("http", "https", "asgi")
_URL: Final = re.compile(r"[a-z]+://[A-Za-z0-9._:\[\]-]+(?:/[A-Za-z0-9._~%/:-]*)?")
_CREDENTIAL: Final = re.compile(r"[!-~]+")
_HEADER_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_VALUE: Final = re.compile(r"[!-~](?:[ -~]*[!-~])?")
_PRIVATE_ENDINGS: Final = (".internal", ".local", ".localhost", ".svc", ".cluster.local")
_RESERVED: Final = frozenset(
    {
        "accept-encoding",
        "authorization",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "cookie",
        "expect",
        "host",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "x-amux-hop",
    }
)
