"""What leaves the standalone server: large answers at their readers' pace, and a last word to who still waits."""

import asyncio  # noqa: TID251, the server is asyncio's
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from amux_asgi.errors import UpstreamTimeoutError
from amux_asgi.protocol import PIECE
from amux_asgi.respond import respond
from amux_asgi.turns import turns_here

AT_ONCE: Final = 9 * 2**18  # bytes of one write: the system takes as many, in a third of a millisecond


class Outgoing:
    """Stays until a large answer has left, and answers who still waits when the grace time is over.

    So long its bytes are in memory, and must count as held. uvicorn itself would say in plain text that it stops.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope."""
        begun = False

        async def paced(message: Message) -> None:
            nonlocal begun
            begun = True
            if len(message.get("body", b"")) <= PIECE:
                await send(message)
            else:
                await _in_pieces(send, message)

        try:
            await self._app(scope, receive, paced)
        except asyncio.CancelledError:  # the server's last word: nobody else cancels a request
            if begun or scope["type"] != "http":
                raise
            await respond(scope, send, UpstreamTimeoutError("the gateway stopped before the answer was ready"))


async def _in_pieces(send: Send, message: Message) -> None:
    body, turns = memoryview(message["body"]), turns_here()
    for start in range(0, len(body), AT_ONCE):
        piece = body[start : start + AT_ONCE]
        await turns.take(len(piece))
        await send({**message, "body": piece, "more_body": True})
    await send({**message, "body": b""})  # before which all of it must have left
