"""What a row's pipeline consists of on disk, each part named by its content; and how it is made.

What is loaded is decided by memory/residency.py.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from flux_mcp.errors import UnsupportedOptionError
from flux_mcp.models.formats import format_of
from flux_mcp.models.hub.cache import Snapshot, require_snapshot
from flux_mcp.models.loras.fit import ControlFile, check_control_file
from flux_mcp.models.registry import ModelSpec, Registry
from flux_mcp.pipelines.loading.fingerprints import Fingerprints
from flux_mcp.pipelines.loading.loaders import load_part, make_pipeline
from flux_mcp.pipelines.loading.part_files import (
    PartFiles,
    list_parts,
    part_precision,
    pipeline_options,
)
from flux_mcp.pipelines.loading.quantisers import require_classes
from flux_mcp.settings.settings import Settings

Report = Callable[[str], None]
"""Called with what is being loaded ('loading transformer, 412 of 1,234 MB, 33 %'); may raise to
stop the loading."""


@dataclass(frozen=True)
class PipelineFiles:
    """The parts of one row, each with a key that says what it holds."""

    spec: ModelSpec
    drawing: ModelSpec
    """The row that draws: itself, or its base, loaded in the precisions of this row."""
    snapshot: Snapshot
    """Of the row that draws."""
    own: tuple[PartFiles, ...]
    drawn_by: tuple[PartFiles, ...]
    """Parts of the pipeline that denoises; the same as `own` without a base."""
    lora: ControlFile | None = None
    """What is merged onto the base's transformer, where the row is a LoRA."""
    keys: Mapping[PartFiles, str] = field(default_factory=dict)
    """Of each that can be shared; empty until its files were read."""

    @property
    def parts(self) -> tuple[PartFiles, ...]:
        """All of them."""
        return self.own if self.drawing is self.spec else (*self.own, *self.drawn_by)

    @property
    def pipeline(self) -> str:
        """The class of the pipeline that denoises."""
        return (self.drawing if self.lora is None else self.spec).drawing_pipeline

    @property
    def texts(self) -> dict[PartFiles, str]:
        """What encodes prompts, in the order of the family's `text_parts`."""
        named = {part.name: part for part in self.drawn_by}
        names = [name for name in self.spec.family_spec.text_parts if name in named]
        return {named[name]: self.keys[named[name]] for name in names}

    @property
    def to_load(self) -> dict[PartFiles, str]:
        """All but what encodes prompts, which may not be needed."""
        texts = self.texts
        return {part: key for part, key in self.keys.items() if part not in texts}

    def part(self, name: str) -> PartFiles:
        """Return a part of the pipeline that denoises."""
        return next(part for part in self.drawn_by if part.name == name)


def find_files(
    spec: ModelSpec,
    registry: Registry,
    settings: Settings,
    fingerprints: Fingerprints,
    report: Report,
) -> PipelineFiles:
    """Look at a row's files, and name each part by its class, content and precision.

    Raises:
        WeightsMissingError: they are not on this disk.
        WeightsInvalidError: they are not what the row promises.
        ExtraMissingError: a package that one needs is missing.
    """
    files = list_files(spec, registry, settings)
    require_classes(part.class_name for part in (*files.own, *files.drawn_by))
    return replace(files, keys=name_by_content(files.parts, spec, fingerprints, report))


def list_files(spec: ModelSpec, registry: Registry, settings: Settings) -> PipelineFiles:
    """Find a row's files; their weights are not read.

    Raises:
        WeightsMissingError: they are not on this disk.
        WeightsInvalidError: they are not what the row promises.
    """
    snapshot = require_snapshot(spec, registry, settings)
    own = () if spec.lora else list_parts(spec, snapshot)
    merged_onto = snapshot if spec.lora else None
    drawing, drawn_by = spec, own
    if spec.base is not None:
        base = registry.find("text2img", spec.base)
        precisions = {"precision": spec.precision, "text_precision": spec.text_precision}
        drawing = base.model_copy(update=precisions)
        snapshot = require_snapshot(drawing, registry, settings)
        drawn_by = list_parts(drawing, snapshot)
    transformer = next(part for part in drawn_by if part.name == "transformer")
    lora = None if merged_onto is None else open_control_lora(spec, merged_onto, transformer)
    return PipelineFiles(spec, drawing, snapshot, own, drawn_by, lora)


def open_control_lora(spec: ModelSpec, snapshot: Snapshot, base: PartFiles) -> ControlFile:
    """Check the LoRA of a row against its base by the headers of their files.

    Args:
        spec: The LoRA's row.
        snapshot: Where it lies.
        base: The transformer it is merged onto.

    Raises:
        WeightsInvalidError: there is more than one file, or it is no control LoRA for this base.
        UnsupportedOptionError: the format of the base's weights takes no LoRAs.
    """
    if not format_of(spec.precision).takes_loras:
        raise UnsupportedOptionError(
            f"Weights in {spec.precision} take no LoRAs, and {spec.id} is one.",
            "Choose another precision, or a model that is no LoRA.",
        )
    return check_control_file(spec, snapshot, base.folder)


def name_by_content(
    parts: Sequence[PartFiles], spec: ModelSpec, fingerprints: Fingerprints, report: Report
) -> Mapping[PartFiles, str]:
    """Name each shareable part; schedulers are not."""
    report("checking weights")
    keys = {}
    for part in parts:
        if part.name != "scheduler":
            content = fingerprints.part(part.folder, part.file, report)
            keys[part] = part_key(part, spec, content)
    return keys


def part_key(part: PartFiles, spec: ModelSpec, content: str) -> str:
    """Name a part by its class, its precision and the fingerprint of its files."""
    return f"{part.class_name}:{part_precision(part, spec)}:{content}"


def assemble(
    files: PipelineFiles, parts: Mapping[PartFiles, Any], transformer: Any
) -> tuple[Any, Any | None]:
    """Make the pipeline that denoises, without text encoders, and the prior of a redux row.

    Args:
        files: What it consists of.
        parts: Every part of `files.to_load`, loaded.
        transformer: What denoises: that of `parts`, or a LoRA merged onto it.
    """
    schedulers = [part for part in files.drawn_by if part.name == "scheduler"]
    pipe_parts = {part.name: parts[part] for part in files.drawn_by if part in parts}
    pipe_parts |= {part.name: load_part(part, files.spec.precision) for part in schedulers}
    pipe_parts |= {part.name: None for part in files.texts}
    pipe_parts["transformer"] = transformer
    pipe = make_pipeline(files.pipeline, pipe_parts, pipeline_options(files.spec, files.snapshot))
    if files.drawing is files.spec or files.lora is not None:
        return pipe, None
    return pipe, make_pipeline(files.spec.pipeline, {p.name: parts[p] for p in files.own})
