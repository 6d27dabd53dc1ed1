"""Where the helpers are: small models that work beside a pipeline (rows of `[[helper]]`)."""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from flux_mcp.errors import WeightsMissingError
from flux_mcp.models.formats import has_extra, require_extra
from flux_mcp.models.hub.cache import pull_command, repository_folder
from flux_mcp.models.registry import HelperRole, HelperSpec, Registry
from flux_mcp.settings.settings import Settings

logger = logging.getLogger(__name__)

WHAT_IT_DOES: dict[HelperRole, str] = {
    "depth": "estimates the depth of an image",
    "segmentation": "finds words in an image",
    "outlines": "outlines what is in a box",
    "upscaling": "makes an image larger",
    "embedding": "compares images and words",
    "caption": "says in a sentence what an image shows",
}
"""In the words of errors and lists."""


@dataclass(frozen=True)
class InstalledHelper:
    """A helper whose files are on this disk."""

    spec: HelperSpec
    folder: Path
    needed: "InstalledHelper | None" = None
    """The helper it works with, where it needs one."""

    @property
    def extras(self) -> tuple[str, ...]:
        """The extras that it and the one it needs have to have."""
        needed = () if self.needed is None else self.needed.extras
        return (*needed, *(() if self.spec.extra is None else (self.spec.extra,)))


def find_helper(spec: HelperSpec, registry: Registry, settings: Settings) -> InstalledHelper | None:
    """Return where a helper is, with the one it needs; `None` where not all is on this disk."""
    folder = _folder(spec, settings)
    if folder is None:
        return None
    if spec.needs is None:
        return InstalledHelper(spec, folder)
    needed = find_helper(registry.helpers[spec.needs], registry, settings)
    return None if needed is None else InstalledHelper(spec, folder, needed)


def _folder(spec: HelperSpec, settings: Settings) -> Path | None:
    """Return the folder of a helper's own files, if they are whole."""
    try:
        if spec.folder is not None:
            folder: Path | None = settings.weights_dir / spec.folder
        else:
            folder = repository_folder(spec.repository, spec.revision, "config.json", settings)
        is_whole = folder is not None and all(
            (folder / name).is_file() for name in ("config.json", "model.safetensors")
        )
    except OSError as error:
        logger.warning(
            "weights cannot be read", extra={"model": spec.id, "reason": error.strerror or ""}
        )
        return None
    return folder if is_whole else None


def installed_helpers(
    registry: Registry, role: HelperRole, settings: Settings
) -> Iterator[InstalledHelper]:
    """Yield the helpers of a role that are on this disk, best first."""
    for spec in registry.helpers.values():
        if spec.role == role:
            found = find_helper(spec, registry, settings)
            if found is not None:
                yield found


def usable_helper(
    registry: Registry, role: HelperRole, settings: Settings, *, for_demonstration: bool
) -> InstalledHelper | None:
    """Return the best helper of a role that can be used as this machine is; `None` without one.

    The arguments are those of `require_helper`.
    """
    allowed = _allowed_helpers(registry, role, settings, for_demonstration=for_demonstration)
    return next((one for one in allowed if all(map(has_extra, one.extras))), None)


def _allowed_helpers(
    registry: Registry, role: HelperRole, settings: Settings, *, for_demonstration: bool
) -> Iterator[InstalledHelper]:
    for found in installed_helpers(registry, role, settings):
        is_allowed = settings.licences is None or found.spec.licence in settings.licences
        if is_allowed and (for_demonstration or not found.spec.is_demonstration):
            yield found


def require_helper(
    registry: Registry, role: HelperRole, settings: Settings, *, for_demonstration: bool
) -> InstalledHelper:
    """Return the best helper of a role that is on this disk.

    Args:
        registry: The rows.
        role: What it is to do.
        settings: Where weights lie, and which licences may be chosen.
        for_demonstration: Whether the model that draws only shows how the server works. One that
            comes with the package knows nothing but what that one draws, and is used for it alone.

    Raises:
        WeightsMissingError: there is none; the hint says which to download.
        ExtraMissingError: those that are here need a package that is not installed.
    """
    usable = usable_helper(registry, role, settings, for_demonstration=for_demonstration)
    if usable is not None:
        return usable
    for lacking in _allowed_helpers(registry, role, settings, for_demonstration=for_demonstration):
        for extra in lacking.extras:
            require_extra(extra, lacking.spec.title)
    free = [
        spec
        for spec in registry.helpers.values()
        if spec.role == role and spec.is_free and not spec.is_demonstration
    ]
    proposed = min(free, key=lambda spec: spec.disk_gib)
    command = pull_command((proposed.id,), settings)
    raise WeightsMissingError(
        f"No model that {WHAT_IT_DOES[role]} is on this machine.",
        f"Run: {command} ({proposed.disk_gib:g} GiB).",
    )


def helpers_to_pull(
    registry: Registry, ids: Iterable[str], settings: Settings
) -> tuple[HelperSpec, ...]:
    """Return the helpers with these ids, and those they need which are not on this disk."""
    found: dict[str, HelperSpec] = {}
    for one in ids:
        spec = registry.helpers[one]
        if spec.needs is not None and _folder(registry.helpers[spec.needs], settings) is None:
            found[spec.needs] = registry.helpers[spec.needs]
        found[one] = spec
    return tuple(found.values())
