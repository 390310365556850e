"""Claims in memory and in each database, and requests that meet there."""

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

from amux_asgi.claims import Claims, Work
from amux_asgi.idempotency import DAY, Ask, Facts, MemoryAnswers, asked
from amux_asgi.keys import Principal
from amux_asgi.quota import Answer
from amux_asgi.stores.sql import open_store

ALICE = Principal(account="alice", key="laptop")
BOB = Principal(account="bob", key="laptop")
LATE = float("inf")


@asynccontextmanager
async def opened(store: str, *, now: Callable[[], int] = lambda: 1) -> AsyncGenerator[Claims]:
    """Give the claims of one process: of a database by its URL, or "memory"."""
    if store == "memory":
        yield Claims(MemoryAnswers(now=now), clock=time.monotonic, now=now)
        return
    async with open_store(store, clock=time.monotonic, now=now) as stores:
        yield stores.claims


def keyed(key: str = "order-1", *, principal: Principal = ALICE, body: bytes = b"{}") -> Ask:
    """Ask with an idempotency key."""
    ask = asked(principal, "/", body, [(b"idempotency-key", key.encode())])
    assert ask is not None
    return ask


def stock(count: int, *, principal: Principal = ALICE, body: bytes = b"{}") -> Ask:
    """Ask as a stock SDK does, for the `count`th time after the first."""
    ask = asked(principal, "/", body, [(b"x-stainless-retry-count", str(count).encode())])
    assert ask is not None
    return ask


async def work(claims: Claims, ask: Ask | None, *, deadline: float = LATE) -> Work:
    """Begin what is nobody else's."""
    begun = await claims.begin(ask, deadline=deadline)
    assert isinstance(begun, Work)
    return begun


async def replay(claims: Claims, ask: Ask, *, deadline: float = LATE) -> Answer:
    """Get the answer of a twin."""
    answer = await claims.begin(ask, deadline=deadline)
    assert isinstance(answer, Answer)
    return answer


def answer_of(work: Work, body: bytes, *, life: int = DAY) -> Answer:
    """Make a success with this body."""
    return work.answer(body, facts=Facts(), life=life)
