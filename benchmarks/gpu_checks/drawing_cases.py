"""Whole images with a bare pipeline in memory: 16 bit, compiled, fp8, and with steps left out.

The yardstick of the product: stock diffusers, every part resident, nothing in between.
"""

import itertools
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from flux_mcp.models.formats import format_of
from flux_mcp.models.parts import Precision
from flux_mcp.pipelines.device import GIB
from flux_mcp.pipelines.loading.quantisers import configuration
from gpu_checks import parts
from gpu_checks.bench import Bench
from gpu_checks.clock import seconds_of, settle
from gpu_checks.work import Drawing, image_floor_s, step_floor_s

PROMPT = "a lighthouse on a cliff above the sea at dusk, with {} gulls"
"""Another number in each image: nothing can be taken from a cache."""
GUIDANCE = 3.5

Model = Literal["dev", "schnell", "kontext"]


@dataclass(frozen=True)
class Subject:
    """A pipeline, ready to draw, and how large its images are."""

    pipe: Any
    arguments: dict[str, Any]
    drawing: Drawing

    def draw(self, number: int = 0, on_step: Callable[..., Any] | None = None) -> Any:
        """Draw one image; returns (height, width, 3) from 0 to 1.

        Raises:
            ValueError: it has numbers that are no colours, or one colour only.
        """
        import numpy as np
        import torch

        image = self.pipe(
            prompt=PROMPT.format(number),
            generator=torch.Generator("cpu").manual_seed(number),
            output_type="np",
            **self.arguments,
            **({} if on_step is None else {"callback_on_step_end": on_step}),
        ).images[0]
        if not np.isfinite(image).all() or not image.std() > 0:
            raise ValueError("the image is not finite, or has one colour")
        return image


def subject(bench: Bench, model: Model) -> Subject:
    """Make a pipeline of random weights on the device."""
    from PIL import Image

    scale = bench.scale
    bench.say(f"making {model}")
    steps = scale.schnell_steps if model == "schnell" else scale.dev_steps
    text_tokens = 256 if model == "schnell" else 512
    kind = "kontext" if model == "kontext" else "text2img"
    pipe = parts.pipeline(scale, bench.device.name, kind, guidance=model != "schnell")
    arguments = {
        "width": scale.side_px,
        "height": scale.side_px,
        "num_inference_steps": steps,
        "guidance_scale": 0.0 if model == "schnell" else GUIDANCE,
        "max_sequence_length": text_tokens,
    }
    if model == "kontext":
        reference = Image.linear_gradient("L").resize((scale.side_px, scale.side_px))
        arguments |= {
            "image": reference.convert("RGB"),
            "max_area": scale.side_px**2,
            "_auto_resize": False,
        }
    references = 1 if model == "kontext" else 0
    return Subject(pipe, arguments, Drawing(steps, scale.side_px, text_tokens, references))


def draw_model(
    bench: Bench, *, model: Model, precision: Precision = "bf16", compiled: bool = False
) -> None:
    """Measure a model's image and step in one precision."""
    import torch

    rates = bench.rates
    made = subject(bench, model)
    if precision != "bf16":
        quantise(made.pipe.transformer, precision)
        bench.free()
    if compiled:
        # Code of another case, for other lengths, would make this one dynamic.
        torch.compiler.reset()
        made.pipe.transformer.compile_repeated_blocks(fullgraph=True, backend=bench.scale.compiler)
    is_fp8 = precision == "fp8dq"
    measure_images(
        bench,
        made,
        floor_s=image_floor_s(made.drawing, bench.scale, rates, fp8=is_fp8),
        step_floor=step_floor_s(made.drawing, bench.scale, rates, fp8=is_fp8),
        precision=precision,
        compiled=compiled,
    )


def measure_images(
    bench: Bench, made: Subject, *, floor_s: float | None, step_floor: float | None, **details: Any
) -> None:
    """Report the first image, later ones, their steps, and the memory they took."""
    import torch

    device = bench.device
    if device.kind == "cuda":
        torch.cuda.reset_peak_memory_stats(device.name)
    bench.say("drawing the first image")
    bench.figure("first_image_s", seconds_of(made.draw, device), "s", **details)
    numbers = range(1, bench.scale.repetitions + 1)
    bench.say("drawing")
    each = [seconds_of(lambda number=number: made.draw(number), device) for number in numbers]
    bench.figure("image_s", statistics.median(each), "s", floor=floor_s, each_s=each, **details)
    ended: list[float] = []

    def on_step(_pipe: Any, _step: int, _time: Any, _tensors: dict[str, Any]) -> dict[str, Any]:
        settle(device)
        ended.append(time.perf_counter())
        return {}

    made.draw(0, on_step)
    steps = [after - before for before, after in itertools.pairwise(ended)]
    bench.figure("step_s", statistics.median(steps), "s", floor=step_floor, **details)
    if device.kind == "cuda":
        bench.figure(
            "peak_gib", torch.cuda.max_memory_reserved(device.name) / GIB, "GiB", **details
        )


def quantise(transformer: Any, precision: Precision) -> None:
    """Make a transformer's linear layers what the product's loader would make of them."""
    import diffusers
    from torchao.quantization import quantize_

    chosen = configuration(diffusers, format_of(precision))
    if chosen is None:
        raise ValueError(f"{precision} is nothing that torchao makes")
    quantize_(transformer, chosen.quant_type)


def skip_steps(bench: Bench) -> None:
    """Leave out every second step by a fixed mask: what a step cache could save at most.

    MagCache with ratios of 1 expects no error, so it skips as often as it may, whatever the
    weights. With random weights this says nothing about images.
    """
    from diffusers import MagCacheConfig

    made = subject(bench, "dev")
    steps = made.drawing.steps
    made.draw()
    whole_s = seconds_of(made.draw, bench.device)
    transformer = made.pipe.transformer
    computed = 0

    def counted(*_: Any) -> None:
        nonlocal computed
        computed += 1

    transformer.enable_cache(
        MagCacheConfig(
            mag_ratios=[1.0] * steps,
            num_inference_steps=steps,
            max_skip_steps=1,
            retention_ratio=0.0,
            threshold=1.0,
        )
    )
    hook = transformer.single_transformer_blocks[0].attn.register_forward_hook(counted)
    made.draw()
    hook.remove()
    cached_s = seconds_of(made.draw, bench.device)
    share = computed / steps
    bench.figure("computed_share", share, "of the steps", steps=steps, computed=computed)
    bench.figure("image_s", cached_s, "s", floor=share * whole_s, whole_s=whole_s)
