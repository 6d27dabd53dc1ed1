"""docs/models/README.md: the models, and which one a quality selects on which GPU."""

import ast
import inspect
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from flux_mcp.models.formats import load_formats
from flux_mcp.models.parts import PLACEMENTS, load_parts
from flux_mcp.models.planning.candidates import Gpu, Machine, Wanted, as_if_installed
from flux_mcp.models.planning.support import load_support_with
from flux_mcp.models.planning.tiers import choose_tier
from flux_mcp.models.qualities import load_qualities
from flux_mcp.models.registry import KINDS, QUALITIES, ModelSpec, load_registry
from flux_mcp.settings.sources import kind_of
from reference.markdown import NOTE, page, table

GPUS_GIB = (8, 12, 16, 24, 32, 48, 141)
"""Sizes of GPUs the table of qualities shows."""
SKIPPED_COLUMNS = {"origin"}


def models_page() -> str:
    """Return the page: the models, which one is used on which GPU, and how to add one."""
    registry = load_registry()
    lines = [
        NOTE,
        "# Models",
        (
            "The models, which of them a `quality` selects on which GPU, and how to add your own. "
            "The rows are in [models.toml](../../src/flux_mcp/models/models.toml), the order of "
            "preference in [qualities.toml](../../src/flux_mcp/models/qualities.toml), sizes and "
            "speeds in [parts.toml](../../src/flux_mcp/models/parts.toml); each number has its "
            "source there. [micro](micro.md) has a page of its own."
        ),
        table(
            "model",
            "kind",
            "repository",
            "licence",
            "disk, GiB",
            "GPU, GiB",
            "usable",
            rows=(_model_row(row) for row in registry),
        ),
        (
            "The column `GPU` is the peak GPU memory at the model's own size, in the precision it "
            "is stored in: with the whole model on the GPU / with parts offloaded. It is computed "
            "and compared with published measurements, not measured by us. Rows that are not "
            "usable are known to `flux-mcp models plan`; the server neither chooses nor accepts "
            "them yet: see [support.py](../../src/flux_mcp/models/planning/support.py)."
        ),
        (
            "`flux1-canny-dev-lora` and `flux1-depth-dev-lora` are merged onto `flux1-dev`: they "
            "use its weights and add 1.3 GiB of their own, so one transformer serves "
            "`flux_generate` and `flux_structural`, both loaded at once. `flux_structural` uses "
            "the full model of a structure if it is installed, else the LoRA. `flux-mcp models "
            "pull flux1-canny-dev-lora` downloads `flux1-dev` too, if it is missing. Both can be "
            "loaded in any precision that takes LoRAs ([formats.md](formats.md)): "
            "[decision 25](../decisions/0025-control-loras-share-their-base.md)."
        ),
        (
            "**FLUX.3 klein** is not supported. diffusers 0.42.1 has it as a modular pipeline "
            "without `callback_on_step_end`, but its denoising loop accepts an additional block "
            "(`sub_blocks` of `Flux3DistilledDenoiseStep`, in a deep copy, because pipelines of a "
            "process share their blocks). We tried this with a tiny model on a CPU: the block is "
            "called after each step with its number and the latents, an error raised in it ends "
            "the call, and the pixels are bit for bit the same with it, without it, and after a "
            "call that was ended. Steps can therefore be reported and cancelled. What is "
            "missing:\n\n"
            "* its folder has a `modular_model_index.json`; downloading, the check for missing "
            "parts and the worker's list of allowed classes read `model_index.json`;\n"
            "* prompts are meant to be rewritten by another model first (Qwen3.5, up to 3584 "
            "tokens in one `generate` without progress), then encoded to at most 8192 rows of "
            "20,480 numbers: 336 MB in 16 bit, eighty times the size of FLUX.1's, for which the "
            "embedding cache is sized;\n"
            "* modular pipelines have no `enable_model_cpu_offload`: all placements but "
            "`resident` would be our own code;\n"
            "* a cancel writes a traceback into the log for each level of blocks, unless that "
            "logger of diffusers is silenced;\n"
            "* the sizes of its encoders, measured peaks, and a licence class: we have not seen "
            "its files, and a row cannot name its licence yet."
        ),
        "## Helpers",
        (
            "Small models that assist a pipeline, best first for each role; `flux-mcp models "
            "pull` gets them. `segmentation`, with `outlines`, finds the words of a mask "
            "([masks.md](../masks.md)), `depth` what is near ([structure.md](../structure.md)), "
            "`upscaling` makes images larger ([upscaling.md](../upscaling.md)), `caption` says "
            "what an image shows to callers that are shown none. `embedding` is not used yet: "
            "similarity search is not available."
        ),
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
                if one.repository
            ),
        ),
        "## Which model is used",
        (
            "If a call names no `model`, its `quality` selects one. The table shows `text2img` at "
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
            "1. Candidates are the models of the quality in the order below; then others that name "
            "the quality in their row; then the rest, with a notice. They must be installed, "
            "supported by this version, allowed by the setting `licences`, and accept the number "
            "of reference images.\n"
            "2. Each is tried in the precisions and placements of the quality, best first: more "
            "bits before fewer, the whole model on the GPU before parts of it.\n"
            "3. The first that fits is used: its peak must fit in the free memory of the GPU (the "
            "memory of our own worker counts as free), and offloaded parts in host memory. More "
            "memory therefore never gives a worse plan.\n"
            "4. A notice says if the plan has fewer bits than the quality intends, another model, "
            "streaming, tiles, or a licence that is not free. If nothing fits, the call is refused "
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
            "where the weights are",
            rows=((f"`{name}`", load_parts().placement[name].about) for name in PLACEMENTS),
        ),
        "Details, and the cost of a model swap: [memory.md](memory.md).",
        (
            "GPU memory is read with `nvidia-smi`, at most every five seconds. Without it, or on a "
            "CPU, the memory is unknown: the first installed model of the order is used, and "
            "a job may run out of memory. The time and memory of finished jobs are stored in the "
            "data folder for each GPU, and later plans use them instead of computed figures; a "
            "stored peak can only grow."
        ),
        "## Your own models",
        (
            "Write a `models.toml` in the data folder, for everybody who uses it, or in the folder "
            "of your `config.toml`, for you; the data folder's takes precedence. Each `[[model]]` "
            "needs an `id`; `extends` copies every other column from a shipped model."
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
            "[[model]]                       # a transformer in one file, the rest as in extends\n"
            'id = "my-gguf"\n'
            'extends = "flux1-dev"\n'
            'gguf = "weights/flux1-dev-Q4_K_S.gguf"   # or: file = "….safetensors"\n'
            'precision = "q4_k"\n\n'
            "[[model]]                       # a control LoRA of your own; base: any FLUX.1 model\n"
            'id = "my-scribbles"\n'
            'extends = "flux1-canny-dev-lora"\n'
            'file = "weights/scribbles-lora.safetensors"\n'
            'base = "my-gguf"                # if the base is quantised:\n'
            'precision = "q4_k"              # its precision\n\n'
            "[[model]]                       # the id of a shipped model: replaces it\n"
            'id = "flux1-schnell"\n'
            'extends = "flux1-schnell"\n'
            "steps = { low = 2, standard = 4, high = 8 }\n"
            "```"
        ),
        (
            "Weights are in a `repository` or `folder`; `file` or `gguf` names the transformer's "
            "own file, `text_file`, `text_gguf`, `clip_file` and `vae_file` those of other parts. "
            "Beside files for all of these, the folder needs only configurations and tokenizers "
            "([formats.md](formats.md#files)); `flux-mcp models adopt FOLDER` writes such rows for "
            "a `models/` folder of ComfyUI or Forge. Pickles are refused. "
            "A row with `lora = true`, or one that extends such a row, is a control LoRA: its "
            "`repository` or `file` holds the LoRA, and everything else comes from its `base`. "
            "Without `kind`, a row stands for every kind of the model it extends. "
            "`flux-mcp doctor` reports a mistake with its line; until it is fixed, the whole file "
            "is ignored and the server uses the shipped models."
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
    bits = parts.precision[chosen.loaded_as.precision].bits
    placement = chosen.loaded_as.placement
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
