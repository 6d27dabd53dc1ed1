"""LoRAs on loaded transformers: attached for a job, weighted, and off again without residue.

Between jobs every LoRA is switched off: PEFT then calls the untouched base layer, and a transformer
that several kinds share has the pixels of one that never had a LoRA. `LoraAdapters` keeps the last
used attached. A compiled transformer is compiled again for every new shape of its adapters, so its
LoRAs are written into slots of a few ranks (`LoraSlots`).

The adapter that makes a control transformer of its base (control.py) is not a plan's: it is always
on, and stays when everything else is taken off.

Never through `pipe.load_lora_weights` (diffusers 0.42.1): it widens base layers to fit a LoRA of
another size and cannot undo it, loads nothing at all from names it does not know, and drops layers
outside of the blocks. Never fused either: unfusing is not exact.
"""

import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from flux_mcp.errors import InvalidLoraError, UnsupportedOptionError, WeightsInvalidError
from flux_mcp.models.formats import require_takes_loras
from flux_mcp.models.loras.fit import Placed, place
from flux_mcp.models.loras.header import parse_header
from flux_mcp.models.loras.library import check_file, find_files
from flux_mcp.pipelines.loaded import Resident
from flux_mcp.pipelines.loading.pipeline_files import Report
from flux_mcp.pipelines.loras.layers import (
    DOWN,
    UP,
    Change,
    LowRank,
    architecture_of,
    are_finite,
    attach,
    attach_matrices,
    changes_of,
    delete_adapter,
    kept_adapters,
    matrices_of,
    numbers_of,
)
from flux_mcp.requests.render_plan import PlanLora

KEPT_ADAPTERS = 4
"""Adapters that stay on a transformer for the jobs that follow. One of rank 16 on FLUX.1 in bf16
takes 50 MiB for its attention, 165 MiB for all layers: 2 * 16 * (inputs + outputs) bytes each."""
LEAST_RANK = 32
"""Of a slot. Most LoRAs of FLUX have rank 16 or 32, and each further slot is compiled for again. On
all layers this is 2 % of a block's arithmetic: 32 * (inputs + outputs) beside inputs * outputs,
both 3072. Larger ranks are powers of two."""

Contents = tuple[tuple[str, float], ...]
"""SHA-256 and weight of each LoRA in a slot."""
Weighted = tuple[float, Mapping[str, Any]]
"""A LoRA's weight, and its matrices by the names PEFT gives them."""


class LoraAdapters:
    """Attaches a plan's LoRAs to transformers.

    Args:
        folder: The folder with the LoRA files.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._carried: WeakKeyDictionary[Any, list[str]] = WeakKeyDictionary()
        """SHA-256 of each adapter of a transformer, the longest unused first."""
        self._slots = LoraSlots()

    def carried(self, transformer: Any) -> tuple[str, ...]:
        """Return the SHA-256 of each LoRA attached to a transformer, the longest unused first."""
        return tuple(self._carried.get(transformer, ()))

    def prepare(
        self,
        loras: Sequence[PlanLora],
        resident: Resident,
        report: Report,
        *,
        compiled: bool = False,
    ) -> None:
        """Attach a plan's LoRAs, switched off, and delete those that are not kept.

        Args:
            loras: What the plan names; those of weight 0 are left out.
            resident: The pipeline that will draw.
            report: Called with what is being loaded; may raise to stop.
            compiled: Whether the transformer draws in its compiled form.

        Raises:
            WeightsInvalidError: a file is not the one that was planned with.
            InvalidLoraError: it has numbers that are NaN or infinite.
            LoraMismatchError: it does not fit this transformer.
            UnsupportedOptionError: the format of the transformer's weights takes none.
        """
        wanted = _counting(loras)
        if compiled:
            self._delete_carried(resident.pipe.transformer)
        if not wanted:
            return
        require_takes_loras(resident.spec.precision)
        transformer = resident.pipe.transformer
        try:
            if compiled:
                self._fill_slot(wanted, resident, report)
            else:
                self._carry(wanted, resident, report)
            _switch_off(transformer)
        except BaseException:
            # Also what was attached in part: the base layers go back where they were.
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
                slot = self._slots.find(transformer, _contents(wanted))
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
            # Never one of the wanted: those are at the end, and active.
            transformer.delete_adapters(carried.pop(0))

    def _delete_carried(self, transformer: Any) -> None:
        """Delete what is not in a slot: torch would compile a layer with more adapters again."""
        for sha256 in self._carried.pop(transformer, ()):
            delete_adapter(transformer, sha256)

    def _fill_slot(self, wanted: Sequence[PlanLora], resident: Resident, report: Report) -> None:
        """Write all of them into one slot, unless a slot has just these."""
        transformer, contents = resident.pipe.transformer, _contents(wanted)
        if self._slots.find(transformer, contents) is not None:
            return
        read = []
        for lora in wanted:
            report(f"loading LoRA {lora.name}")
            changes = _read_changes(lora, self._folder, resident)
            read.append((lora.weight, matrices_of(_low_rank(lora, changes))))
        names = "' and '".join(lora.name for lora in wanted)
        self._slots.write(names, transformer, contents, read)


# --- switching on and off ------------------------------------------------------------------------


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
    """Leave active what is part of the transformer, and nothing else."""
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


# --- reading files -------------------------------------------------------------------------------


def _attach(lora: PlanLora, folder: Path, resident: Resident) -> None:
    """Attach the LoRA of one file."""
    changes = _read_changes(lora, folder, resident)
    attach(lora.name, lora.sha256, resident.pipe.transformer, changes)


def _read_changes(lora: PlanLora, folder: Path, resident: Resident) -> dict[str, Change]:
    """Return what one file changes of the transformer, which it fits."""
    transformer = resident.pipe.transformer
    data = _read(lora, folder)
    architecture = architecture_of(transformer, resident.spec)
    placed = place(parse_header(io.BytesIO(data)), architecture).placed
    return _changes(lora, data, placed, transformer.dtype)


def _read(lora: PlanLora, folder: Path) -> bytes:
    """Return the bytes that the plan was made with: read once, so what is checked is what is used.

    Raises:
        WeightsInvalidError: the file is gone, or another one has its name.
    """
    path = find_files(folder).get(lora.name)
    data = b""
    if path is not None:
        with suppress(OSError, InvalidLoraError):
            check_file(path, folder)
            data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != lora.sha256:
        raise WeightsInvalidError(
            f"The LoRA '{lora.name}' was changed or removed after this job was planned.",
            "Ask again to draw with what is there now, or put the old file back.",
        )
    return data


def _changes(
    lora: PlanLora, data: bytes, placed: Sequence[Placed], dtype: Any
) -> dict[str, Change]:
    """Return what a file changes, in the transformer's own precision.

    Raises:
        InvalidLoraError: a number is NaN or infinite.
    """
    from safetensors.torch import load

    changes = changes_of(placed, load(data), dtype)
    if not are_finite(numbers_of(changes)):
        raise InvalidLoraError(
            f"The LoRA '{lora.name}' has numbers that are NaN or infinite.",
            "It was trained or saved wrongly: get it again.",
        )
    return changes


def _low_rank(lora: PlanLora, changes: Mapping[str, Change]) -> dict[str, LowRank]:
    """Return changes that fit into a slot, which are all of them.

    Raises:
        UnsupportedOptionError: one is none of two narrow matrices alone.
    """
    narrow = {
        target: change
        for target, change in changes.items()
        if isinstance(change, LowRank) and change.bias is None
    }
    if len(narrow) < len(changes):
        raise UnsupportedOptionError(
            f"The LoRA '{lora.name}' is a LoKr or has biases: compiled blocks take neither.",
            "Ask again: such an image is drawn without compilation.",
        )
    return narrow


# --- slots of a compiled transformer -------------------------------------------------------------


class LoraSlots:
    """Writes LoRAs into the slots of compiled transformers.

    A slot is an adapter of a fixed rank that holds the weighted sum of a plan's LoRAs.
    """

    def __init__(self) -> None:
        self._held: WeakKeyDictionary[Any, dict[str, Contents]] = WeakKeyDictionary()

    def find(self, transformer: Any, contents: Contents) -> str | None:
        """Return the slot that holds just these, `None` if there is none."""
        held = self._held.get(transformer, {})
        return next((slot for slot, inside in held.items() if inside == contents), None)

    def write(
        self, names: str, transformer: Any, contents: Contents, loras: Sequence[Weighted]
    ) -> None:
        """Write LoRAs into the slot of their rank, in place of what was there.

        Args:
            names: What people call them; for messages.
            transformer: A model of diffusers.
            contents: The files and weights of these LoRAs.
            loras: Their weights and matrices.

        Raises:
            InternalError: some of the matrices are missing afterwards.
        """
        held = self._held.setdefault(transformer, {})
        rank = slot_rank(loras)
        # Of one length: PEFT looks for one name inside of another.
        slot = f"slot_{rank:05d}"
        there = _matrices_of(transformer, slot)
        matrices = combined(loras, rank)
        is_new = not matrices.keys() <= there.keys()
        for name, matrix in there.items():
            if name not in matrices:
                matrices[name] = matrix.new_zeros(matrix.shape)
        held.pop(slot, None)
        if is_new and there:
            delete_adapter(transformer, slot)
        attach_matrices(names, slot, transformer, matrices, in_place=not is_new)
        held[slot] = contents

    def forget(self, transformer: Any) -> None:
        """Forget the slots of a transformer, which are gone."""
        self._held.pop(transformer, None)


def slot_rank(loras: Sequence[Weighted]) -> int:
    """Return the rank of the slot that LoRAs fit into together."""
    ranks: dict[str, int] = {}
    for _, matrices in loras:
        for name, matrix in matrices.items():
            if name.endswith(DOWN):
                ranks[name] = ranks.get(name, 0) + matrix.shape[0]
    rank = LEAST_RANK
    while rank < max(ranks.values()):
        rank *= 2
    return rank


def combined(loras: Sequence[Weighted], rank: int) -> dict[str, Any]:
    """Return the matrices of one LoRA that is the weighted sum of several, filled up with zeros."""
    import torch
    from torch.nn.functional import pad

    layers = {n.removesuffix(DOWN) for _, m in loras for n in m if n.endswith(DOWN)}
    matrices = {}
    for layer in sorted(layers):
        inside = [(weight, m) for weight, m in loras if f"{layer}{DOWN}" in m]
        down = torch.cat([m[f"{layer}{DOWN}"] for _, m in inside])
        ups = [m[f"{layer}{UP}"] for _, m in inside]
        weighted = [w * up.to(torch.float32) for (w, _), up in zip(inside, ups, strict=True)]
        up = torch.cat(weighted, dim=1).to(down.dtype)
        missing = rank - down.shape[0]
        matrices[f"{layer}{DOWN}"] = pad(down, (0, 0, 0, missing)).contiguous()
        matrices[f"{layer}{UP}"] = pad(up, (0, missing)).contiguous()
    return matrices


def _matrices_of(transformer: Any, slot: str) -> dict[str, Any]:
    end = f".{slot}.weight"
    return {
        name.replace(end, ".weight"): value
        for name, value in transformer.named_parameters()
        if name.endswith(end)
    }
