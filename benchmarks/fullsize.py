"""Does a model of full size draw on a CPU within the memory that was planned? Unit: GiB.

Method: a folder like ComfyUI's is written, of true names and shapes with random numbers
(fullsize_files.py), one model at a time; `flux-mcp models adopt` makes its rows; a real server
draws one step at 256 px for the SDK's client over stdio. The worker's memory is sampled ten times a
second: its own (anonymous) and with the pages of files it has mapped. Figure of the plan: the
weights as they are loaded, and what drawing takes (models/memory.py). At the end, a model that does
not fit, whose files are holes, is asked for: it must be refused before anything is loaded.

Needs 20 GB of disk below --scratch, which is emptied after each model, and 20 GiB of free memory.
"""

import argparse
import asyncio
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from common import BENCHMARKS, Result, call, flux_server, server_command
from fullsize_files import (
    flux1_shapes,
    klein_shapes,
    shapes_of,
    write_q4_0,
    write_safetensors,
    write_tokenizers,
)
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from flux_mcp.models.descriptions import load_descriptions
from flux_mcp.models.memory import GIB, Load, LoadedAs, gpu_gib
from flux_mcp.models.parts import Precision, load_parts
from flux_mcp.models.registry import load_registry

SIDE_PX = 256
SPARE_BYTES = 4 * 10**9
Write = Callable[[int], None]


@dataclass(frozen=True)
class Case:
    """One model of full size."""

    name: str
    extends: str
    precision: Precision
    text_precision: Precision
    disk_bytes: int


CASES = (
    Case("flux1-schnell-Q4_0", "flux1-schnell", "q4_0", "fp8", 12 * 10**9),
    Case("flux-2-klein-4b", "flux2-klein-4b", "bf16", "bf16", 17 * 10**9),
    Case("flux-2-klein-4b-fp8", "flux2-klein-4b", "fp8", "fp8", 9 * 10**9),
)


def write_case(case: Case, comfyui: Path, written: Write) -> None:
    """Write the files of a model below `comfyui/models`."""
    models, known = comfyui / "models", load_descriptions()["config"]
    write_tokenizers(comfyui)
    text_fp8 = case.text_precision == "fp8"
    if case.extends == "flux1-schnell":
        write_q4_0(models / "unet" / f"{case.name}.gguf", flux1_shapes(guidance=False), written)
        t5 = shapes_of("transformers", "T5EncoderModel", known["t5-xxl"])
        t5.pop("encoder.embed_tokens.weight", None)
        write_safetensors(models / "clip" / "t5xxl_fp8_scaled.safetensors", t5, written, fp8=True)
        clip = shapes_of("transformers", "CLIPTextModel", known["clip-l"])
        clip = {f"text_model.{name}": shape for name, shape in clip.items()}
        write_safetensors(models / "clip" / "clip_l.safetensors", clip, written)
        vae = shapes_of("diffusers", "AutoencoderKL", known["flux1"])
        write_safetensors(models / "vae" / "ae.safetensors", vae, written)
        return
    place = models / "diffusion_models" / f"{case.name}.safetensors"
    write_safetensors(place, klein_shapes(), written, fp8=case.precision == "fp8")
    qwen = shapes_of("transformers", "Qwen3ForCausalLM", known["qwen3-4b"])
    qwen.pop("lm_head.weight", None)
    place = models / "text_encoders" / "qwen_3_4b.safetensors"
    write_safetensors(place, qwen, written, fp8=text_fp8)
    vae = shapes_of("diffusers", "AutoencoderKLFlux2", known["flux2"])
    vae = {name: shape for name, shape in vae.items() if not name.endswith("batches_tracked")}
    write_safetensors(models / "vae" / "flux2-vae.safetensors", vae, written)


def planned_gib(case: Case) -> float:
    """Return what the plan counts with: all weights in host memory, and drawing."""
    spec = next(row for row in load_registry() if row.id == case.extends)
    load = Load(SIDE_PX**2 / 1e6)
    loaded_as = LoadedAs(case.precision, case.text_precision, "resident")
    return gpu_gib(spec.pieces, loaded_as, load) - load_parts().machine.context_gib


def adopt(folder: Path, data_dir: Path) -> dict[str, Any]:
    """Let `flux-mcp models adopt` write the rows."""
    command = [*server_command()[:-1], "models", "adopt", str(folder), "--yes", "--json"]
    asked = [*command, "--data-dir", str(data_dir)]
    found = subprocess.run(asked, capture_output=True, text=True, check=True)
    adopted: dict[str, Any] = json.loads(found.stdout)
    return adopted


# --- drawing -------------------------------------------------------------------------------------


@dataclass
class Peak:
    """The most memory of any process below this one: the worker is the largest of them."""

    anonymous_bytes: int = 0
    resident_bytes: int = 0

    async def watch(self) -> None:
        """Sample until cancelled."""
        while True:
            for process in psutil.Process().children(recursive=True):
                self._add(Path(f"/proc/{process.pid}/status"))
            await asyncio.sleep(0.1)

    def _add(self, status: Path) -> None:
        try:
            rows = dict(line.split(":", 1) for line in status.read_text().splitlines())
        except OSError:
            return  # it has ended
        anonymous = int(rows.get("RssAnon", "0 kB").split()[0]) * 1024
        self.anonymous_bytes = max(self.anonymous_bytes, anonymous)
        resident = int(rows.get("VmRSS", "0 kB").split()[0]) * 1024
        self.resident_bytes = max(self.resident_bytes, resident)


async def draw_once(data_dir: Path, model: str, threads: int) -> tuple[float, Peak, str]:
    """Draw one step through a server.

    Returns:
        The seconds of the call, the worker's memory, and what was said where it was refused.
    """
    peak, told, refused = Peak(), "", ""

    async def progress(_done: float, _total: float | None, message: str | None) -> None:
        nonlocal told
        if message and message.split(",")[0] != told:
            told = message.split(",")[0]
            print(f"  {time.strftime('%H:%M:%S')} {message}", flush=True)

    async with flux_server(data_dir, device="cpu", torch_threads=threads) as client:
        watching = asyncio.create_task(peak.watch())
        start = time.perf_counter()
        asked = {"prompt": "a red fox", "model": model, "steps": 1, "seed": 1, "preview": "none"}
        asked |= {"width": SIDE_PX, "height": SIDE_PX, "wait_s": 20}
        try:
            job = await call(client, "flux_generate", asked, progress)
            while job["status"] in ("queued", "running"):
                print(f"  {time.strftime('%H:%M:%S')} {job.get('phase')}", flush=True)
                again = {"job_id": job["job_id"], "wait_s": 20, "preview": "none"}
                job = await call(client, "flux_get_job", again, progress)
            if job["status"] != "completed":
                refused = str(job.get("error"))
        except RuntimeError as error:
            refused = str(error)
        seconds = time.perf_counter() - start
        watching.cancel()
    return seconds, peak, refused


def measure(case: Case, scratch: Path, threads: int, result: Result) -> None:
    """Write a model, draw with it, delete it."""
    free = shutil.disk_usage(scratch).free
    if free < case.disk_bytes + SPARE_BYTES:
        result.line(case.name, f"not run: {free / 1e9:.0f} GB of disk are free")
        return
    comfyui, data_dir = scratch / "ComfyUI", scratch / "data"
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
    )
    try:
        with Progress(*columns) as progress:
            task = progress.add_task(f"writing {case.name}", total=case.disk_bytes)
            write_case(case, comfyui, lambda size: progress.advance(task, size))
        adopted = adopt(comfyui, data_dir)
        (model,) = [one["id"] for one in adopted["models"]]
        seconds, peak, refused = asyncio.run(draw_once(data_dir, model, threads))
    finally:
        shutil.rmtree(comfyui, ignore_errors=True)
        shutil.rmtree(data_dir, ignore_errors=True)
    if refused:
        result.line(case.name, refused)
        result.absolute[case.name] = {"refused": refused}
        return
    planned = planned_gib(case)
    own, mapped = peak.anonymous_bytes / GIB, peak.resident_bytes / GIB
    result.ratios[case.name] = round(own / planned, 3)
    result.absolute[case.name] = {
        "planned_gib": round(planned, 2), "peak_gib": round(own, 2),
        "peak_with_mapped_files_gib": round(mapped, 2), "seconds": round(seconds, 1),
    }  # fmt: skip
    result.line(
        case.name,
        f"{own:.1f} GiB, {mapped:.1f} with files that are mapped; {seconds:.0f} s",
        f"planned {planned:.1f} GiB",
    )


def refuse_what_does_not_fit(scratch: Path, result: Result) -> None:
    """Ask for FLUX.1 dev in 16 bit, as files of holes; it must be refused before it is loaded."""
    comfyui, data_dir = scratch / "ComfyUI", scratch / "data"
    known, models = load_descriptions()["config"], comfyui / "models"
    try:
        write_tokenizers(comfyui)
        _holes(models / "unet" / "flux1-dev-16.safetensors", flux1_shapes(guidance=True))
        t5 = shapes_of("transformers", "T5EncoderModel", known["t5-xxl"])
        _holes(models / "clip" / "t5xxl_fp16.safetensors", t5)
        clip = shapes_of("transformers", "CLIPTextModel", known["clip-l"])
        _holes(
            models / "clip" / "clip_l.safetensors", {f"text_model.{n}": s for n, s in clip.items()}
        )
        _holes(models / "vae" / "ae.safetensors",
               shapes_of("diffusers", "AutoencoderKL", known["flux1"]))  # fmt: skip
        adopt(comfyui, data_dir)
        seconds, peak, said = asyncio.run(draw_once(data_dir, "flux1-dev-16", 1))
        result.line("flux1-dev in 16 bit", said or "was drawn", "too_little_memory")
        result.absolute["flux1-dev in 16 bit"] = {
            "said": said, "seconds": round(seconds, 1),
            "peak_gib": round(peak.anonymous_bytes / GIB, 2),
        }  # fmt: skip
    finally:
        shutil.rmtree(comfyui, ignore_errors=True)
        shutil.rmtree(data_dir, ignore_errors=True)


def _holes(path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    sys.path.insert(0, str(BENCHMARKS))
    from gpu_checks.folders import write_holes

    path.parent.mkdir(parents=True, exist_ok=True)
    write_holes(path, shapes)


def main() -> int:
    """Measure the models that were asked for; all, without arguments."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scratch", type=Path, default=Path("build/fullsize"))
    parser.add_argument("--only", action="append", choices=[one.name for one in CASES])
    parser.add_argument("--threads", type=int, default=psutil.cpu_count(logical=False) or 1)
    asked = parser.parse_args()
    asked.scratch.mkdir(parents=True, exist_ok=True)
    result = Result("fullsize", quick=False, counts={"steps": 1, "side_px": SIDE_PX})
    for case in CASES:
        if not asked.only or case.name in asked.only:
            measure(case, asked.scratch.resolve(), asked.threads, result)
    if not asked.only:
        refuse_what_does_not_fit(asked.scratch.resolve(), result)
    memory = psutil.virtual_memory().total / GIB
    result.absolute |= {"machine_gib": round(memory, 1), "threads": asked.threads}
    result.publish("Models of full size on a CPU")
    return 0


if __name__ == "__main__":
    sys.exit(main())
