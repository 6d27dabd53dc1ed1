"""docs/models/README.md: what can be drawn with, and which model a quality takes on which GPU."""

import ast
import inspect
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from flux_mcp.models.formats import load_formats
from flux_mcp.models.parts import PLACEMENTS, load_parts
from flux_mcp.models.planning.candidates import (
    Gpu,
    Machine,
    Wanted,
    as_if_installed,
    load_support_with,
)
from flux_mcp.models.planning.tiers import choose_tier
from flux_mcp.models.qualities import load_qualities
from flux_mcp.models.registry import KINDS, QUALITIES, ModelSpec, load_registry
from flux_mcp.settings.sources import kind_of
from reference.markdown import NOTE, page, table

GPUS_GIB = (8, 12, 16, 24, 32, 48, 141)
"""Sizes of GPUs the table of qualities shows."""
SKIPPED_COLUMNS = {"origin"}


def models_page() -> str:
    """Return what can be drawn with, which model draws on which GPU, and how to add one."""
    registry = load_registry()
    lines = [
        NOTE,
        "# Models",
        (
            "What can be drawn with, which of it a `quality` takes on which GPU, and how to add "
            "your own. The rows are in [models.toml](../../src/flux_mcp/models/models.toml), the "
            "order of preference in [qualities.toml](../../src/flux_mcp/models/qualities.toml), "
            "weights and speeds in [parts.toml](../../src/flux_mcp/models/parts.toml); each number "
            "names its source there. [micro](micro.md) has a page of its own."
        ),
        table(
            "model",
            "kind",
            "repository",
            "licence",
            "disk, GiB",
            "GPU, GiB",
            "drawn with today",
            rows=(_model_row(row) for row in registry),
        ),
        (
            "`gpu` is the most of the GPU's memory that is taken at the model's own size, in the "
            "precision it is stored in, whole and with parts offloaded: counted and compared with "
            "what others measured, not measured by us. Rows that are not drawn with today are "
            "known to `flux-mcp models plan`; the server neither chooses nor accepts them yet: see "
            "[engine.py](../../src/flux_mcp/models/planning/candidates.py)."
        ),
        (
            "`flux1-canny-dev-lora` and `flux1-depth-dev-lora` are merged onto `flux1-dev`: they use "
            "its weights and add their own, 1.3 GiB, so one transformer draws from words and along "
            "edges or depth, both loaded at once. `flux_structural` takes the full model of a "
            "structure where it is installed, else the LoRA. `flux-mcp models pull "
            "flux1-canny-dev-lora` gets `flux1-dev` too, if it is missing. They can be held in any "
            "precision that takes LoRAs ([formats.md](formats.md)): "
            "[decision 25](../decisions/0025-control-loras-share-their-base.md)."
        ),
        (
            "FLUX.3 klein has no row. diffusers 0.42.1 has it as a modular pipeline, without "
            "`callback_on_step_end`, but its denoising loop takes a block of ours beside its own "
            "(`sub_blocks` of `Flux3DistilledDenoiseStep`, in a deep copy: pipelines of a process "
            "share their blocks). Tried with a tiny one on a CPU: the block is called after each "
            "step with its number and the latents, an error raised in it ends the call there, and "
            "pixels are the same to the bit with it, without it, and after a call that was ended. "
            "So steps can be reported and cancelled. What is missing:\n\n"
            "* its folder has a `modular_model_index.json`; downloading, the check that all parts "
            "are there and the worker's list of classes read `model_index.json`;\n"
            "* prompts are meant to be written again by another model first (Qwen3.5, up to 3584 "
            "tokens in one `generate` that reports nothing), then encoded to at most 8192 rows of "
            "20,480 numbers: 336 MB in 16 bit, eighty times those of FLUX.1, for which the "
            "embedding cache is sized;\n"
            "* modular pipelines have no `enable_model_cpu_offload`: placements but `resident` "
            "would be ours to make;\n"
            "* a cancel writes a traceback into the log for each level of blocks, unless that "
            "logger of diffusers is silenced;\n"
            "* sizes of its encoders, measured peaks, and a licence class: nobody of us has seen "
            "its files, and its licence is none of those a row can name."
        ),
        "## Helpers",
        ("Small models that work beside a pipeline, one for each role. Nothing uses them yet."),
        table(
            "role",
            "model",
            "repository",
            "licence",
            "disk, GiB",
            rows=(
                (
                    one.role,
                    f"`{one.id}`",
                    f"`{one.repository}`",
                    one.licence,
                    f"{one.disk_gib:g}",
                )
                for one in registry.helpers.values()
            ),
        ),
        "## Which model draws",
        (
            "A call that names no `model` gets one by its `quality`. The table shows `text2img` at "
            "the model's own size, with every model installed and enough host memory; "
            "`flux-mcp models plan --quality high --vram 16 --ram 32` shows any other case, and "
            "with `--explain` what was considered."
        ),
        table(
            "GPU, GiB",
            *QUALITIES,
            rows=(
                (str(gib), *(_tier_cell(gib, quality) for quality in QUALITIES)) for gib in GPUS_GIB
            ),
        ),
        (
            "1. The models of the quality are taken in the order below; then others that name the "
            "quality in their row; then the rest, with a notice. Only those that are installed, "
            "that this version can load, whose licence the setting `licences` allows, and that "
            "take as many reference images as there are.\n"
            "2. Each is tried in the precisions and placements of the quality, best first: more "
            "bits before fewer, the whole model on the GPU before parts of it.\n"
            "3. The first that fits is taken: its peak within the free memory of the GPU (what "
            "our own worker holds counts as free), what waits beside it within the machine's. So "
            "more memory never gives a worse plan.\n"
            "4. Fewer bits than the quality is meant for, another model, streaming, tiles and a "
            "licence that is not free are said in notices. If nothing fits, the call is refused "
            "with `too_little_memory` and with what would fit."
        ),
        table(
            "kind",
            *QUALITIES,
            rows=(
                (f"`{kind}`", *(_models_cell(kind, quality) for quality in QUALITIES))
                for kind in KINDS
            ),
        ),
        table(
            "placement",
            "what is where",
            rows=((f"`{name}`", load_parts().placement[name].about) for name in PLACEMENTS),
        ),
        "What each means for the weights, and what a switch costs: [memory.md](memory.md).",
        (
            "The GPU is asked through `nvidia-smi`, at most every five seconds. Without it, or on "
            "a CPU, no memory is known: the first installed model of the order is taken, and the "
            "worker sees how far it comes. What finished jobs took, memory and seconds, is kept "
            "in the data folder for each GPU, and the next plans use it instead of what is "
            "computed; a peak is only ever learned upwards."
        ),
        "## Your own models",
        (
            "Write `models.toml` in the data folder, for everybody who draws with it, or in the "
            "folder of your `config.toml`, for you; the data folder's wins. Each `[[model]]` needs "
            "an `id`; `extends` takes every other column from a shipped model."
        ),
        (
            "```toml\n"
            "[[model]]                       # another repository of the same kind of weights\n"
            'id = "my-finetune"\n'
            'extends = "flux1-dev"\n'
            'repository = "someone/their-flux-dev"\n'
            'licence = "other"\n\n'
            "[[model]]                       # a pipeline's folder on this disk\n"
            'id = "my-fill"\n'
            'extends = "flux1-fill-dev"\n'
            'folder = "weights/my-fill"      # relative to this file\n\n'
            "[[model]]                       # a transformer in one file; other parts as extended\n"
            'id = "my-gguf"\n'
            'extends = "flux1-dev"\n'
            'gguf = "weights/flux1-dev-Q4_K_S.gguf"   # or: file = "….safetensors"\n'
            'precision = "q4_k"\n\n'
            "[[model]]                       # a control LoRA of your own; base: any FLUX.1 model\n"
            'id = "my-scribbles"\n'
            'extends = "flux1-canny-dev-lora"\n'
            'file = "weights/scribbles-lora.safetensors"\n'
            'base = "my-gguf"                # with a base that is quantised:\n'
            'precision = "q4_k"              # its precision\n\n'
            "[[model]]                       # the id of a shipped model: replaces it\n"
            'id = "flux1-schnell"\n'
            'extends = "flux1-schnell"\n'
            "steps = { low = 2, standard = 4, high = 8 }\n"
            "```"
        ),
        (
            "Weights are one of `repository`, `folder`, `file` and `gguf`; pickles are refused. "
            "A row with `lora = true`, or one that extends such a row, is a control LoRA: its "
            "`repository` or `file` holds the LoRA, and everything else is that of its `base`. "
            "Without `kind`, a row stands for every kind of the model it extends. A mistake is "
            "told with its line by `flux-mcp doctor`; the whole file is out of use until it is "
            "fixed, and the server runs on with the shipped models."
        ),
        table(
            "column",
            "type",
            "meaning",
            rows=_columns(),
        ),
    ]
    return page(lines)


def _model_row(row: ModelSpec) -> tuple[str, ...]:
    disk = f"{row.disk_gib:g}" + (f", and `{row.base}`" if row.base not in (None, row.id) else "")
    whole, offloaded = row.vram_gib["resident"], row.vram_gib["offload"]
    return (
        f"`{row.id}`",
        f"`{row.kind}`",
        "in the package" if row.repository is None else f"`{row.repository}`",
        row.licence,
        disk,
        f"{whole:.0f} / {offloaded:.0f}" if not row.is_demonstration else "a CPU will do",
        "yes" if load_support_with(load_formats().extra).can_load(row) else "not yet",
    )


def _tier_cell(gib: float, quality: Any) -> str:
    machine = Machine(Gpu(gib, gib))
    tier = choose_tier(Wanted("text2img", quality), machine, as_if_installed(load_registry()))
    if tier is None:
        return "nothing"
    chosen, parts = tier.chosen, load_parts()
    bits = parts.precision[chosen.holding.precision].bits
    placement = chosen.holding.placement
    return f"`{chosen.spec.id}`, {bits} bit, `{placement}`, {chosen.peak_gib:.0f} GiB"


def _models_cell(kind: Any, quality: Any) -> str:
    return ", ".join(f"`{name}`" for name in load_qualities().models[kind][quality])


def _columns() -> Iterator[tuple[str, str, str]]:
    """Yield the columns of a row: name, type, and what the code says below each."""
    schema = ModelSpec.model_json_schema()
    (spec,) = ast.parse(inspect.getsource(ModelSpec)).body
    said = {
        field.target.id: text.value.value
        for field, text in pairwise(spec.body)  # type: ignore[attr-defined]
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
    }
    for name, field in schema["properties"].items():
        if name not in SKIPPED_COLUMNS:
            about = str(said.get(name, "")).replace("None", "left out")
            yield f"`{name}`", kind_of(field).removesuffix(" or null"), about
