"""The table of all adapters that ship."""

from itertools import chain
from typing import Final

from amux_asgi.adapters import azure, dashscope, gemini, google_compat, imagen, openai, vertex, zhipu
from amux_asgi.adapters._base import Adapter

ADAPTERS: Final[dict[str, Adapter]] = {
    adapter.name: adapter
    for adapter in chain(
        openai.ROWS, azure.ROWS, zhipu.ROWS, dashscope.ROWS, gemini.ROWS, google_compat.ROWS, imagen.ROWS, vertex.ROWS
    )
}
VENDOR_FIELDS: Final = frozenset[str]().union(*(adapter.fields for adapter in ADAPTERS.values()))
"""Every field that some vendor understands beside OpenAI's: a closed dialect is sent none but its own."""

VENDOR_OBJECTS: Final = {
    name: frozenset[str]().union(*(adapter.objects.get(name, ()) for adapter in ADAPTERS.values()))
    for name in {name for adapter in ADAPTERS.values() for name in adapter.objects}
}
"""The same inside objects of which several vendors have one, such as `parameters`."""
