"""A gateway in a process of its own, with a bound on its memory: `python -m tests.full_server PORT UPSTREAM`."""

import sys

import uvicorn

from amux_asgi import ChannelConfig, Config, GatewayConfig, anyone, images_app


def main(port: str, url: str) -> None:
    """Serve until stopped."""
    channel = ChannelConfig(name="c", adapter="openai-compatible", base_url=url, models=("m",))
    config = Config(gateway=GatewayConfig(max_in_flight=256 * 2**20), channels=(channel,))
    uvicorn.run(images_app(config, authenticate=anyone), port=int(port), log_level="error", access_log=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
