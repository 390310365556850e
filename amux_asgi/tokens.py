"""How many tokens a picture is, by OpenAI's published table and formula.

Source: community.openai.com/t/1371851 (table) and /t/1382699 (formula); both agree with recorded answers.
"""

from typing import Final

from amux_asgi.spec import Pixels

PARTIAL: Final = 100  # output tokens for each partial image

_TABLE: Final = {
    ("low", "1024x1024"): 272,
    ("low", "1024x1536"): 408,
    ("low", "1536x1024"): 400,
    ("medium", "1024x1024"): 1056,
    ("medium", "1024x1536"): 1584,
    ("medium", "1536x1024"): 1568,
    ("high", "1024x1024"): 4160,
    ("high", "1024x1536"): 6240,
    ("high", "1536x1024"): 6208,
}
_FACTORS: Final = {"low": 16, "medium": 48, "high": 96}


def fixed_size_tokens(size: str, quality: str) -> int | None:
    """Give the output tokens of gpt-image-1, -1-mini and -1.5; `None` for what the table does not hold."""
    return _TABLE.get((quality, size))


def free_size_tokens(width: int, height: int, quality: str) -> int | None:
    """Give the output tokens of the gpt-image-2 family; `None` for `xhigh` and `max`: their factors are not public.

    With f the quality's factor and r = f * short / long rounded half up: ceil(f * r * (2e6 + width * height) / 4e6).
    """
    factor = _FACTORS.get(quality)
    if factor is None:
        return None
    long, short = max(width, height), min(width, height)
    return _count(factor, short, long, width * height)


def free_size_bounds(rule: Pixels, quality: str) -> tuple[int, int] | None:
    """Give the fewest and the most tokens of any size inside a rule, whether or not its edges keep the rule's step.

    The formula grows with short / long and with the area, and each is bounded by itself: by the longest shape of the
    smallest area, by the square of the largest. The most is exact where that square exists (2880x2880 does).
    """
    factor = _FACTORS.get(quality)
    return None if factor is None else (_count(factor, 1, rule.ratio, rule.fewest), _count(factor, 1, 1, rule.most))


def _count(factor: int, short: int, long: int, area: int) -> int:
    rounded = (2 * factor * short + long) // (2 * long)
    return -(-factor * rounded * (2_000_000 + area) // 4_000_000)
