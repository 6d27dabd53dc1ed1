"""Ctrl-C, SIGTERM and a closed terminal: each stops a command in order, and is answered at once.

Ctrl-C cancels the command's work, a second one ends it at once: asyncio's own handler. The other
signals are turned into it and leave their own exit codes, 128 plus the signal, as shells count.
"""

import signal
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

EXIT_INTERRUPTED = 128 + signal.SIGINT
_LIKE_CONTROL_C = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)
)


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Have SIGTERM and SIGHUP do as Ctrl-C does for as long as the block lasts.

    A signal that is ignored stays so: `nohup` sees to that.

    Raises:
        SystemExit: the block left with the code of Ctrl-C after another signal; with its code.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []

    def interrupt(number: int, _: FrameType | None) -> None:
        came.append(number)
        signal.raise_signal(signal.SIGINT)

    taken = [one for one in _LIKE_CONTROL_C if signal.getsignal(one) == signal.SIG_DFL]
    for number in taken:
        signal.signal(number, interrupt)
    try:
        yield
    except SystemExit as left:
        if came and left.code == EXIT_INTERRUPTED:
            raise SystemExit(128 + came[0]) from left
        raise
    finally:
        for number in taken:
            if signal.getsignal(number) is interrupt:
                signal.signal(number, signal.SIG_DFL)


async def interruptible(work: Coroutine[Any, Any, None], at_once: Callable[[], None]) -> None:
    """Do a command's work; call `at_once` as soon as it is interrupted, before it has stopped.

    Args:
        work: Cancelled by the first Ctrl-C.
        at_once: Says that it stops, and what becomes of what it was doing.
    """
    before = signal.getsignal(signal.SIGINT)
    if not callable(before):  # it is ignored, or this is not the main thread
        await work
        return
    import asyncio  # noqa: PLC0415 - where this runs it is there already, and help needs none

    loop = asyncio.get_running_loop()

    def stop(number: int, frame: FrameType | None) -> None:
        # Not here: what is interrupted may be in the middle of writing to the same stream.
        loop.call_soon_threadsafe(at_once)
        before(number, frame)

    try:
        signal.signal(signal.SIGINT, stop)
    except ValueError:  # not the main thread
        await work
        return
    try:
        await work
    finally:
        signal.signal(signal.SIGINT, before)
