"""Blocks of a transformer that come to the GPU one after another while it works.

Two pieces of GPU memory take turns: one has the weights of the block that works, the next block's
are copied to the other. On CUDA the copies run on a stream of their own.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from flux_mcp.pipelines.memory.units import Unit

IN_FLIGHT = 2
"""Blocks on the GPU at once; models/memory.py counts with as many (`STREAMED_BLOCKS`)."""


class Ring:
    """Copies units to the GPU in turn, each for as long as its module works.

    Args:
        blocks: In the order in which they work, more than `IN_FLIGHT`: the modules that share some
            weights, of which one works at a time, and those weights.
        device: The GPU.
    """

    def __init__(self, blocks: Sequence[tuple[Sequence[Any], Unit]], device: str) -> None:
        self._units = [unit for _, unit in blocks]
        self.nbytes = IN_FLIGHT * max(unit.nbytes for unit in self._units)
        """What it takes of the GPU's memory."""
        self._streams = _Streams(device)
        size = self.nbytes // IN_FLIGHT
        self._memory = [self._units[0].new_block(size) for _ in range(IN_FLIGHT)]
        self._fetched: dict[int, int] = {}
        """By block, the piece of memory it is in or is being copied to."""
        self._hooks = []
        for number, (modules, _) in enumerate(blocks):
            for module in modules:
                self._hooks.append(module.register_forward_pre_hook(self._before(number)))
                self._hooks.append(module.register_forward_hook(self._after(number)))

    def close(self) -> None:
        """Remove the hooks; the model then has its weights in host memory."""
        for hook in self._hooks:
            hook.remove()
        for unit in self._units:
            unit.to_host()
        # Copies that have not ended go to this memory.
        self._streams.finish()
        self._memory.clear()

    def _before(self, number: int) -> Any:
        def bring(_module: Any, _inputs: Any) -> None:
            if number not in self._fetched:
                # The first step, or the one after a step that was stopped.
                self._fetched.clear()
                for piece in range(IN_FLIGHT):
                    self._fetch((number + piece) % len(self._units), piece)
            piece = self._fetched[number]
            self._streams.wait_for_copy(piece)
            self._units[number].work_from(self._memory[piece])

        return bring

    def _after(self, number: int) -> Any:
        def leave(_module: Any, _inputs: Any, _output: Any) -> None:
            self._units[number].to_host()
            piece = self._fetched.pop(number)
            self._fetch((number + IN_FLIGHT) % len(self._units), piece)

        return leave

    def _fetch(self, number: int, piece: int) -> None:
        with self._streams.copying(piece):
            self._units[number].copy_to(self._memory[piece])
        self._fetched[number] = piece


class _Streams:
    """Keeps copies beside the work, and in order with it; does nothing without CUDA streams."""

    def __init__(self, device: str) -> None:
        import torch

        self._cuda = torch.cuda if device.startswith("cuda") else None
        self._device = device
        self._side = None if self._cuda is None else self._cuda.Stream(device)
        self._copied: dict[int, Any] = {}

    def copying(self, piece: int) -> Any:
        """Return a context that copies beside the work, once this piece of memory is free."""
        if self._cuda is None or self._side is None:
            return nullcontext()
        return _Copying(self._cuda, self._device, self._side, self._copied, piece)

    def wait_for_copy(self, piece: int) -> None:
        """Make the work that follows wait until the piece is filled."""
        if self._cuda is not None:
            self._cuda.current_stream(self._device).wait_event(self._copied[piece])

    def finish(self) -> None:
        """Make the work that follows wait for every copy."""
        if self._cuda is not None:
            self._cuda.current_stream(self._device).wait_stream(self._side)


class _Copying:
    """A copy on the side stream: after the work so far, and before an event that marks its end."""

    def __init__(
        self, cuda: Any, device: str, side: Any, copied: dict[int, Any], piece: int
    ) -> None:
        self._cuda = cuda
        self._side = side
        self._work = cuda.current_stream(device)
        self._copied = copied
        self._piece = piece
        self._context = cuda.stream(side)

    def __enter__(self) -> None:
        self._side.wait_stream(self._work)
        self._context.__enter__()

    def __exit__(self, *raised: object) -> None:
        self._context.__exit__(*raised)
        event = self._cuda.Event()
        event.record(self._side)
        self._copied[self._piece] = event
