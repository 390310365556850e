"""What each of Google's Imagen 4 models takes and costs.

Google shut the models down on its Gemini API on 2026-08-17; Vertex and servers that speak the dialect go on.

Source: https://docs.cloud.google.com/vertex-ai/generative-ai/docs/models/imagen/4-0-generate (2026-06),
https://ai.google.dev/gemini-api/docs/imagen
"""

from collections.abc import Mapping
from datetime import date
from typing import Final

from msgspec.structs import replace

from amux_asgi.catalogue._base import ALL_FIELDS, CENT, Entry, ImagePrices
from amux_asgi.spec import ModelSpec

NATIVE: Final = 4
QUALITIES: Final = ("low", "medium", "high", "standard", "hd", "auto")
RATIOS: Final = ("1:1", "3:4", "4:3", "9:16", "16:9")
TIERS: Final = ("1K", "2K")
SIZES: Final[Mapping[tuple[str, str], str]] = {
    ("1:1", "1K"): "1024x1024",
    ("3:4", "1K"): "896x1280",
    ("4:3", "1K"): "1280x896",
    ("9:16", "1K"): "768x1408",
    ("16:9", "1K"): "1408x768",
    ("1:1", "2K"): "2048x2048",
    ("3:4", "2K"): "1792x2560",
    ("4:3", "2K"): "2560x1792",
    ("9:16", "2K"): "1536x2816",
    ("16:9", "2K"): "2816x1536",
}
"""The pixels of a picture, by aspect ratio and tier."""

IMAGEN_4: Final = ModelSpec(
    fields=ALL_FIELDS,
    prompt_max=32_000,  # the vendor counts tokens, 480 at most
    qualities=QUALITIES,
    snaps=True,
    ratios=RATIOS,
    tiers=TIERS,
    defaults=("1K", None),
)
FAST: Final = replace(IMAGEN_4, tiers=TIERS[:1])

# Per picture of either size, on the Gemini API and on Vertex alike.
# Source: https://ai.google.dev/gemini-api/docs/pricing, as of 2026-06-17; BerriAI/litellm model prices say the same.
PRICED: Final = date(2026, 6, 17)  # when the prices were looked up
ROWS: Final[Mapping[str, Entry]] = {
    "imagen-4.0-generate-001": Entry(spec=IMAGEN_4, prices=ImagePrices(flat=4 * CENT), native=NATIVE),
    "imagen-4.0-ultra-generate-001": Entry(spec=IMAGEN_4, prices=ImagePrices(flat=6 * CENT), native=NATIVE),
    "imagen-4.0-fast-generate-001": Entry(spec=FAST, prices=ImagePrices(flat=2 * CENT), native=NATIVE),
}
