"""Pass chosen paths to a vendor, under the team's own keys and with our credential."""

import re
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from functools import partial
from itertools import count
from typing import Final
from urllib.parse import parse_qsl, urlencode, urlsplit

from msgspec import Struct
from msgspec.structs import replace
from starlette.types import ASGIApp, Receive, Scope, Send

from amux_asgi.charging import Till, price_of
from amux_asgi.errors import ConfigError, GatewayError, InvalidRequestError, PermissionDeniedError
from amux_asgi.planning import HOPS
from amux_asgi.quota import Ledger
from amux_asgi.redact import hide
from amux_asgi.relay import Download, Upload, relay
from amux_asgi.respond import respond
from amux_asgi.routing import Channel
from amux_asgi.runtime import unix_ms
from amux_asgi.scope import facts_of, header_values, principal_of
from amux_asgi.transport.base import Transport
from amux_asgi.transport.carry import USUAL
from amux_asgi.transport.httpx import open_httpx2
from amux_asgi.wire import HttpRequest

TransportOf = Callable[[Channel], AbstractAsyncContextManager[Transport]]


class Passthrough(Struct, frozen=True, kw_only=True):
    """One path of a vendor's that is passed on; it never leads to where a vendor keeps things for a whole account.

    `channel` is made by `amux_asgi.channel(ChannelConfig(...))`. `path` is the exact decoded path here; `upstream_path`
    goes behind the channel's base URL. Only principals whose `passthrough` globs name it may call it. `price` is what a
    call costs that the vendor answers below 400, in USD; without one, `unmetered=True` must be said. `query` names the
    parameters that are passed on; the others are not.

    Raises:
        ConfigError: it cannot work.
    """

    name: str
    path: str
    upstream_path: str
    channel: Channel
    methods: tuple[str, ...] = ("POST",)
    query: tuple[str, ...] = ()
    price: str | None = None
    unmetered: bool = False
    max_body: int = 26_214_400  # bytes

    def __post_init__(self) -> None:
        """Check it."""
        for fault in _faults(self):
            raise ConfigError(f"the passthrough {self.name!r} {fault}")


class PassthroughMiddleware:
    """Stream matching requests to the vendor and its answers back; everything else goes to the wrapped app.

    What has a price is charged to the ledger: held before the vendor is asked, captured before its answer begins, which
    stays charged if it breaks off. What an outer `QuotaMiddleware` holds is not held again.

    Raises nothing of its own: answers its refusals itself; only an answer that breaks off is raised, for the server to
    cut the connection. Wants an `AuthMiddleware` outside.
    """

    def __init__(
        self,
        app: ASGIApp,
        passthroughs: Iterable[Passthrough],
        *,
        ledger: Ledger | None = None,
        transport_of: TransportOf | None = None,
        now: Callable[[], int] = unix_ms,
    ) -> None:
        """`transport_of` gives a channel's open transport; without it each call opens its own. `now` is in ms.

        Raises:
            ConfigError: a passthrough has a price and there is no ledger, or they cannot work together.
        """
        self.app = app
        self._passthroughs: dict[tuple[str, str], Passthrough] = {}
        self._tills: dict[tuple[str, str], Till] = {}
        self._transport_of = transport_of or _open
        self._turns = count()
        for passthrough in passthroughs:
            till = _till(passthrough, ledger, now)
            if transport_of is None and passthrough.channel.base_url.startswith("asgi:"):
                raise ConfigError(f"the passthrough {passthrough.name!r} leads into this process; say transport_of=")
            for method in passthrough.methods:
                if self._passthroughs.setdefault((method, passthrough.path), passthrough) is not passthrough:
                    raise ConfigError(f"two passthroughs take {method} {passthrough.path}; one path has one way")
                if till is not None:
                    self._tills[method, passthrough.path] = till

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope."""
        way = (scope["method"], _path(scope)) if scope["type"] == "http" else ("", "")
        passthrough = self._passthroughs.get(way)
        if passthrough is None:
            await self.app(scope, receive, send)
            return
        try:
            _admit(passthrough, scope)
        except GatewayError as error:
            await respond(scope, send, error)
            return
        serve = partial(self._serve, passthrough)
        till = self._tills.get(way)
        await (serve(scope, receive, send) if till is None else till.serve(serve, scope, receive, send))

    async def _serve(self, passthrough: Passthrough, scope: Scope, receive: Receive, send: Send) -> None:
        download = Download(scope, send, returned=_RETURNED.__contains__)
        try:
            await self._pass(passthrough, scope, receive, download)
        except GatewayError as error:
            if download.begun:
                raise
            hide(error, passthrough.channel.secrets())
            await respond(scope, send, error)

    async def _pass(self, passthrough: Passthrough, scope: Scope, receive: Receive, download: Download) -> None:
        channel = passthrough.channel
        request = self._signed(channel, _request(passthrough, scope))
        upload = Upload(scope, receive, longest=passthrough.max_body)
        await relay(self._transport_of(channel), request, upload, download, timeout=channel.timeout)

    def _signed(self, channel: Channel, request: HttpRequest) -> HttpRequest:
        if not channel.credentials:
            return request
        credential = channel.credentials[next(self._turns) % len(channel.credentials)]
        return replace(request, headers=(*request.headers, *channel.adapter.sign(request, credential)))


def _open(_channel: Channel) -> AbstractAsyncContextManager[Transport]:
    return open_httpx2(pools=1)


def _till(passthrough: Passthrough, ledger: Ledger | None, now: Callable[[], int]) -> Till | None:
    if passthrough.price is None:
        return None
    if ledger is None:
        raise ConfigError(f"the passthrough {passthrough.name!r} has a price, and there is no ledger; say ledger=")
    return Till(ledger, price_of(passthrough.price), fixed=True, now=now, channel=passthrough.channel.name)


def _admit(passthrough: Passthrough, scope: Scope) -> None:
    if not principal_of(scope).may_pass(passthrough.name):
        raise PermissionDeniedError(
            f"this API key may not use the passthrough {passthrough.name!r}", code="passthrough_not_allowed"
        )
    facts_of(scope).update(passthrough=passthrough.name, channel=passthrough.channel.name)


def _faults(passthrough: Passthrough) -> Iterable[str]:
    url = passthrough.channel.base_url + passthrough.upstream_path
    if passthrough.unmetered is (passthrough.price is not None):
        yield "must say either a price, or unmetered=True: its calls are not charged"
    if passthrough.channel.exchanges:
        yield "has a credential that is exchanged for an access token, which only generations do; give it an API key"
    if passthrough.price is not None:
        yield from _price_faults(passthrough.price)
    if not (passthrough.path.startswith("/") and passthrough.upstream_path.startswith("/")):
        yield "has a path that does not begin with a slash"
    if not (passthrough.methods and all(method.isupper() for method in passthrough.methods)):
        yield "must name its methods in capitals"
    if not passthrough.max_body > 0:
        yield "has a max_body that lets nothing through"
    if stateful := sorted(_STATEFUL.intersection(urlsplit(url).path.lower().split("/"))):
        yield f"leads to {stateful[0]!r}, where the vendor keeps things of all tenants in one account"


def _price_faults(price: str) -> Iterable[str]:
    try:
        price_of(price)
    except ConfigError as exc:
        yield f"has a price that cannot be: {exc}"


def _request(passthrough: Passthrough, scope: Scope) -> HttpRequest:
    sent = tuple((name, _text(name, value)) for name in _FORWARDED for value in header_values(scope, name.encode()))
    return HttpRequest(
        method=scope["method"],
        url=passthrough.channel.base_url + passthrough.upstream_path + _query(passthrough, scope),
        headers=(*USUAL, *sent, ("x-amux-hop", str(_hops(scope) + 1)), *passthrough.channel.headers.items()),
    )


def _text(name: str, value: bytes) -> str:
    if not _VALUE.fullmatch(value):
        raise InvalidRequestError(f"the header {name!r} holds a character that HTTP does not allow", param=name)
    return value.decode()


def _query(passthrough: Passthrough, scope: Scope) -> str:
    given = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
    passed = urlencode([(name, value) for name, value in given if name in passthrough.query])
    return f"?{passed}" if passed else ""


def _hops(scope: Scope) -> int:
    said = header_values(scope, b"x-amux-hop")
    hops = 0 if not said else int(said[0]) if said[0] in _COUNTABLE else HOPS
    if hops >= HOPS:
        raise InvalidRequestError("this request came through this kind of gateway before", code="loop_detected")
    return hops


def _path(scope: Scope) -> str:
    """Give the path below the mount; one that holds an escaped slash is none of ours."""
    if b"%2f" in scope.get("raw_path", b"").lower():
        return ""
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    return path.removeprefix(root) if root and path.startswith(f"{root}/") else path


_FORWARDED: Final = ("accept", "content-type")  # no Idempotency-Key: tenants would share its replies in one account
_RETURNED: Final = frozenset(
    {"cache-control", "content-disposition", "content-language", "content-length", "content-range", "content-type"}
)
_COUNTABLE: Final = (b"0", b"1")
_VALUE: Final = re.compile(rb"[ -~]*")
_STATEFUL: Final = frozenset(
    {
        "assistants",
        "batches",
        "containers",
        "conversations",
        "evals",
        "files",
        "fine_tuning",
        "organization",
        "responses",
        "threads",
        "uploads",
        "vector_stores",
        "videos",
    }
)
