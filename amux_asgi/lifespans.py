"""Several lifespans as one, and one thing that several of them keep open."""

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, Generic, TypeVar

import anyio

App = TypeVar("App")
T = TypeVar("T")
Lifespan = Callable[[App], AbstractAsyncContextManager[Mapping[str, Any] | None]]


def combine_lifespans(*lifespans: Lifespan[App]) -> Callable[[App], AbstractAsyncContextManager[dict[str, Any]]]:
    """Make one lifespan of several: entered in order, left in reverse; what they put on the state is merged."""

    @asynccontextmanager
    async def combined(app: App) -> AsyncGenerator[dict[str, Any]]:
        state: dict[str, Any] = {}
        async with AsyncExitStack() as stack:
            for lifespan in lifespans:
                state.update(await stack.enter_async_context(lifespan(app)) or {})
            yield state

    return combined


class Shared(Generic[T]):
    """What is open on one event loop, and how many use it: the first opens it, the last closes it."""

    def __init__(self, make: Callable[[], AbstractAsyncContextManager[T]]) -> None:
        self._make = make
        self._users = 0
        self._changing = anyio.Lock()
        self._open: AbstractAsyncContextManager[T] | None = None
        self.value: T | None = None

    async def enter(self) -> T:
        """Give it, opened."""
        if self._users and self.value is not None:
            self._users += 1
            return self.value
        async with self._changing:
            if self._open is None or self.value is None:
                opening = self._make()
                self.value = await opening.__aenter__()
                self._open = opening
            self._users += 1  # before anybody else runs, so that nobody closes it in between
            return self.value

    async def leave(self) -> None:
        """Use it no more."""
        self._users -= 1
        if self._users:
            return
        with anyio.CancelScope(shield=True):
            async with self._changing:
                if not self._users and self._open is not None:
                    closing, self._open, self.value = self._open, None, None
                    await closing.__aexit__(None, None, None)
