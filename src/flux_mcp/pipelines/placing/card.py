"""A device with memory of its own, and the hook that calls weights to it when they are to work."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flux_mcp.pipelines.device import GIB, Device, free_memory_gib


@dataclass(frozen=True)
class Card:
    """A card.

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


def card_of(device: Device) -> Card | None:
    """Return a device's card; `None` where weights have no second place (CPU, MPS)."""
    return Card(device) if device.kind == "cuda" else None


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
        """Have the weights on the card when this returns."""
        self._call()
        return args, kwargs

    def post_forward(self, _module: Any, output: Any) -> Any:
        """Return the result as it is."""
        return output

    def detach_hook(self, module: Any) -> Any:
        """Return the model as it is."""
        return module
