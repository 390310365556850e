"""From the configuration to fixed keys and the wallets that they want, checked one by one."""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Final

from msgspec.structs import replace

from amux_asgi.build_checks import CREDENTIAL, NAME, check_network, check_unique
from amux_asgi.build_limits import key_rules
from amux_asgi.config import Config, KeyConfig
from amux_asgi.keys import FixedKey, FixedKeys, Principal, digest_of
from amux_asgi.pricing import Prices, parse_dollars
from amux_asgi.routing import Channel
from amux_asgi.toml_lines import Path as Where
from amux_asgi.wallets import Opening, account_wallet, budget_wallet

SHORTEST_KEY: Final = 20  # characters


def keys_of(config: Config, now: Callable[[], datetime]) -> FixedKeys:
    """Make the fixed keys; only their hashes are kept.

    Raises:
        ConfigError: one of them cannot work.
    """
    keys = [_key(config, i, key) for i, key in enumerate(config.keys)]
    check_unique(config, "keys", [key.principal.key for key in keys])
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


def _key(config: Config, i: int, told: KeyConfig) -> FixedKey:
    where: Where = ("keys", i)
    if not NAME.fullmatch(told.name):
        raise config.fault((*where, "name"), "a key's name is 1 to 64 letters, digits, '.', '_' or '-'")
    if len(told.key) < SHORTEST_KEY or not CREDENTIAL.fullmatch(told.key):
        raise config.fault((*where, "key"), f"a key has at least {SHORTEST_KEY} printable characters and no blank")
    if told.expires is not None and told.expires.tzinfo is None:
        raise config.fault((*where, "expires"), "say the offset too, as in 2027-01-01T00:00:00Z")
    for j, network in enumerate(told.networks or ()):
        check_network(config, (*where, "networks", j), network)
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
