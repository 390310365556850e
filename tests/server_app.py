"""What the standalone server serves in its tests: it counts and prints what it is asked."""

import sys

import anyio
from starlette.types import ASGIApp, Receive, Scope, Send

turns = anyio.Lock()


def make() -> ASGIApp:
    """Make the app, as each worker does."""
    return app


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer `/big` with 20 MB, `/held` once the test lets go, everything else with what it was asked.

    `/waiting` is never answered, `/begun` never to its end.
    """
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
        return
    body = b""
    more = True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    say(f"{scope['method']} {scope['path']}")
    if scope["path"] == "/held":
        async with turns:
            await anyio.to_thread.run_sync(sys.stdin.readline)  # one line lets one go
    if scope["path"] == "/begun":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1")]})
    if scope["path"] in ("/begun", "/waiting"):
        await anyio.sleep_forever()
    answer = (
        b"x" * 20_000_000 if scope["path"] == "/big" else f"{scope['client'][0]} {scope['scheme']} {len(body)}".encode()
    )
    headers = [(b"content-length", str(len(answer)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})
    if scope["path"] == "/big":
        say((await receive())["type"])


async def lifespan(receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "lifespan.startup.complete"})
    say("started")
    await receive()
    say("stopped")
    await send({"type": "lifespan.shutdown.complete"})


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
