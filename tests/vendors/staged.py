"""Vendors that fail when a prompt says so, which is held against nobody: the next prompt is served."""

from typing import Final

from msgspec.structs import replace

from amux_asgi.adapters import ADAPTERS
from amux_asgi.adapters._base import Adapter

STAGED: Final[tuple[Adapter, ...]] = tuple(replace(adapter, staged=True) for adapter in ADAPTERS.values())
