"""The configuration: TOML read into typed objects, which can also be written in code."""

import difflib
import io
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct

from amux_asgi.errors import ConfigError
from amux_asgi.toml_lines import Lines, Toml
from amux_asgi.toml_lines import Path as Where
from amux_asgi.words import as_list, as_object


class GatewayConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[gateway]`: times in seconds, sizes in bytes."""

    database: str | None = None  # a URL; without one, money is in memory and nobody has a balance
    limits: str = "memory://"  # a URL, where limits are counted
    nodes: int = 1  # that each have their share of a limit while they do not count together
    default_model: str | None = None
    timeout: float = 540
    body_timeout: float = 30
    write_timeout: float = 60
    heartbeat: float = 15
    grace: float = 540  # to finish what runs when it is told to stop, `drain` included
    drain: float = 3  # of it, in which requests are still taken and `/readyz` says no; for the standalone server
    public_url: str | None = None  # of the mount, for hosted pictures; otherwise as the request names it
    pictures: str | None = None  # where they are hosted: a URL; in memory, if not given
    pictures_max: str | int | None = None  # bytes, or a text as "10 GiB"
    max_body: int = 1_048_576
    max_answer: int = 67_108_864
    max_in_flight: int = 1_073_741_824  # held by all requests together
    strict: bool = False
    transport: Literal["auto", "direct", "aiohttp", "httpx2"] = "auto"
    trusted_proxies: tuple[str, ...] = ()
    reveal: tuple[Literal["attempts", "channel", "cost"], ...] = ("cost", "attempts")


class ModelConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model by the client's `name` that is another `upstream`; `like` is the catalogue's name of what it is."""

    name: str
    upstream: str
    like: str | None = None


class ChannelConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[[channels]]`: one way to use an upstream; `timeout` is in seconds, for one attempt."""

    name: str
    adapter: str
    models: tuple[str | ModelConfig, ...]
    base_url: str | None = None
    credentials: tuple[str, ...] = ()
    priority: int = 0
    weight: int = 1
    timeout: float = 300
    concurrency: int = 64  # asks at once, in one process
    unknown_fields: Literal["forward", "drop", "reject"] = "forward"
    on_unknown: Literal["stop", "retry"] = "stop"
    rehost: bool = False  # host its pictures, rather than show its URLs
    headers: Mapping[str, str] = {}
    options: Mapping[str, Any] = {}


class KeyConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[[keys]]`: one fixed API key; `models` and `passthrough` are globs, `balance` and `budget` decimals in USD."""

    name: str
    key: str
    account: str | None = None  # the key's name, if not given
    models: tuple[str, ...] | None = None  # all, if not given
    balance: str | None = None  # the account's opening balance, credited once; without one it is unlimited
    budget: str | None = None  # what this key may spend in its whole life
    passthrough: tuple[str, ...] = ()
    expires: datetime | None = None  # with its offset
    networks: tuple[str, ...] | None = None  # everywhere, if not given
    limits: tuple[str, ...] | None = None  # those of `[limits] key`, if not given


class LimitsConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[limits]`: as "60 requests/minute"; of everybody together, of each account, of each key, and by model's name."""

    gateway: tuple[str, ...] = ()
    account: tuple[str, ...] = ()
    key: tuple[str, ...] = ()  # that says none of its own
    models: Mapping[str, tuple[str, ...]] = {}  # of all callers together


class PriceConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[prices."model"]`: decimal strings, USD: per million tokens, or per picture.

    `image` is the price of every picture, or a table by size, then by quality.
    """

    text_in: str | None = None
    cached_text_in: str | None = None
    image_in: str | None = None
    cached_image_in: str | None = None
    image_out: str | None = None
    text_out: str | None = None
    image: str | Mapping[str, Mapping[str, str]] | None = None


class Config(Struct, frozen=True, kw_only=True):
    """All of it.

    `lines` and `file` are set by `load`, so that a fault can be shown where it stands; `text` is what the file held, so
    that a change is seen.
    """

    gateway: GatewayConfig = GatewayConfig()
    channels: tuple[ChannelConfig, ...] = ()
    keys: tuple[KeyConfig, ...] = ()
    limits: LimitsConfig = LimitsConfig()
    prices: Mapping[str, PriceConfig] = {}  # by the client's name of a model, or the upstream's
    file: str | None = None
    lines: Lines | None = None
    text: bytes | None = None

    def fault(self, where: Where, message: str) -> ConfigError:
        """Make the error for something at a place: `file:line: [place] message`, or without the file for code."""
        place = ".".join(str(part) for part in where)
        return ConfigError(f"{_at(self.file, self.lines, where)}[{place}] {message}")


SECTIONS: Final[Mapping[str, type[Struct]]] = {
    "gateway": GatewayConfig,
    "channels": ChannelConfig,
    "keys": KeyConfig,
    "limits": LimitsConfig,
    "prices": PriceConfig,
}


def load(path: str | os.PathLike[str], environment: Mapping[str, str] = os.environ) -> Config:
    """Read a TOML file. `${NAME}` in a text is a variable of the environment, `$$` a dollar sign.

    Raises:
        ConfigError: `file:line: [place] what is wrong; how to mend it`.
    """
    name = os.fspath(path)
    try:
        content = Path(path).read_bytes()
        text = io.TextIOWrapper(io.BytesIO(content), encoding="utf-8").read()  # with newlines as text has them
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{name}: the file cannot be read: {getattr(exc, 'strerror', None) or exc}") from exc
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        line = _LINE.search(str(exc))
        raise ConfigError(f"{name}:{line[1] if line else len(text.splitlines())}: this is not TOML: {exc}") from exc
    reader = Config(file=name, lines=Lines(text), text=content)
    values: dict[str, Toml] = _substitute(document, (), reader, environment)
    for section, value in values.items():
        _check_names(section, value, reader)
    return _convert(values, reader)


def _convert(values: dict[str, Toml], reader: Config) -> Config:
    try:
        read = msgspec.convert(values, Config)
    except msgspec.ValidationError as exc:
        message, _, at = _MISSING.sub(r"the key \1 is missing", str(exc)).partition(" - at ")
        where = tuple(int(part) if part.isdecimal() else part for part in _PART.findall(at.removeprefix("`$")))
        raise reader.fault(where, f"{_first_lower(message)}; see the configuration table in the README") from exc
    folder = Path(reader.file or "").parent
    gateway = msgspec.structs.replace(
        read.gateway,
        database=_located(read.gateway.database, _SQLITE, folder),
        pictures=_located(read.gateway.pictures, _FOLDER, folder),
    )
    return msgspec.structs.replace(read, gateway=gateway, file=reader.file, lines=reader.lines, text=reader.text)


def _located(url: str | None, scheme: str, folder: Path) -> str | None:
    """Take a path after this scheme relative to the configuration's folder."""
    if url is None or not url.startswith(scheme) or url == scheme:
        return url
    return scheme + os.fspath(folder.resolve() / url.removeprefix(scheme))


def _check_names(section: str, value: Toml, reader: Config) -> None:
    if section not in SECTIONS:
        raise reader.fault((section,), f"there is no such section; {_nearest(section, SECTIONS)}")
    single, several = as_object(value), as_list(value)
    if section == "prices":
        _check_prices(single, reader)
        return
    if section in _SINGLE:
        tables = [((section,), single)]
    else:
        tables = [((section, i), as_object(item)) for i, item in enumerate(several or [])] or [((section,), None)]
    for where, table in tables:
        if table is None:
            raise reader.fault(
                where, f"write it as [{section}]" if section in _SINGLE else f"write it as [[{section}]]"
            )
        for name in table:
            _check_name(section, name, (*where, name), reader)


def _check_name(section: str, name: str, where: Where, reader: Config) -> None:
    known = SECTIONS[section].__struct_fields__
    if name not in known:
        raise reader.fault(where, f"there is no such key; {_nearest(name, known)}")


def _check_prices(models: dict[str, Toml] | None, reader: Config) -> None:
    """Check the shape here, since a refusal of msgspec's does not say which model's it is."""
    for model, value in (models or {"": None}).items():
        where: Where = ("prices", model) if models else ("prices",)
        table = as_object(value)
        if table is None:
            raise reader.fault(where, """write it as [prices."the model's name"]""")
        for name, price in table.items():
            if name not in PriceConfig.__struct_fields__:
                known = _nearest(name, PriceConfig.__struct_fields__)
                hint = known if as_object(price) is None else "a model's name with dots stands in quotes"
                raise reader.fault((*where, name), f"there is no such key; {hint}")
            _check_price((*where, name), price, reader, depth=2 if name == "image" else 0)


def _check_price(where: Where, price: Toml, reader: Config, *, depth: int) -> None:
    """Check that a price is a text, or tables of texts: `image` is `depth` 2, a size 1."""
    if (table := as_object(price)) is not None and depth:
        for name, inner in table.items():
            _check_price((*where, name), inner, reader, depth=depth - 1)
    elif not isinstance(price, str) or depth == 1:
        shape = 'a price is written by size and quality, as image."1024x1024".high = "0.211"'
        raise reader.fault(where, shape if depth == 1 else "write the price as a text, as '0.211'")


def _substitute(value: Toml, where: Where, reader: Config, environment: Mapping[str, str]) -> Toml:
    if isinstance(value, str):
        return _VARIABLE.sub(lambda match: _variable(match[0], where, reader, environment), value)
    if (table := as_object(value)) is not None:
        return {key: _substitute(inner, (*where, key), reader, environment) for key, inner in table.items()}
    if (array := as_list(value)) is not None:
        return [_substitute(inner, (*where, i), reader, environment) for i, inner in enumerate(array)]
    return value


def _variable(found: str, where: Where, reader: Config, environment: Mapping[str, str]) -> str:
    if found == "$$":
        return "$"
    name = found[2:-1]
    if name not in environment:
        raise reader.fault(where, f"the environment variable {name} is not set; set it, or write $$ for a dollar sign")
    return environment[name]


def _nearest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"do you mean {close[0]!r}?" if close else f"known are {', '.join(sorted(known))}"


def _at(file: str | None, lines: Lines | None, where: Where) -> str:
    return "" if file is None or lines is None else f"{file}:{lines.find(where)}: "


def _first_lower(text: str) -> str:
    return text[:1].lower() + text[1:]


_SINGLE: Final = ("gateway", "limits")  # sections that are there once
_SQLITE: Final = "sqlite:///"
_FOLDER: Final = "file:"
_LINE: Final = re.compile(r"at line (\d+)")
_MISSING: Final = re.compile(r"^Object missing required field (`\w+`)")
_PART: Final = re.compile(r"[A-Za-z_]+|\d+")
_VARIABLE: Final = re.compile(r"\$\$|\$\{[A-Za-z_][A-Za-z0-9_]*\}")
