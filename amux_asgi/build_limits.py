"""From the configuration to limits: where they are counted, and the rules, checked one by one."""

from collections.abc import Callable, Iterable
from typing import Final

from amux_asgi.admission import Rule, parse_rules
from amux_asgi.admitting import Rulebook
from amux_asgi.config import Config, KeyConfig
from amux_asgi.errors import ConfigError
from amux_asgi.limit_store import MEMORY, Limits
from amux_asgi.toml_lines import Path as Where

MOST_NODES: Final = 1000


def limits_of(config: Config, clock: Callable[[], float]) -> Limits:
    """Make what counts. `clock` is monotonic, in seconds.

    Raises:
        ConfigError: it cannot work, or what it needs is not installed.
    """
    gateway = config.gateway
    if not 1 <= gateway.nodes <= MOST_NODES:
        raise config.fault(("gateway", "nodes"), f"must be from 1 to {MOST_NODES}")
    try:
        return Limits(gateway.limits, nodes=gateway.nodes, clock=clock)
    except ConfigError as exc:
        raise config.fault(("gateway", "limits"), str(exc)) from exc


def rules_of(config: Config) -> Rulebook:
    """Read `[limits]`.

    Raises:
        ConfigError: one of them is no limit, or for a model that no channel serves.
    """
    told = config.limits
    served = {
        model if isinstance(model, str) else model.name for channel in config.channels for model in channel.models
    }
    for model in told.models:
        if model not in served:
            raise config.fault(
                ("limits", "models", model), "no channel serves this model; a limit names it as clients do"
            )
    return Rulebook(
        gateway=_rules(config, ("limits", "gateway"), told.gateway),
        account=_rules(config, ("limits", "account"), told.account),
        key=_rules(config, ("limits", "key"), told.key),
        models={model: _rules(config, ("limits", "models", model), texts) for model, texts in told.models.items()},
    )


def key_rules(config: Config, i: int, told: KeyConfig) -> tuple[Rule, ...] | None:
    """Read one key's own limits; `None` if it has those of every key.

    Raises:
        ConfigError: one of them is none.
    """
    return None if told.limits is None else _rules(config, ("keys", i, "limits"), told.limits)


def check_workers(config: Config, workers: int) -> None:
    """Check that workers which count apart know how many they are.

    Raises:
        ConfigError: each would admit all of a limit.
    """
    told = config.limits
    limited = told.gateway or told.account or told.key or told.models or any(key.limits for key in config.keys)
    if workers > 1 and limited and config.gateway.limits == MEMORY and config.gateway.nodes < workers:
        raise config.fault(
            ("gateway", "nodes"),
            f"{workers} workers that count in memory would each admit all of a limit; say nodes = {workers}, or "
            "count together: limits = 'redis://host:6379'",
        )


def _rules(config: Config, where: Where, texts: Iterable[str]) -> tuple[Rule, ...]:
    try:
        return parse_rules(texts)
    except ValueError as exc:
        raise config.fault(where, str(exc)) from exc
