"""Known paths at once: most requests reach their app by one look-up, and only the others by a router's patterns."""

from collections.abc import Awaitable, Iterable, Mapping

from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send


class Paths:
    """Serve HTTP requests of known paths by their apps, and everything else by another app.

    Paths are those within the app, wherever it is mounted.
    """

    def __init__(self, apps: Mapping[str, ASGIApp], others: ASGIApp) -> None:
        self._apps = apps
        self._others = others

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serve one ASGI scope."""
        app = self._apps.get(path_within(scope), self._others) if scope["type"] == "http" else self._others
        return app(scope, receive, send)

    def leave(self, prefix: str) -> None:
        """Leave all paths below a prefix to the others from now on."""
        below = f"{prefix.rstrip('/')}/"
        self._apps = {path: app for path, app in self._apps.items() if not path.startswith(below)}


def path_within(scope: Scope) -> str:
    """Give the path within the app, as Starlette's routes see it."""
    path: str = scope["path"]
    mount: str = scope.get("root_path", "")
    if mount and path.startswith(mount) and path[len(mount) : len(mount) + 1] in ("", "/"):
        return path[len(mount) :]
    return path


def known(routes: Iterable[BaseRoute]) -> dict[str, ASGIApp]:
    """Give the apps of those routes that have one path each."""
    return {
        route.path: route.app
        for route in routes
        if isinstance(route, Route) and "{" not in route.path and route.methods is None
    }
