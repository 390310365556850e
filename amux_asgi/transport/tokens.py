"""Access tokens for credentials that are not shown as they are: got once, kept, and got anew before they end."""

import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Final
from weakref import WeakKeyDictionary

import anyio
from anyio.lowlevel import RunVar
from msgspec.structs import replace

from amux_asgi.adapters._base import Token, TokenFlow
from amux_asgi.errors import End, GatewayError, UpstreamAuthError
from amux_asgi.redact import hide
from amux_asgi.transport.base import Progress, Transport
from amux_asgi.transport.carry import USUAL, exchange

EARLY: Final = 300.0  # seconds before its end that a token is got anew; half its life, if that is less
LATEST: Final = 30.0  # seconds before its end until which the old one still serves when no new one can be had
PAUSE: Final = 10.0  # seconds until another try while the old one serves
LONGEST: Final = 30.0  # seconds that one exchange may take
CAP: Final = 65_536  # bytes of its answer

Begin = Callable[[int], TokenFlow]
"""From Unix time in seconds to the conversation that gets a token."""

logger: logging.Logger = logging.getLogger("amux_asgi")


class _Kept:
    """What is known for one credential on one event loop. Times are by the monotonic clock."""

    def __init__(self) -> None:
        self.lock = anyio.Lock()
        self.tries = 0
        self.fault: UpstreamAuthError | None = None  # of the last try
        self.forget()

    def take(self, token: Token, now: float) -> None:
        end = now + token.seconds
        self.value = token.value
        self.renew = end - min(EARLY, token.seconds / 2)
        self.until = end - min(LATEST, token.seconds / 4)

    def forget(self) -> None:
        self.value = ""
        self.renew = self.until = float("-inf")


class Tokens:
    """The tokens of one gateway, apart for each event loop. Constructing it opens nothing."""

    def __init__(self, *, clock: Callable[[], float], now: Callable[[], int], longest: float = LONGEST) -> None:
        """`clock` is monotonic, in seconds; `now` is Unix time in milliseconds; an exchange takes `longest` seconds."""
        self._clock = clock
        self._now = now
        self._longest = longest
        self._kept: RunVar[WeakKeyDictionary[Begin, _Kept]] = RunVar("amux_asgi tokens")

    async def get(self, begin: Begin, transport: Transport, *, timeout: float) -> str:
        """Give a token that is good for a while; of many who ask at once, one fetches it for all.

        While the old one is good, nobody waits for the new one but who fetches it.

        Raises:
            UpstreamAuthError: there is none; nothing was sent that could be paid.
        """
        kept = self._of(begin)
        now, tries = self._clock(), kept.tries
        if now < kept.until and (now < kept.renew or kept.lock.locked()):
            return kept.value
        with anyio.move_on_after(timeout):
            async with kept.lock:
                if kept.tries == tries:
                    await self._renew(kept, begin, transport)
            if self._clock() < kept.until:
                return kept.value
            if (fault := kept.fault) is not None:  # one error for each who waits: the sender writes on it
                raise _none(fault.message, fault.end, retry=fault.retry, code=fault.upstream_code) from fault
        raise _none("the upstream gave this gateway no access token in time")

    @asynccontextmanager
    async def shown(self, begin: Begin, transport: Transport, *, timeout: float) -> AsyncGenerator[str]:
        """Give the token that is shown in a credential's place; it is forgotten if it is refused.

        An error that says the token again leaves without it.

        Raises:
            UpstreamAuthError: there is no token; nothing was sent that could be paid.
        """
        value = await self.get(begin, transport, timeout=timeout)
        try:
            yield value
        except GatewayError as error:
            hide(error, (value,))
            if isinstance(error, UpstreamAuthError):
                self.forget(begin, value)
            raise

    def forget(self, begin: Begin, value: str) -> None:
        """Show a token no more that the upstream has refused."""
        kept = self._of(begin)
        if kept.value == value:
            kept.forget()

    def _of(self, begin: Begin) -> _Kept:
        all_kept = self._kept.get(None)
        if all_kept is None:
            all_kept = WeakKeyDictionary[Begin, _Kept]()
            self._kept.set(all_kept)
        return all_kept.setdefault(begin, _Kept())

    async def _renew(self, kept: _Kept, begin: Begin, transport: Transport) -> None:
        """Get a new token; without one the old one serves on, as long as it is good."""
        asked = self._clock()
        try:
            token = await _fetch(begin(self._now() // 1000), transport, timeout=self._longest)
            kept.take(token, asked)
            kept.fault = None
        except UpstreamAuthError as error:
            kept.fault = error
            kept.renew = self._clock() + PAUSE
            logger.warning("no new access token: %s", error.message)
        kept.tries += 1


async def _fetch(flow: TokenFlow, transport: Transport, *, timeout: float) -> Token:
    with anyio.move_on_after(timeout):
        try:
            ask = next(flow)
            while True:
                asked = replace(ask, headers=(*USUAL, *ask.headers))
                ask = flow.send(await exchange(transport, asked, Progress(), cap=CAP))
        except StopIteration as stop:
            return stop.value
        except UpstreamAuthError:
            raise
        except GatewayError as error:
            raise _none("the upstream's service of access tokens cannot be asked") from error
        finally:
            flow.close()
    raise _none("the upstream's service of access tokens does not answer")


def _none(
    message: str, end: End | None = End.NEVER_SENT, *, retry: bool | None = True, code: str | None = None
) -> UpstreamAuthError:
    return UpstreamAuthError(message, end=end, retry=retry, upstream_code=code)
