"""A slow, plain model of which ways to upstreams are open, to hold the real one against: it scans everything."""

from collections.abc import Sequence
from typing import Final

FOREVER: Final = float("inf")


class Way:
    """One way to an upstream, as its history tells."""

    def __init__(self) -> None:
        self.row = 0  # failures in a row
        self.why = ""  # it rests
        self.ejected = False
        self.since = -FOREVER
        self.until = -FOREVER
        self.last = -FOREVER  # then it is asked when nobody else is left
        self.rests = 0
        self.good = -FOREVER


class Fleet:
    """All of them. Waits are those of a `random` that always gives 0."""

    def __init__(self, groups: Sequence[Sequence[tuple[str, str, str]]]) -> None:
        self.groups = groups
        self.ways = {seat: Way() for group in groups for seat in group}

    def is_open(self, seat: tuple[str, str, str], now: float) -> bool:
        return not self.ways[seat].why or self.ways[seat].until <= now

    def enter(self, seat: tuple[str, str, str], now: float, *, last: bool) -> bool:
        way = self.ways[seat]
        if not self.is_open(seat, now):
            if not last or way.last > now:
                return False
            if way.last > way.since:
                way.last = min(now + 5, way.until)
        elif way.why == "rate":
            way.why = ""
        elif way.why:
            way.until = way.last = now + 5
        return True

    def answered(self, seat: tuple[str, str, str], begun: float) -> None:
        way = self.ways[seat]
        if begun >= way.since:
            way.row, way.why, way.ejected, way.rests, way.last = 0, "", False, 0, -FOREVER

    def delivered(self, seat: tuple[str, str, str], begun: float, now: float) -> None:
        way = self.ways[seat]
        way.good = now
        self.answered(seat, begun)

    def failed(self, seat: tuple[str, str, str], begun: float, now: float) -> None:
        way = self.ways[seat]
        if begun < way.since:
            return
        way.row += 1
        if not way.why and way.row < 5:
            return
        ejected = all(self._spare(seat, group) for group in self.groups if seat in group)
        if way.why or ejected or now - way.good >= 1:
            wait = min(30 * 2**way.rests, 300) if ejected else min(2**way.rests, 8)
            self._rest(seat, "failing", now, wait, ejected=ejected, least=wait)

    def refused(self, seat: tuple[str, str, str], why: str, told: float | None, *, begun: float, now: float) -> None:
        """Bench it: by `rate` alone, by `auth` with all models of its credential, by `model` with all credentials."""
        same = {"rate": (0, 1, 2), "auth": (0, 1), "model": (0, 2)}[why]
        for other, way in self.ways.items():
            if all(other[i] == seat[i] for i in same):
                first, most = (1, 60) if why == "rate" else (60, 900)
                wait = min(first * 2**way.rests, most) if told is None else max(1, min(told, 3600))
                soft = 1 if why == "rate" else 4
                least = wait if told is not None else min(2 ** (way.rests - soft), 30, wait) * (way.rests >= soft)
                if begun >= way.since:
                    self._rest(other, why, now, wait, ejected=False, least=least)
                elif told is not None and way.why == "rate" and now + wait > way.until:
                    way.until = way.last = now + wait

    def _spare(self, seat: tuple[str, str, str], group: Sequence[tuple[str, str, str]]) -> bool:
        others = [self.ways[other] for other in group if other != seat]
        return sum(way.ejected for way in others) + 1 <= len(group) / 2 and any(not way.why for way in others)

    def _rest(  # noqa: PLR0913, all that a rest has
        self, seat: tuple[str, str, str], why: str, now: float, wait: float, *, ejected: bool, least: float
    ) -> None:
        way = self.ways[seat]
        way.last = now + least
        fresh = not way.why
        way.why, way.ejected, way.since, way.until, way.rests = why, ejected, now, now + wait, way.rests + 1
        for group in self.groups if fresh else ():
            if seat in group and all(self.ways[other].why for other in group):
                for other in group:
                    if self.ways[other].ejected:
                        self.ways[other].ejected = False
                        self.ways[other].until = min(self.ways[other].until, now)
                        self.ways[other].last = min(self.ways[other].last, now)
