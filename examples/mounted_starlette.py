"""Mounted in Starlette: the gateway beside the team's own route, under its own prefix."""

import os

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from amux_asgi import ChannelConfig, KeyConfig, images_app

images = images_app(
    channels=[ChannelConfig(name="sandbox", adapter="sandbox", models=("gpt-image-2",))],
    keys=[KeyConfig(name="team-a", key=os.environ.get("AMUX_KEY", "team-a-example-key-000"))],
)


async def home(_request: Request) -> PlainTextResponse:
    """The team's own page."""
    return PlainTextResponse("pictures are made at /ai/v1/images/generations")


app = Starlette(routes=[Route("/", home), Mount("/ai/v1", images)], lifespan=images.lifespan)

if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ.get("PORT", "8000")))
