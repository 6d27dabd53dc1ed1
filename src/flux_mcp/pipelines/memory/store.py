"""Every loaded part by what its files hold: where its weights are, and when they are moved.

While a job is drawn, each model calls for its weights before it works (`ArrivalHook`); what else
stays on the GPU beside it follows from the placement. Without a GPU (CPU, MPS) parts are kept and
nothing is moved.
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from flux_mcp.models.parts import Placement, load_parts
from flux_mcp.pipelines.device import GIB, Device, free_memory_gib, tensors_of
from flux_mcp.pipelines.memory.eviction import EvictionStep, PartState, free_gpu, free_host
from flux_mcp.pipelines.memory.parts import Part
from flux_mcp.pipelines.memory.units import CopiedBytes


@dataclass(frozen=True)
class DeviceMemory:
    """The memory of the device that draws, where it is not the host's.

    Args:
        device: The GPU. A CPU in tests, which then needs `total_bytes`.
        total_bytes: What weights may take of it at most; `None`: what the driver says is free.
    """

    device: Device
    total_bytes: int | None = None

    def free_bytes(self, held_bytes: int) -> int:
        """Return how many bytes more weights may take.

        Args:
            held_bytes: What weights take now.
        """
        if self.total_bytes is not None:
            return self.total_bytes - held_bytes
        return int((free_memory_gib(self.device) or 0.0) * GIB)


def device_memory_of(device: Device) -> DeviceMemory | None:
    """Return the memory of a device; `None` where it is the host's (CPU, MPS)."""
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
        """Bring the weights to the GPU."""
        self._call()
        return args, kwargs

    def post_forward(self, _module: Any, output: Any) -> Any:
        """Return the result as it is."""
        return output

    def detach_hook(self, module: Any) -> Any:
        """Return the model as it is."""
        return module


class PartStore:
    """The loaded parts by their keys.

    Args:
        gpu: Where they work; `None` where there is no memory but the host's.
        host_budget_bytes: Host memory for weights that the current job does not need.
        forget: Called with the keys of parts that have to be forgotten; must `drop` them.
    """

    def __init__(
        self,
        gpu: DeviceMemory | None,
        host_budget_bytes: int,
        forget: Callable[[Collection[str]], None],
    ) -> None:
        self.gpu = gpu
        self.copied = CopiedBytes()
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
        """What parts take of the GPU's memory now."""
        return self.gpu_bytes_of(self._parts)

    @property
    def host_bytes(self) -> int:
        """What weights take of host memory that wait, or are kept, for the GPU."""
        return self.host_bytes_of(self._parts)

    def gpu_bytes_of(self, keys: Collection[str]) -> int:
        """Return how many bytes some parts take of the GPU."""
        return sum(part.gpu_bytes for key, part in self._parts.items() if key in keys)

    def host_bytes_of(self, keys: Collection[str]) -> int:
        """Return how many bytes the copies of some parts take of host memory."""
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
        part = Part(model, self.gpu.device.name, self.copied, on_gpu=on_gpu)
        self._parts[key] = part
        self._call_before_work(key, model)
        if not on_gpu:
            self._make_host_room_for(part)
            part.make_host_copy()
        elif self._is_one_at_a_time:
            self._leave(part)

    def vary(self, key: str, make: Callable[[Any], Any]) -> Any:
        """Return a model made of a part's own tensors, which moves together with the part.

        Args:
            key: Names the part.
            make: Makes it from the part's model, without hooks; where it raises, nothing changes.
        """
        model, part = self._models[key], self._parts.get(key)
        if part is None:
            return make(model)
        from accelerate.hooks import remove_hook_from_module

        # Blocks that stream have hooks of their own and move while they work.
        if part.is_streaming:
            part.to_host()
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
        """Forget parts and free their memory."""
        for key in keys:
            model = self._models.pop(key, None)
            self._last_used.pop(key, None)
            part = self._parts.pop(key, None)
            if part is None:
                continue
            from accelerate.hooks import remove_hook_from_module

            remove_hook_from_module(model)
            if part.in_host:
                # Copies nothing, and waits for copies that have not ended.
                part.to_host()

    def begin(self, keys: Collection[str], placement: Placement) -> None:
        """Begin a job.

        Args:
            keys: The parts of its pipeline, text encoders included, also those not loaded yet.
            placement: Where their weights are while they do not work.
        """
        self.release()
        self._drawing, self._placement = frozenset(keys), placement
        here = [key for key in keys if key in self._models]
        self._touch(here)
        if not self._is_one_at_a_time:
            for key in here:
                self._arrive(key)

    def release(self) -> None:
        """End a job: parts that are on the GPU only while they work leave it."""
        if self._is_one_at_a_time:
            for part in self._drawing_parts():
                self._leave(part)

    def make_room(self, needed_bytes: int, keep: Collection[str]) -> bool:
        """Free memory of the GPU; return whether there is enough now.

        Args:
            needed_bytes: What will be used.
            keep: Keys of parts that the next job needs; they stay as they are.
        """
        if self.gpu is None:
            return True
        free = self.gpu.free_bytes(self.gpu_bytes)
        if needed_bytes > free:
            host_free = self._host_budget_bytes - self.host_bytes
            self._do(free_gpu(self._states(keep), needed_bytes, free, host_free))
            free = self.gpu.free_bytes(self.gpu_bytes)
        return needed_bytes <= free

    def make_host_room(self, needed_bytes: int, keep: Collection[str]) -> None:
        """Free host memory, as far as parts may be unloaded."""
        host_free = self._host_budget_bytes - self.host_bytes
        self._do(free_host(self._states(keep), needed_bytes, host_free))

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
        part.to_gpu(share)

    def _leave(self, part: Part) -> None:
        if part.is_on_gpu:
            self._make_host_room_for(part)
            part.to_host()

    def _make_host_room_for(self, part: Part) -> None:
        """Make room for the host copy of a part, at the cost of parts that wait."""
        if not part.in_host:
            self.make_host_room(part.nbytes, self._drawing)

    def _share_of(self, part: Part) -> float:
        row = load_parts().placement[self._placement]
        return row.share if row.streams and part.can_stream else 1.0

    def _touch(self, keys: Iterable[str]) -> None:
        self._uses += 1
        self._last_used.update(dict.fromkeys(keys, self._uses))

    def _states(self, keep: Collection[str]) -> list[PartState]:
        return [
            PartState(
                key=key,
                nbytes=part.nbytes,
                last_used=self._last_used[key],
                is_wanted=key in keep,
                gpu_bytes=part.gpu_bytes,
                in_host=part.in_host,
            )
            for key, part in self._parts.items()
        ]

    def _do(self, steps: Iterable[EvictionStep]) -> None:
        for one in steps:
            if one.step == "forget":
                self._forget([one.key])
            elif one.step == "drop_copy":
                self._parts[one.key].drop_host_copy()
            else:
                self._parts[one.key].to_host()
