"""Pictures go from bytes to base64 and back, strictly, and in turns."""

import base64

import msgspec
import pytest
from hypothesis import given
from hypothesis.strategies import binary, integers
from msgspec import Raw

from amux_asgi.encoding import STEP, T, Turns, data_of, quoted, start_of, unquoted
from amux_asgi.errors import UpstreamBadResponseError, UpstreamTooLargeError

SIZES = [0, 1, 2, 3, 4, STEP - 1, STEP, STEP + 1, 2 * STEP, 2 * STEP + 2]
BAD = ["YQ", "YQ=", "Y", "====", "YQ==YQ==", "Y Q=", "YQ==\\n", "-_-_", "é", "YQ=a", "*" * 8]


def done(work: Turns[T]) -> T:
    while True:
        try:
            next(work)
        except StopIteration as stop:
            return stop.value


def raw(text: str) -> Raw:
    return Raw(b'"' + text.encode() + b'"')


@pytest.mark.parametrize("size", SIZES)
def test_a_picture_of_any_size_becomes_base64_and_is_read_again(size: int) -> None:
    """Also one of just so many bytes as one turn takes."""
    data = bytes(i % 251 for i in range(size))

    text = done(quoted(data))

    assert msgspec.json.decode(text) == base64.b64encode(data).decode()
    assert msgspec.json.encode({"b64_json": text}) == b'{"b64_json":"' + base64.b64encode(data) + b'"}'
    assert done(unquoted(text)) == data


@given(binary(max_size=200), integers(0, 3))
def test_any_bytes_survive(data: bytes, turns: int) -> None:
    """There and back."""
    data *= 1 + turns

    assert done(unquoted(done(quoted(data)))) == data
    assert done(data_of("data:;base64," + base64.b64encode(data).decode(), cap=len(data))) == data


def test_escaped_slashes_are_read() -> None:
    """Some servers write them so."""
    data = b"\xff\xff\xff" * 30

    text = raw(base64.b64encode(data).decode().replace("/", "\\/"))

    assert done(unquoted(text)) == data
    assert data.startswith(start_of(text))
    assert start_of(text)


@pytest.mark.parametrize("text", BAD)
def test_what_is_no_base64_is_refused(text: str) -> None:
    """Strictly: what two decoders read in two ways is no picture."""
    with pytest.raises(UpstreamBadResponseError):
        done(unquoted(raw(text)))
    with pytest.raises(UpstreamBadResponseError):
        done(data_of(f"data:image/png;base64,{text}", cap=100))


def test_broken_json_is_refused() -> None:
    """An upstream's string need not be one."""
    with pytest.raises(UpstreamBadResponseError):
        done(unquoted(Raw(b'"\xff\xff\xff\xff"')))


def test_base64_that_ends_before_its_end_is_refused() -> None:
    """Padding where a turn ends hides nothing behind it."""
    first = base64.b64encode(bytes(STEP - 1)).decode()

    with pytest.raises(UpstreamBadResponseError):
        done(unquoted(raw(first + "YWFh")))


@pytest.mark.parametrize(
    ("url", "data"),
    [
        ("data:image/png;base64,YWE=", b"aa"),
        ("DATA:IMAGE/PNG;BASE64,YWFh", b"aaa"),
        ("data:application/octet-stream;base64,YQ==", b"a"),
        ("data:image/svg+xml;charset=utf-8;base64,YWFh", b"aaa"),
        ("data:;base64,YWFh", b"aaa"),
    ],
)
def test_a_data_url_is_read(url: str, data: bytes) -> None:
    """At most so many bytes as were allowed, and not one less."""
    assert done(data_of(url, cap=len(data))) == data
    with pytest.raises(UpstreamTooLargeError):
        done(data_of(url, cap=len(data) - 1))


@pytest.mark.parametrize(
    "url",
    [
        "data:",
        "data:,hello",
        "data:image/png,hello",
        "data:image/png;base64",
        "data:text/html;base64,YWFh",
        "data:image/png; base64,YWFh",
        "data:image/png;base64,%59WFh",
        "data:image/png;base64,YWFh#a",
        "data://image/png;base64,YWFh",
    ],
)
def test_another_data_url_is_refused(url: str) -> None:
    """Text, percent signs, another type."""
    with pytest.raises(UpstreamBadResponseError):
        done(data_of(url, cap=100))


@pytest.mark.parametrize("text", ["", "*", "****", "é"])
def test_what_is_no_base64_has_no_start(text: str) -> None:
    """It is not looked at further."""
    assert start_of(raw(text)) == b""


def test_sixteen_megabytes_leave_time_for_others() -> None:
    """One turn after the other, none with more than a step of it, while Python's own base64 would do all at once."""
    data = bytes(2**24)
    text = done(quoted(data))
    url = "data:image/png;base64," + base64.b64encode(data).decode()

    for work in (quoted(data), unquoted(text), data_of(url, cap=2**24)):
        assert sum(1 for _ in work) >= len(data) // STEP
