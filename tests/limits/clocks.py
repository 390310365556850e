"""A clock that stands until it is set, and the simplest counting there is, to hold the clever one against."""

from amux_asgi.admission import SECOND, Hit, Rule


class Clock:
    """A monotonic clock, in seconds, that moves by whole microseconds."""

    def __init__(self) -> None:
        self.micro = 1_000_000 * SECOND

    def __call__(self) -> float:
        return (self.micro + 0.25) / SECOND  # a quarter, so that cutting off gives the whole one

    def go(self, micro: int) -> None:
        self.micro += micro


class Reference:
    """Remembers everything that was admitted, and adds it up anew each time."""

    def __init__(self) -> None:
        self.admitted: dict[str, list[tuple[int, int]]] = {}  # by counter: when, weight

    def used(self, counter: str, rule: Rule, now: int) -> int:
        return sum(weight for at, weight in self.admitted.get(counter, ()) if now - rule.window < at <= now)

    def fits(self, hits: list[Hit], now: int) -> bool:
        return all(self.used(hit.counter, hit.rule, now) + hit.weight <= hit.rule.limit for hit in hits)

    def wait(self, hits: list[Hit], now: int) -> int:
        """Try every moment at which something ends."""
        ends = {at + hit.rule.window for hit in hits for at, _ in self.admitted.get(hit.counter, ())}
        return next(end - now for end in sorted(ends) if end > now and self.fits(hits, end))

    def take(self, hits: list[Hit], now: int) -> None:
        for hit in hits:
            recent = [one for one in self.admitted.get(hit.counter, ()) if one[0] > now - hit.rule.window]
            self.admitted[hit.counter] = [*recent, (now, hit.weight)]
