"""The house plan holds, and the check that says so would notice if it did not."""

from pathlib import Path

import pytest

from tests.layers import PACKAGE, faults

HOUSE = Path(__file__).parents[1] / PACKAGE

OK = {
    "errors": "import re\nimport msgspec",
    "wire": "from amux_asgi.errors import GatewayError",
    "adapters._base": "from amux_asgi import wire",
    "adapters.openai": "from amux_asgi.adapters._base import Adapter",
    "adapters": "from amux_asgi.adapters.openai import OPENAI",
    "transport.httpx": "import httpx2\nfrom http.cookiejar import CookieJar",
    "middleware.auth": "from amux_asgi.wire import get\nfrom starlette.types import Scope",
    "plugins": "from importlib import import_module\nfound = import_module",
    "commands": "from importlib.metadata import version",
}
BROKEN = [
    ("a file without a row", {"surprise": ""}, "no row"),
    ("an import downwards", {"errors": "from amux_asgi.wire import get"}, "wire stands no higher"),
    ("an import downwards by the package", {"errors": "from amux_asgi import wire", "wire": ""}, "no higher"),
    ("an import of the package itself", {"cli": "from amux_asgi import images_app"}, "amux_asgi stands no higher"),
    ("a module that imports itself", {"wire": "import amux_asgi.wire"}, "no higher"),
    (
        "middleware that knows another",
        {"middleware.auth": "from amux_asgi.middleware import limit", "middleware.limit": ""},
        "middleware.limit stands no higher",
    ),
    ("an import in a function", {"app": "def f():\n    import json"}, "line 2: imports stand at the top"),
    ("an import in a method", {"app": "class A:\n    def f(self):\n        import json"}, "line 3"),
    ("an import for types alone", {"app": "if TYPE_CHECKING:\n    import json"}, "under no condition"),
    ("an import that may fail", {"app": "try:\n    import rich\nexcept ImportError:\n    pass"}, "at the top"),
    ("a dynamic import", {"app": "import importlib"}, "only plugins imports by name"),
    ("a dynamic import by its function", {"app": "from importlib import import_module"}, "only plugins"),
    ("a dynamic import by a built-in", {"app": "json = __import__('json')"}, "only plugins"),
    ("an HTTP client outside", {"gateway": "import httpx2"}, "only transport carries HTTP out"),
    ("an HTTP client's part outside", {"app": "from aiohttp.client import X"}, "only transport"),
    ("the standard library's client", {"app": "from urllib.request import urlopen"}, "only transport"),
    ("a library in the words", {"schema": "import anyio"}, "words and rules do without anyio"),
    ("input and output in the rules", {"routing": "import socket"}, "words and rules do without socket"),
    ("a second user of limits", {"gateway": "from limits.storage import MemoryStorage"}, "counts with limits"),
]


def test_the_house_stands_as_planned() -> None:
    """Imports point upwards in the plan, and each library is used where it belongs."""
    sources = {name_of(path): path.read_text(encoding="utf-8") for path in HOUSE.rglob("*.py")}

    found = faults(sources)

    assert found == []


def test_a_house_in_order_has_no_faults() -> None:
    """What the plan allows is not complained about."""
    found = faults(OK)

    assert found == []


@pytest.mark.parametrize(("sources", "fault"), [case[1:] for case in BROKEN], ids=[case[0] for case in BROKEN])
def test_a_broken_plan_is_noticed(sources: dict[str, str], fault: str) -> None:
    """Each rule of the plan is held."""
    found = faults(sources)

    assert len(found) == 1
    assert fault in found[0]


def name_of(path: Path) -> str:
    """Name a module inside the package; a package is named by its folder."""
    parts = path.relative_to(HOUSE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
