"""Upscalers: models of the registry, files in `upscalers/` of the data folder, and Lanczos.

Which one a plan names, and where its weights lie. Nothing here opens them but to hash them; what a
user's file is, the worker finds out with spandrel.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from flux_mcp.errors import (
    ExtraMissingError,
    InvalidRequestError,
    StorageError,
    UnknownModelError,
    WeightsInvalidError,
    WeightsMissingError,
)
from flux_mcp.models.file_hashes import FileHashes
from flux_mcp.models.hub.cache import pull_command
from flux_mcp.models.hub.helpers import find_helper, require_helper
from flux_mcp.models.registry import LANCZOS, Registry
from flux_mcp.settings.installation import install_command
from flux_mcp.settings.settings import Licence, Settings

SPANDREL = ("--no-deps", "spandrel>=0.4.2", "einops>=0.8")
"""What pip takes for the package that loads files. Alone: it wants torchvision, for architectures
that upscale nothing; one for another build of torch would keep transformers from working."""
WEIGHTS = "model.safetensors"
"""The file of a helper that holds its weights."""
_PICKLES = frozenset({".pth", ".pt", ".ckpt", ".bin", ".pkl"})
_NAME = re.compile(r"[A-Za-z0-9][\w.+-]*", re.ASCII)


@dataclass(frozen=True)
class Upscaler:
    """One upscaler, as a plan names it."""

    name: str
    file: Path | None
    """Its weights; `None` for Lanczos."""
    revision: str | None = None
    factor: int | None = None
    """Of one pass, where that is known before it is loaded."""
    licence: Licence = "other"
    is_demonstration: bool = False

    @property
    def is_own_file(self) -> bool:
        """Whether it is a file of the user's."""
        return self.file is not None and self.factor is None


def find_upscaler(
    registry: Registry, settings: Settings, name: str | None, *, for_demonstration: bool
) -> Upscaler:
    """Return the upscaler of a name, or the best model for it that is installed.

    Args:
        registry: The rows.
        settings: Where weights lie, and which licences may be chosen.
        name: As the setting has it; `None`: the best.
        for_demonstration: Whether what is made larger was drawn by the demonstration model. Its own
            upscaler knows nothing else, and is used for others only where it is named.

    Raises:
        UnknownModelError: there is none of that name; the hint names those there are.
        InvalidRequestError: the name is a model's and a file's.
        WeightsMissingError: its weights are not on this disk; the hint is the command for them.
        WeightsInvalidError: the file is a pickle.
        ExtraMissingError: the package that loads files is missing.
    """
    files = own_files(settings)
    helpers = {spec.id: spec for spec in registry.helpers.values() if spec.role == "upscaling"}
    if name is not None and name in files:
        if name in helpers or name == LANCZOS:
            raise InvalidRequestError(
                f"'{name}' is the name of an upscaler and of a file in upscalers/.",
                "Rename the file.",
            )
        if find_spec("spandrel") is None or find_spec("einops") is None:
            raise ExtraMissingError(
                f"The upscaler '{name}' is a file, which spandrel loads, and it is not installed.",
                f"Run: {install_command(*SPANDREL)}.",
            )
        return Upscaler(name, files[name])
    if name == LANCZOS:
        return Upscaler(LANCZOS, None, licence="apache-2.0")
    if name is not None and name not in helpers:
        _refuse_pickle(settings, name)
        known = ", ".join([*helpers, *files, LANCZOS])
        raise UnknownModelError(
            f"There is no upscaler '{name[:60]}'.",
            f"Upscalers: {known}. Your own: NAME.safetensors in {settings.paths.upscalers}.",
        )
    if name is None:
        found = require_helper(registry, "upscaling", settings, for_demonstration=for_demonstration)
    else:
        there = find_helper(helpers[name], registry, settings)
        if there is None:
            raise WeightsMissingError(
                f"The weights of the upscaler '{name}' are not on this machine.",
                f"Run: {pull_command((name,), settings)}.",
            )
        found = there
    spec = found.spec
    return Upscaler(
        spec.id,
        found.folder / WEIGHTS,
        revision=None if spec.repository is None else found.folder.name,
        factor=spec.factor,
        licence=spec.licence,
        is_demonstration=spec.is_demonstration,
    )


def file_of_upscaler(
    registry: Registry, settings: Settings, name: str, revision: str | None
) -> Path:
    """Return the weights of an upscaler that a plan names.

    Raises:
        WeightsMissingError: they are not on this disk.
    """
    spec = registry.helpers.get(name)
    if spec is None:
        file = own_files(settings).get(name)
    else:
        pinned = spec.model_copy(update={"revision": revision or spec.revision})
        found = find_helper(pinned, registry, settings)
        file = None if found is None else found.folder / WEIGHTS
    if file is None:
        at = "" if revision is None else f" at {revision}"
        raise WeightsMissingError(
            f"The upscaler '{name}'{at} is no longer on this machine.",
            f"Put it back into {settings.paths.upscalers}."
            if spec is None
            else f"Run: {pull_command((name,), settings)}.",
        )
    return file


def own_files(settings: Settings) -> Mapping[str, Path]:
    """Return the user's upscalers by their names."""
    found = sorted(settings.paths.upscalers.glob("*.safetensors"))
    return {path.stem: path for path in found if _NAME.fullmatch(path.stem) and path.is_file()}


def _refuse_pickle(settings: Settings, name: str) -> None:
    """Refuse a name that stands for a file which may contain code.

    Raises:
        WeightsInvalidError: it does.
    """
    stem = name.removesuffix(Path(name).suffix) if Path(name).suffix in _PICKLES else name
    for suffix in sorted(_PICKLES):
        file = f"{stem}{suffix}"
        # By name: a path from a request is never opened, nor looked for elsewhere.
        if _NAME.fullmatch(stem) and (settings.paths.upscalers / file).is_file():
            raise WeightsInvalidError(
                f"{file} is a pickle, which may contain code: it is never opened.",
                f"Get it as {stem}.safetensors, or convert it where you trust it: "
                "safetensors.torch.save_file(torch.load(..., weights_only=True), ...).",
            )


def sha256_of_weights(file: Path, hashes: FileHashes) -> str:
    """Return the SHA-256 of an upscaler's weights.

    Raises:
        StorageError: they cannot be read.
    """
    try:
        return hashes.sha256(file)
    except OSError as error:
        raise StorageError(
            f"{file} cannot be read: {error.strerror}.", "Fix its permissions."
        ) from error
