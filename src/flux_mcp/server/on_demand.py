"""OnDemand: a value that is made when it is first needed, not when the server starts."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextvars import Context
from typing import Generic, TypeVar

logger = logging.getLogger(__name__)

T = TypeVar("T")


class OnDemand(Generic[T]):
    """Made once, in a task of its own; everybody who asks meanwhile waits for that task.

    Args:
        make: Makes the value. Where it raises, everybody who waits gets the error, and the next
            `get` tries again.
    """

    def __init__(self, make: Callable[[], Awaitable[T]]) -> None:
        self._make = make
        self._made: asyncio.Task[T] | None = None

    @classmethod
    def ready(cls, value: T) -> "OnDemand[T]":
        """Return one whose value exists already."""

        async def made() -> T:
            return value

        return cls(made)

    def begin(self) -> "asyncio.Task[T]":
        """Begin to make the value, unless that has begun; return the task that makes it."""
        if self._made is None or _has_failed(self._made):
            # In a context of its own: it is made for all callers, not for the first one.
            self._made = asyncio.create_task(
                self._logged(), name="flux-mcp-on-demand", context=Context()
            )
            self._made.add_done_callback(_has_failed)  # an error that nobody waits for is logged
        return self._made

    async def get(self) -> T:
        """Return the value, made first if need be. A caller that goes away does not stop that."""
        return await asyncio.shield(self.begin())

    async def if_begun(self) -> T | None:
        """Return the value once it is made; `None` if nobody needed it, or it could not be made."""
        if self._made is None:
            return None
        await asyncio.wait({self._made})
        return None if _has_failed(self._made) else self._made.result()

    async def _logged(self) -> T:
        try:
            return await self._make()
        except Exception:
            logger.exception("what answers the calls could not be loaded")
            raise


def _has_failed(task: "asyncio.Task[T]") -> bool:
    return task.done() and (task.cancelled() or task.exception() is not None)
