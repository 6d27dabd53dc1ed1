"""What is loaded, what is shared between kinds, and what to evict.

Owns every loaded part and pipeline. Parts are known by what their files hold, so a VAE or text
encoder that several kinds use is loaded once. Knows nothing of jobs or pictures.

On the CPU the demonstration family stays loaded whole; of the real models only one transformer
does. On a CUDA card transformers stay as long as they fit beside the next one.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from flux_mcp.config import Settings
from flux_mcp.models.parts import Precision
from flux_mcp.models.registry import ModelSpec, Registry
from flux_mcp.models.weights import require_snapshot
from flux_mcp.pipelines.device import GIB, Device, free_caches, free_memory_gib
from flux_mcp.pipelines.fingerprints import Fingerprints
from flux_mcp.pipelines.loaders import PartFiles, list_parts, load_part, make_pipeline
from flux_mcp.pipelines.previews import LatentColours, calibrate

Report = Callable[[str], None]
"""Told what is being loaded ('loading transformer'); may raise to stop the loading."""


@dataclass(frozen=True)
class HeldTransformer:
    """What the eviction rule knows of a loaded transformer."""

    key: str
    gib: float
    last_used: int
    is_demonstration: bool


def choose_evictions(
    held: Sequence[HeldTransformer], needed_gib: float, free_gib: float | None
) -> tuple[str, ...]:
    """Return which transformers must go before another is loaded, the longest unused first.

    Args:
        held: Loaded transformers that the new pipeline does not use itself.
        needed_gib: What the new pipeline takes.
        free_gib: What is free on the device; `None` where that is not known (CPU, MPS): then no
            real model stays beside another.
    """
    oldest_first = sorted(held, key=lambda item: item.last_used)
    if free_gib is None:
        return tuple(item.key for item in oldest_first if not item.is_demonstration)
    evicted = []
    for item in oldest_first:
        if needed_gib <= free_gib:
            break
        evicted.append(item.key)
        free_gib += item.gib
    return tuple(evicted)


@dataclass(frozen=True)
class Resident:
    """A pipeline that is ready to draw."""

    spec: ModelSpec
    pipe: Any
    """The diffusers pipeline that denoises; it has its own scheduler."""
    prior: Any | None
    """For redux: the FluxPriorReduxPipeline that turns pictures into tokens."""
    weights_sha256: str
    """Fingerprint of the transformer's files."""
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
            WeightsMissingError: its weights are not on this disk.
            WeightsInvalidError: its weights are not what the row promises.
        """
        key = f"{spec.kind}/{spec.id}"
        resident = self._pipelines.get(key)
        if resident is None or resident.spec != spec:
            self._drop([key])
            try:
                resident = self._pipelines[key] = self._load(spec, report)
            finally:
                # Also when loading was stopped half-way: what no pipeline uses must not stay.
                self._drop_unused(frozenset())
        self._uses += 1
        self._last_used[resident.transformer_key] = self._uses
        return resident

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
        own = list_parts(spec, require_snapshot(spec, self._registry, self._settings))
        drawing = spec if spec.base is None else self._registry.find("text2img", spec.base)
        drawn_by = own if drawing is spec else self._list_base(drawing, spec.precision)
        keys = self._keys(own if drawing is spec else (*own, *drawn_by), spec.precision, report)
        placement = self._make_room(spec, frozenset(keys.values()))
        parts = {part: self._part(part, keys[part], spec.precision, report) for part in keys}
        schedulers = [part for part in drawn_by if part.name == "scheduler"]
        pipe_parts = {part.name: parts[part] for part in drawn_by if part in parts}
        pipe_parts |= {part.name: load_part(part, spec.precision) for part in schedulers}
        pipe = make_pipeline(drawing.pipeline, pipe_parts)
        prior = None
        if drawing is not spec:
            prior = make_pipeline(spec.pipeline, {part.name: parts[part] for part in own})
        self._place(pipe, placement)
        self._place(prior, placement)
        transformer = next(part for part in drawn_by if part.name == "transformer")
        vae = next(part for part in drawn_by if part.name == "vae")
        return Resident(
            spec=spec,
            pipe=pipe,
            prior=prior,
            weights_sha256=self._fingerprints.folder(transformer.folder),
            part_keys=frozenset(keys.values()),
            transformer_key=keys[transformer],
            vae_key=keys[vae],
            placement=placement,
        )

    def _list_base(self, base: ModelSpec, precision: Precision) -> tuple[PartFiles, ...]:
        base = base.model_copy(update={"precision": precision})
        return list_parts(base, require_snapshot(base, self._registry, self._settings))

    def _keys(
        self, parts: Sequence[PartFiles], precision: Precision, report: Report
    ) -> Mapping[PartFiles, str]:
        """Name each shareable part by its class, content and precision; schedulers are not."""
        report("checking weights")
        keys = {}
        for part in parts:
            if part.name != "scheduler":
                content = self._fingerprints.folder(part.folder)
                keys[part] = f"{part.class_name}:{precision}:{content}"
        return keys

    def _part(self, part: PartFiles, key: str, precision: Precision, report: Report) -> Any:
        if key not in self._parts:
            report(f"loading {part.name}")
            self._parts[key] = load_part(part, precision)
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
            in_the_way = set(choose_evictions(self._held(wanted), needed, free))
            self._drop([k for k, p in self._pipelines.items() if p.transformer_key in in_the_way])
        self._drop_unused(wanted)
        if free is not None or len(self._pipelines) < before:
            # Not otherwise: a collection of all that torch brings takes a third of a second.
            free_caches(self._device)
            free = free_memory_gib(self._device)
        if free is None or needed <= free:
            return "resident"
        self._drop(list(self._pipelines))
        self._drop_unused(wanted)
        return "offload"

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
        if not hasattr(part, "parameters"):
            return 0.0
        tensors = [*part.parameters(), *part.buffers()]
        here = [tensor for tensor in tensors if tensor.device.type == self._device.kind]
        return float(sum(tensor.nbytes for tensor in here)) / GIB

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
            if dropped is not None and dropped.placement == "offload":
                for pipe in (dropped.pipe, dropped.prior):
                    if pipe is not None:
                        pipe.remove_all_hooks()
                        pipe.to("cpu")

    def _drop_unused(self, wanted: frozenset[str]) -> None:
        used = wanted.union(*(held.part_keys for held in self._pipelines.values()))
        for cache in (self._parts, self._last_used, self._colours):
            for key in [key for key in cache if key not in used]:
                del cache[key]
