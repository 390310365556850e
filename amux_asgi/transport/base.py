"""What every transport promises."""

from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from msgspec import Struct

from amux_asgi.wire import HttpRequest


class Progress:
    """What is known of a request under way, also after it was cancelled.

    `began` is set by the transport no later than the first byte of the request leaves: while it is false, the upstream
    has seen nothing.
    """

    __slots__ = ("began",)

    def __init__(self) -> None:
        self.began: bool = False


Fill = Callable[[memoryview], Awaitable[None]]
"""Fills a place in memory with the next bytes of a body, all of it; raises as reading a piece does."""


class Incoming(Struct, frozen=True, kw_only=True):
    """The head of an answer, and its body as it arrives, in undecoded pieces.

    Header names are in lower case, in the order they came. `fill` is there for a long body that has as many bytes as
    its `content-length` says, if the transport can bring them where they stay: then it is read either so, or in pieces.
    """

    status: int
    headers: tuple[tuple[str, str], ...]
    chunks: AsyncGenerator[bytes]
    fill: Fill | None = None


class Transport(Protocol):
    """Sends one request on one connection, once: no redirect, cookie, environment proxy, retry or decompression.

    Entering the context and reading a piece raise only `GatewayError`s: `UpstreamUnreachableError` when no connection
    could be made, `UpstreamIncompleteError` when it was cut, `UpstreamBadResponseError` when the answer is not HTTP.
    Deadlines are the caller's, by cancelling: leaving the context closes the socket and frees its place at once.
    """

    def send(
        self, request: HttpRequest, progress: Progress, *, body: AsyncIterable[bytes] | None = None
    ) -> AbstractAsyncContextManager[Incoming]:
        """Send `request` (with `body`, if given, streamed in place of its own) and give the head of the answer."""
        ...


Open = Callable[[], AbstractAsyncContextManager[Transport]]
"""How a transport begins its life on one event loop: entered once a loop, left when the loop's work is over."""
