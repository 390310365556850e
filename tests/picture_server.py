"""A server of pictures as vendors have them: over TLS, at a name that only our policy for tests knows."""

import ssl
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import urlsplit

import trustme
from anyio.lowlevel import checkpoint
from msgspec import Struct

from amux_asgi.transport.fetch import FetchPolicy
from tests.stub import Script, Stub, upstream

NAME: Final = "pictures.example.com"
HERE: Final = "127.0.0.1"


class PictureServer(Struct, frozen=True):
    """The stub, what it is called, and how it may be fetched from."""

    stub: Stub
    url: str
    policy: FetchPolicy


def leading_to(*addresses: str) -> Callable[[str, int], Awaitable[Sequence[str]]]:
    """Resolve every name to these addresses."""

    async def resolve(_host: str, _port: int) -> Sequence[str]:
        await checkpoint()
        return addresses

    return resolve


@contextmanager
def picture_server(scripts: Mapping[str, Script], *, named: str = NAME) -> Generator[PictureServer]:
    """Run a server whose certificate is for `named`."""
    authority = trustme.CA()
    serving, trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    certificate: Any = authority.issue_cert(named)
    certificate.configure_cert(serving)
    trusting.load_verify_locations(cadata=authority.cert_pem.bytes().decode())
    with upstream(serving, scripts) as stub:
        port = urlsplit(stub.url).port or 0
        policy = FetchPolicy(
            allowed=lambda address: address == HERE, ports={port}, context=trusting, resolve=leading_to(HERE)
        )
        yield PictureServer(stub, f"https://{NAME}:{port}", policy)
