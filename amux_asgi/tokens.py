"""How many tokens a picture is, by the catalogue, or by OpenAI's published table and formula.

Source: community.openai.com/t/1371851 (table) and /t/1382699 (formula); both agree with recorded answers.
"""

import re
from functools import lru_cache
from typing import Final

from amux_asgi.catalogue._base import Entry
from amux_asgi.models import CATALOGUE
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


@lru_cache(maxsize=4096)
def picture_tokens(row: str, size: str | None, quality: str | None) -> tuple[int, int] | None:
    """Give the fewest and the most output tokens of one picture; `None` if one of those that fit has no known count.

    `row` is a model of the catalogue, and what is `None` can be anything that it makes.

    Nothing bounds `xhigh` and `max`: three factors do not say how the next ones go on, and three times as much for
    each (the largest known step) would be $17 held for a small picture, as good as a refusal that does not say why.
    """
    entry = CATALOGUE[row]
    if entry.tokens:
        return _of_tier(entry, size)
    spec = entry.spec
    qualities = _choices(quality, spec.qualities)
    if spec.pixels is not None:
        spans = [_free(size, spec.pixels, one) for one in qualities]
    else:
        spans = [_fixed(one_size, one) for one in qualities for one_size in _choices(size, spec.sizes)]
    known = [span for span in spans if span is not None]
    if len(known) < len(spans):
        return None
    return min(least for least, _ in known), max(most for _, most in known)


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


def _of_tier(entry: Entry, size: str | None) -> tuple[int, int]:
    """Count a picture of a tier; of any, where none is known by this name."""
    count = entry.tokens.get(size or "")
    return (min(entry.tokens.values()), max(entry.tokens.values())) if count is None else (count, count)


def _fixed(size: str, quality: str) -> tuple[int, int] | None:
    count = fixed_size_tokens(size, quality)
    return None if count is None else (count, count)


def _free(size: str | None, rule: Pixels, quality: str) -> tuple[int, int] | None:
    """Count a size of any step: what `auto` chose may break it (1254x1254 was seen), never the rest of the rule."""
    if size is None:
        return free_size_bounds(rule, quality)
    match = _SIZE.fullmatch(size)
    if match is None:
        return None
    width, height = int(match[1]), int(match[2])
    long, short = max(width, height), min(width, height)
    if long > min(rule.longest, rule.ratio * short) or not rule.fewest <= width * height <= rule.most:
        return None
    count = free_size_tokens(width, height, quality)
    return None if count is None else (count, count)


def _choices(value: str | None, all_of_them: tuple[str, ...]) -> list[str]:
    return [one for one in all_of_them if one != "auto"] if value is None else [value]


_SIZE: Final = re.compile(r"([1-9][0-9]{0,5})x([1-9][0-9]{0,5})")
