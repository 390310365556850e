"""The catalogue says what OpenAI publishes."""

from math import gcd

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amux_asgi.catalogue._base import ImagePrices, TokenPrices
from amux_asgi.catalogue.openai import FREE
from amux_asgi.models import CATALOGUE, find
from amux_asgi.tokens import fixed_size_tokens, free_size_tokens


@pytest.mark.parametrize(
    ("size", "tokens"),
    [
        ("1024x1024", (196, 1756, 7024)),
        ("1536x1024", (158, 1372, 5488)),
        ("1024x1536", (158, 1372, 5488)),
        ("2048x2048", (397, 3568, 14272)),
        ("3840x2160", (371, 3336, 13342)),
        ("2160x3840", (371, 3336, 13342)),
    ],
)
def test_free_sizes_cost_the_published_tokens(size: str, tokens: tuple[int, int, int]) -> None:
    """The formula gives every observed value exactly."""
    width, height = map(int, size.split("x"))

    assert tuple(free_size_tokens(width, height, quality) for quality in ("low", "medium", "high")) == tokens


def test_an_observed_answer_agrees() -> None:
    """3072x2160 at low quality was billed 380 tokens."""
    assert free_size_tokens(3072, 2160, "low") == 380
    assert free_size_tokens(1024, 1024, "max") is None


@pytest.mark.parametrize(
    ("quality", "size", "tokens"),
    [("low", "1024x1024", 272), ("medium", "1536x1024", 1568), ("high", "1024x1536", 6240)],
)
def test_fixed_sizes_cost_the_published_tokens(quality: str, size: str, tokens: int) -> None:
    """The table of the gpt-image-1 family."""
    assert fixed_size_tokens(size, quality) == tokens
    assert fixed_size_tokens("1x1", quality) is None


@pytest.mark.parametrize(
    ("model", "size", "quality", "dollars"),
    [
        ("gpt-image-1", "1024x1024", "low", 0.011),
        ("gpt-image-1", "1024x1024", "medium", 0.042),
        ("gpt-image-1", "1024x1024", "high", 0.167),
        ("gpt-image-1.5", "1024x1024", "high", 0.133),
        ("gpt-image-1.5", "1024x1536", "high", 0.20),
    ],
)
def test_token_prices_agree_with_the_published_prices_of_pictures(
    model: str, size: str, quality: str, dollars: float
) -> None:
    """Two published numbers that must be one."""
    prices = CATALOGUE[model].prices
    assert isinstance(prices, TokenPrices)

    cost = prices.image_out * (fixed_size_tokens(size, quality) or 0) / 1_000_000 / 1_000_000_000

    assert cost == pytest.approx(dollars, abs=0.001)


def test_dalle_is_priced_by_picture() -> None:
    """Size and quality decide."""
    prices = CATALOGUE["dall-e-3"].prices

    assert isinstance(prices, ImagePrices)
    assert prices.prices["1024x1792", "hd"] == 120_000_000


def test_snapshots_and_aliases_are_the_model_they_stand_for() -> None:
    """A dated name takes what its family takes."""
    assert find("gpt-image-2-2026-04-21") is find("gpt-image-2")
    assert find("chatgpt-image-latest") is find("gpt-image-1.5")
    assert find("nobody's") is None


@given(st.integers(1, 240), st.integers(1, 240))
def test_the_formula_never_makes_a_larger_picture_of_one_shape_cheaper(a: int, b: int) -> None:
    """Tokens grow with the picture."""
    width, height = 16 * a, 16 * b
    small = (width // gcd(a, b), height // gcd(a, b))

    assert (free_size_tokens(width, height, "high") or 0) >= (free_size_tokens(*small, "high") or 0)
    assert FREE.step == 16
