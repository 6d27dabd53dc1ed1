"""Quality to model: which row answers a request when the caller names none. Pure."""

from collections.abc import Callable
from dataclasses import dataclass

from flux_mcp.models.registry import Kind, ModelSpec, Quality, Registry, Structure


@dataclass(frozen=True)
class Choice:
    """The row to draw with, and what the caller should be told about how it was chosen."""

    spec: ModelSpec
    notices: tuple[str, ...]


def choose_model(
    registry: Registry,
    kind: Kind,
    quality: Quality,
    is_installed: Callable[[ModelSpec], bool],
    structure: Structure | None = None,
) -> Choice | None:
    """Return the best installed row for a quality, a lesser one with a notice, or `None`.

    Rows are tried in the order of models.toml: first those that name the quality, then any real
    model, then the demonstration family. `structure` keeps only the rows that follow it.
    """
    rows = [row for row in _following(registry, kind, structure) if is_installed(row)]
    real = [row for row in rows if not row.is_demonstration]
    fitting = [row for row in real if quality in row.qualities]
    if fitting:
        return Choice(fitting[0], ())
    if real:
        notice = f"Quality '{quality}' has no installed model for {kind}; drew with {real[0].id}."
        return Choice(real[0], (notice,))
    return Choice(rows[0], ()) if rows else None


def real_models(
    registry: Registry, kind: Kind, structure: Structure | None = None
) -> list[ModelSpec]:
    """Return every model of a kind but the demonstration, best first."""
    return [row for row in _following(registry, kind, structure) if not row.is_demonstration]


def _following(registry: Registry, kind: Kind, structure: Structure | None) -> list[ModelSpec]:
    return [
        row for row in registry[kind].values() if structure is None or structure in row.structures
    ]


def recommended(registry: Registry, kind: Kind, structure: Structure | None = None) -> ModelSpec:
    """Return the real model to install first for a kind: one free to use if there is any."""
    real = real_models(registry, kind, structure)
    free = [row for row in real if row.licence == "apache-2.0"]
    return (free or real)[0]
