"""From the configuration to channels, checked one by one."""

import ipaddress
import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
from msgspec.structs import replace

from amux_asgi import plugins
from amux_asgi.adapters import ADAPTERS
from amux_asgi.adapters._base import Adapter
from amux_asgi.build_checks import NAME, check_seconds, check_unique, name_of
from amux_asgi.config import ChannelConfig, Config, ModelConfig
from amux_asgi.credentials import exchanges_of, read_credentials
from amux_asgi.models import CATALOGUE
from amux_asgi.routing import Channel
from amux_asgi.toml_lines import Path as Where

HEAVIEST: Final = 1_000_000


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
    check_unique(config, "channels", [channel.name for channel in channels])
    return channels


def channel(told: ChannelConfig, *, adapters: Iterable[Adapter] = ()) -> Channel:
    """Make one channel in code, for a `Passthrough`; it needs no models. `adapters` come beside those that ship.

    Raises:
        ConfigError: it cannot work.
    """
    return _channel(Config(channels=(told,)), 0, told, ADAPTERS | {adapter.name: adapter for adapter in adapters})


def _channel(config: Config, i: int, told: ChannelConfig, adapters: Mapping[str, Adapter]) -> Channel:
    where: Where = ("channels", i)
    if not NAME.fullmatch(told.name):
        raise config.fault((*where, "name"), "a channel's name is 1 to 64 letters, digits, '.', '_' or '-'")
    adapter = adapters.get(told.adapter) or plugins.adapter(told.adapter)
    if adapter is None:
        close = get_close_matches(told.adapter, list(adapters), n=1)
        hint = f"do you mean {close[0]!r}?" if close else f"known are {', '.join(sorted(adapters))}"
        raise config.fault((*where, "adapter"), f"there is no adapter {told.adapter!r}; {hint}")
    if not 1 <= told.weight <= HEAVIEST:
        raise config.fault((*where, "weight"), f"must be from 1 to {HEAVIEST}")
    check_seconds(config, (*where, "timeout"), told.timeout)
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


def _models(config: Config, where: Where, told: ChannelConfig) -> dict[str, str]:
    models = {name_of(model): model.upstream if isinstance(model, ModelConfig) else model for model in told.models}
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
        name, upstream = name_of(model), model.upstream if isinstance(model, ModelConfig) else model
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


def _is_near(host: str) -> bool:
    """Tell whether a host is this machine or one of a private network, where plain HTTP is usual."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return "." not in host or host.endswith(_PRIVATE_ENDINGS)
    return address.is_private or address.is_loopback


_SCHEMES: Final = ("http", "https", "asgi")
_URL: Final = re.compile(r"[a-z]+://[A-Za-z0-9._:\[\]-]+(?:/[A-Za-z0-9._~%/:-]*)?")
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
