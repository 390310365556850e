"""Hosted pictures over HTTP: for whoever knows the name, harmless wherever they are opened."""

import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

import anyio
import httpx2  # noqa: TID251, the test's client
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount, Router
from starlette.types import Receive, Scope, Send

from amux_asgi.errors import AuthenticationError, MethodNotAllowedError, StorageUnavailableError
from amux_asgi.hosted import PIECE, HostedPictures, mount_of, picture_routes
from amux_asgi.middleware.errors import ErrorMiddleware
from amux_asgi.pictures import MemoryPictures, fresh_name
from amux_asgi.stores.folder import Folder
from amux_asgi.stores.pictures import KeptPictures
from tests.painted import SVG, heavy, painted
from tests.serve import serve

START = 1_800_000_000


def now() -> float:
    return START


async def locked(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001, an ASGI app's signature
    """Ask everybody else for a key."""
    raise AuthenticationError("this needs an API key")


def app(hosted: HostedPictures) -> Starlette:
    """Wire it as the gateway does: errors outside, pictures beside what is locked; mounted."""
    inner = ErrorMiddleware(Router(picture_routes(hosted), default=locked, redirect_slashes=False))
    return Starlette(routes=[Mount("/ai", inner)])


class Hosting:
    """A folder of pictures that is served."""

    def __init__(self, url: str, folder: Path, names: dict[str, str]) -> None:
        self.url = url
        self.folder = folder
        self.names = names


PICTURES = {
    "png": painted("PNG"),
    "jpeg": painted("JPEG"),
    "webp": painted("WEBP"),
    "gif": painted("GIF"),
    "svg": SVG,
}


@pytest.fixture(scope="module")
def hosting(tmp_path_factory: pytest.TempPathFactory) -> Generator[Hosting]:
    """Host one picture of each kind in a folder, beside a file that is nobody's business."""
    place = tmp_path_factory.mktemp("place")
    folder = place / "hosted"
    store = KeptPictures(Folder(str(folder), now=now), most=100_000_000, now=now)

    async def fill() -> dict[str, str]:
        return {kind: await store.put(data, expires=START + 3600) for kind, data in PICTURES.items()}

    names = anyio.run(fill)
    (place / "secret.png").write_bytes(painted())
    with serve(app(HostedPictures(store.get, now=now)), lifespan="off", server_header=False, date_header=False) as url:
        yield Hosting(url, folder, names)


def headers(answer: httpx2.Response) -> dict[str, str]:
    told = dict(answer.headers)
    assert told.pop("x-request-id")
    return told


@pytest.mark.parametrize(
    ("kind", "media_type", "shown"),
    [
        ("png", "image/png", 'inline; filename="picture.png"'),
        ("jpeg", "image/jpeg", 'inline; filename="picture.jpg"'),
        ("webp", "image/webp", 'inline; filename="picture.webp"'),
        ("gif", "image/gif", 'inline; filename="picture.gif"'),
        ("svg", "image/svg+xml", 'attachment; filename="picture.svg"'),
    ],
)
def test_a_picture_comes_with_exactly_these_headers(hosting: Hosting, kind: str, media_type: str, shown: str) -> None:
    """As it was put, no cookie, for the hour that is left; `HEAD` tells the same without the picture."""
    url = f"{hosting.url}/ai/pictures/{hosting.names[kind]}"

    answers = [httpx2.get(url), httpx2.head(url), httpx2.get(url.replace("/ai/", "/ai/v1/"))]

    assert [answer.status_code for answer in answers] == [200] * 3
    assert [answer.content for answer in answers] == [PICTURES[kind], b"", PICTURES[kind]]
    for answer in answers:
        assert headers(answer) == {
            "content-type": media_type,
            "content-length": str(len(PICTURES[kind])),
            "content-disposition": shown,
            "x-content-type-options": "nosniff",
            "content-security-policy": "sandbox; default-src 'none'",
            "cross-origin-resource-policy": "cross-origin",
            "cache-control": "private, max-age=3600, immutable",
        }


PATHS = [
    "",
    "../secret.png",
    "..%2fsecret.png",
    "..%2Fhosted%2F{name}",
    "%2e%2e/secret.png",
    "..%5csecret.png",
    "%2fetc%2fpasswd",
    "/etc/passwd",
    "{name}%00",
    "%00{name}",
    "{name}%00.png",
    "{name}/",
    "{name}.png",
    "./{name}",
    "{name}/../{name}",
    ".{name}.part",
    "{name}%252e",
    "%ff%fe",
    "1-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "1800003600-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "a" * 5000,
]


@pytest.mark.parametrize("path", PATHS)
def test_any_other_name_is_a_404(hosting: Hosting, path: str) -> None:
    """Unknown, expired or never one of ours: the same answer in our form, and nothing outside is touched."""
    target = f"/ai/pictures/{path.format(name=hosting.names['png'])}"
    before = sorted(path.name for path in hosting.folder.parent.rglob("*"))

    answer = raw(hosting.url, target)

    assert answer.status_code == 404
    assert answer.json()["error"] == {
        "message": "there is no picture here, or its time is over",
        "type": "invalid_request_error",
        "param": None,
        "code": "not_found",
    }
    assert sorted(path.name for path in hosting.folder.parent.rglob("*")) == before


def raw(url: str, target: str) -> httpx2.Response:
    """Ask for a path as it is written, where a client would tidy it up."""
    with httpx2.Client() as client:
        return client.get(url, extensions={"target": target.encode()})


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"])
def test_a_picture_can_only_be_fetched(hosting: Hosting, method: str) -> None:
    """405 says how."""
    answer = httpx2.request(method, f"{hosting.url}/ai/pictures/{hosting.names['png']}")

    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")
    assert answer.json()["error"]["code"] == "method_not_allowed"


@pytest.mark.parametrize(
    "path", ["/ai/pictures", "/ai/v1/models", "/ai/picturesque/x", "/ai/v1/v1/pictures/x", "/ai/pictures/x%0a"]
)
def test_nothing_else_is_open(hosting: Hosting, path: str) -> None:
    """The pictures stand beside what asks for a key."""
    assert httpx2.get(hosting.url + path).status_code == 401


async def call(hosted: HostedPictures, scope: dict[str, Any]) -> list[Any]:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError("nobody reads a body")

    await hosted(scope, receive, send)
    return sent


@pytest.mark.anyio
async def test_a_store_that_is_away_is_a_503() -> None:
    """Not a 404, which a client would take for the truth."""

    async def away(_name: str) -> bytes | None:
        raise StorageUnavailableError("away", retry_after=5)

    with pytest.raises(StorageUnavailableError):
        await call(HostedPictures(away), {"type": "http", "method": "GET", "path_params": {"name": fresh_name(START)}})


@pytest.mark.anyio
async def test_no_websocket_is_a_picture() -> None:
    """Whoever wires it so."""
    hosted = HostedPictures(MemoryPictures(most=1, now=now).get)

    with pytest.raises(MethodNotAllowedError):
        await call(hosted, {"type": "websocket", "path_params": {"name": "x"}})


def test_what_somebody_else_wrote_into_the_store_is_not_served(hosting: Hosting) -> None:
    """A page under the name of a picture stays where it is."""
    name = fresh_name(START + 60)
    (hosting.folder / name).write_bytes(b"<html><script>alert(1)</script>")

    assert httpx2.get(f"{hosting.url}/ai/pictures/{name}").status_code == 404


@pytest.mark.anyio
async def test_sixteen_megabytes_block_nobody(tmp_path: Path) -> None:
    """They are read in a thread, while everybody else goes on, and handed on in pieces."""
    store = KeptPictures(Folder(str(tmp_path), now=now), most=100_000_000, now=now)
    name = await store.put(heavy(16_000_000), expires=START + 60)
    (tmp_path / name).unlink()
    pipe = tmp_path / name
    os.mkfifo(pipe)  # whoever reads it in the event loop, stops it until somebody writes
    sent: list[Any] = []
    scope = {"type": "http", "method": "GET", "path_params": {"name": name}}

    async def fetch() -> None:
        sent.extend(await call(HostedPictures(store.get, now=now), scope))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(fetch)
        await anyio.wait_all_tasks_blocked()
        assert not sent
        await anyio.to_thread.run_sync(pipe.write_bytes, heavy(16_000_000))

    pieces = [message["body"] for message in sent[1:]]
    assert b"".join(pieces) == heavy(16_000_000)
    assert max(map(len, pieces)) == PIECE
    assert [message["more_body"] for message in sent[1:]] == [True] * (len(pieces) - 1) + [False]


@pytest.mark.parametrize(
    ("scope", "base"),
    [
        ({"headers": [(b"host", b"a.example")]}, "http://a.example"),
        (
            {"headers": [(b"host", b"a.example:8443")], "scheme": "https", "root_path": "/ai/v1"},
            "https://a.example:8443/ai/v1",
        ),
        ({"headers": [(b"host", b"[::1]:80")], "root_path": "/a b/"}, "http://[::1]:80/a%20b"),
        ({"headers": [], "server": ("127.0.0.1", 8000)}, "http://127.0.0.1:8000"),
        ({"headers": [], "server": ("::1", 8000)}, "http://[::1]:8000"),
        ({"headers": [], "server": ("/run/x.sock", None)}, "http://localhost"),
        ({"headers": []}, "http://localhost"),
        ({"headers": [(b"host", b"x/y?z#")], "server": ("h", 1)}, "http://h:1"),
        ({"headers": [(b"host", b"u@x")], "server": ("h", 1)}, "http://h:1"),
        ({"headers": [(b"host", b"a"), (b"host", b"b")], "server": ("h", 1)}, "http://h:1"),
    ],
)
def test_a_picture_is_where_the_request_went(scope: dict[str, Any], base: str) -> None:
    """Under the mount, as the client names it; what is no host is not repeated."""
    assert mount_of({"type": "http", **scope}) == base
