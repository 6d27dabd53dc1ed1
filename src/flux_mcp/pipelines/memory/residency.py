"""The loaded pipelines, and what they share.

Parts are named by what their files hold, so a VAE or text encoder that several kinds use is loaded
once, and a text encoder not before a prompt must be encoded. Where the weights of parts are is
decided by store.py.

Where no GPU's memory is known (CPU, MPS) the demonstration's models all stay loaded; of the real
models only one transformer does.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from flux_mcp.errors import TooLittleMemoryError, WeightsInvalidError
from flux_mcp.models.formats import format_of, text_precision
from flux_mcp.models.memory import Load, LoadedAs, gpu_gib, ram_gib, working_gib
from flux_mcp.models.parts import PLACEMENTS, Placement, Precision, load_parts
from flux_mcp.models.planning.machine import host_budget_gib, machine_memory_gib
from flux_mcp.models.registry import ModelSpec, Registry
from flux_mcp.pipelines.device import (
    GIB,
    Device,
    free_caches,
    give_back_memory,
    tensors_of,
)
from flux_mcp.pipelines.loaded import Resident
from flux_mcp.pipelines.loading.checkpoints import FetchedTensors
from flux_mcp.pipelines.loading.fetching import available_bytes
from flux_mcp.pipelines.loading.fingerprints import Fingerprints
from flux_mcp.pipelines.loading.loaders import load_part, make_pipeline
from flux_mcp.pipelines.loading.part_files import PartFiles, loaded_bytes, part_precision
from flux_mcp.pipelines.loading.pipeline_files import (
    Report,
    assemble,
    find_files,
    list_files,
    name_by_content,
)
from flux_mcp.pipelines.loading.quantisers import require_formats
from flux_mcp.pipelines.loading.slots import send, slots_of
from flux_mcp.pipelines.loras.control import merged_onto
from flux_mcp.pipelines.memory.eviction import forget_without_gpu
from flux_mcp.pipelines.memory.store import DeviceMemory, PartStore, device_memory_of
from flux_mcp.pipelines.previews import LatentColours, calibrate
from flux_mcp.settings.settings import Settings

# --- how much a job takes ------------------------------------------------------------------------


@dataclass(frozen=True)
class Room:
    """The memory that a row takes to draw something."""

    spec: ModelSpec
    load: Load
    tile_px: int | None = None

    def gpu_bytes(self, placement: Placement) -> int:
        """Return the peak of GPU memory, without the driver's context."""
        taken = gpu_gib(self.spec.pieces, self._holding(placement), self.load)
        return int((taken - load_parts().machine.context_gib) * GIB)

    def host_bytes(self, placement: Placement) -> int:
        """Return the host memory of weights that wait."""
        taken = ram_gib(self.spec.pieces, self._holding(placement))
        return int((taken - load_parts().machine.base_ram_gib) * GIB)

    @property
    def working_bytes(self) -> int:
        """What drawing takes beside weights, without tiles."""
        return int(working_gib(self.spec.pieces, self.load) * GIB)

    def _holding(self, placement: Placement) -> LoadedAs:
        return LoadedAs(self.spec.precision, text_precision(self.spec), placement, self.tile_px)


def room_for(spec: ModelSpec, load: Load | None, tile_px: int | None) -> Room:
    """Return what a row takes; without a load, to draw an image of its own size."""
    return Room(spec, load or Load(spec.default_pixels / 1e6), tile_px)


def require_host_room(model: str, needed_bytes: int, free_bytes: int) -> None:
    """Refuse what does not fit before it is loaded, where all weights stay in host memory.

    Args:
        model: For the message.
        needed_bytes: For weights that are not loaded yet, and for drawing.
        free_bytes: Of host memory.

    Raises:
        TooLittleMemoryError: it would end this process, or others.
    """
    if needed_bytes > free_bytes:
        raise TooLittleMemoryError(
            f"{model} needs {needed_bytes / GIB:.1f} GiB of host memory, and "
            f"{free_bytes / GIB:.1f} GiB can be used.",
            "Close other programs, ask for a smaller image, or use a model or files with fewer "
            "bits.",
        )


def leaner(placement: Placement, spec: ModelSpec) -> Iterator[Placement]:
    """Yield a placement, then those that need less of the GPU, as far as the format allows."""
    yield placement
    for other in PLACEMENTS[PLACEMENTS.index(placement) + 1 :]:
        if format_of(spec.precision).streams or not load_parts().placement[other].streams:
            yield other


# --- loading to where it is needed ---------------------------------------------------------------


def load_to(
    device: str,
    part: PartFiles,
    precision: Precision,
    report: Report,
    *,
    stays: bool,
    fetched: FetchedTensors | None = None,
) -> tuple[Any, bool]:
    """Load a part; return it, and whether it is on the device now.

    A GPU quantises in seconds what takes a processor minutes. A transformer is quantised there
    block by block, because the whole may have no room; a text encoder works whole and has room.

    Args:
        device: The device that draws.
        part: The part's files.
        precision: What its weights are loaded as.
        report: Called with what is being loaded; may raise to stop.
        stays: Whether it stays on the device; else it waits in host memory.
        fetched: Tensors of its files that were read ahead.
    """
    if stays:
        model = load_part(part, precision, device, report, fetched=fetched)
        if tensors_of(model):
            send(slots_of(model), device)
        return model, True
    made_on = device if format_of(precision).made_by_device else None
    if part.loader == "text" and made_on is not None:
        return load_part(part, precision, made_on, report, fetched=fetched), True
    return load_part(part, precision, "cpu", report, made_on, fetched), False


# --- the loaded pipelines ------------------------------------------------------------------------


class Residency:
    """Loads pipelines on demand and keeps them as long as there is room.

    Args:
        registry: The rows.
        settings: The folders of weights, and how much host memory they may take.
        device: The device that draws.
        gpu: Its memory; left out, what the device has.
        fingerprints: Of files; shared with prefetch.py.
        fetched: Tensors that were read ahead.
    """

    def __init__(
        self,
        registry: Registry,
        settings: Settings,
        device: Device,
        gpu: DeviceMemory | None = None,
        fingerprints: Fingerprints | None = None,
        fetched: FetchedTensors | None = None,
    ) -> None:
        self._registry = registry
        self._settings = settings
        self._device = device
        self._fingerprints = fingerprints or Fingerprints()
        self._fetched = fetched
        budget_gib = host_budget_gib(settings.host_memory_gib, machine_memory_gib())
        self.store = PartStore(gpu or device_memory_of(device), int(budget_gib * GIB), self._forget)
        self._pipelines: dict[str, Resident] = {}
        self._encoders: dict[str, Any] = {}
        self._colours: dict[str, LatentColours] = {}
        self._last: str | None = None
        """Key of the pipeline that was used last."""

    @property
    def loaded(self) -> tuple[str, ...]:
        """Pipelines as `kind/model` that are ready: those on the GPU, and the one used last."""
        return tuple(key for key in self._pipelines if self._is_ready(key))

    @property
    def waiting(self) -> tuple[str, ...]:
        """Pipelines whose transformers wait in host memory."""
        return tuple(key for key in self._pipelines if not self._is_ready(key))

    def pipeline(
        self,
        spec: ModelSpec,
        placement: Placement,
        report: Report,
        load: Load | None = None,
        tile_px: int | None = None,
    ) -> Resident:
        """Return the pipeline of a row, loading what is missing and evicting what is in the way.

        Args:
            spec: The row, with the revision and precision the plan names.
            placement: Where its weights are while they do not work. One that needs less of the GPU
                is taken, and reported, if the GPU has less room than was planned with.
            report: Called with what is being loaded; may raise to stop.
            load: What one pass draws; left out, an image of the row's own size.
            tile_px: Side of the tiles its VAE decodes in.

        Raises:
            FormatUnsupportedError: the precision of the plan cannot be used on this device.
            ExtraMissingError: a package for that precision is missing.
            WeightsMissingError: its weights are not on this disk.
            WeightsInvalidError: its weights are not what the row promises.
        """
        key = _pipeline_key(spec)
        room = room_for(spec, load, tile_px)
        resident = self._pipelines.get(key)
        if resident is None or resident.spec != spec:
            require_formats(spec, self._device)
            self._drop([key])
            try:
                resident = self._pipelines[key] = self._load(spec, placement, room, report)
            finally:
                # Also where loading was stopped: parts that no pipeline uses must not stay.
                self._drop_unused(frozenset())
        else:
            found = self._make_room(spec, placement, resident.part_keys, room, report)
            if found != resident.placement:
                resident = replace(resident, placement=found)
            self.store.begin(resident.part_keys, found)
        self._pipelines[key] = resident
        self._last = key
        return resident

    def text_encoder(self, resident: Resident, report: Report) -> Any:
        """Return the pipeline whose `encode_prompt` encodes a resident's prompts.

        It has nothing but text encoders, and the class of the pipeline that draws. They are loaded
        at the first call.

        Raises:
            WeightsInvalidError: a text encoder's files are damaged, or were replaced since the
                pipeline was loaded: embeddings would be cached under the wrong key.
        """
        key, spec = _pipeline_key(resident.spec), resident.spec
        if key not in self._encoders:
            keys = name_by_content(tuple(resident.text_parts), spec, self._fingerprints, report)
            if keys != resident.text_parts:
                self._drop([key])
                raise WeightsInvalidError(
                    "The files of the text encoders have changed since the model was loaded.",
                    "Ask again: the model will be loaded again.",
                )
            parts: dict[str, Any] = dict.fromkeys(("scheduler", "vae", "transformer"))
            self.store.release()
            for part, name in resident.text_parts.items():
                parts[part.name] = self._part(part, name, spec, resident.placement, report)
            self._encoders[key] = self._placed(make_pipeline(type(resident.pipe).__name__, parts))
        return self._encoders[key]

    def colours(self, resident: Resident) -> LatentColours:
        """Return the preview colours of the pipeline's VAE, measured at the first call."""
        if resident.vae_key not in self._colours:
            self._colours[resident.vae_key] = calibrate(resident.spec, resident.pipe)
        return self._colours[resident.vae_key]

    def holds(self, key: str) -> bool:
        """Whether a part is loaded, by its `part_key`; may be called from other threads."""
        return key in self.store

    def clear(self) -> None:
        """Forget everything that is loaded and hand its memory back."""
        self._drop(list(self._pipelines))
        self._drop_unused(frozenset())
        free_caches(self._device)

    def _load(self, spec: ModelSpec, placement: Placement, room: Room, report: Report) -> Resident:
        if self.store.gpu is None:
            # Before files are hashed, which takes minutes, with all the memory there is.
            parts_here = list_files(spec, self._registry, self._settings).parts
            least = sum(loaded_bytes(part, part_precision(part, spec)) for part in parts_here)
            require_host_room(spec.id, least, int(machine_memory_gib() * GIB))
        files = find_files(spec, self._registry, self._settings, self._fingerprints, report)
        wanted = frozenset(files.keys.values())
        self._drop_unused(wanted)
        placement = self._make_room(spec, placement, wanted, room, report)
        if self.store.gpu is None:
            needed = sum(
                loaded_bytes(part, part_precision(part, spec))
                for part, key in files.keys.items()
                if key not in self.store
            )
            require_host_room(spec.id, needed + room.working_bytes, available_bytes())
        self.store.begin(wanted, placement)
        parts = {
            part: self._part(part, key, spec, placement, report)
            for part, key in files.to_load.items()
        }
        transformer = files.part("transformer")
        denoises, lora = parts[transformer], files.lora
        merged_file = None if lora is None else lora.path
        drawn_with = self._fingerprints.part(
            transformer.folder, transformer.file, report, merged_file
        )
        if lora is not None:
            denoises = self.store.vary(
                files.keys[transformer], lambda base: merged_onto(base, lora, report)
            )
        pipe, prior = assemble(files, parts, denoises)
        return Resident(
            spec=spec,
            pipe=self._placed(pipe),
            prior=self._placed(prior),
            weights_sha256=drawn_with,
            text_parts=files.texts,
            part_keys=wanted,
            transformer_key=files.keys[transformer],
            vae_key=files.keys[files.part("vae")],
            placement=placement,
            release=self.store.release,
        )

    def _part(
        self, part: PartFiles, key: str, spec: ModelSpec, placement: Placement, report: Report
    ) -> Any:
        if key not in self.store:
            report(f"loading {part.name}")
            model, is_on_device = load_to(
                self._device.name,
                part,
                part_precision(part, spec),
                report,
                stays=placement == "resident",
                fetched=self._fetched,
            )
            self.store.add(key, model, on_gpu=is_on_device)
            give_back_memory()
        return self.store[key]

    def _make_room(
        self,
        spec: ModelSpec,
        placement: Placement,
        wanted: frozenset[str],
        room: Room,
        report: Report,
    ) -> Placement:
        """Unload what is in the way; return the placement that there is room for."""
        if self.store.gpu is None:
            self._make_room_without_gpu(spec, wanted)
            return "resident"
        # A job that was stopped before it drew may have left something.
        self.store.release()
        here = self.store.gpu_bytes_of(wanted)
        taken = placement
        for taken in leaner(placement, spec):
            if self.store.make_room(room.gpu_bytes(taken) - here, wanted):
                break
        if taken != placement:
            report(f"the GPU has less room than was planned: {taken} instead of {placement}")
        waiting = room.host_bytes(taken) - self.store.host_bytes_of(wanted)
        self.store.make_host_room(waiting, wanted)
        return taken

    def _make_room_without_gpu(self, spec: ModelSpec, wanted: frozenset[str]) -> None:
        before = len(self._pipelines)
        if not spec.is_demonstration:
            transformers = {
                p.transformer_key: p.spec.is_demonstration for p in self._pipelines.values()
            }
            self._forget(forget_without_gpu(list(transformers.items()), wanted))
        self._drop_unused(wanted)
        if len(self._pipelines) < before:
            # Only then: collecting all objects of torch takes a third of a second.
            free_caches(self._device)

    def _placed(self, pipe: Any) -> Any:
        """Move a pipeline to a device whose memory is the host's, or is not counted."""
        if pipe is not None and self.store.gpu is None:
            pipe.to(self._device.name)
        return pipe

    def _is_ready(self, key: str) -> bool:
        return key == self._last or self.store.is_on_gpu(self._pipelines[key].transformer_key)

    def _forget(self, part_keys: Collection[str]) -> None:
        """Drop parts and the pipelines that have them; for text encoders, only what encodes."""
        gone = set(part_keys)
        for key, resident in list(self._pipelines.items()):
            texts = set(resident.text_parts.values())
            if gone & texts:
                self._encoders.pop(key, None)
            if gone & (resident.part_keys - texts):
                self._drop([key])
        self.store.drop(gone)

    def _drop(self, keys: Sequence[str]) -> None:
        for key in keys:
            self._pipelines.pop(key, None)
            self._encoders.pop(key, None)
            self._last = None if self._last == key else self._last

    def _drop_unused(self, wanted: frozenset[str]) -> None:
        used = wanted.union(*(one.part_keys for one in self._pipelines.values()))
        self.store.drop([key for key in self.store if key not in used])
        for key in [key for key in self._colours if key not in used]:
            del self._colours[key]


def _pipeline_key(spec: ModelSpec) -> str:
    return f"{spec.kind}/{spec.id}"
