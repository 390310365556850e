"""How many tokens a picture is, by OpenAI's published table and formula.

Source: community.openai.com/t/1371851 (table) and /t/1382699 (formula); both agree with recorded answers.
"""

from typing import Final

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
    rounded = (2 * factor * short + long) // (2 * long)
    return -(-factor * rounded * (2_000_000 + width * height) // 4_000_000)
