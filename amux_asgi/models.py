"""The catalogue of all models, by name, snapshot and alias."""

from collections.abc import Mapping
from datetime import date
from typing import Final

from amux_asgi.catalogue import dashscope, google, imagen, openai, zhipu
from amux_asgi.catalogue._base import Entry
from amux_asgi.spec import ModelSpec

CATALOGUE: Final[Mapping[str, Entry]] = {**openai.ROWS, **zhipu.ROWS, **dashscope.ROWS, **google.ROWS, **imagen.ROWS}

PRICED: Final[Mapping[str, date]] = {
    name: vendor.PRICED for vendor in (openai, zhipu, dashscope, google, imagen) for name in vendor.ROWS
}
"""When each model's price was looked up."""


def find(model: str) -> ModelSpec | None:
    """Look a model up; `None` for one that the catalogue does not know."""
    entry = CATALOGUE.get(model)
    return None if entry is None else entry.spec
