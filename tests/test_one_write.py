"""An answer's head leaves with its body, or soon alone."""

import asyncio  # noqa: TID251, the server is asyncio's

import pytest

from amux_asgi.one_write import SHORT, OneWrite


class Written:
    """What a connection was told, in order."""

    def __init__(self) -> None:
        self.told: list[bytes | str] = []

    def write(self, data: bytes) -> None:
        self.told.append(data)

    def close(self) -> None:
        self.told.append("closed")

    def is_closing(self) -> bool:
        return "closed" in self.told


@pytest.mark.parametrize(
    ("pieces", "told"),
    [
        ([b"head"], [b"head"]),
        ([b"head", b"body"], [b"headbody"]),
        ([b"head", b""], [b"head"]),
        ([b"head", memoryview(b"body"), b"more"], [b"headbody", b"more"]),
        ([b"head", b"x" * SHORT], [b"head" + b"x" * SHORT]),
        ([b"head", b"x" * (SHORT + 1), b"more"], [b"head", b"x" * (SHORT + 1), b"more"]),
    ],
)
def test_what_comes_right_behind_a_head_leaves_with_it(pieces: list[bytes], told: list[bytes]) -> None:
    """As one write, if it is short; all that comes later is written as it comes."""
    written = Written()

    async def write() -> None:
        one = OneWrite(written, asyncio.get_running_loop())
        for piece in pieces:
            one.write(piece)
        await asyncio.sleep(0)
        one.write(b"later")

    asyncio.run(write())

    assert written.told == [*told, b"later"]


def test_a_head_waits_for_nothing() -> None:
    """A stream's client learns at once that it has begun; what follows is not held."""
    written = Written()

    async def write() -> list[bytes | str]:
        one = OneWrite(written, asyncio.get_running_loop())
        one.write(b"head")
        held = [*written.told]
        await asyncio.sleep(0)
        return held

    held = asyncio.run(write())

    assert (held, written.told) == ([], [b"head"])


@pytest.mark.parametrize("pieces", [[], [b"head"], [b"head", b"body"]])
def test_what_is_closed_is_written_before(pieces: list[bytes]) -> None:
    """Nothing is lost."""
    written = Written()

    async def close() -> bool:
        one = OneWrite(written, asyncio.get_running_loop())
        for piece in pieces:
            one.write(piece)
        before = one.is_closing()
        one.close()
        return not before and one.is_closing()

    assert asyncio.run(close())
    assert written.told == [*([b"".join(pieces)] if pieces else []), "closed"]
