"""The one dynamic import: transports, servers, apps and adapters that are named in words."""

from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Final

from amux_asgi.adapters._base import Adapter
from amux_asgi.errors import ConfigError

GROUP: Final = "amux_asgi.adapters"
EXTRAS: Final[Mapping[str, str]] = {
    "PIL": "sandbox",
    "aiohappyeyeballs": "fast",
    "aiohttp": "fast",
    "httptools": "fast",
    "jwt": "vertex",
    "obstore": "s3",
    "psycopg": "postgres",
    "redis": "redis",
    "rich": "cli",
    "sqlalchemy": "sql",
    "typer": "cli",
    "uvicorn": "standalone",
}


def load(name: str) -> Any:  # noqa: ANN401, whatever the name leads to
    """Import `package.module:attribute`, or a module alone.

    Raises:
        ConfigError: there is no such thing, or the extra that it needs is not installed.
    """
    module, _, attribute = name.partition(":")
    try:
        found = import_module(module)
        return getattr(found, attribute) if attribute else found
    except ModuleNotFoundError as exc:
        missing = (exc.name or "").partition(".")[0]
        if missing in EXTRAS:
            raise ConfigError(f'{missing} is not installed: pip install "amux-asgi[{EXTRAS[missing]}]"') from exc
        raise ConfigError(f"{name!r} cannot be imported: there is no module {exc.name!r}") from exc
    except AttributeError as exc:
        raise ConfigError(f"{name!r} cannot be imported: {module!r} has no {attribute!r}") from exc


def adapter(name: str) -> Adapter | None:
    """Find an adapter that another package offers under this name.

    Raises:
        ConfigError: what it offers is no adapter.
    """
    for entry in entry_points(group=GROUP, name=name):
        offered = load(entry.value)
        if not isinstance(offered, Adapter):
            raise ConfigError(f"{entry.value!r}, offered as the adapter {name!r}, is no Adapter")
        return offered
    return None
