"""What Zhipu's image models take and cost, on BigModel (mainland) and on Z.ai (international).

Source: https://docs.z.ai/api-reference/image/generate-image, https://docs.bigmodel.cn (image generation), 2026-11
"""

from collections.abc import Mapping
from datetime import date
from typing import Final

from msgspec import Struct

from amux_asgi.catalogue._base import ALL_FIELDS, CENT, Entry, ImagePrices
from amux_asgi.spec import ModelSpec, Pixels


class Rules(Struct, frozen=True, kw_only=True):
    """What the adapter must know of a model to speak of it: pixels, and the qualities it makes.

    `slow` models are ordered, and asked for until they are done.
    """

    step: int  # both edges are multiples of it
    shortest: int  # edge
    longest: int  # edge
    most: int  # width * height
    qualities: tuple[str, ...]  # the usual one first; a single one cannot be chosen
    slow: bool = False


_COG: Final = Rules(step=16, shortest=512, longest=2048, most=2**21, qualities=("standard",))
RULES: Final[Mapping[str, Rules]] = {
    "glm-image": Rules(step=32, shortest=1024, longest=2048, most=2**22, qualities=("hd",), slow=True),
    "cogview-4-250304": Rules(step=16, shortest=512, longest=2048, most=2**21, qualities=("standard", "hd")),
    "cogview-4": _COG,
    "cogview-3-flash": _COG,
    "cogview-3-plus": _COG,
}
"""By the name in lower case, as it is sent."""

_PROMPTS: Final[Mapping[str, int]] = {"glm-image": 1000}
"""The longest prompt, where the vendor names one; it may cut off what is longer without a word."""
_UNBOUNDED: Final = 32_000  # characters, the gateway's own bound

# Source: https://docs.z.ai/guides/overview/pricing, 2026-07-31. Mainland prices are lower: 0.1 and 0.06 yuan.
# For cogview-3-plus no price in dollars is published: it is taken to cost what its successor costs.
_GLM_IMAGE: Final = ImagePrices(flat=3 * CENT // 2)
_COGVIEW: Final = ImagePrices(flat=CENT)
_FREE: Final = ImagePrices(flat=0)
_PRICES: Final[Mapping[str, ImagePrices]] = {"glm-image": _GLM_IMAGE, "cogview-3-flash": _FREE}

_SIZES: Final = ("1024x1024", "768x1344", "864x1152", "1344x768", "1152x864", "1440x720", "720x1440")
_LARGE: Final = ("1280x1280", "1568x1056", "1056x1568", "1472x1088", "1088x1472", "1728x960", "960x1728")


def _entry(name: str, rules: Rules) -> Entry:
    spec = ModelSpec(
        fields=ALL_FIELDS,
        prompt_max=_PROMPTS.get(name, _UNBOUNDED),
        sizes=_LARGE if rules.slow else _SIZES,
        pixels=Pixels(
            step=rules.step,
            longest=rules.longest,
            ratio=rules.longest // rules.shortest,
            fewest=rules.shortest**2,
            most=rules.most,
        ),
        qualities=("low", "medium", "high", "standard", "hd", "auto"),
        response_format="url",
        snaps=True,
    )
    return Entry(spec=spec, prices=_PRICES.get(name, _COGVIEW), native=1)


PRICED: Final = date(2026, 7, 31)  # when the prices were looked up
ROWS: Final[Mapping[str, Entry]] = {name: _entry(name, rules) for name, rules in RULES.items()}
