"""What do speed switches gain that run on a CPU? Unit: seconds with one / without; 1 gains nothing.

Method: the worker's engine, in this process and with micro, draws the same image without a switch
and with each in turn, at 256 px and 24 steps; the medians of the ratios of neighbours count. Beside
it: how many of the transformer's blocks ran, and how far the image is from the one without.

Ratios of a model of some megabytes say little of FLUX: its blocks are so small that a skipped one
saves less. That skipping saves time at all, and what the hooks cost, can be seen here; what a GPU
gains is measured where there is one.
"""

import os
import statistics
from typing import Any

os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "DIFFUSERS_VERBOSITY": "error",
    "TRANSFORMERS_VERBOSITY": "error",
    "TQDM_DISABLE": "1",
}

import numpy as np
from common import THREADS, Result, median_ratio, ms, scratch, start
from gpu_checks.studio import Recorder

from flux_mcp.models.planning.switches import Drawing, SwitchSettings, TargetDevice, choose_switches
from flux_mcp.models.registry import ModelSpec, load_registry
from flux_mcp.models.switches import Switches, load_switches
from flux_mcp.pipelines.device import Device
from flux_mcp.pipelines.engine import Engine
from flux_mcp.requests.render_plan import RenderPlan
from flux_mcp.settings.settings import Settings

SIDE_PX, STEPS = 256, 24


def measure(quick: bool) -> Result:
    """Draw with each switch."""
    import torch

    torch.set_num_threads(THREADS)
    turns = 2 if quick else 15
    result = Result("switches", quick, {"turns": turns, "steps": STEPS, "side_px": SIDE_PX})
    registry = load_registry()
    spec = registry.find("text2img", "micro")
    choices = {"none": Switches(), **_choices(spec)}
    with scratch() as folder:
        easel = _Easel(Engine(Settings(data_dir=folder), Device("cpu")), spec)
        seconds: dict[str, list[float]] = {name: [] for name in choices}
        drawn: dict[str, tuple[int, Any]] = {}
        for turn in range(turns + 1):
            for name, switches in choices.items():
                took, *drawn[name] = easel.draw(switches)
                if turn:  # the first warms up, and encodes the prompt
                    seconds[name].append(took)
    _report(result, seconds, drawn)
    return result


def _choices(spec: ModelSpec) -> dict[str, Switches]:
    drawing = Drawing(spec, spec.precision, "resident", STEPS, has_true_cfg=False)
    target = TargetDevice("cpu")
    caches = {
        name: choose_switches(drawing, target, SwitchSettings(step_cache=name)).switches
        for name in load_switches().step_cache
    }
    return {
        "native_flash": Switches(attention="native_flash"),
        "channels_last": Switches(channels_last=True),
        **caches,
    }


class _Easel:
    """Draws one image with the worker's engine, and counts the blocks that ran."""

    def __init__(self, engine: Engine, spec: ModelSpec) -> None:
        self._engine = engine
        self._blocks_run = 0
        self._plan = RenderPlan(
            kind=spec.kind,
            model=spec.id,
            revision=None,
            quality="low",
            precision=spec.precision,
            prompt="a red circle on a blue background",
            width=SIDE_PX,
            height=SIDE_PX,
            steps=STEPS,
            guidance=spec.default_guidance,
            seeds=(7,),
            max_sequence_length=spec.max_sequence_length,
        )
        resident = engine.residency.pipeline(spec, "resident", lambda _: None)
        for module in resident.pipe.transformer.modules():
            if hasattr(module, "attn"):
                module.attn.register_forward_hook(self._count)

    def draw(self, switches: Switches) -> tuple[float, int, Any]:
        """Return seconds, blocks that ran, and the image from 0 to 255."""
        self._blocks_run = 0
        recorder = Recorder()
        plan = RenderPlan(**{**dict(self._plan), "switches": switches})
        figures = self._engine.draw(plan, {}, recorder, lambda: False)
        image = np.frombuffer(recorder.pixels[0], np.uint8).astype(float)
        return figures.draw_s, self._blocks_run, image

    def _count(self, *_: object) -> None:
        self._blocks_run += 1


def _report(
    result: Result, seconds: dict[str, list[float]], drawn: dict[str, tuple[int, Any]]
) -> None:
    all_blocks, exact = drawn["none"]
    result.absolute["none_ms"] = ms(statistics.median(seconds["none"]))
    result.line("without a switch", f"{ms(statistics.median(seconds['none']))} ms")
    for name, (blocks, image) in drawn.items():
        if name == "none":
            continue
        result.ratios[name] = median_ratio(seconds[name], seconds["none"])
        off = float(np.abs(image - exact).mean())
        share = blocks / all_blocks
        result.absolute[name] = {"blocks_run": round(share, 3), "grey_levels_off": round(off, 2)}
        result.line(
            name,
            f"{result.ratios[name]:.2f}x the time, {share:.0%} of the blocks, "
            f"{off:.1f} grey levels off on average",
        )


if __name__ == "__main__":
    start(__doc__, measure)
