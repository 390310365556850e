"""One thread that looks API keys up: those that are asked for at the same time in one statement, on its own connection.

Every statement also reads the revision, which each change of keys counts up in its own transaction. What was read at
one revision holds until another one is seen. The thread looks at least twice a second, whatever the writer waits for.
"""

import hmac
import logging
import queue
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from typing import Any, Final, cast

import anyio
import msgspec
import sqlalchemy as sa
from anyio.lowlevel import current_token
from msgspec import Struct
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from amux_asgi.errors import GatewayError, InternalError
from amux_asgi.keys import Principal
from amux_asgi.networks import origin_of
from amux_asgi.stores.sql.engine import file_of
from amux_asgi.stores.sql.operation import away
from amux_asgi.stores.sql.schema import KEYS, NUMBERS
from amux_asgi.throttle import Throttle

TICK: Final = 0.5  # seconds between two looks
BATCH: Final = 500  # keys in one statement
WAITING: Final = 2048  # who may wait for a look; more are refused at once
REMEMBERED: Final = 100_000  # keys whose rows are kept

logger: logging.Logger = logging.getLogger("amux_asgi")


class Found(Struct, frozen=True):
    """A key as it was at a revision. `expires` is in milliseconds of Unix time."""

    digest: bytes
    principal: Principal
    disabled: bool
    expires: int | None
    revision: int

    def belongs_to(self, digest: bytes) -> bool:
        """Tell, in a time that says nothing, whether it is the key with this digest."""
        return hmac.compare_digest(self.digest, digest)


class Look(Struct, frozen=True):
    """What the last look saw: the revision, and when it began, in seconds of the clock."""

    revision: int
    at: float


class Ask:
    """Somebody who waits to hear whose key this is; made where the waiting is done."""

    __slots__ = ("at", "client", "digest", "error", "event", "found", "id", "soon")

    def __init__(self, id: str, digest: bytes, peer: str | None) -> None:  # noqa: A002, its name in the table
        self.id: str = id
        self.digest: bytes = digest
        self.client: str = origin_of(peer)
        self.found: Found | None = None  # also when there is one, but it is another key
        self.error: GatewayError | None = None
        self.at: float = 0.0  # when the look began
        self.event: anyio.Event = anyio.Event()
        native = cast("Any", current_token().native_token)
        self.soon: Callable[..., object] = getattr(native, "call_soon_threadsafe", None) or native.run_sync_soon


class LookUps:
    """The thread, its connection, and the keys that were shown in full; `proven` is written by the thread alone."""

    def __init__(self, engine: sa.Engine, *, clock: Callable[[], float]) -> None:
        """`engine` is for this alone; `clock` is monotonic, in seconds."""
        self.latest: Look = _NEVER
        self.proven: dict[str, Found] = {}
        self.throttle: Throttle = Throttle(clock)
        self._clock = clock
        self._engine = engine
        self._file = file_of(engine.url)
        self._opened: tuple[int, int] | None = None
        self._connection: sa.Connection | None = None
        self._away = False
        self._stopping = False
        self._queue: queue.SimpleQueue[Ask | None] = queue.SimpleQueue()
        self._backlog: list[Ask] = []
        self._thread = threading.Thread(target=self._loop, name="amux-keys", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """End; waits for the thread."""
        self._stopping = True
        self._queue.put(None)
        self._thread.join()

    def close(self) -> None:
        """Close the connection, and let nobody in any more; the thread's last act."""
        self._stopping = True
        self.latest = _NEVER
        self._accept(0)
        self._refuse(self._backlog)
        self._drop()
        self._engine.dispose()

    async def find(self, ask: Ask) -> Found | None:
        """Wait for a key to be looked up, without an end of its own; `None` if this is none.

        Raises:
            RateLimitError: this client was wrong too often.
            StorageUnavailableError: it cannot be looked up at present.
        """
        refusal = None if ask.id in self.proven else self.throttle.refusal(ask.client)
        if refusal is not None:
            raise refusal
        if self._away or self._stopping or self._queue.qsize() + len(self._backlog) >= WAITING:
            raise _away()
        self._queue.put(ask)
        await ask.event.wait()
        if ask.error is not None:
            raise ask.error
        return ask.found

    def turn(self, wait: float) -> None:
        """Look once, for all who ask by then; waits as many seconds for somebody to ask. The whole of what is done."""
        self._accept(wait)
        asks = self._choose()
        at = self._clock()
        try:
            look, rows = self._read({ask.id for ask in asks}, at)
        except Exception as exc:  # noqa: BLE001, whatever it is, the thread must live
            self._give_up(exc)
            self._refuse([*asks, *self._backlog])
            self._backlog = []
        else:
            self.latest, self._away = look, False
            for ask in asks:
                self._decide(ask, rows.get(ask.id), at)
            _wake(asks)

    def _loop(self) -> None:
        while not self._stopping:
            self.turn(0 if self._backlog else TICK)
        self.close()

    def _accept(self, wait: float) -> None:
        try:
            self._backlog += filter(None, [self._queue.get(timeout=wait)])
            while True:
                self._backlog += filter(None, [self._queue.get_nowait()])
        except queue.Empty:
            pass

    def _choose(self) -> list[Ask]:
        """Take those who may be looked up now, and refuse those who may not.

        Of one client, no more that may fail than it has failures left: the others wait to see how those end.
        """
        chosen: list[Ask] = []
        refused: list[Ask] = []
        kept: list[Ask] = []
        trying: Counter[str] = Counter()
        for ask in self._backlog:
            known = ask.id in self.proven
            ask.error = None if known else self.throttle.refusal(ask.client)
            if ask.error is not None:
                refused.append(ask)
            elif len(chosen) < BATCH and (known or trying[ask.client] < self.throttle.left(ask.client)):
                trying[ask.client] += not known
                chosen.append(ask)
            else:
                kept.append(ask)
        self._backlog = kept
        _wake(refused)
        return chosen

    def _decide(self, ask: Ask, row: sa.Row[Any] | None, at: float) -> None:
        ask.at = at
        try:
            found = None if row is None else _found(row, self.latest.revision)
        except Exception:  # whatever it is, the thread must live
            logger.exception("what the database says about the API key with the id %s cannot be read", ask.id)
            ask.error = InternalError("the gateway could not read what it knows of this API key")
            return
        proof = found is not None and found.belongs_to(ask.digest)
        if found is not None and (proof or ask.id in self.proven):
            self.proven[ask.id] = found
            if len(self.proven) > REMEMBERED:
                del self.proven[next(iter(self.proven))]
        elif found is None:
            self.proven.pop(ask.id, None)
        if proof:
            ask.found = found
        elif ask.id not in self.proven:
            self.throttle.failed(ask.client)

    def _read(self, ids: Collection[str], at: float) -> tuple[Look, Mapping[str, sa.Row[Any]]]:
        """Read the revision and these rows in one statement, so that they fit together."""
        kept = self._connection
        try:
            rows = self._select(ids)
        except DBAPIError as exc:
            self._drop()
            if kept is None or not exc.connection_invalidated:
                raise
            rows = self._select(ids)  # an old connection may have been cut without a word
        return Look(rows[0].revision, at), {row.id: row for row in rows if row.id is not None}

    def _select(self, ids: Collection[str]) -> list[sa.Row[Any]]:
        self._connect()
        connection = cast("sa.Connection", self._connection)
        with connection.begin():
            return list(connection.execute(_LOOK, {"ids": list(ids)}).all())

    def _connect(self) -> None:
        """Open a connection if there is none; one to a file that is gone or was replaced is none."""
        if self._file is not None:
            told = self._file.stat()  # raised here, because connecting would make an empty file
            if (told.st_dev, told.st_ino) != self._opened:
                self._drop()
                self._opened = (told.st_dev, told.st_ino)
        if self._connection is None:
            self._connection = self._engine.connect().execution_options(reads=True)

    def _drop(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            with suppress(SQLAlchemyError):  # it may be broken
                connection.invalidate()
                connection.close()

    def _give_up(self, exc: Exception) -> None:
        if not self._away:
            logger.warning("API keys cannot be looked up: %s", (str(exc).splitlines() or [type(exc).__name__])[0])
        self._away = True
        self._drop()

    def _refuse(self, asks: Iterable[Ask]) -> None:
        asks = list(asks)
        for ask in asks:
            ask.error = _away()
        _wake(asks)


def _away() -> GatewayError:
    return away("API keys cannot be looked up at present")


def _found(row: sa.Row[Any], revision: int) -> Found:
    principal = Principal(
        account=row.account,
        key=row.name,
        models=_list(row.models),
        passthrough=_list(row.passthrough) or (),
        budget=row.budget,
        networks=_list(row.networks),
    )
    return Found(bytes(row.digest), principal, row.disabled, row.expires, revision)


def _list(written: str | None) -> tuple[str, ...] | None:
    return None if written is None else _DECODER.decode(written)


def _wake(asks: Iterable[Ask]) -> None:
    """Tell all who wait, each event loop at once."""
    events: dict[Callable[..., object], list[anyio.Event]] = {}
    for ask in asks:
        events.setdefault(ask.soon, []).append(ask.event)
    for soon, its in events.items():
        try:
            soon(_set_all, its)
        except RuntimeError:  # the loop is closed, and nobody waits there any more
            logger.debug("an event loop closed while an API key of its own was looked up")


def _set_all(events: Iterable[anyio.Event]) -> None:
    for event in events:
        event.set()


_NEVER: Final = Look(-1, float("-inf"))
_DECODER: Final = msgspec.json.Decoder(tuple[str, ...])
_LOOK: Final[sa.Select[Any]] = (
    sa.select(NUMBERS.c.value.label("revision"), *KEYS.c)
    .select_from(NUMBERS.outerjoin(KEYS, KEYS.c.id.in_(sa.bindparam("ids", expanding=True))))
    .where(NUMBERS.c.name == "revision")
)
