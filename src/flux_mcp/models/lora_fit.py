"""Whether a LoRA fits a transformer, and which layers each pair of matrices changes. Pure."""

from dataclasses import dataclass

from flux_mcp.errors import LoraMismatchError
from flux_mcp.models.architectures import Architecture, is_foreign
from flux_mcp.models.lora_header import LoraHeader, LoraLayer


@dataclass(frozen=True)
class Placed:
    """One pair of matrices, and the layers of a transformer it changes."""

    layer: LoraLayer
    targets: tuple[str, ...]
    """Names in diffusers; the rows of `up` are theirs, one target after another."""
    sizes: tuple[int, ...]
    """Rows of each target."""
    is_foreign: bool
    """Named in Black Forest Labs' words, in which some rows have another order."""


def place(header: LoraHeader, architecture: Architecture) -> tuple[Placed, ...]:
    """Return which layers of a transformer a LoRA changes.

    Raises:
        LoraMismatchError: it has a layer that the transformer has not, or has in another size.
    """
    placed = []
    for layer in header.layers:
        targets = architecture.find(layer.name)
        linears = [architecture.linears.get(target) for target in targets]
        sizes = tuple(linear[1] for linear in linears if linear is not None)
        if not sizes or len(sizes) != len(targets):
            raise LoraMismatchError(f"{architecture.name} has no layer '{layer.name[:120]}'.")
        inputs = {linear[0] for linear in linears if linear is not None}
        if inputs != {layer.inputs} or sum(sizes) != layer.outputs:
            raise LoraMismatchError(
                f"Its layer '{layer.name[:120]}' is {layer.inputs} to {layer.outputs}, that of "
                f"{architecture.name} {min(inputs)} to {sum(sizes)}."
            )
        placed.append(Placed(layer, targets, sizes, is_foreign(layer.name, targets)))
    everything = [target for one in placed for target in one.targets]
    if len(set(everything)) != len(everything):
        raise LoraMismatchError("It changes one layer twice.")
    return tuple(placed)


def fits(header: LoraHeader, architecture: Architecture) -> bool:
    """Whether every layer of a LoRA has its place in a transformer."""
    try:
        place(header, architecture)
    except LoraMismatchError:
        return False
    return True
