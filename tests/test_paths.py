"""Known paths at once, and all others as a router has them."""

from typing import Final

import pytest
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from amux_asgi.paths import Paths, known

pytestmark = pytest.mark.anyio
KNOWN: Final = ("/v1/models", "/v1/models/", "/models")


class Named:
    """An app that notes its name on the scope."""

    def __init__(self, name: str) -> None:
        self.name = name

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002, an ASGI app's signature
        scope["found"] = self.name


async def nothing() -> dict[str, object]:
    return {}


async def found(app: ASGIApp, path: str, root: str = "", kind: str = "http") -> str:
    scope: Scope = {"type": kind, "method": "GET", "path": path, "root_path": root, "headers": []}

    async def send(_message: object) -> None: ...

    await app(scope, nothing, send)
    return str(scope["found"])


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize("root", ["", "/v1", "/deep/inside", "/deep/inside/", "/v1/models"])
@pytest.mark.parametrize(
    "path", [*KNOWN, "", "/", "/v1", "/v1/models/x", "/v1models", "/deep/inside/models", "/nothing"]
)
async def test_the_same_app_answers_as_by_the_router_alone(path: str, root: str, kind: str) -> None:
    """The look-up is faster, and nothing else: for any path, wherever the app is mounted."""
    routes = [*(Route(one, Named(one)) for one in KNOWN), Route("/v1/models/{id:path}", Named("one"))]
    router = Router(routes, redirect_slashes=False, default=Named("other"))
    for full in (path, root + path):
        assert await found(Paths(known(routes), router), full, root, kind) == await found(router, full, root, kind)


async def test_a_path_that_is_known_needs_no_router() -> None:
    """It is found by itself, below the place where the app is mounted."""
    paths = Paths({"/models": Named("known")}, Named("other"))

    assert await found(paths, "/models") == await found(paths, "/ai/models", root="/ai") == "known"


@pytest.mark.parametrize(("prefix", "left"), [("/v1", "other"), ("/v1/", "other"), ("", "other"), ("/v", "known")])
async def test_an_app_that_is_mounted_has_all_paths_below_its_own(prefix: str, left: str) -> None:
    """Whoever mounts something above a known path means it."""
    paths = Paths({"/v1/models": Named("known")}, Named("other"))

    paths.leave(prefix)

    assert await found(paths, "/v1/models") == left


def test_only_routes_of_one_path_and_any_method_are_known() -> None:
    """Others mean several paths, or refuse some methods themselves."""
    routes = [Route("/a", Named("a")), Route("/b/{id}", Named("b")), Route("/c", Named("c"), methods=["GET"])]

    assert list(known(routes)) == ["/a"]
