"""The sandbox's pictures: always the same for the same order, in the form that was ordered, the prompt legible."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# Pillow's types name numpy's, which are not here.

import io
from typing import Any

import pytest
from msgspec.structs import replace
from PIL import Image

from amux_asgi.sandbox.paint import Order, paint

ORDER = Order(prompt="a red paper lantern", seed=0, width=256, height=256)
WHITE = (255, 255, 255)


def opened(**changes: Any) -> Image.Image:
    picture = Image.open(io.BytesIO(paint(replace(ORDER, **changes))))
    picture.load()
    return picture


def white_pixels(picture: Image.Image) -> int:
    """Count the pixels of pure white, which only the letters of the prompt have."""
    return sum(number for number, colour in picture.convert("RGB").getcolors(2**24) or () if colour == WHITE)


def test_the_same_order_gives_the_same_bytes() -> None:
    """A test that uses the sandbox can compare pictures."""
    assert paint(ORDER) == paint(replace(ORDER))


@pytest.mark.parametrize(
    "change",
    [{"seed": 1}, {"prompt": "a blue one"}, {"quality": "low"}, {"quality": "max"}, {"blur": 1.0}, {"blur": 0.4}],
    ids=str,
)
def test_each_part_of_an_order_shows(change: dict[str, Any]) -> None:
    """Seeds, prompts, qualities and unfinished pictures differ."""
    assert paint(replace(ORDER, **change)) != paint(ORDER)


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])
@pytest.mark.parametrize(("width", "height"), [(256, 256), (1536, 1024), (64, 480), (16, 16), (2880, 2880)])
def test_size_and_format_are_as_ordered(output_format: str, width: int, height: int) -> None:
    """Small, wide, high and as large as a model makes them."""
    picture = opened(output_format=output_format, width=width, height=height)

    assert (picture.format, picture.size, picture.mode) == (output_format.upper(), (width, height), "RGB")


@pytest.mark.parametrize("output_format", ["png", "webp"])
def test_a_transparent_picture_has_no_sky(output_format: str) -> None:
    """Its upper corners are empty, its hills are not."""
    picture = opened(transparent=True, output_format=output_format)

    assert picture.mode == "RGBA"
    corner: Any = picture.getpixel((0, 0))
    ground: Any = picture.getpixel((128, 160))
    assert (corner[3], ground[3]) == (0, 255)


@pytest.mark.parametrize("output_format", ["jpeg", "webp"])
def test_compression_makes_a_picture_smaller(output_format: str) -> None:
    """100 is best, 0 smallest."""
    sizes = [len(paint(replace(ORDER, output_format=output_format, compression=c))) for c in (0, 50, 100)]

    assert sizes == sorted(set(sizes))


def test_the_prompt_is_written_in_the_picture() -> None:
    """In white letters, as many as there are; the line that says what this is has another colour."""
    nothing, short, long = (white_pixels(opened(prompt=text)) for text in (" ", "i", "i" * 20))

    assert nothing == 0
    assert short > 0
    assert long > short * 5


@pytest.mark.parametrize(
    "prompt",
    [
        "word " * 7000,
        "w" * 32_000,
        "ein Drache über München",
        "龙 \N{DRAGON} \N{ZERO WIDTH JOINER}",
        "\x00\t\n",
        "",
        "<b>&amp;</b>",
        "\ud800",
    ],
    ids=["long", "one word", "umlauts", "other scripts", "control characters", "empty", "markup", "half a character"],
)
def test_any_prompt_can_be_painted(prompt: str) -> None:
    """What does not fit is cut, what the font lacks is written as an escape."""
    assert opened(prompt=prompt).size == (256, 256)


def test_letters_that_the_font_lacks_are_not_lost() -> None:
    """Two prompts of other scripts do not look the same: their escapes differ."""
    assert white_pixels(opened(prompt="龙", seed=1)) > white_pixels(opened(prompt="i", seed=1))
