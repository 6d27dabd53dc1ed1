"""What is loaded, what is shared between kinds, and what to evict.

Owns every loaded part and pipeline. Parts are known by what their files hold, so a VAE or text
encoder that several kinds use is loaded once, and not before a prompt must be encoded. Knows
nothing of jobs or pictures.

On the CPU the demonstration family stays loaded whole; of the real models only one transformer
does. On a CUDA card transformers stay as long as they fit beside the next one.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from flux_mcp.config import Settings
from flux_mcp.errors import WeightsInvalidError
from flux_mcp.models.formats import format_of
from flux_mcp.models.registry import ModelSpec, Registry
from flux_mcp.models.weights import require_snapshot
from flux_mcp.pipelines.control_loras import open_control_lora
from flux_mcp.pipelines.device import GIB, Device, free_caches, free_memory_gib, tensors_of
from flux_mcp.pipelines.eviction import HeldTransformer, choose_evictions
from flux_mcp.pipelines.fingerprints import Fingerprints
from flux_mcp.pipelines.formats.needs import require_classes, require_formats
from flux_mcp.pipelines.formats.quantisers import held_bytes
from flux_mcp.pipelines.loaders import (
    PartFiles,
    list_parts,
    load_part,
    make_pipeline,
    part_precision,
    pipeline_options,
)
from flux_mcp.pipelines.previews import LatentColours, calibrate

TEXT_PARTS = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")
"""What turns a prompt into embeddings; FLUX.2 has the first two."""

Report = Callable[[str], None]
"""Told what is being loaded ('loading transformer, 412 of 1,234 MB, 33 %'); may raise to stop the
loading."""


@dataclass(frozen=True)
class Resident:
    """A pipeline that is ready to draw."""

    spec: ModelSpec
    pipe: Any
    """The diffusers pipeline that denoises; it has its own scheduler, and no text encoders."""
    prior: Any | None
    """For redux: the FluxPriorReduxPipeline that turns pictures into tokens."""
    weights_sha256: str
    """Fingerprint of the transformer's files."""
    text_parts: Mapping[PartFiles, str]
    """What encodes prompts and the key of each, in the order of `TEXT_PARTS`; not always loaded."""
    part_keys: frozenset[str]
    transformer_key: str
    vae_key: str
    placement: Literal["resident", "offload"]


class Residency:
    """Loads pipelines on demand and keeps them as long as there is room."""

    def __init__(self, registry: Registry, settings: Settings, device: Device) -> None:
        self._registry = registry
        self._settings = settings
        self._device = device
        self._fingerprints = Fingerprints()
        self._parts: dict[str, Any] = {}
        self._pipelines: dict[str, Resident] = {}
        self._encoders: dict[str, Any] = {}
        self._last_used: dict[str, int] = {}
        self._colours: dict[str, LatentColours] = {}
        self._uses = 0

    @property
    def loaded(self) -> tuple[str, ...]:
        """Resident pipelines as `kind/model`, in the order they were loaded."""
        return tuple(self._pipelines)

    def pipeline(self, spec: ModelSpec, report: Report) -> Resident:
        """Return the pipeline of a row, loading what is missing and evicting what is in the way.

        Args:
            spec: The row, with the revision and precision the plan names.
            report: Told what is being loaded.

        Raises:
            FormatUnsupportedError: this device cannot hold them in the precision of the plan.
            ExtraMissingError: a package for that precision is missing.
            WeightsMissingError: its weights are not on this disk.
            WeightsInvalidError: its weights are not what the row promises.
        """
        key = _pipeline_key(spec)
        resident = self._pipelines.get(key)
        if resident is None or resident.spec != spec:
            require_formats(spec, self._device)
            self._drop([key])
            try:
                resident = self._pipelines[key] = self._load(spec, report)
            finally:
                # Also when loading was stopped half-way: what no pipeline uses must not stay.
                self._drop_unused(frozenset())
        self._uses += 1
        self._last_used[resident.transformer_key] = self._uses
        return resident

    def text_encoder(self, resident: Resident, report: Report) -> Any:
        """Return the pipeline whose `encode_prompt` encodes a resident's prompts.

        A pipeline of nothing but text encoders, of the class that draws. Loaded at the first call.

        Raises:
            WeightsInvalidError: a text encoder's files are damaged, or others than they were when
                the pipeline was loaded: what they encode would be kept under the wrong name.
        """
        key, spec = _pipeline_key(resident.spec), resident.spec
        if key not in self._encoders:
            if self._keys(tuple(resident.text_parts), spec, report) != resident.text_parts:
                self._drop([key])
                raise WeightsInvalidError(
                    "The files of the text encoders have changed since the model was loaded.",
                    "Ask again: the model will be loaded anew.",
                )
            parts: dict[str, Any] = dict.fromkeys(("scheduler", "vae", "transformer"))
            for part, name in resident.text_parts.items():
                parts[part.name] = self._part(part, name, spec, resident.placement, report)
            if resident.placement == "resident":
                self._make_room_for(parts.values(), beside=resident)
            encoder = make_pipeline(type(resident.pipe).__name__, parts)
            self._place(encoder, resident.placement)
            self._encoders[key] = encoder
        return self._encoders[key]

    def colours(self, resident: Resident) -> LatentColours:
        """Return the preview colours of the pipeline's VAE, measured at the first call."""
        if resident.vae_key not in self._colours:
            self._colours[resident.vae_key] = calibrate(resident.pipe)
        return self._colours[resident.vae_key]

    def clear(self) -> None:
        """Forget everything that is loaded and hand its memory back."""
        self._drop(list(self._pipelines))
        self._drop_unused(frozenset())
        free_caches(self._device)

    def _load(self, spec: ModelSpec, report: Report) -> Resident:
        snapshot = require_snapshot(spec, self._registry, self._settings)
        own = () if spec.lora else list_parts(spec, snapshot)
        lora_snapshot = snapshot
        drawing, drawn_by = spec, own
        if spec.base is not None:
            drawing = self._base(spec)
            snapshot = require_snapshot(drawing, self._registry, self._settings)
            drawn_by = list_parts(drawing, snapshot)
        transformer = next(part for part in drawn_by if part.name == "transformer")
        lora = open_control_lora(spec, lora_snapshot, transformer) if spec.lora else None
        require_classes(part.class_name for part in (*own, *drawn_by))
        keys = self._keys(own if drawing is spec else (*own, *drawn_by), spec, report)
        placement = self._make_room(spec, frozenset(keys.values()))
        texts = {part.name: part for part in drawn_by if part.name in TEXT_PARTS}
        parts = {
            part: self._part(part, keys[part], spec, placement, report)
            for part in keys
            if part not in texts.values()
        }
        schedulers = [part for part in drawn_by if part.name == "scheduler"]
        pipe_parts = {part.name: parts[part] for part in drawn_by if part in parts}
        pipe_parts |= {part.name: load_part(part, spec.precision) for part in schedulers}
        pipe_parts |= dict.fromkeys(texts)
        if lora is not None:
            pipe_parts["transformer"] = lora.laid_over(parts[transformer], report)
        draws = drawing if lora is None else spec
        pipe = make_pipeline(draws.pipeline, pipe_parts, pipeline_options(snapshot))
        prior = None
        if draws is not spec:
            prior = make_pipeline(spec.pipeline, {part.name: parts[part] for part in own})
        self._place(pipe, placement)
        self._place(prior, placement)
        vae = next(part for part in drawn_by if part.name == "vae")
        return Resident(
            spec=spec,
            pipe=pipe,
            prior=prior,
            weights_sha256=self._fingerprints.part(
                transformer.folder,
                transformer.file,
                report,
                None if lora is None else lora.file.path,
            ),
            text_parts={texts[name]: keys[texts[name]] for name in TEXT_PARTS if name in texts},
            part_keys=frozenset(keys.values()),
            transformer_key=keys[transformer],
            vae_key=keys[vae],
            placement=placement,
        )

    def _base(self, spec: ModelSpec) -> ModelSpec:
        """Return the row that draws for another, held as that one is."""
        base = self._registry.find("text2img", spec.base or "")
        held = {"precision": spec.precision, "text_precision": spec.text_precision}
        return base.model_copy(update=held)

    def _keys(
        self, parts: Sequence[PartFiles], spec: ModelSpec, report: Report
    ) -> Mapping[PartFiles, str]:
        """Name each shareable part by its class, content and precision; schedulers are not."""
        report("checking weights")
        keys = {}
        for part in parts:
            if part.name != "scheduler":
                content = self._fingerprints.part(part.folder, part.file, report)
                keys[part] = f"{part.class_name}:{part_precision(part, spec)}:{content}"
        return keys

    def _part(
        self, part: PartFiles, key: str, spec: ModelSpec, placement: str, report: Report
    ) -> Any:
        if key not in self._parts:
            report(f"loading {part.name}")
            precision = part_precision(part, spec)
            # A card quantises in seconds what a processor would in minutes.
            on_device = placement == "resident" or format_of(precision).made_by_device
            device = self._device.name if on_device else "cpu"
            self._parts[key] = load_part(part, precision, device, report)
        return self._parts[key]

    def _make_room(self, spec: ModelSpec, wanted: frozenset[str]) -> Literal["resident", "offload"]:
        """Evict what is in the way; say whether the new pipeline fits on the device whole."""
        before = len(self._pipelines)
        # Offloading hooks sit on the parts themselves, so they cannot be shared with another mode.
        self._drop([key for key, held in self._pipelines.items() if held.placement == "offload"])
        needed = spec.vram_gib["resident"] - sum(
            self._gib_on_device(self._parts[key]) for key in wanted if key in self._parts
        )
        if spec.is_demonstration:
            needed = 0.0
        free = free_memory_gib(self._device)
        if not (spec.is_demonstration and free is None):
            self._evict(wanted, needed, free)
        self._drop_unused(wanted)
        if free is not None or len(self._pipelines) < before:
            # Not otherwise: a collection of all that torch brings takes a third of a second.
            free_caches(self._device)
            free = free_memory_gib(self._device)
        if free is None or needed <= free:
            return "resident"
        self._drop(list(self._pipelines))
        self._drop_unused(wanted)
        for part in (self._parts[key] for key in wanted if key in self._parts):
            if tensors_of(part):
                # Text encoders too, which may not be asked for: hooks move only their own parts.
                part.to("cpu")
        return "offload"

    def _make_room_for(self, parts: Iterable[Any], beside: Resident) -> None:
        """Evict what is in the way of parts that come later than the pipeline they belong to."""
        free = free_memory_gib(self._device)
        if free is None:
            return
        tensors = [tensor for part in parts for tensor in tensors_of(part)]
        away = [tensor for tensor in tensors if tensor.device.type != self._device.kind]
        self._evict(beside.part_keys, sum(held_bytes(tensor) for tensor in away) / GIB, free)
        self._drop_unused(frozenset())
        free_caches(self._device)

    def _evict(self, wanted: frozenset[str], needed: float, free: float | None) -> None:
        in_the_way = set(choose_evictions(self._held(wanted), needed, free))
        self._drop([k for k, p in self._pipelines.items() if p.transformer_key in in_the_way])

    def _held(self, wanted: frozenset[str]) -> list[HeldTransformer]:
        held = {p.transformer_key: p.spec for p in self._pipelines.values()}
        return [
            HeldTransformer(
                key=key,
                gib=self._gib_on_device(self._parts[key]),
                last_used=self._last_used.get(key, 0),
                is_demonstration=spec.is_demonstration,
            )
            for key, spec in held.items()
            if key not in wanted
        ]

    def _gib_on_device(self, part: Any) -> float:
        here = [t for t in tensors_of(part) if t.device.type == self._device.kind]
        return sum(held_bytes(tensor) for tensor in here) / GIB

    def _place(self, pipe: Any, placement: Literal["resident", "offload"]) -> None:
        if pipe is None:
            return
        if placement == "offload":
            pipe.enable_model_cpu_offload(device=self._device.name)
        else:
            pipe.to(self._device.name)

    def _drop(self, keys: Sequence[str]) -> None:
        for key in keys:
            dropped = self._pipelines.pop(key, None)
            encoder = self._encoders.pop(key, None)
            if dropped is not None and dropped.placement == "offload":
                for pipe in (dropped.pipe, dropped.prior, encoder):
                    if pipe is not None:
                        pipe.remove_all_hooks()
                        pipe.to("cpu")

    def _drop_unused(self, wanted: frozenset[str]) -> None:
        used = wanted.union(*(held.part_keys for held in self._pipelines.values()))
        for cache in (self._parts, self._last_used, self._colours):
            for key in [key for key in cache if key not in used]:
                del cache[key]


def _pipeline_key(spec: ModelSpec) -> str:
    return f"{spec.kind}/{spec.id}"
