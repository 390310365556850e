"""Hosted pictures: names nobody guesses, kinds told by the bytes, and a store in memory."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amux_asgi.errors import StorageUnavailableError, UpstreamBadResponseError
from amux_asgi.pictures import (
    GIF,
    JPEG,
    PNG,
    SVG,
    WEBP,
    Kind,
    MemoryPictures,
    Shelf,
    check_picture,
    expiry_of,
    fresh_name,
    headers_of,
    is_over,
    kind_of,
)
from tests import painted as paint
from tests.painted import heavy, painted


class Clock:
    """Unix time that stands until it is set."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@given(st.integers(1, 10**12 - 1))
def test_a_name_tells_its_time_and_nothing_else(expires: int) -> None:
    """Expiry, a dash, 32 letters and digits that never come twice."""
    name, other = fresh_name(expires), fresh_name(expires)

    assert re.fullmatch(rf"{expires}-[0-9A-Za-z]{{32}}", name)
    assert name != other
    assert (expiry_of(name), is_over(name, expires - 1), is_over(name, expires)) == (expires, False, True)


def test_every_letter_and_digit_is_drawn_alike() -> None:
    """Nobody saves guesses by beginning with the usual ones."""
    drawn = "".join(fresh_name(1).partition("-")[2] for _ in range(2000))

    counts = [drawn.count(digit) for digit in sorted(set(drawn))]

    assert len(counts) == 62
    assert min(counts) > 64_000 / 62 * 0.8
    assert max(counts) < 64_000 / 62 * 1.2


NAME = "1800000000-0123456789ABCDEFGHIJKLMNOPabcdef"
MALFORMED = [
    "",
    "-",
    NAME[:-1],
    NAME + "a",
    NAME + "\n",
    "\n" + NAME,
    NAME.replace("-", "_"),
    NAME[:-1] + "\0",
    NAME[:-1] + "/",
    NAME[:-1] + "é",
    NAME[:-1] + "٣",
    "٣" + NAME[1:],
    "0" + NAME,
    "-" + NAME,
    "1" * 13 + NAME[10:],
    "../" + NAME,
    "..%2f" + NAME,
    "/" + NAME,
    "." + NAME,
]


@pytest.mark.parametrize("name", MALFORMED)
def test_any_other_name_is_nobodys(name: str) -> None:
    """Nothing that leads out of a folder, no second spelling of a name, no time that never comes."""
    assert expiry_of(name) is None
    assert is_over(name, 0)


@given(st.text(max_size=60) | st.from_regex(r"[0-9./-]{1,13}-[0-9A-Za-z/]{31,33}"))
def test_what_is_a_name_is_safe_in_any_path(name: str) -> None:
    """Whatever is asked for: a name that counts holds digits, letters and one dash."""
    if expiry_of(name) is not None:
        assert re.fullmatch(r"[0-9]+-[0-9A-Za-z]+", name)


@pytest.mark.parametrize(("form", "kind"), [("PNG", PNG), ("JPEG", JPEG), ("WEBP", WEBP), ("GIF", GIF)])
def test_the_bytes_say_what_a_picture_is(form: str, kind: Kind) -> None:
    """Of the five kinds that browsers show."""
    assert kind_of(painted(form)) == kind


@pytest.mark.parametrize(
    "data",
    [
        paint.SVG,
        b"<svg>",
        b"\xef\xbb\xbf\n<svg/>",
        b'<?xml version="1.0" encoding="UTF-8"?>\n<!-- made by -->\n<svg ></svg>',
        b'<?xml version="1.0"?><!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.1//EN" "svg11.dtd"><svg />',
        b'<!DOCTYPE svg [ <!ENTITY a "b"> ]>\n<svg\n/>',
        b"<!-- - -- -?> --><?xml a?b ?><svg/>",
    ],
)
def test_an_svg_is_one_by_its_root(data: bytes) -> None:
    """Whatever stands before it."""
    assert kind_of(data) == SVG


NONE = [
    b"",
    b"\x89PNG",
    b"PNG\r\n\x1a\n",
    b"\xff\xd8",
    b"GIF88a",
    b"RIFF\0\0\0\0WAVE",
    b"RIFFWEBP",
    b"%PDF-1.7",
    b"BM" + bytes(50),
    b"\0\0\0\x1cftypavif",
    b"<html><svg></svg></html>",
    b"<!DOCTYPE html><svg>",
    b"<!-- <svg> --><html>",
    b"<!DOCTYPE svg><html>",
    b"<!DOCTYPE svg-not><svg>",
    b"<?php echo 1 ?><svg>",
    b"<svgs>",
    b"<svg",
    b"<SVG>",
    b"x<svg>",
    "<svg>".encode("utf-16"),
    b"<script>alert(1)</script>" + b"\x89PNG\r\n\x1a\n",
    b" \x89PNG\r\n\x1a\n",
    b'{"error":{}}',
]


@pytest.mark.parametrize("data", NONE)
def test_what_is_no_picture_is_refused(data: bytes) -> None:
    """HTML, scripts, other files, halves: also with a picture inside."""
    assert kind_of(data) is None
    with pytest.raises(UpstreamBadResponseError) as caught:
        check_picture(data)
    assert (caught.value.status, caught.value.code) == (502, "upstream_bad_response")


@given(st.binary(max_size=200) | st.text("<!->?[] \nsvgDOCTYPExml", max_size=200).map(str.encode))
def test_any_bytes_are_a_picture_or_none(data: bytes) -> None:
    """And no two kinds begin alike."""
    kind = kind_of(data)

    assert kind in (None, PNG, JPEG, WEBP, GIF, SVG)
    assert kind != SVG or b"<svg" in data


@pytest.mark.parametrize("data", [b"<!--" + b"-" * 60, b"<?xml" + b"?" * 60, b" " * 60, b"<!DOCTYPE svg [" * 4])
def test_no_bytes_take_long_to_look_at(data: bytes) -> None:
    """A hostile upstream cannot stop the gateway with three megabytes of them."""
    assert kind_of(data * 50_000) is None


@pytest.mark.parametrize(
    ("kind", "media_type", "shown"),
    [
        (PNG, "image/png", 'inline; filename="picture.png"'),
        (JPEG, "image/jpeg", 'inline; filename="picture.jpg"'),
        (WEBP, "image/webp", 'inline; filename="picture.webp"'),
        (GIF, "image/gif", 'inline; filename="picture.gif"'),
        (SVG, "image/svg+xml", 'attachment; filename="picture.svg"'),
    ],
)
def test_the_headers_make_a_picture_harmless(kind: Kind, media_type: str, shown: str) -> None:
    """It is what it says, runs nothing, may be embedded anywhere, and is forgotten in time."""
    assert headers_of(kind, 59) == (
        ("content-type", media_type),
        ("content-disposition", shown),
        ("x-content-type-options", "nosniff"),
        ("content-security-policy", "sandbox; default-src 'none'"),
        ("cross-origin-resource-policy", "cross-origin"),
        ("cache-control", "private, max-age=59, immutable"),
    )


def test_a_shelf_counts_what_it_was_told_and_what_was_put_since() -> None:
    """A count that began before a picture was there does not forget it; one that saw it does not count it twice."""
    clock = Clock()
    now = int(clock.now)
    shelf = Shelf(100, clock)
    mine, others, late = fresh_name(now + 9), fresh_name(now + 5), fresh_name(now + 7)
    shelf.add(mine, 10)

    shelf.counted({others: 20}, now + 5)
    before = shelf.used
    shelf.add(late, 3)
    shelf.counted({others: 20, mine: 10}, now + 5)
    after = shelf.used
    clock.now += 7
    shelf.counted({mine: 10}, now + 9)

    assert (before, after, shelf.used) == (30, 33, 10)


def test_a_picture_that_could_not_be_kept_gives_its_room_back() -> None:
    """Once."""
    shelf = Shelf(100, Clock())
    name = fresh_name(1_800_000_009)
    shelf.add(name, 100)

    shelf.drop(name)
    shelf.drop(name)

    assert shelf.used == 0


def test_a_full_shelf_says_when_there_is_room() -> None:
    """When the first picture expires; never for one that is larger than all the room."""
    clock = Clock()
    shelf = Shelf(100, clock)
    shelf.add(fresh_name(int(clock.now) + 30), 60)
    shelf.add(fresh_name(int(clock.now) + 20), 40)

    with pytest.raises(StorageUnavailableError) as full:
        shelf.check(1)
    with pytest.raises(StorageUnavailableError) as never:
        shelf.check(101)
    early = shelf.wants_sweep(1)
    clock.now += 20

    assert (full.value.status, full.value.retry_after, full.value.retry) == (503, 20, None)
    assert (never.value.retry_after, never.value.retry) == (None, False)
    assert (early, shelf.wants_sweep(1), shelf.wants_sweep(101), shelf.wants_sweep(0)) == (False, True, False, False)


@pytest.mark.anyio
async def test_memory_makes_room_of_what_has_expired() -> None:
    """Nobody is refused for the sake of a picture that nobody can fetch any more."""
    clock = Clock()
    pictures = MemoryPictures(most=200, now=clock)
    old = await pictures.put(heavy(150), expires=int(clock.now) + 10)
    with pytest.raises(StorageUnavailableError):
        await pictures.check_room(100)
    clock.now += 10

    await pictures.check_room(100)
    new = await pictures.put(heavy(200), expires=int(clock.now) + 10)

    assert await pictures.get(old) is None
    assert await pictures.get(new) == heavy(200)
    assert pictures.shelf.used == 200
