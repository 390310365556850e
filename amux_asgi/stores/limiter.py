"""What counts, on the extension points of `limits`: a storage in memory, and scripts on its storage in Redis.

The library's own cannot do what is promised here: its sliding counter lets nearly twice the limit through, its memory
looks at every key on each hit, and its rules are taken one by one, by the wall clock of whoever asks.
"""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib.resources import files
from typing import Any, Final, Protocol

from limits.aio.storage import (  # noqa: TID251, the one that does
    MovingWindowSupport,
    RedisClusterStorage,
    RedisStorage,
    Storage,
)
from msgspec import Struct

from amux_asgi.admission import SECOND, Hit, Standing
from amux_asgi.windows import Counters

ANSWERS: Final = 3  # numbers for each rule
MANY: Final = 1000  # leases told at once, so that the server is never held up


class LocalStorage(Counters, Storage, MovingWindowSupport):
    """Counts in this process; also for the strategies of `limits`, as `async+amux+memory://`.

    Never waits, costs the same for any number of keys, and forgets those that are idle. `clock` is monotonic, in
    seconds; so are the times that the strategies see.
    """

    STORAGE_SCHEME: list[str] | None = ["async+amux+memory"]  # noqa: RUF012, as the base class wants it

    def __init__(
        self,
        uri: str | None = None,
        wrap_exceptions: bool = False,  # noqa: FBT001, FBT002, the base class' signature
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        Storage.__init__(self, uri, wrap_exceptions)
        Counters.__init__(self, clock)

    @property
    def base_exceptions(self) -> type[Exception]:
        """Name what may go wrong; nothing does."""
        return ValueError

    async def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Take an amount within the last `expiry` seconds, if it fits."""
        now = self.now()
        if self.window(key, expiry * SECOND, now).used + amount > limit:
            return False
        self.count(key, expiry * SECOND, amount, now)
        return True

    async def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:  # noqa: ARG002, its signature
        """Give when the oldest of what counts was taken, and how much counts."""
        now = self.now()
        window = self.window(key, expiry * SECOND, now)
        oldest = window.entries[0][0] - expiry * SECOND if window.entries else now
        return oldest / SECOND, window.used

    async def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        """Take an amount in any case, and give how much counts."""
        now = self.now()
        self.count(key, expiry * SECOND, amount, now)
        return self.window(key, expiry * SECOND, now).used

    async def get(self, key: str) -> int:
        """Give how much counts, in the window where most does."""
        now = self.now()
        return max((window.used for window in self.windows(key, now)), default=0)

    async def get_expiry(self, key: str) -> float:
        """Give when all of it has ended."""
        now = self.now()
        return max((window.entries[-1][0] for window in self.windows(key, now)), default=now) / SECOND

    async def check(self) -> bool:
        """Tell whether it works."""
        return True

    async def reset(self) -> int:
        """Forget everything."""
        return self.forget_all()

    async def clear(self, key: str) -> None:
        """Forget a key."""
        self.forget(key)


class Script(Protocol):
    """A script that the server knows, or is told when it does not."""

    def __call__(self, keys: Sequence[str], args: Sequence[str | int]) -> Awaitable[Any]:
        """Run it."""
        ...


class Question(Struct, frozen=True):
    """May a request pass? `gone` are leases by counter that are given back first."""

    hits: Sequence[Hit]
    lease: str = ""
    gone: Mapping[str, Sequence[str]] = {}


class Central(Protocol):
    """Counts for all nodes together."""

    async def take(self, questions: Sequence[Question], life: int) -> list[tuple[Standing, ...]]:
        """Take for one request after the other all of it if it fits, nothing otherwise; `life` is a lease's, in µs.

        Raises:
            Exception: the server cannot be asked, or answers nonsense.
        """
        ...

    async def tell(self, leases: Mapping[str, Sequence[str]], life: int) -> None:
        """Renew leases by counter, or give them back: those with a life of zero."""
        ...

    async def close(self) -> None:
        """Close all connections."""
        ...


class _Scripts:
    """The scripts on a server. All keys lie in one slot of a cluster.

    So a key's, an account's, a model's and the gateway's limits are taken in one step. With a slot for each of them, a
    request would take some, be refused by others, and give back: refused wrongly meanwhile are those that come between
    the two, and every request goes twice. One node of a cluster admits far more than any gateway can ask for; what the
    cluster is good for here is that another node takes over.
    """

    _connection: Any

    def _prepare(self, connection: Any) -> None:  # noqa: ANN401, a client of redis, whichever it is
        self._connection = connection
        self._admit: Script = connection.register_script(text_of("admit"))
        self._leases: Script = connection.register_script(text_of("leases"))

    async def take(self, questions: Sequence[Question], life: int) -> list[tuple[Standing, ...]]:
        """Take for one request after the other all of it if it fits, nothing otherwise."""
        keys = [_key(hit.counter) for question in questions for hit in question.hits]
        answer = await self._admit(keys, [life, *(arg for question in questions for arg in _args(question))])
        if len(answer) != ANSWERS * len(keys) or not all(isinstance(number, int) for number in answer):
            raise ValueError("the limits' store gave an answer that is none")
        numbers = iter(answer)
        return [
            tuple(
                Standing(hit=hit, wait=next(numbers), left=next(numbers), reset=next(numbers)) for hit in question.hits
            )
            for question in questions
        ]

    async def tell(self, leases: Mapping[str, Sequence[str]], life: int) -> None:
        """Renew leases, or give them back."""
        for counter, names in leases.items():
            for at in range(0, len(names), MANY):
                some = names[at : at + MANY]
                await self._leases([_key(counter)], [life, len(some), *some])

    async def close(self) -> None:
        """Close all connections."""
        await self._connection.aclose()


class RedisCounters(_Scripts, RedisStorage):
    """Counts in one Redis or Valkey server."""

    def __init__(self, uri: str, **options: Any) -> None:  # noqa: ANN401, redis' own
        RedisStorage.__init__(self, f"async+{uri}", implementation="redispy", **options)
        self._prepare(self.bridge.get_connection())  # pyright: ignore[reportUnknownMemberType, reportAttributeAccessIssue]


class ClusterCounters(_Scripts, RedisClusterStorage):
    """Counts in a cluster of them."""

    def __init__(self, uri: str, **options: Any) -> None:  # noqa: ANN401, redis' own
        RedisClusterStorage.__init__(self, f"async+{uri}", implementation="redispy", **options)
        self._prepare(self.bridge.get_connection())  # pyright: ignore[reportUnknownMemberType, reportAttributeAccessIssue]


def _args(question: Question) -> list[str | int]:
    args: list[str | int] = [question.lease, len(question.hits)]
    for hit in question.hits:
        gone = question.gone.get(hit.counter, ())[:MANY]
        args += (hit.rule.limit, hit.weight, hit.rule.window, len(gone), *gone)
    return args


def _key(counter: str) -> str:
    return f"amux:{{limits}}:{counter}"


def text_of(name: str) -> str:
    """Give a script's text."""
    return files("amux_asgi.stores").joinpath(f"{name}.lua").read_text(encoding="utf-8")
