"""Charge each call of any app to whom it is from."""

from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from amux_asgi.charging import Till, price_of
from amux_asgi.errors import ConfigError
from amux_asgi.quota import Ledger
from amux_asgi.runtime import unix_ms


class QuotaMiddleware:
    """Charge a fixed price for each call, or what the app reports by `charge(scope, "0.02")`, at most `most`.

    The price is held before the app sees the call, and captured before the first byte of an answer below 400 leaves,
    a websocket's when it is accepted. Everything else costs nothing: an error, an exception, no answer, and a client
    that left before the answer began, as far as the server has said so. Whom nobody named gets 401, who cannot pay 429;
    what cannot be written down 503, also in the place of the app's answer. What an outer one holds is not held again.

    Raises nothing of its own. Wants an `AuthMiddleware` outside.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        ledger: Ledger,
        price: str | None = None,
        most: str | None = None,
        now: Callable[[], int] = unix_ms,
    ) -> None:
        """Take exactly one of `price` and `most`, in USD. `now` is Unix time in milliseconds.

        Raises:
            ConfigError: neither or both, or no amount of money.
        """
        self.app = app
        text = most if price is None else price
        if text is None or None not in (price, most):
            raise ConfigError("say what a call costs in one way: either `price`, or `most` for what the app reports")
        self._till = Till(ledger, price_of(text), fixed=price is not None, now=now)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope; only `lifespan` passes unasked."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] not in ("http", "websocket"):
            raise NotImplementedError(f"nobody can be charged in an ASGI scope of type {scope['type']!r}")
        await self._till.serve(self.app, scope, receive, send)
