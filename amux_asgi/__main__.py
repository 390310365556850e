"""`python -m amux_asgi` is the `amux-asgi` command."""

from amux_asgi.cli import main

main()
