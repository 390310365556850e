"""What is measured: which answers, how long the upstream takes for them, and over how many connections at once."""

from typing import Final

from msgspec import Struct

KB: Final = 1024
MB: Final = 1024 * KB
WAVES: Final = 3.2  # of the upstream's delays, in one measurement
SLOW: Final = 40 * MB  # of answers a second, that the slowest do
SLOW_CALLS: Final = 60  # a second, likewise
LONGEST: Final = 20  # seconds, for all connections to be answered once
LONG: Final = 5  # seconds
MOST_IN_FLIGHT: Final = 1024 * MB  # of answers; with more, a small machine would measure its memory


class Body(Struct, frozen=True, kw_only=True):
    """One kind of answer: pictures of so many base64 characters, or events of a stream, or URLs."""

    name: str
    path: str  # a part of the upstream's URL
    sizes: tuple[int, ...] = ()
    url: str | None = None
    stream: bool = False  # all sizes but the last are those of partial images

    @property
    def asked(self) -> dict[str, object]:
        """Give what a request says beside model and prompt."""
        if self.stream:
            return {"stream": True, "partial_images": len(self.sizes) - 1}
        if self.url:
            return {"response_format": "url"}
        return {"n": len(self.sizes)} if len(self.sizes) > 1 else {}

    @property
    def model(self) -> str:
        """Give the upstream's name of the model; only older ones answer URLs."""
        return "dall-e-2" if self.url else "gpt-image-2"


SMALL: Final = Body(name="1 KB", path="1k", sizes=(700,))
MIDDLE: Final = Body(name="2 MB", path="2m", sizes=(2 * MB,))
LARGE: Final = Body(name="16 MB", path="16m", sizes=(16 * MB,))
FOUR: Final = Body(name="4 x 2 MB", path="4x2m", sizes=(2 * MB,) * 4)
URL: Final = Body(name="URL", path="url", url="https://pictures.example/" + "a" * 400)
STREAM: Final = Body(name="SSE, 4 x 64 KB", path="sse", sizes=(64 * KB,) * 4, stream=True)
BODIES: Final = (SMALL, MIDDLE, LARGE, FOUR, URL, STREAM)
DELAYS: Final = (0, 0.05, 5)  # seconds that the upstream takes
CONNECTIONS: Final = (1, 32, 256, 2000)


class Cell(Struct, frozen=True, kw_only=True):
    """One measurement: `delay` is in seconds."""

    body: Body
    connections: int
    delay: float = 0

    @property
    def name(self) -> str:
        """Say it for people."""
        takes = f"after {self.delay * 1000:g} ms" if 0 < self.delay < 1 else f"after {self.delay:g} s"
        many = "1 connection" if self.connections == 1 else f"{self.connections:,} connections"
        return f"{self.body.name}{f' {takes}' if self.delay else ''}, {many}"

    @property
    def in_flight(self) -> int:
        """Give the bytes of all answers that are under way at once."""
        return self.connections * (sum(self.body.sizes) or KB)

    def seconds(self, least: float) -> float:
        """Give how long a measurement must be for some answers on every connection."""
        first = min(self.connections / SLOW_CALLS, LONGEST)
        return max(least, first, self.delay * WAVES, self.in_flight / SLOW)

    def rounds(self, most: int, least: float) -> int:
        """Give how often it is measured: long ones once."""
        return 1 if self.seconds(least) > LONG else most


def quick() -> list[Cell]:
    """Give what three minutes suffice for."""
    return [
        Cell(body=SMALL, connections=1),
        Cell(body=SMALL, connections=32),
        Cell(body=MIDDLE, connections=32),
    ]


def usual() -> list[Cell]:
    """Give what the README shows: every answer, every delay and every number of connections once."""
    return [
        *quick(),
        Cell(body=LARGE, connections=32),
        Cell(body=FOUR, connections=32),
        Cell(body=URL, connections=32),
        Cell(body=STREAM, connections=32, delay=0.05),
        Cell(body=SMALL, connections=256, delay=0.05),
        Cell(body=SMALL, connections=2000, delay=5),
    ]


def whole() -> list[Cell]:
    """Give every combination that fits into memory."""
    every = [Cell(body=body, connections=n, delay=delay) for body in BODIES for delay in DELAYS for n in CONNECTIONS]
    return [cell for cell in every if cell.in_flight <= MOST_IN_FLIGHT]
