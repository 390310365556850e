"""The `amux-asgi` command: the thin entry that can say which extra is missing."""

import sys

from amux_asgi.errors import ConfigError
from amux_asgi.plugins import load


def main() -> None:
    """Run the command; a configuration that cannot work is told on one line, with exit code 2."""
    try:
        load("amux_asgi.commands:commands")()
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)
