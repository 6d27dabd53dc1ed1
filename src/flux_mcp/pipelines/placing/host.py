"""Main memory that a card reads by itself: page-locked, in the exact size.

torch's own pinned memory is rounded up to a power of two for each tensor (CachingHostAllocator),
up to twice what is needed; this locks ordinary memory in place instead, through torch's binding of
the CUDA runtime. Where it cannot be locked, copies work all the same, more slowly.
"""

import logging
import weakref
from contextlib import suppress
from typing import Any

logger = logging.getLogger(__name__)

_READ_BY_EVERY_CONTEXT = 1
"""cudaHostRegisterPortable (CUDA runtime API, memory management)."""


_PAGE_BYTES = 4096
"""Memory is locked in whole pages, and a page only once: no two blocks may share one."""


class HostBlock:
    """Some bytes of main memory.

    Args:
        nbytes: How many.
        locked: Whether a CUDA card is to read them by itself.
    """

    def __init__(self, nbytes: int, *, locked: bool) -> None:
        import torch

        whole = -(-nbytes // _PAGE_BYTES) * _PAGE_BYTES
        memory = torch.empty(whole + _PAGE_BYTES, dtype=torch.uint8)
        start = -memory.data_ptr() % _PAGE_BYTES
        pages = memory[start : start + whole]
        self.bytes: Any = pages[:nbytes]
        self.is_locked = locked and nbytes > 0 and _lock(pages)
        if self.is_locked:
            # With the memory itself: it must not be given back while it is locked.
            weakref.finalize(self, _unlock, pages).atexit = False


def _lock(pages: Any) -> bool:
    runtime = _runtime()
    pointer, nbytes = pages.data_ptr(), pages.numel()
    code = int(runtime.cudaHostRegister(pointer, nbytes, _READ_BY_EVERY_CONTEXT))
    if code != 0:
        logger.warning(
            "main memory cannot be page-locked (CUDA error %d): copies to the card are slower", code
        )
        _forget_error()
    return code == 0


def _unlock(pages: Any) -> None:
    import torch

    # A copy out of it may still be under way.
    torch.cuda.synchronize()
    _runtime().cudaHostUnregister(pages.data_ptr())


def _forget_error() -> None:
    """Take the error that CUDA remembers: else the next kernel would be blamed for it."""
    import torch

    with suppress(torch.AcceleratorError):
        torch.zeros(1, device="cuda").add_(1)


def _runtime() -> Any:
    import torch

    return torch.cuda.cudart()  # type: ignore[no-untyped-call]  # torch 2.13 has no types for it
