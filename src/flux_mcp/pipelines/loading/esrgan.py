"""Upscalers of the user's own, as files: ESRGAN and its relatives, recognised by spandrel.

spandrel (MIT) knows each architecture by the names of its tensors. Only safetensors are read here,
which cannot hold code; pickles are refused by their names before a plan is made.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from flux_mcp.errors import ExtraMissingError, WeightsInvalidError
from flux_mcp.models.upscalers import SPANDREL
from flux_mcp.settings.installation import install_command

_COLOURS = 3
_OF_TORCHVISION = {
    "torchvision": (),
    "torchvision.transforms": (),
    "torchvision.transforms.functional": ("InterpolationMode", "normalize", "rotate"),
}
"""What spandrel 0.4.2 imports of torchvision: for LaMa and RestoreFormer, which upscale nothing."""


@dataclass
class OwnUpscaler:
    """A model of a user's file."""

    descriptor: Any
    """Of spandrel: pads what the architecture needs, and cuts it off again."""
    factor: int

    @property
    def module(self) -> Any:
        """The module of torch."""
        return self.descriptor.model

    def __call__(self, tile: Any) -> Any:
        """Return a tile made larger."""
        return self.descriptor(tile)


def load_own_upscaler(file: Path) -> OwnUpscaler:
    """Load a safetensors file, in fp32.

    Raises:
        ExtraMissingError: spandrel is not installed.
        WeightsInvalidError: the file is damaged, or no upscaler of colour images.
    """
    from safetensors.torch import load_file

    spandrel = _import_spandrel()
    try:
        tensors = load_file(file)
        found = spandrel.ModelLoader().load_from_state_dict(tensors)
    except Exception as error:
        # Whatever the file holds: spandrel raises errors of many kinds for what it cannot read.
        raise WeightsInvalidError(
            f"{file.name} is no upscaler that can be read: {type(error).__name__}: "
            f"{str(error)[:200]}",
            "Use a safetensors file of an ESRGAN, Compact, SPAN, SwinIR, HAT or DAT model.",
        ) from error
    is_upscaler = isinstance(found, spandrel.ImageModelDescriptor) and found.scale > 1
    if not is_upscaler or {found.input_channels, found.output_channels} != {_COLOURS}:
        raise WeightsInvalidError(
            f"{file.name} holds a {found.architecture.name} model that does not make colour images "
            "larger.",
            "Use a model for super resolution of RGB images.",
        )
    return OwnUpscaler(found.eval().to("cpu").float(), int(found.scale))


def _import_spandrel() -> Any:
    try:
        with _without_torchvision():
            import spandrel
    except (ImportError, RuntimeError) as error:
        # RuntimeError: a torchvision that was made for another torch.
        raise ExtraMissingError(
            f"Files in upscalers/ are loaded by spandrel, which cannot be imported: {error}.",
            f"Run: {install_command(*SPANDREL)}.",
        ) from error
    return spandrel


@contextmanager
def _without_torchvision() -> Iterator[None]:
    """Let spandrel be imported without torchvision, for as long as the block.

    torchvision is made for one build of torch, and changes which image processors transformers
    takes: it is not installed for two architectures that are not used here.
    """
    if find_spec("torchvision") is not None:
        yield
        return
    modules = {name: ModuleType(name) for name in _OF_TORCHVISION}
    for name, wanted in _OF_TORCHVISION.items():
        for one in wanted:
            setattr(modules[name], one, None)
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name in modules:
            del sys.modules[name]
