"""DecodeBudget: how many bytes of images may be decoded at the same time, over all threads."""

import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress

BUDGET_BYTES = 640 * 1024 * 1024
"""One image of the default `max_image_pixels`, or fifty of a megapixel."""
_LARGE_BYTES = 64 * 1024 * 1024
"""Freed memory of so many bytes is given back to the system."""


class DecodeBudget:
    """Makes whoever decodes wait until there is room, in the order they came.

    Args:
        most_bytes: Over all threads. An image that needs more is decoded alone.
    """

    def __init__(self, most_bytes: int = BUDGET_BYTES) -> None:
        self._most_bytes = most_bytes
        self._changed = threading.Condition()
        self._waiting: deque[object] = deque()
        self._taken_bytes = 0

    @contextmanager
    def taken(self, size_bytes: int) -> Iterator[None]:
        """Wait for room for `size_bytes`, and hold it for the block. Not to be nested."""
        size_bytes = min(size_bytes, self._most_bytes)
        turn = object()
        with self._changed:
            self._waiting.append(turn)
            self._changed.wait_for(
                lambda: (
                    self._waiting[0] is turn and self._taken_bytes + size_bytes <= self._most_bytes
                )
            )
            self._waiting.popleft()
            self._taken_bytes += size_bytes
            self._changed.notify_all()
        try:
            yield
        finally:
            if size_bytes >= _LARGE_BYTES:
                give_back_memory()
            with self._changed:
                self._taken_bytes -= size_bytes
                self._changed.notify_all()


def give_back_memory() -> None:
    """Return freed memory to the system where the C library keeps it: glibc, on Linux.

    It keeps what threads free for their next use: 5 GB after 18 images of 50 megapixels, by six
    threads (glibc 2.36). Source: man7.org, malloc_trim(3).
    """
    if sys.platform == "linux":
        import ctypes  # noqa: PLC0415 - only where there is something to give back

        with suppress(OSError, AttributeError):  # another C library, such as musl
            ctypes.CDLL(None).malloc_trim(0)
