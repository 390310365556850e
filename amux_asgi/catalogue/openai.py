"""What each of OpenAI's image models takes and costs.

Source: openai/openai-openapi openapi.yaml (2026-08-21), openai-python 3.54 types (2026-11), live probes of 2026-08-29.
"""

from collections.abc import Mapping
from datetime import date
from typing import Final

from amux_asgi.catalogue._base import CENT, DOLLAR, Entry, ImagePrices, TokenPrices
from amux_asgi.spec import ModelSpec, Pixels

_ALWAYS: Final = frozenset({"prompt", "model", "n", "size", "quality", "user"})
_GPT: Final = _ALWAYS | {
    "background",
    "moderation",
    "output_format",
    "output_compression",
    "partial_images",
    "stream",
    "safety_identifier",
}
_NEW: Final = _GPT | {"complexity", "frame_count", "frame_duration_ms", "svg"}
_LONG: Final = 32_000
_TIERS: Final = ("low", "medium", "high", "auto")
_BACKGROUNDS: Final = ("transparent", "opaque", "auto")
_FORMATS: Final = ("png", "jpeg", "webp")

DALLE_2: Final = ModelSpec(
    fields=_ALWAYS | {"response_format"},
    prompt_max=1000,
    sizes=("256x256", "512x512", "1024x1024"),
    size_code="invalid_size",
    qualities=("standard",),
    response_format="url",
    defaults=("1024x1024", "standard"),
)
DALLE_3: Final = ModelSpec(
    fields=_ALWAYS | {"response_format", "style"},
    prompt_max=4000,
    n_max=1,
    sizes=("1024x1024", "1792x1024", "1024x1792"),
    size_code="invalid_size",
    qualities=("standard", "hd"),
    response_format="url",
    defaults=("1024x1024", "standard"),
)
GPT_IMAGE_1: Final = ModelSpec(
    fields=_GPT,
    prompt_max=_LONG,
    sizes=("1024x1024", "1024x1536", "1536x1024", "auto"),
    qualities=_TIERS,
    backgrounds=_BACKGROUNDS,
    output_formats=_FORMATS,
)
FREE: Final = Pixels(step=16, longest=3840, ratio=3, fewest=655_360, most=8_294_400)
GPT_IMAGE_2: Final = ModelSpec(
    fields=_GPT,
    prompt_max=_LONG,
    pixels=FREE,
    qualities=_TIERS,
    backgrounds=_BACKGROUNDS,  # transparent since 2026-08-20, as a preview
    output_formats=_FORMATS,
)
GPT_IMAGE_25: Final = ModelSpec(
    fields=_NEW,
    prompt_max=_LONG,
    pixels=FREE,
    qualities=("low", "medium", "high", "xhigh", "max", "auto"),
    backgrounds=_BACKGROUNDS,
    output_formats=(*_FORMATS, "gif", "svg"),
)


# Source: Portkey-AI/models pricing/openai.json and simonw/llm-prices, 2026-11.
_GPT_IMAGE_1_PRICES: Final = TokenPrices(
    text_in=5 * DOLLAR,
    cached_text_in=125 * CENT,
    image_in=10 * DOLLAR,
    cached_image_in=250 * CENT,
    image_out=40 * DOLLAR,
)
_MINI_PRICES: Final = TokenPrices(
    text_in=2 * DOLLAR,
    cached_text_in=20 * CENT,
    image_in=250 * CENT,
    cached_image_in=25 * CENT,
    image_out=8 * DOLLAR,
)
_GPT_IMAGE_15_PRICES: Final = TokenPrices(
    text_in=5 * DOLLAR,
    cached_text_in=125 * CENT,
    image_in=8 * DOLLAR,
    cached_image_in=2 * DOLLAR,
    image_out=32 * DOLLAR,
    text_out=10 * DOLLAR,
)
# Whether gpt-image-2 bills text output is told both ways; the dearer is taken.
_GPT_IMAGE_2_PRICES: Final = TokenPrices(
    text_in=5 * DOLLAR,
    cached_text_in=125 * CENT,
    image_in=8 * DOLLAR,
    cached_image_in=2 * DOLLAR,
    image_out=30 * DOLLAR,
    text_out=10 * DOLLAR,
)
_GPT_IMAGE_25_PRICES: Final = TokenPrices(
    text_in=5 * DOLLAR,
    cached_text_in=125 * CENT,
    image_in=8 * DOLLAR,
    cached_image_in=2 * DOLLAR,
    image_out=30 * DOLLAR,
)
_DALLE_2_PRICES: Final = ImagePrices(
    prices={
        ("256x256", "standard"): 16 * CENT // 10,
        ("512x512", "standard"): 18 * CENT // 10,
        ("1024x1024", "standard"): 2 * CENT,
    }
)
_DALLE_3_PRICES: Final = ImagePrices(
    prices={
        ("1024x1024", "standard"): 4 * CENT,
        ("1792x1024", "standard"): 8 * CENT,
        ("1024x1792", "standard"): 8 * CENT,
        ("1024x1024", "hd"): 8 * CENT,
        ("1792x1024", "hd"): 12 * CENT,
        ("1024x1792", "hd"): 12 * CENT,
    }
)


PRICED: Final = date(2026, 11, 1)  # when the prices were looked up
ROWS: Final[Mapping[str, Entry]] = {
    "dall-e-2": Entry(spec=DALLE_2, prices=_DALLE_2_PRICES),
    "dall-e-3": Entry(spec=DALLE_3, prices=_DALLE_3_PRICES),
    "gpt-image-1": Entry(spec=GPT_IMAGE_1, prices=_GPT_IMAGE_1_PRICES),
    "gpt-image-1-mini": Entry(spec=GPT_IMAGE_1, prices=_MINI_PRICES),
    **dict.fromkeys(
        ("gpt-image-1.5", "gpt-image-1.5-2025-12-16", "chatgpt-image-latest"),
        Entry(spec=GPT_IMAGE_1, prices=_GPT_IMAGE_15_PRICES),
    ),
    **dict.fromkeys(("gpt-image-2", "gpt-image-2-2026-04-21"), Entry(spec=GPT_IMAGE_2, prices=_GPT_IMAGE_2_PRICES)),
    **dict.fromkeys(
        (
            "gpt-image-2.5-sunburst",
            "gpt-image-2.5-sunburst-2026-09-08",
            "gpt-image-2.5-flare",
            "gpt-image-2.5-flare-2026-09-08",
        ),
        Entry(spec=GPT_IMAGE_25, prices=_GPT_IMAGE_25_PRICES),
    ),
    **dict.fromkeys(("gpt-image-2.6-sunburst", "gpt-image-2.6-flare"), Entry(spec=GPT_IMAGE_25)),  # rules as of 2.5
}
