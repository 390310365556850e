"""Whether the stores of a configuration can be reached, and agree on the time. Makes and changes no table."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from amux_asgi.build_limits import check_workers as check_limits
from amux_asgi.build_limits import limits_of
from amux_asgi.build_pictures import MEMORY, check_workers, pictures_of
from amux_asgi.config import Config
from amux_asgi.doctor import Finding
from amux_asgi.errors import ConfigError, GatewayError
from amux_asgi.plugins import load
from amux_asgi.redact import redact

AGREE: Final = 2.0  # seconds that two clocks may differ without anybody noticing
SQLITE: Final = "sqlite:///"


def database_findings(config: Config, now: Callable[[], float] = time.time) -> Iterator[Finding]:  # noqa: TID251, the default clock
    """Reach the database, if there is one, and compare its clock with ours; `now` is Unix time in seconds."""
    url = config.gateway.database
    if url is None:
        yield Finding(
            "database", "note", "there is none, so what was used is forgotten at exit; say [gateway] database"
        )
        return
    file = Path(url.removeprefix(SQLITE).partition("?")[0])
    if url.startswith(SQLITE) and not file.exists():
        state = "note" if file.parent.is_dir() else "wrong"
        yield Finding("database", state, f"{file} does not exist; the first start makes it, but not its folder")
        return
    engine: Any = load("amux_asgi.stores.sql.engine:open_engine")(url)
    try:
        with engine.connect() as connection:
            postgresql = engine.dialect.name == "postgresql"
            question = "SELECT extract(epoch FROM clock_timestamp())" if postgresql else "SELECT 1"
            answer = float(connection.exec_driver_sql(question).scalar_one())
            apart = abs(answer - now()) if postgresql else 0.0
    except Exception as exc:  # noqa: BLE001, whatever the driver says
        reason = redact(str(getattr(exc, "orig", None) or exc)).strip().splitlines()[0]
        yield Finding("database", "wrong", f"it cannot be reached: {reason}")
        return
    finally:
        engine.dispose()
    yield Finding("database", "ok", "it answers")
    if apart > AGREE:
        yield Finding(
            "clock", "wrong", f"ours and the database's are {apart:.0f} s apart; keys would expire at wrong times"
        )
    else:
        yield Finding("clock", "ok", "ours and the database's agree")


async def picture_findings(config: Config, workers: int) -> list[Finding]:
    """Reach the store of hosted pictures."""
    fault = await _pictures_fault(config, workers)
    if fault is not None:
        return [Finding("pictures", "wrong", fault)]
    if config.gateway.pictures in (None, MEMORY):
        return [
            Finding("pictures", "note", "hosted in memory: a restart forgets them, and other nodes do not have them")
        ]
    return [Finding("pictures", "ok", "they can be kept")]


async def _pictures_fault(config: Config, workers: int) -> str | None:
    try:
        check_workers(config, workers)
        async with pictures_of(config, now=time.time)() as pictures:  # noqa: TID251, a picture's end is of this time
            await pictures.check_room(1)
    except (ConfigError, GatewayError) as exc:
        return str(exc)
    return None


async def limit_findings(config: Config, workers: int) -> list[Finding]:
    """Reach the store that limits are counted in. Wants asyncio."""
    try:
        check_limits(config, workers)
        async with limits_of(config, time.monotonic).opened() as limiter:
            away = getattr(limiter, "away", False)
    except ConfigError as exc:
        return [Finding("limits", "wrong", str(exc))]
    if away:
        return [Finding("limits", "wrong", "their store does not answer, so each node admits its share by itself")]
    if config.gateway.limits == MEMORY and config.gateway.nodes == 1:
        return [
            Finding("limits", "note", "counted in memory: a second node would admit all of them once more; say 'nodes'")
        ]
    return [Finding("limits", "ok", "they can be counted")]
