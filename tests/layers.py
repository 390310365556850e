"""The house plan, and what breaks it: found by parsing imports, without running anything."""

import ast
import sys
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Final

WORDS: Final = (
    "errors",
    "redact",
    "words",
    "spec",
    "outline",
    "schema",
    "document",
    "explain",
    "faults",
    "sse",
    "wire",
)
RULES: Final = (
    "catalogue._base",
    "catalogue.*",
    "catalogue",
    "adapters._base",
    "adapters._openai_events",
    "adapters.openai",  # others may build on OpenAI's dialect
    "adapters._google",  # and these on one another: Vertex serves Gemini and Imagen
    "adapters._gemini_*",
    "adapters.gemini",
    "adapters._imagen_fit",
    "adapters.imagen",
    "adapters.dashscope_faults",
    "adapters.dashscope_sizes",
    "adapters.dashscope_rules",
    "adapters.dashscope_*",
    "adapters._service_account",
    "adapters.zhipu_*",
    "adapters.*",
    "adapters",
    "models",
    "tokens",
    "rates",
    "pricing",
    "resting",
    "health",
    "routing",
    "attempts",
    "capabilities",
    "adapt",
    "fanout",
    "events",
    "wallets",
    "reservation",
    "quota",
    "admission",
    "refusals",
    "windows",
    "keys",
    "manage",
    "manage_checks",
    "networks",
    "throttle",
    "admitting",
    "idempotency",
    "pictures",
    "encoding",
    "delivery",
    "urls",
)
SHELL: Final = (
    "loops",
    "turns",
    "transport",
    "transport.base",
    "transport.carry",
    "transport.filling",
    "transport.connection",
    "transport.names",
    "transport.httpx",  # fetching builds on it
    "transport.*",
    "claims",
    "stores",
    "stores.sql.schema",
    "stores.sql.operation",
    "stores.sql.desks",
    "stores.sql.engine",
    "stores.sql.committer",
    "stores.sql.writer",
    "stores.sql.bulk",
    "stores.sql.book",
    "stores.sql.reservations",
    "stores.sql.ledger",
    "stores.sql.claim_rows",
    "stores.sql.reads",
    "stores.sql.manage_history",
    "stores.sql.manage_usage",
    "stores.sql.manage_money",
    "stores.sql.manage_keys",
    "stores.sql.look_ups",
    "stores.sql.*",
    "stores.sql",
    "stores.limiter",  # what counts, on limits' storages; then who asks it
    "stores.*",
    "delivering",
    "jobs",
    "places",
    "in_flight",
    "wiring",
    "pulse",
    "runtime",
    "generation",
    "asking",
    "hearing",
    "sending",
    "drawing",
    "planning",
    "postman",
    "settling",
    "streams",
    "streaming",
    "under_way",
    "gateway",
    "sandbox.faults",
    "sandbox.paint",
    "sandbox.job",
    "sandbox.upstream",
    "sandbox",
)
EDGE: Final = (
    "scope",
    "respond",
    "charging",
    "patience",
    "receive",
    "relay",
    "paths",
    "lifespans",
    "middleware",
    "middleware.*",
    "toml_lines",
    "config",
    "plugins",
    "database",
    "limit_store",
    "build_checks",
    "build_limits",
    "credentials",
    "build_channels",
    "build_prices",
    "build_keys",
    "build_pictures",
    "live",
    "admin_verbs",
    "admin_document",
    "admin",
    "hosted",
    "probes",
    "streamed",
    "endpoints",
    "reloading",
    "setup",
    "doctor",
    "doctor_stores",
    "app",
    "signals",
    "small",
    "one_write",
    "protocol",
    "outgoing",
    "server",
    "commands_base",
    "commands_*",
    "commands",
    "cli",
    "__main__",
    "",  # the package itself: what it offers to others
)
PLAN: Final = (*WORDS, *RULES, *SHELL, *EDGE)
"""Rows from the top down. A module imports from the rows above its own: so there are no cycles, and modules of one
row (the vendors, the middleware, the transports) do not know each other."""

PACKAGE: Final = "amux_asgi"
PURE: Final = frozenset({"msgspec", PACKAGE})  # what words and rules may use beside the standard library
EFFECTS: Final = frozenset({"asyncio", "os", "pathlib", "select", "socket", "ssl", "subprocess", "threading", "time"})
CARRIERS: Final = frozenset({"aiohttp", "http.client", "httpx", "httpx2", "requests", "urllib.request", "urllib3"})
DYNAMIC: Final = frozenset({"__import__", "importlib", "importlib.import_module", "pkgutil", "runpy"})


def faults(sources: Mapping[str, str]) -> list[str]:
    """Tell what breaks the plan. `sources` maps module names inside the package (`transport.base`) to their code."""
    return [f"{name or PACKAGE}: {fault}" for name, code in sources.items() for fault in _faults(name, code, sources)]


def _faults(name: str, code: str, sources: Mapping[str, str]) -> Iterator[str]:
    tree = ast.parse(code)
    row = _row(name)
    if row is None:
        yield "no row of the plan names this module"
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            if node not in tree.body:
                yield f"line {node.lineno}: imports stand at the top, in no function and under no condition"
            for target in _targets(node, sources):
                yield from (f"line {node.lineno}: {fault}" for fault in _import_faults(name, row, target))
        elif isinstance(node, ast.Name) and node.id in DYNAMIC and name != "plugins":
            yield f"line {node.lineno}: only plugins imports by name"


def _import_faults(name: str, row: int, target: str) -> Iterator[str]:
    top, _, inner = target.partition(".")
    if top == PACKAGE:
        above = _row(inner)
        if above is not None and above >= row:
            yield f"{inner or PACKAGE} stands no higher in the plan"
    elif row < len(WORDS) + len(RULES) and (top in EFFECTS or top not in PURE | sys.stdlib_module_names):
        yield f"words and rules do without {top}"
    if _within(target, CARRIERS) and not name.startswith("transport."):
        yield f"only transport carries HTTP out, so {top} is imported there"
    if _within(target, {"limits"}) and name != "stores.limiter":
        yield "only stores.limiter counts with limits"
    if target in DYNAMIC and name != "plugins":
        yield "only plugins imports by name"


def _targets(node: ast.Import | ast.ImportFrom, sources: Mapping[str, str]) -> Iterator[str]:
    """Name the modules that an import leads to; `from package import module` leads to the module."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
        return
    module = node.module or ""
    for alias in node.names:
        full = f"{module}.{alias.name}"
        yield full if full in DYNAMIC or full.removeprefix(f"{PACKAGE}.") in sources else module


def _row(name: str) -> int | None:
    return next((row for row, pattern in enumerate(PLAN) if fnmatchcase(name, pattern)), None)


def _within(target: str, modules: frozenset[str] | set[str]) -> bool:
    return any(target == module or target.startswith(f"{module}.") for module in modules)
