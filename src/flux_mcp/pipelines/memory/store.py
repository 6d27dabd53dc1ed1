"""Every loaded part, by what its files hold: where its weights are, and what moves them.

Owns the parts, their order of use and the count of copied bytes. While something draws, each model
calls for its weights before it works; what else may stay on the GPU beside it is the placement's
to say. Without a GPU (CPU, MPS) parts are kept and nothing is moved.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from flux_mcp.models.parts import Placement, load_parts
from flux_mcp.pipelines.device import GIB, Device, free_memory_gib, tensors_of
from flux_mcp.pipelines.memory.parts import Part
from flux_mcp.pipelines.memory.units import CopiedBytes


@dataclass(frozen=True)
class DeviceMemory:
    """A GPU.

    Args:
        device: It, as torch names it.
        total_bytes: What weights may take of it at most; `None`: what the driver says is free.
    """

    device: Device
    total_bytes: int | None = None

    def free_bytes(self, held_bytes: int) -> int:
        """Return what more weights may take.

        Args:
            held_bytes: What weights take now.
        """
        if self.total_bytes is not None:
            return self.total_bytes - held_bytes
        return int((free_memory_gib(self.device) or 0.0) * GIB)


def device_memory_of(device: Device) -> DeviceMemory | None:
    """Return a device's GPU; `None` where weights have no second place (CPU, MPS)."""
    return DeviceMemory(device) if device.kind == "cuda" else None


class ArrivalHook:
    """Calls for a model's weights before it works.

    Has the methods of accelerate's `ModelHook`: diffusers calls one before `vae.decode` and
    `vae.encode` too, which are no `forward`, and asks it for `execution_device` to know where a
    pipeline works while its weights are elsewhere.
    """

    no_grad = False

    def __init__(self, device: str, call: Callable[[], None]) -> None:
        self.execution_device = device
        self._call = call

    def init_hook(self, module: Any) -> Any:
        """Return the model as it is."""
        return module

    def pre_forward(self, _module: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """Have the weights on the GPU when this returns."""
        self._call()
        return args, kwargs

    def post_forward(self, _module: Any, output: Any) -> Any:
        """Return the result as it is."""
        return output

    def detach_hook(self, module: Any) -> Any:
        """Return the model as it is."""
        return module


@dataclass(frozen=True)
class Held:
    """What the rules know of a loaded part."""

    key: str
    nbytes: int
    """Of all its weights."""
    last_used: int
    is_wanted: bool
    """Whether what draws next needs it: then it stays loaded."""
    gpu_bytes: int = 0
    """What it takes of the GPU; 0: it is not there."""
    in_host: bool = False
    """Whether its bytes lie in host memory; so do those of a part that is on the GPU, often."""


@dataclass(frozen=True)
class Move:
    """One step, in the order in which they are to be done."""

    key: str
    step: Literal["leave_gpu", "drop_copy", "forget"]
    """`drop_copy`: what host memory holds of a part that stays on the GPU."""


def free_gpu(
    held: Sequence[Held], needed_bytes: int, free_bytes: int, host_free_bytes: int
) -> tuple[Move, ...]:
    """Return what to do before so many bytes of the GPU are used; it may not be enough.

    Args:
        held: Every loaded part.
        needed_bytes: What comes, beside what is wanted and there already.
        free_bytes: Of the GPU.
        host_free_bytes: Of what host memory may be used; below 0 where what is wanted takes more.
    """
    parts = {item.key: item for item in held}
    moves: list[Move] = []
    for key in [item.key for item in _oldest_first(held) if item.gpu_bytes]:
        if needed_bytes <= free_bytes:
            break
        # As it is by now: its copy may have made room for another.
        item = parts[key]
        if item.is_wanted:
            continue
        free_bytes += item.gpu_bytes
        if not item.in_host:
            others = [part for part in parts.values() if part.key != item.key]
            room = free_host(others, item.nbytes, host_free_bytes)
            gained = sum(parts[move.key].nbytes for move in room)
            if host_free_bytes + gained < item.nbytes:
                moves.append(Move(item.key, "forget"))
                del parts[item.key]
                continue
            moves += room
            host_free_bytes += gained - item.nbytes
            for move in room:
                _apply(parts, move)
        moves.append(Move(item.key, "leave_gpu"))
        parts[item.key] = replace(item, gpu_bytes=0, in_host=True)
    return tuple(moves)


def free_host(held: Sequence[Held], needed_bytes: int, host_free_bytes: int) -> tuple[Move, ...]:
    """Return what to do before so many bytes of host memory are used; it may not be enough.

    Copies of parts that are on the GPU go first: nothing that is ready now is lost with them.
    """
    oldest = [item for item in _oldest_first(held) if item.in_host and not item.is_wanted]
    twice = [item for item in oldest if item.gpu_bytes]
    waiting = [item for item in oldest if not item.gpu_bytes]
    moves: list[Move] = []
    for item in (*twice, *waiting):
        if needed_bytes <= host_free_bytes:
            break
        moves.append(Move(item.key, "drop_copy" if item.gpu_bytes else "forget"))
        host_free_bytes += item.nbytes
    return tuple(moves)


def forget_without_gpu(
    loaded: Sequence[tuple[str, bool]], wanted: frozenset[str]
) -> tuple[str, ...]:
    """Return which transformers go where no memory can be told (CPU, MPS).

    Args:
        loaded: Key of each, and whether it is the demonstration's.
        wanted: Keys of what draws next.

    No real model stays beside another; the demonstration's do.
    """
    return tuple(key for key, is_demonstration in loaded if not (is_demonstration or key in wanted))


def _oldest_first(held: Sequence[Held]) -> list[Held]:
    return sorted(held, key=lambda item: item.last_used)


def _apply(parts: dict[str, Held], move: Move) -> None:
    if move.step == "forget":
        del parts[move.key]
    else:
        parts[move.key] = replace(parts[move.key], in_host=False)


class PartStore:
    """The parts.

    Args:
        GPU: Where they work; `None` where there is no second memory.
        host_budget_bytes: Of host memory, for weights that what draws now does not need.
        forget: Called with parts that have to go, before they do: nothing may use them afterwards.
    """

    def __init__(
        self,
        gpu: DeviceMemory | None,
        host_budget_bytes: int,
        forget: Callable[[Collection[str]], None],
    ) -> None:
        self.gpu = gpu
        self.traffic = CopiedBytes()
        self._host_budget_bytes = host_budget_bytes
        self._forget = forget
        self._models: dict[str, Any] = {}
        self._parts: dict[str, Part] = {}
        self._last_used: dict[str, int] = {}
        self._uses = 0
        self._drawing: frozenset[str] = frozenset()
        self._placement: Placement = "resident"

    def __contains__(self, key: str) -> bool:
        """Whether a part is loaded."""
        return key in self._models

    def __getitem__(self, key: str) -> Any:
        """Return a loaded part: a model, or a tokenizer."""
        return self._models[key]

    def __iter__(self) -> Iterator[str]:
        """Yield the key of every loaded part."""
        return iter(self._models)

    def __len__(self) -> int:
        """How many parts are loaded."""
        return len(self._models)

    @property
    def gpu_bytes(self) -> int:
        """Of the GPU's memory that parts take now."""
        return self.gpu_bytes_of(self._parts)

    @property
    def host_bytes(self) -> int:
        """Of host memory that weights take which wait, or are kept, for the GPU."""
        return self.host_bytes_of(self._parts)

    def gpu_bytes_of(self, keys: Collection[str]) -> int:
        """Return what some parts take of the GPU."""
        return sum(part.gpu_bytes for key, part in self._parts.items() if key in keys)

    def host_bytes_of(self, keys: Collection[str]) -> int:
        """Return what the copies of some parts take of host memory."""
        here = [part for key, part in self._parts.items() if key in keys and part.in_host]
        return sum(part.nbytes for part in here)

    def is_on_gpu(self, key: str) -> bool:
        """Whether a part's weights are on the GPU, or it has none; true without a GPU."""
        return key not in self._parts or self._parts[key].is_on_gpu

    def add(self, key: str, model: Any, *, on_gpu: bool) -> None:
        """Keep a part that was just loaded.

        Args:
            key: Names it.
            model: The model, or a tokenizer.
            on_gpu: Whether it was loaded onto the GPU.
        """
        self._models[key] = model
        self._touch([key])
        if self.gpu is None or not tensors_of(model):
            return
        part = Part(model, self.gpu.device.name, self.traffic, on_gpu=on_gpu)
        self._parts[key] = part
        self._call_before_work(key, model)
        if not on_gpu:
            self._make_host_room_for(part)
            part.make_host_copy()
        elif self._is_one_at_a_time:
            self._leave(part)

    def vary(self, key: str, make: Callable[[Any], Any]) -> Any:
        """Return a model made of a part's own tensors, which goes where the part goes.

        Args:
            key: Names the part.
            make: Given the part's model without hooks; may raise, and then all is as it was.
        """
        model, part = self._models[key], self._parts.get(key)
        if part is None:
            return make(model)
        from accelerate.hooks import remove_hook_from_module

        # Blocks that stream have hooks of their own, and are elsewhere a moment later.
        if part.is_streaming:
            part.leave()
        remove_hook_from_module(model)
        try:
            variant = make(model)
        finally:
            self._call_before_work(key, model)
        part.join(variant)
        self._call_before_work(key, variant)
        return variant

    def _call_before_work(self, key: str, model: Any) -> None:
        from accelerate.hooks import add_hook_to_module

        gpu = self.gpu
        if gpu is not None:
            add_hook_to_module(model, ArrivalHook(gpu.device.name, lambda: self._arrive(key)))

    def drop(self, keys: Iterable[str]) -> None:
        """Forget parts; their memory is free again."""
        for key in keys:
            model = self._models.pop(key, None)
            self._last_used.pop(key, None)
            part = self._parts.pop(key, None)
            if part is None:
                continue
            from accelerate.hooks import remove_hook_from_module

            remove_hook_from_module(model)
            if part.in_host:
                # Copies nothing, and waits for blocks that are on their way.
                part.leave()

    def begin(self, keys: Collection[str], placement: Placement) -> None:
        """Let a pipeline draw next.

        Args:
            keys: Its parts, the text encoders too; those that are not loaded yet follow.
            placement: Where their weights are while they do not work.
        """
        self.rest()
        self._drawing, self._placement = frozenset(keys), placement
        here = [key for key in keys if key in self._models]
        self._touch(here)
        if not self._is_one_at_a_time:
            for key in here:
                self._arrive(key)

    def rest(self) -> None:
        """Take what drew off the GPU, where it is there only to work."""
        if self._is_one_at_a_time:
            for part in self._drawing_parts():
                self._leave(part)

    def make_room(self, needed_bytes: int, keep: Collection[str]) -> bool:
        """Free memory of the GPU, and say whether there is enough now.

        Args:
            needed_bytes: What is to come.
            keep: Parts that what draws next needs: they stay as they are.
        """
        if self.gpu is None:
            return True
        free = self.gpu.free_bytes(self.gpu_bytes)
        if needed_bytes > free:
            host_free = self._host_budget_bytes - self.host_bytes
            self._do(free_gpu(self._held(keep), needed_bytes, free, host_free))
            free = self.gpu.free_bytes(self.gpu_bytes)
        return needed_bytes <= free

    def make_host_room(self, needed_bytes: int, keep: Collection[str]) -> None:
        """Free host memory for what is to come, as far as something may go."""
        host_free = self._host_budget_bytes - self.host_bytes
        self._do(free_host(self._held(keep), needed_bytes, host_free))

    @property
    def _is_one_at_a_time(self) -> bool:
        return not load_parts().placement[self._placement].at_once

    def _drawing_parts(self) -> list[Part]:
        return [part for key, part in self._parts.items() if key in self._drawing]

    def _arrive(self, key: str) -> None:
        part = self._parts.get(key)
        if part is None:
            return
        share = self._share_of(part)
        if part.is_at(share):
            return
        if self._is_one_at_a_time:
            for other in self._drawing_parts():
                if other is not part:
                    self._leave(other)
        self._make_host_room_for(part)
        self.make_room(part.gpu_bytes_at(share) - part.gpu_bytes, self._drawing | {key})
        part.enter(share)

    def _leave(self, part: Part) -> None:
        if part.is_on_gpu:
            self._make_host_room_for(part)
            part.leave()

    def _make_host_room_for(self, part: Part) -> None:
        """Make room for a copy that is not there yet: what draws is worth more than what waits."""
        if not part.in_host:
            self.make_host_room(part.nbytes, self._drawing)

    def _share_of(self, part: Part) -> float:
        row = load_parts().placement[self._placement]
        return row.share if row.streams and part.can_stream else 1.0

    def _touch(self, keys: Iterable[str]) -> None:
        self._uses += 1
        self._last_used.update(dict.fromkeys(keys, self._uses))

    def _held(self, keep: Collection[str]) -> list[Held]:
        return [
            Held(
                key=key,
                nbytes=part.nbytes,
                last_used=self._last_used[key],
                is_wanted=key in keep,
                gpu_bytes=part.gpu_bytes,
                in_host=part.in_host,
            )
            for key, part in self._parts.items()
        ]

    def _do(self, moves: Iterable[Move]) -> None:
        for move in moves:
            if move.step == "forget":
                self._forget([move.key])
            elif move.step == "drop_copy":
                self._parts[move.key].drop_host_copy()
            else:
                self._parts[move.key].leave()
