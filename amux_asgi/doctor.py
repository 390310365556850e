"""What a configuration that can work may still lack: each check a function of what it says; asks nobody."""

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import date, timedelta
from ipaddress import ip_address
from typing import Final, Literal

from msgspec import Struct

from amux_asgi.config import Config
from amux_asgi.models import PRICED
from amux_asgi.pricing import Prices
from amux_asgi.routing import Channel

PROXY: Final = 60  # seconds after which nginx, AWS and others give an answer up, unless they are told otherwise
PROXY_BODY: Final = 1_048_576  # bytes of a request that nginx takes, likewise
STALE: Final = timedelta(days=30)
SHORTEST: Final = 16  # characters; no vendor's credential is shorter
PREFIXES: Final[Mapping[str, tuple[str, ...]]] = {
    "openai": ("sk-",),
    "dashscope": ("sk-",),
    "gemini": ("AIza", "AQ."),
}
"""How a vendor's own credentials begin, by adapter."""


class Finding(Struct, frozen=True):
    """What one check found: `ok`, `note` (works, but look at it) or `wrong`."""

    check: str
    state: Literal["ok", "note", "wrong"]
    message: str


class Way(Struct, frozen=True, kw_only=True):
    """How it is to be served."""

    host: str = "127.0.0.1"
    workers: int = 1


def findings(config: Config, channels: Iterable[Channel], prices: Prices, way: Way, today: date) -> Iterator[Finding]:
    """Check all that the configuration itself tells."""
    channels = tuple(channels)
    yield from _credentials(channels)
    yield from _prices(config, channels, prices, today)
    yield from _times(config, channels)
    yield from _sizes(config)
    yield from _serving(config, way)


def _credentials(channels: Iterable[Channel]) -> Iterator[Finding]:
    for channel in channels:
        faults = [
            f"credential {i} {fault}"
            for i, credential in enumerate(channel.credentials, 1)
            if (fault := _fault(channel, credential)) is not None
        ]
        if faults:
            yield Finding(f"channel {channel.name}", "wrong", f"{'; '.join(faults)}: the upstream will refuse it")
        elif channel.credentials:
            yield Finding(f"channel {channel.name}", "ok", f"{len(channel.credentials)} of a credible shape")


def _fault(channel: Channel, credential: str) -> str | None:
    """Say what is wrong with a credential, without any of it."""
    if credential in channel.exchanges:  # a service account, read and tried when the channel was made
        return None
    if _PLACEHOLDER.search(credential):
        return "looks like a placeholder"
    if len(credential) < SHORTEST:
        return f"has only {len(credential)} characters"
    prefixes = PREFIXES.get(channel.adapter.name)
    if prefixes and channel.base_url == channel.adapter.base_url and not credential.startswith(prefixes):
        return f"does not begin with {' or '.join(map(repr, prefixes))}"
    return None


def _prices(config: Config, channels: Iterable[Channel], prices: Prices, today: date) -> Iterator[Finding]:
    unpriced: set[str] = set()
    stale: dict[str, date] = {}
    for channel in channels:
        for model, upstream in channel.models.items():
            rules = channel.rules.get(model, upstream)
            if not prices.can_be_held(model, upstream, rules=rules):
                unpriced.add(model)
            elif not {model, upstream} & config.prices.keys() and (found := PRICED.get(rules)) is not None:
                stale |= {model: found} if today - found > STALE else {}
    if unpriced:
        names = ", ".join(sorted(unpriced))
        yield Finding("prices", "note", f"no price is known for {names}: refused to accounts with a balance")
    for day in sorted(set(stale.values())):
        names = ", ".join(sorted(model for model, of in stale.items() if of == day))
        yield Finding("prices", "note", f"those of {names} are of {day}; compare the vendor's, or say [prices]")
    if not unpriced and not stale:
        yield Finding("prices", "ok", "each model has one, not older than 30 days")


def _times(config: Config, channels: Iterable[Channel]) -> Iterator[Finding]:
    told = config.gateway
    if told.timeout > PROXY:
        yield Finding(
            "timeouts",
            "note",
            f"a request may take {told.timeout:g} s; many proxies give up after {PROXY} s unless told "
            "(nginx proxy_read_timeout, an AWS load balancer's idle timeout)",
        )
    longer = [channel.name for channel in channels if channel.timeout > told.timeout]
    if longer:
        yield Finding(
            "timeouts", "note", f"the timeout of {', '.join(longer)} is never reached: the gateway's is shorter"
        )
    if told.grace < told.timeout:
        yield Finding(
            "timeouts", "note", f"'grace' is {told.grace:g} s, so a stop may cut requests off that have more time"
        )


def _sizes(config: Config) -> Iterator[Finding]:
    if config.gateway.max_body > PROXY_BODY:
        yield Finding(
            "sizes", "note", "'max_body' is above 1 MiB, which nginx refuses unless told (client_max_body_size)"
        )


def _serving(config: Config, way: Way) -> Iterator[Finding]:
    told = config.gateway
    if not _is_loopback(way.host):
        yield Finding("serving", "note", f"{way.host} is reached from outside, without TLS: put a proxy in front")
        if not told.trusted_proxies:
            yield Finding(
                "serving", "note", "behind a proxy, name it in 'trusted_proxies', or its address is everybody's"
            )
    if told.public_url is None:
        yield Finding(
            "serving",
            "note",
            "without 'public_url', addresses of hosted pictures are made of what a request says: its Host header and "
            "the path of the mount. A proxy that changes either needs it",
        )
    yield Finding(
        "mounting",
        "note",
        "mounted in an app of yours, the lifespan is yours to give: Starlette(..., lifespan=images.lifespan); "
        "GET /readyz says whether it runs",
    )


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


_PLACEHOLDER: Final = re.compile(
    r"(?:^|[^a-z0-9])(?:x{3,}|your|changeme|change|placeholder|example|dummy|insert|todo)(?:$|[^a-z0-9])|[*<>]|\.{3}",
    re.IGNORECASE,
)
"""Whole words only: in a hundred random characters, short ones stand by chance."""
