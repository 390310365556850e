"""What each model takes and costs, as data: one file a vendor. `amux_asgi.models` is the whole of it."""
