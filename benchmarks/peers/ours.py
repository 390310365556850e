"""Our own configuration: with everything on, or with the least that serves."""

from pathlib import Path
from typing import Final

import sqlalchemy as sa
from msgspec import Struct

from amux_asgi.keys import digest_of, make_key
from amux_asgi.stores.sql.engine import open_engine, prepare
from amux_asgi.stores.sql.schema import KEYS as KEYS_TABLE
from amux_asgi.stores.sql.schema import WALLETS
from amux_asgi.wallets import account_wallet

KEY: Final = make_key()
KEYS: Final = "keys.txt"  # of the database, one a line: those that are shown
SHOWN: Final = 500  # at most, so that each has been seen before it is measured
LIMITS: Final = ("100000000 requests/minute", "100000000 images/minute", "100000 concurrent")
BALANCE: Final = 10_000_000  # USD; enough for all that is asked
NANO: Final = 10**9
AT_ONCE: Final = 5_000  # rows of one insert


class Setting(Struct, frozen=True, kw_only=True):
    """What is on: with a database come limits, a balance and usage rows; `keys` are so many more in it."""

    database: bool = True
    channels: int = 1
    keys: int = 0
    workers: int = 1


def write(folder: Path, upstream: str, model: str, upstream_model: str, setting: Setting) -> Path:
    """Write a configuration and what it names, and give its file."""
    gateway = ["[gateway]", f"max_in_flight = {8 * 2**30}"]
    if setting.workers > 1:
        gateway += ['pictures = "file:pictures"', f"nodes = {setting.workers}"]
    key = ["[[keys]]", 'name = "benchmark"', f'key = "{KEY}"']
    limits: list[str] = []
    if setting.database:
        gateway.append('database = "sqlite:///amux.db"')
        key.append(f'balance = "{BALANCE}"')
        limits = ["[limits]", f"key = {list(LIMITS)}"]
    channels = [_channel(i, upstream, model, upstream_model) for i in range(setting.channels)]
    file = folder / "amux.toml"
    file.write_text("\n".join([*gateway, *(line for channel in channels for line in channel), *key, *limits, ""]))
    if setting.keys:
        _fill(folder, setting.keys)
    return file


def _channel(number: int, upstream: str, model: str, upstream_model: str) -> list[str]:
    return [
        "[[channels]]",
        f'name = "channel-{number}"',
        'adapter = "openai"',
        f'base_url = "{upstream}"',
        'credentials = ["sk-of-the-benchmark"]',
        f'models = [{{ name = "{model}", upstream = "{upstream_model}" }}]',
        "concurrency = 100000",
    ]


def _fill(folder: Path, number: int) -> None:
    """Make keys, each with an account of its own that has a balance."""
    keys = [make_key() for _ in range(number)]
    (folder / KEYS).write_text("\n".join(keys[:: max(1, number // SHOWN)]))
    engine = open_engine(f"sqlite:///{folder}/amux.db")
    prepare(engine)
    with engine.begin() as connection:
        for first in range(0, number, AT_ONCE):
            part = keys[first : first + AT_ONCE]
            connection.execute(sa.insert(KEYS_TABLE), [_key(key) for key in part])
            connection.execute(sa.insert(WALLETS), [_wallet(key) for key in part])
    engine.dispose()


def _key(key: str) -> dict[str, object]:
    id_ = key.split("_")[1]
    facts = {"id": id_, "digest": digest_of(key), "last_four": key[-4:], "name": id_, "account": id_}
    return {**facts, "passthrough": "[]", "disabled": False, "created": 1}


def _wallet(key: str) -> dict[str, object]:
    amount = BALANCE * NANO
    wallet = account_wallet(key.split("_")[1])
    return {"id": wallet, "available": amount, "held": 0, "captured": 0, "granted": amount, "credit": 0}
