"""The `amux-asgi` command: the thin entry that can say which extra is missing."""

import sys

from amux_asgi.errors import ConfigError, GatewayError
from amux_asgi.plugins import load


def main() -> None:
    """Run the command; what cannot work, or is refused, is told on one line, with exit code 2."""
    try:
        load("amux_asgi.commands:commands")()
    except (ConfigError, GatewayError) as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)
