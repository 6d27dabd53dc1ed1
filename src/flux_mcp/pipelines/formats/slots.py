"""Where a model keeps its tensors. Knows what modules of torch and of the libraries look like."""

from collections.abc import Iterable
from typing import Any, NamedTuple

from flux_mcp.pipelines.formats.leaves import leaves_of, rebuilt


class Slot(NamedTuple):
    """Where a model keeps a tensor."""

    module: Any
    name: str
    is_buffer: bool

    @property
    def tensor(self) -> Any:
        """What is there now."""
        return self._tensors[self.name]

    def put(self, tensor: Any) -> None:
        """Put another there, past what modules check of what they are given."""
        self._tensors[self.name] = tensor
        if self.name == "weight" and hasattr(self.module, "quant_state"):
            # bitsandbytes' layers keep what belongs to their weight as well.
            self.module.quant_state = tensor.quant_state

    @property
    def _tensors(self) -> dict[str, Any]:
        held: dict[str, Any] = vars(self.module)["_buffers" if self.is_buffer else "_parameters"]
        return held


def slots_of(module: Any) -> list[Slot]:
    """Return every slot of a model that holds a tensor, a tied one each time it occurs."""
    return [
        Slot(part, name, is_buffer)
        for part in module.modules()
        for is_buffer, held in _held(part)
        for name, tensor in held.items()
        if tensor is not None
    ]


def _held(module: Any) -> tuple[tuple[bool, dict[str, Any]], tuple[bool, dict[str, Any]]]:
    return (False, module._parameters), (True, module._buffers)  # noqa: SLF001 - the only door


def slot_of(model: Any, name: str) -> Slot:
    """Return the slot of a tensor by its name in the model's state dict."""
    path, _, leaf = name.rpartition(".")
    module = model.get_submodule(path)
    return Slot(module, leaf, is_buffer=leaf in module._buffers)  # noqa: SLF001


def send(slots: Iterable[Slot], device: str) -> None:
    """Move tensors to a device; those that are there already stay."""
    for slot in slots:
        tensor = slot.tensor
        leaves = leaves_of(tensor)
        moved = [leaf.to(device) for leaf in leaves]
        if any(after is not before for before, after in zip(leaves, moved, strict=True)):
            slot.put(rebuilt(tensor, moved))
