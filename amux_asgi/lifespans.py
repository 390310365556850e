"""Several lifespans as one."""

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, TypeVar

App = TypeVar("App")
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
