"""Middleware alone: the gateway's keys and errors in front of an app that knows nothing of them."""

import os

import uvicorn
from starlette.types import Receive, Scope, Send

from amux_asgi import AuthMiddleware, ErrorMiddleware, KeyConfig, fixed_keys, principal_of


async def foreign(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001, an ASGI app's signature
    """Some ASGI app of yours."""
    body = f"hello, {principal_of(scope).account}\n".encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": body})


keys = fixed_keys([KeyConfig(name="team-a", key=os.environ.get("AMUX_KEY", "team-a-example-key-000"))])
app = ErrorMiddleware(AuthMiddleware(foreign, keys=keys))

if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ.get("PORT", "8000")), lifespan="off")
