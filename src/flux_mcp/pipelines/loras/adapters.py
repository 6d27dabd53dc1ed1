"""LoRAs on loaded transformers: attached, weighted, and off again without residue.

`Adapters` owns which LoRAs each transformer carries; those of a compiled one are in the slots of
lora_slots.py. Between jobs every one of them is switched
off, so a transformer that several kinds share is the same for each of them: PEFT then calls the
untouched base layer, and the pixels are those of a transformer that never saw a LoRA.

The adapter that makes a control transformer of its base (control_loras.py) is not a plan's: it is
always on, and stays when everything else is taken off.

Never through `pipe.load_lora_weights` (diffusers 0.42.1): it widens base layers to fit a LoRA of
another size and cannot undo it, loads nothing at all from names it does not know, and drops layers
outside of the blocks. Never fused either: unfusing is not exact.
"""

import hashlib
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from flux_mcp.errors import (
    InvalidLoraError,
    UnsupportedOptionError,
    WeightsInvalidError,
)
from flux_mcp.models.formats import format_of
from flux_mcp.models.loras.fit import Placed, place
from flux_mcp.models.loras.header import parse_header
from flux_mcp.models.loras.library import SUFFIX, check_file
from flux_mcp.pipelines.loaded import Resident
from flux_mcp.pipelines.loading.pipeline_files import Report
from flux_mcp.pipelines.loras.layers import (
    Contents,
    Slots,
    architecture_of,
    are_finite,
    attach,
    delete_adapter,
    kept_adapters,
    matrices_of,
)
from flux_mcp.requests.plan import PlanLora

KEPT_ADAPTERS = 4
"""Adapters that stay on a transformer for the jobs that follow. One of rank 16 on FLUX.1 in bf16
takes 50 MiB for its attention, 165 MiB for all layers: 2 * 16 * (inputs + outputs) bytes each."""


class Adapters:
    """Puts a plan's LoRAs onto transformers.

    Args:
        folder: Where the files lie.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._carried: WeakKeyDictionary[Any, list[str]] = WeakKeyDictionary()
        """SHA-256 of each adapter of a transformer, the longest unused first."""
        self._slots = Slots()

    def carried(self, transformer: Any) -> tuple[str, ...]:
        """Return what a transformer carries, the longest unused first."""
        return tuple(self._carried.get(transformer, ()))

    def prepare(
        self,
        loras: Sequence[PlanLora],
        resident: Resident,
        report: Report,
        *,
        compiled: bool = False,
    ) -> None:
        """Attach a plan's LoRAs, switched off, and let go of those that are not kept.

        Args:
            loras: What the plan names; those of weight 0 are as good as not there.
            resident: The pipeline that will draw.
            report: Told what is being loaded; may raise to stop.
            compiled: Whether the transformer draws in its compiled form.

        Raises:
            WeightsInvalidError: a file is not the one that was planned with.
            InvalidLoraError: it holds numbers that are none.
            LoraMismatchError: it does not fit this transformer.
            UnsupportedOptionError: the transformer is held in a format that takes none.
        """
        wanted = _counting(loras)
        if compiled:
            self._let_go(resident.pipe.transformer)
        if not wanted:
            return
        if not format_of(resident.spec.precision).takes_loras:
            raise UnsupportedOptionError(
                f"Weights held in {resident.spec.precision} take no LoRAs.",
                "Leave them out, or choose a model that is held otherwise.",
            )
        transformer = resident.pipe.transformer
        try:
            if compiled:
                self._fill_slot(wanted, resident, report)
            else:
                self._carry(wanted, resident, report)
            _switch_off(transformer)
        except BaseException:
            # Whatever was half done: the base layers go back where they were.
            _strip(transformer, [lora.sha256 for lora in wanted])
            self._carried.pop(transformer, None)
            self._slots.forget(transformer)
            raise

    @contextmanager
    def active(
        self, loras: Sequence[PlanLora], resident: Resident, *, compiled: bool = False
    ) -> Iterator[None]:
        """Draw with LoRAs that were prepared; switched off again however it ends."""
        wanted = _counting(loras)
        if not wanted:
            yield
            return
        transformer = resident.pipe.transformer
        try:
            if compiled:
                # Not with `set_adapters`: the weights are in the matrices, its scale stays 1.
                slot = self._slots.holding(transformer, _contents(wanted))
                transformer.set_adapter([*kept_adapters(transformer), slot])
                transformer.enable_adapters()
            else:
                _switch_on(transformer, wanted)
            yield
        finally:
            _switch_off(transformer)

    def _carry(self, wanted: Sequence[PlanLora], resident: Resident, report: Report) -> None:
        """Attach each LoRA as an adapter of its own."""
        transformer = resident.pipe.transformer
        carried = self._carried.setdefault(transformer, [])
        for lora in wanted:
            if lora.sha256 not in carried:
                report(f"loading LoRA {lora.name}")
                _attach(lora, self._folder, resident)
                carried.append(lora.sha256)
            # Used last: to the end.
            carried.remove(lora.sha256)
            carried.append(lora.sha256)
        _switch_on(transformer, wanted)
        too_many = max(0, len(carried) - max(KEPT_ADAPTERS, len(wanted)))
        for _ in range(too_many):
            # None of the wanted: those are at the end, and active.
            transformer.delete_adapters(carried.pop(0))

    def _let_go(self, transformer: Any) -> None:
        """Delete what is not in slots: for a layer that has more, torch would compile again."""
        for sha256 in self._carried.pop(transformer, ()):
            delete_adapter(transformer, sha256)

    def _fill_slot(self, wanted: Sequence[PlanLora], resident: Resident, report: Report) -> None:
        """Write all of them into a slot, if none holds just these."""
        transformer, contents = resident.pipe.transformer, _contents(wanted)
        if self._slots.holding(transformer, contents) is not None:
            return
        read = []
        for lora in wanted:
            report(f"loading LoRA {lora.name}")
            read.append((lora.weight, _read_matrices(lora, self._folder, resident)))
        names = "' and '".join(lora.name for lora in wanted)
        self._slots.write(names, transformer, contents, read)


def _contents(wanted: Sequence[PlanLora]) -> Contents:
    return tuple((lora.sha256, lora.weight) for lora in wanted)


def _counting(loras: Sequence[PlanLora]) -> list[PlanLora]:
    return [lora for lora in loras if lora.weight != 0]


def _switch_on(transformer: Any, wanted: Sequence[PlanLora]) -> None:
    # In the plan's order: sums of floating-point numbers depend on it.
    kept = kept_adapters(transformer)
    names = [*kept, *(lora.sha256 for lora in wanted)]
    weights = [*(1.0 for _ in kept), *(lora.weight for lora in wanted)]
    transformer.set_adapters(names, weights)
    transformer.enable_adapters()


def _switch_off(transformer: Any) -> None:
    """Leave active what makes the transformer what it is, and nothing else."""
    if kept_adapters(transformer):
        _switch_on(transformer, ())
    else:
        transformer.disable_adapters()


def _strip(transformer: Any, names: Sequence[str]) -> None:
    """Take off every LoRA and slot of a plan, also one that was attached in part."""
    if kept := kept_adapters(transformer):
        _switch_off(transformer)
        for name in {*names, *transformer.peft_config} - {*kept}:
            delete_adapter(transformer, name)
    elif getattr(transformer, "peft_config", None):
        transformer.unload_lora()


def _attach(lora: PlanLora, folder: Path, resident: Resident) -> None:
    """Load one file onto the transformer, and see that all of it is there."""
    transformer = resident.pipe.transformer
    matrices = _read_matrices(lora, folder, resident)
    attach(lora.name, lora.sha256, transformer, matrices)


def _read_matrices(lora: PlanLora, folder: Path, resident: Resident) -> dict[str, Any]:
    """Return the matrices of one file by the names PEFT gives them; they fit the transformer."""
    transformer = resident.pipe.transformer
    data = _read(lora, folder)
    placed = place(parse_header(io.BytesIO(data)), architecture_of(transformer, resident.spec))
    return _matrices(lora, data, placed, transformer.dtype)


def _read(lora: PlanLora, folder: Path) -> bytes:
    """Return the bytes that the plan was made with: read once, so what is checked is what is used.

    Raises:
        WeightsInvalidError: the file is gone, or another one has its name.
    """
    path = folder / f"{lora.name}{SUFFIX}"
    try:
        check_file(path, folder)
        data = path.read_bytes()
    except (OSError, InvalidLoraError):
        data = b""
    if hashlib.sha256(data).hexdigest() != lora.sha256:
        raise WeightsInvalidError(
            f"The LoRA '{lora.name}' was changed or removed after this job was planned.",
            "Ask again to draw with what is there now, or put the old file back.",
        )
    return data


def _matrices(lora: PlanLora, data: bytes, placed: Sequence[Placed], dtype: Any) -> dict[str, Any]:
    """Return the matrices by the names PEFT gives them, in the transformer's own precision.

    Raises:
        InvalidLoraError: a number is NaN or infinite.
    """
    from safetensors.torch import load

    matrices = matrices_of(placed, load(data), dtype)
    if not are_finite(matrices.values()):
        raise InvalidLoraError(
            f"The LoRA '{lora.name}' has numbers that are none (NaN or infinite).",
            "It was trained or saved wrongly: get it again.",
        )
    return matrices
