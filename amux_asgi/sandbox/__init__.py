"""An upstream to embed: an ASGI app that speaks OpenAI's protocol and paints pictures. It is not a model.

It costs nothing, needs nobody's key, and plays every fault on demand, so that a team can try its own error handling.
"""

from amux_asgi.sandbox.faults import FAULTS
from amux_asgi.sandbox.upstream import app, sandbox_app

__all__ = ["FAULTS", "app", "sandbox_app"]
