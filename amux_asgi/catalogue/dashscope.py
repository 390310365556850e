"""What each picture model of Aliyun DashScope (Model Studio) takes and costs.

Source: help.aliyun.com/zh/model-studio/{qwen-image-api, text-to-image-v2-api-reference,
wan-image-generation-api-reference, z-image-api-reference}, autumn 2026.
"""

from collections.abc import Mapping
from datetime import date
from math import isqrt
from typing import Final, Literal

from msgspec import Struct

from amux_asgi.catalogue._base import ALL_FIELDS, ANY, CENT, DOLLAR, Entry, ImagePrices
from amux_asgi.spec import ModelSpec, Pixels

Route = Literal["sync", "async", "async-old"]
"""Where a model is asked: one answer; a task, asked for with messages; a task, asked for with a plain prompt."""

_SIDE: Final = 100_000  # pixels, where nothing bounds an edge


class Sizes(Struct, frozen=True, kw_only=True):
    """Which sizes a model makes, in pixels: only some, or all within the bounds and some beside.

    `presets` are what OpenAI's sizes become. `tiers` are resolutions with a name that can be said instead.
    """

    only: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    presets: Mapping[str, str] = {}
    tiers: tuple[str, ...] = ()
    shortest: int = 1  # edge
    longest: int = _SIDE
    fewest: int = 1  # width * height
    most: int = _SIDE**2
    ratio: int = _SIDE  # long edge : short edge at most


class Rules(Struct, frozen=True, kw_only=True):
    """How a model is asked, the usual route first.

    `most` is how many pictures it makes in one ask; `n` is always said where it may be, as the vendor's own default is
    four for some. `grade` tells what the price depends on: whether the prompt is worded anew, or how large the picture
    is.
    """

    routes: tuple[Route, ...] = ("sync",)
    most: int = 1
    says_n: bool = True
    sizes: Sizes = Sizes()
    takes: frozenset[str] = frozenset()
    grade: Literal["prompt_extend", "area"] | None = None


ONE_K: Final = 2**21
"""Pixels up to which a picture has the price of "1K": 1024*2048 does, 2048*2048 does not; the bound is not public."""

_COMMON: Final = frozenset({"negative_prompt", "prompt_extend", "seed", "watermark"})
_WAN_27: Final = frozenset({"bbox_list", "color_palette", "enable_sequential", "seed", "thinking_mode", "watermark"})
_TOKEN: Final = 8  # characters that a token has at most: a longer prompt surely has too many tokens
_OLD: Final = ("async-old",)
_BOTH: Final = ("sync", "async")

_FIVE: Final = Sizes(
    only=("1664x928", "1472x1104", "1328x1328", "1104x1472", "928x1664"),
)
_FREE: Final = Sizes(fewest=512**2, most=2048**2, ratio=8)  # the ratio is documented of 3.0 only
_WAN_25_SIZES: Final = Sizes(
    beside=("1104x1472", "1472x1104", "960x1696", "1696x960"),  # recommended, though smaller than the least
    presets={"1536x1024": "1568x1056", "1024x1536": "1056x1568", "1792x1024": "1696x960", "1024x1792": "960x1696"},
    fewest=1280**2,  # older documents say 768**2: what is made by the newer rule is right by both
    most=1440**2,
    ratio=4,
)
_WAN_22_SIZES: Final = Sizes(
    presets={"1536x1024": "1248x832", "1024x1536": "832x1248", "1792x1024": "1280x720", "1024x1792": "720x1280"},
    shortest=512,
    longest=1440,
    most=1440**2,
)

_QWEN_3: Final = Rules(routes=_BOTH, most=6, sizes=_FREE, takes=_COMMON | {"enable_thinking", "prompt_extend_mode"})
_QWEN_3_PRO: Final = Rules(
    routes=_BOTH, most=6, sizes=_FREE, takes=_COMMON | {"enable_thinking", "prompt_extend_mode"}, grade="area"
)
_QWEN_2: Final = Rules(most=6, sizes=_FREE, takes=_COMMON)
_QWEN_MAX: Final = Rules(says_n=False, sizes=_FIVE, takes=_COMMON)
_QWEN_PLUS: Final = Rules(routes=("sync", "async-old"), says_n=False, sizes=_FIVE, takes=_COMMON)
_Z_IMAGE: Final = Rules(says_n=False, sizes=_FREE, takes=frozenset({"prompt_extend", "seed"}), grade="prompt_extend")
_WAN_27_IMAGE: Final = Rules(
    routes=_BOTH,
    most=4,
    sizes=Sizes(tiers=("1K", "2K"), fewest=768**2, most=2048**2, ratio=8),
    takes=_WAN_27,
)
_WAN_27_PRO: Final = Rules(
    routes=_BOTH,
    most=4,
    sizes=Sizes(tiers=("1K", "2K", "4K"), fewest=768**2, most=4096**2, ratio=8),
    takes=_WAN_27,
)
_WAN_26: Final = Rules(routes=_BOTH, most=4, sizes=_WAN_25_SIZES, takes=_COMMON)
_WAN_25: Final = Rules(routes=_OLD, most=4, sizes=_WAN_25_SIZES, takes=_COMMON)
_WAN_22: Final = Rules(routes=_OLD, most=4, sizes=_WAN_22_SIZES, takes=_COMMON)


class _Row(Struct, frozen=True, kw_only=True):
    """A model by its names: the alias and the dated ids."""

    names: tuple[str, ...]
    rules: Rules
    prompt: int  # characters at most
    prices: ImagePrices


def _each(tenths: int) -> ImagePrices:
    """Price every picture alike. In tenths of a cent."""
    return ImagePrices(flat=tenths * CENT // 10)


# Source: alibabacloud.com/help/en/model-studio/model-pricing, the international region (Singapore), USD, as public code
# of 2026-07 to 2026-11 tells it; of wan2.1 text-to-image-v2-api-reference, 2025-07. Told in two ways: the 2K price of
# qwen-image-3.0-pro (twice that of 1K, or 0.075); the dearer is taken. Of models that only Beijing has (wanx) the price
# is that of their namesakes, and of wanx2.0-t2i-turbo the one there, told in USD.
_ROWS: Final = (
    _Row(names=("qwen-image-3.0",), rules=_QWEN_3, prompt=32_000, prices=_each(30)),
    _Row(
        names=("qwen-image-3.0-pro",),
        rules=_QWEN_3_PRO,
        prompt=32_000,
        prices=ImagePrices(prices={(ANY, "1K"): 4 * CENT, (ANY, "2K"): 8 * CENT}),
    ),
    _Row(names=("qwen-image-2.0", "qwen-image-2.0-2026-03-03"), rules=_QWEN_2, prompt=1300 * _TOKEN, prices=_each(35)),
    _Row(
        names=(
            "qwen-image-2.0-pro",
            "qwen-image-2.0-pro-2026-03-03",
            "qwen-image-2.0-pro-2026-04-22",
            "qwen-image-2.0-pro-2026-06-22",
        ),
        rules=_QWEN_2,
        prompt=1300 * _TOKEN,
        prices=_each(75),
    ),
    _Row(names=("qwen-image-max", "qwen-image-max-2025-12-30"), rules=_QWEN_MAX, prompt=800 * _TOKEN, prices=_each(75)),
    _Row(
        names=("qwen-image-plus", "qwen-image-plus-2026-01-09"),
        rules=_QWEN_PLUS,
        prompt=800 * _TOKEN,
        prices=_each(30),
    ),
    _Row(names=("qwen-image",), rules=_QWEN_PLUS, prompt=800 * _TOKEN, prices=_each(35)),
    _Row(
        names=("z-image-turbo",),
        rules=_Z_IMAGE,
        prompt=800,
        prices=ImagePrices(prices={(ANY, "standard"): 15 * CENT // 10, (ANY, "extended"): 3 * CENT}),
    ),
    _Row(names=("wan2.7-image",), rules=_WAN_27_IMAGE, prompt=5000, prices=_each(30)),
    _Row(names=("wan2.7-image-pro",), rules=_WAN_27_PRO, prompt=5000, prices=_each(75)),
    _Row(names=("wan2.6-t2i",), rules=_WAN_26, prompt=2100, prices=_each(30)),
    _Row(names=("wan2.5-t2i-preview",), rules=_WAN_25, prompt=2000, prices=_each(30)),
    # 500 and 800 characters are both told for the rest: the vendor decides between them.
    _Row(
        names=("wan2.2-t2i-flash", "wan2.1-t2i-turbo", "wanx2.1-t2i-turbo"),
        rules=_WAN_22,
        prompt=800,
        prices=_each(25),
    ),
    _Row(names=("wan2.2-t2i-plus", "wan2.1-t2i-plus", "wanx2.1-t2i-plus"), rules=_WAN_22, prompt=800, prices=_each(50)),
    _Row(
        names=("wanx2.0-t2i-turbo",),
        rules=_WAN_22,
        prompt=800,
        prices=ImagePrices(flat=5735 * DOLLAR // 1_000_000),
    ),
)

RULES: Final[Mapping[str, Rules]] = {name: row.rules for row in _ROWS for name in row.names}
FAMILIES: Final[tuple[tuple[str, Rules], ...]] = (
    ("qwen-image-3", _QWEN_3),
    ("qwen-image-2", _QWEN_2),
    ("qwen-image-max", _QWEN_MAX),
    ("qwen-image-plus", _QWEN_PLUS),
    ("z-image", _Z_IMAGE),
    ("wan2.7-image-pro", _WAN_27_PRO),
    ("wan2.7-image", _WAN_27_IMAGE),
    ("wan2.6-t2i", _WAN_26),
    ("wan2.5-t2i", _WAN_25),
    ("wan2.2-t2i", _WAN_22),
    ("wan2.1-t2i", _WAN_22),
    ("wanx", _WAN_22),
)
"""By how the names of models begin that are not known here: dated ids and later ones."""

UNKNOWN: Final = Rules(routes=_BOTH, takes=_COMMON | _WAN_27 | _QWEN_3.takes)
"""Any other model is asked for one picture at a time and told all that the client says."""


def rules_of(model: str) -> Rules:
    """Give the rules of a model by the vendor's own name of it."""
    known = RULES.get(model)
    return known or next((rules for prefix, rules in FAMILIES if model.startswith(prefix)), UNKNOWN)


def _pixels(sizes: Sizes) -> Pixels | None:
    if sizes.only:
        return None
    longest = min(sizes.longest, isqrt(sizes.most * sizes.ratio))
    ratio = min(sizes.ratio, longest // sizes.shortest)
    return Pixels(step=1, longest=longest, ratio=ratio, fewest=max(sizes.fewest, sizes.shortest**2), most=sizes.most)


def _entry(row: _Row) -> Entry:
    sizes = row.rules.sizes
    spec = ModelSpec(
        fields=ALL_FIELDS,
        prompt_max=row.prompt,
        sizes=sizes.only,
        pixels=_pixels(sizes),
        tiers=sizes.tiers,
        response_format="url",
        snaps=True,
    )
    return Entry(spec=spec, prices=row.prices, native=row.rules.most)


PRICED: Final = date(2026, 11, 1)  # when the prices were looked up
ROWS: Final[Mapping[str, Entry]] = {name: _entry(row) for row in _ROWS for name in row.names}
