"""Checks of the configuration that its parts share, and those of `[gateway]`; what is wrong is told with its place."""

import ipaddress
import re
from typing import Final

from amux_asgi.config import Config, ModelConfig
from amux_asgi.toml_lines import Path as Where

DAY: Final = 86_400  # seconds, the longest that anything waits
NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
CREDENTIAL: Final = re.compile(r"[!-~]+")


def check_gateway(config: Config) -> None:
    """Check `[gateway]`.

    Raises:
        ConfigError: a number that cannot be, a network that is none, or a default model that no channel serves.
    """
    gateway = config.gateway
    for name in ("timeout", "body_timeout", "write_timeout", "heartbeat"):
        check_seconds(config, ("gateway", name), getattr(gateway, name))
    if gateway.grace != 0:
        check_seconds(config, ("gateway", "grace"), gateway.grace)
    if gateway.drain != 0:
        check_seconds(config, ("gateway", "drain"), gateway.drain)
    for name in ("max_body", "max_answer", "max_in_flight"):
        if not getattr(gateway, name) > 0:
            raise config.fault(("gateway", name), "must be above zero")
    for i, network in enumerate(gateway.trusted_proxies):
        check_network(config, ("gateway", "trusted_proxies", i), network)
    served = {name_of(model) for channel in config.channels for model in channel.models}
    if gateway.default_model is not None and gateway.default_model not in served:
        raise config.fault(
            ("gateway", "default_model"), "no channel serves this model; name it in a channel's 'models'"
        )


def check_seconds(config: Config, where: Where, seconds: float) -> None:
    """Check a time that something may take.

    Raises:
        ConfigError: nothing can take so long.
    """
    if not 0 < seconds <= DAY:
        raise config.fault(where, f"must be above zero, and at most {DAY} seconds")


def check_network(config: Config, where: Where, network: str) -> None:
    """Check a network that addresses are compared with.

    Raises:
        ConfigError: it is none.
    """
    try:
        ipaddress.ip_network(network)
    except ValueError as exc:
        raise config.fault(where, f"{network!r} is no network; write it as '10.0.0.0/8'") from exc


def check_unique(config: Config, section: str, names: list[str]) -> None:
    """Check that the entries of a section can be told apart.

    Raises:
        ConfigError: two have the same name.
    """
    seen: set[str] = set()
    for i, name in enumerate(names):
        if name in seen:
            raise config.fault((section, i, "name"), f"{name!r} is taken by another one above; names must differ")
        seen.add(name)


def name_of(model: str | ModelConfig) -> str:
    """Give the name that clients say."""
    return model.name if isinstance(model, ModelConfig) else model
