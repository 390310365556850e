"""Mounted in FastAPI: beside the team's own routes, its own lifespan and its own middleware."""

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI
from fastapi.middleware.gzip import GZipMiddleware

from amux_asgi import ChannelConfig, KeyConfig, combine_lifespans, images_app

images = images_app(
    channels=[ChannelConfig(name="sandbox", adapter="sandbox", models=("gpt-image-2",))],
    keys=[KeyConfig(name="team-a", key=os.environ.get("AMUX_KEY", "team-a-example-key-000"))],
)


@asynccontextmanager
async def database(_app: FastAPI) -> AsyncGenerator[dict[str, str]]:
    """The team's own resources."""
    yield {"database": "connected"}


app = FastAPI(lifespan=combine_lifespans(database, images.lifespan))
app.add_middleware(GZipMiddleware)


@app.get("/health")
def health() -> dict[str, str]:
    """The team's own route."""
    return {"status": "fine"}


app.mount("/v1", images)  # last, so that the team's own routes come first

if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ.get("PORT", "8000")))
