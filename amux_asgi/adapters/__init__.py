"""The table of all adapters that ship."""

from typing import Final

from amux_asgi.adapters import openai
from amux_asgi.adapters._base import Adapter

ADAPTERS: Final[dict[str, Adapter]] = {adapter.name: adapter for adapter in openai.ROWS}
VENDOR_FIELDS: Final = frozenset[str]().union(*(adapter.fields for adapter in ADAPTERS.values()))
"""Every field that some vendor understands beside OpenAI's: a closed dialect is sent none but its own."""
