"""Where a model has its tensors, and the plain tensors inside of quantised ones.

Weights of torchao, bitsandbytes and GGUF consist of several plain tensors; `leaves_of` takes them
apart and `rebuilt` puts copies of them together again.
"""

import copy
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

_STATE = ("absmax", "code", "offset")
"""Tensors of a bitsandbytes QuantState (0.50); its `state2` is another one, with the same names."""


def leaves_of(tensor: Any) -> list[Any]:
    """Return the plain tensors of a weight, in a fixed order; no copies."""
    import torch

    if (state := getattr(tensor, "quant_state", None)) is not None:
        inner = [getattr(one, name) for one, name in _state_slots(state)]
        return [_plain(torch, tensor), *inner]
    if hasattr(tensor, "__tensor_flatten__"):
        names, _ = tensor.__tensor_flatten__()
        return [leaf for name in names for leaf in leaves_of(getattr(tensor, name))]
    return [_plain(torch, tensor)]


def nbytes_of(tensor: Any) -> int:
    """Return the bytes a weight takes; torchao's own `nbytes` is the size unpacked."""
    return sum(int(leaf.nbytes) for leaf in leaves_of(tensor))


def rebuilt(tensor: Any, leaves: Sequence[Any]) -> Any:
    """Return the same weight made of other plain tensors; `tensor` is not changed.

    Args:
        tensor: A parameter or a buffer of a model.
        leaves: One for each of `leaves_of(tensor)`, of the same shapes and types.
    """
    import torch

    made = _rebuilt(torch, tensor, iter(leaves))
    if isinstance(tensor, torch.nn.Parameter) and not isinstance(made, torch.nn.Parameter):
        return torch.nn.Parameter(made, requires_grad=tensor.requires_grad)
    return made


def _plain(torch: Any, tensor: Any) -> Any:
    """Return a tensor without its class: GGUF's would wrap each result of an operation again."""
    return torch.Tensor._make_subclass(torch.Tensor, tensor)  # noqa: SLF001 - as GGUFParameter does


def _rebuilt(torch: Any, tensor: Any, leaves: Iterator[Any]) -> Any:
    if (state := getattr(tensor, "quant_state", None)) is not None:
        # Params4bit.to would move the state that both then share.
        made = copy.copy(tensor)
        made.data = next(leaves)
        made.quant_state = own = _copied_state(state)
        for one, name in _state_slots(own):
            setattr(one, name, next(leaves))
        return made
    if hasattr(tensor, "__tensor_flatten__"):
        names, context = tensor.__tensor_flatten__()
        inner = {name: _rebuilt(torch, getattr(tensor, name), leaves) for name in names}
        return type(tensor).__tensor_unflatten__(inner, context, tensor.size(), tensor.stride())
    if (packing := getattr(tensor, "quant_type", None)) is not None:
        return type(tensor)(next(leaves), quant_type=packing)
    return next(leaves)


def _copied_state(state: Any) -> Any:
    own = copy.copy(state)
    if own.state2 is not None:
        own.state2 = copy.copy(own.state2)
    return own


def _state_slots(state: Any) -> list[tuple[Any, str]]:
    """Return where a 4 bit state has tensors."""
    states = [state] if state.state2 is None else [state, state.state2]
    return [(one, n) for one in states for n in _STATE if hasattr(getattr(one, n), "dtype")]


class Slot(NamedTuple):
    """The place of one tensor in a model."""

    module: Any
    name: str
    is_buffer: bool

    @property
    def tensor(self) -> Any:
        """The tensor that is there now."""
        return self._tensors[self.name]

    def put(self, tensor: Any) -> None:
        """Put another tensor there, without the checks of the module."""
        self._tensors[self.name] = tensor
        if self.name == "weight" and hasattr(self.module, "quant_state"):
            # bitsandbytes' layers keep what belongs to their weight as well.
            self.module.quant_state = tensor.quant_state

    @property
    def _tensors(self) -> dict[str, Any]:
        held: dict[str, Any] = vars(self.module)["_buffers" if self.is_buffer else "_parameters"]
        return held


def slots_of(module: Any) -> list[Slot]:
    """Return every slot of a model that has a tensor; a tied tensor has several."""
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
