"""How long does a change of model hold a job up, if its weights were read ahead? Unit: ratio.

Method: two models take turns in one worker, which on a CPU keeps one real transformer at a time, so
each job loads its own. Their transformers (450 MB each, random weights, diffusers folders) are made
here. While a job is drawn, the worker is told of the next one, or not, in turn; the load seconds of
neighbours are compared. Their files were hashed before the first turn. Before each drawing the
system is asked to forget what it has cached of the next job's file (posix_fadvise: needs no root,
is advice, and is there on Linux only); without that, the disk is the page cache.

The drawing is long enough to read all of it. Drawing with and without is compared beside it:
reading and drawing share the processor here, as they do not on a GPU.
"""

import os
import shutil
import statistics
from dataclasses import dataclass
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "DIFFUSERS_VERBOSITY": "error", "TQDM_DISABLE": "1"}

from common import THREADS, Result, median_ratio, ms, scratch, start_async

from flux_mcp.jobs.fleet import Assignment
from flux_mcp.jobs.process_fleet import ProcessFleet
from flux_mcp.models.user_rows import open_registry
from flux_mcp.requests.plan import PlanParts, make_plan
from flux_mcp.requests.render_plan import RenderPlan
from flux_mcp.requests.schemas import GenerateRequest
from flux_mcp.settings.paths import ensure_dirs
from flux_mcp.settings.settings import Settings
from flux_mcp.worker_protocol.messages import Done, Progress, weights_of

MODELS = ("one", "two")
WIDER = {"num_attention_heads": 32, "num_layers": 2, "num_single_layers": 2}
"""Micro's transformer with 1024 channels: as many bytes as can be, for few tokens to draw."""
STEPS = 16


@dataclass(frozen=True)
class Turn:
    """One job after another model's."""

    load_s: float
    draw_s: float
    """Of the job before it, beside which its weights were read, or not."""
    prefetched_bytes: int


async def measure(quick: bool) -> Result:
    """Draw with both models in turn, every second time told ahead."""
    pairs = 2 if quick else 8
    result = Result("prefetch", quick, {"pairs": pairs})
    with scratch() as folder:
        settings = Settings(data_dir=folder, device="cpu", torch_threads=THREADS)
        ensure_dirs(settings.paths)
        files = {name: _make_model(settings, name, seed) for seed, name in enumerate(MODELS)}
        plans = {name: _plan(settings, name) for name in MODELS}
        fleet = ProcessFleet(settings)
        try:
            turns = await _turns(fleet, plans, files, pairs)
        finally:
            await fleet.close()
    _report(result, turns)
    return result


def _make_model(settings: Settings, name: str, seed: int) -> Path:
    """Write a model of random weights and its row; return the transformer's file."""
    import torch
    from diffusers import FluxTransformer2DModel

    shipped = settings.weights_dir / "micro" / "text2img"
    folder = settings.data_dir / "own" / name
    shutil.copytree(shipped, folder, ignore=shutil.ignore_patterns("transformer"))
    torch.manual_seed(seed)
    config = FluxTransformer2DModel.load_config(str(shipped / "transformer"))
    FluxTransformer2DModel.from_config({**config, **WIDER}).save_pretrained(folder / "transformer")
    # Of another family than micro, whose transformers all stay loaded.
    row = f"[[model]]\nid = '{name}'\nextends = 'micro'\nkind = 'text2img'\nfamily = 'flux1'\n"
    with settings.paths.models.open("a", encoding="utf-8") as rows:
        rows.write(f"{row}folder = '{folder}'\n\n")
    file = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    with file.open("rb") as stream:
        os.fsync(stream.fileno())
    return file


def _plan(settings: Settings, name: str) -> RenderPlan:
    request = GenerateRequest(prompt="a red circle", width=64, height=64, steps=STEPS, model=name)
    spec = open_registry(settings).find("text2img", name)
    return make_plan(request, spec, PlanParts(revision=None, seed=7))


async def _turns(
    fleet: ProcessFleet, plans: dict[str, RenderPlan], files: dict[str, Path], pairs: int
) -> dict[bool, list[Turn]]:
    """Draw job after job, each with the other model; return the turns told ahead, and the rest."""
    turns: dict[bool, list[Turn]] = {False: [], True: []}
    for name in MODELS:
        await _draw(fleet, "warm-up", plans[name], None)
    is_told = True
    before = await _draw(fleet, "first", plans[MODELS[0]], plans[MODELS[1]])
    # One turn more than is counted: what follows the first was told ahead, but not cold.
    for number in range(2 * pairs + 1):
        own, other = MODELS[(number + 1) % 2], MODELS[number % 2]
        # By twos, so that neither model is always the one that is told of.
        is_next_told = number // 2 % 2 == 0
        _forget_cached(files[other])
        done = await _draw(
            fleet, f"job-{number}", plans[own], plans[other] if is_next_told else None
        )
        if number > 0:
            turns[is_told].append(Turn(done.load_s, before.draw_s, done.prefetched_bytes))
        is_told, before = is_next_told, done
    return turns


async def _draw(
    fleet: ProcessFleet, job_id: str, plan: RenderPlan, ahead: RenderPlan | None
) -> Done:
    """Draw a plan; once it is drawn, tell the worker which one is next.

    Raises:
        RuntimeError: it was not drawn.
    """
    is_told, final = False, None
    async for report in fleet.run(Assignment(job_id, 1, plan, {})):
        final = report.event
        if isinstance(final, Progress) and final.phase == "denoising" and not is_told:
            is_told = True
            await fleet.prefetch(None if ahead is None else weights_of(ahead))
    if not isinstance(final, Done):
        raise RuntimeError(f"it was not drawn: {final}")  # noqa: TRY004 - no one's argument
    return final


def _forget_cached(file: Path) -> None:
    if not hasattr(os, "posix_fadvise"):
        return
    with file.open("rb") as stream:
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _report(result: Result, turns: dict[bool, list[Turn]]) -> None:
    told, untold = turns[True], turns[False]
    size_mb = round(told[0].prefetched_bytes / 1e6)
    loads = {is_told: [turn.load_s for turn in found] for is_told, found in turns.items()}
    ratio = median_ratio(loads[True], loads[False])
    result.ratios["load: read ahead / not"] = ratio
    result.ratios["draw beside it: reading / not"] = median_ratio(
        [turn.draw_s for turn in told], [turn.draw_s for turn in untold]
    )
    result.absolute |= {
        "transformer_mb": size_mb,
        "load_ms": ms(statistics.median(loads[False])),
        "load_read_ahead_ms": ms(statistics.median(loads[True])),
        "draw_ms": ms(statistics.median(turn.draw_s for turn in untold)),
        "page_cache_dropped": hasattr(os, "posix_fadvise"),
    }
    found = result.absolute
    result.line(
        f"a transformer of {size_mb} MB: load, read ahead / not",
        f"{ratio:.3f} ({found['load_read_ahead_ms']:.0f} / {found['load_ms']:.0f} ms)",
        "below 0.5",
    )
    result.line(
        "the job that is drawn meanwhile, with reading / without",
        f"{result.ratios['draw beside it: reading / not']:.3f}",
        "1 on a GPU",
    )
    asked = "asked for" if found["page_cache_dropped"] else "not possible here"
    result.line("dropping the next file from the page cache", asked)


if __name__ == "__main__":
    start_async(__doc__, measure)
