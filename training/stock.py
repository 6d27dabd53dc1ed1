"""Exported folders -> the libraries' own classes, called as the server calls them.

The arguments of each call are those of flux_mcp/pipelines/families/flux1.py. All kinds take a
batch of different prompts and images of one canvas.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional
from tqdm import tqdm

from training.asks import Ask
from training.drawing import Pixels
from training.tokenizers import TEXT_TOKENS
from training.transformers import KINDS

BATCH = 16
"""Images in a call: 4096 tokens of a 256 px canvas, what a training step holds too."""
Pipelines = Mapping[str, Any]
"""Kind -> pipeline; `prior` is redux's first half, the second is text2img's."""


def load(folder: Path, kinds: Collection[str], device: str = "cpu") -> Pipelines:
    """Load the pipelines that these kinds need; text2img's parts are shared by all."""
    # Without a dtype, transformers takes what the files have, diffusers fp32, and both clash.
    options: dict[str, Any] = {"local_files_only": True, "dtype": torch.float32}
    whole = diffusers.FluxPipeline.from_pretrained(folder / "text2img", **options)
    shared = {
        name: getattr(whole, name)
        for name in ("vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
    }
    pipes = {"text2img": whole}
    for kind in KINDS:
        if kind in kinds and kind != "text2img":
            pipes[kind] = getattr(diffusers, KINDS[kind].pipeline)(
                **shared,
                transformer=diffusers.FluxTransformer2DModel.from_pretrained(
                    folder / kind / "transformer", **options
                ),
                scheduler=diffusers.FlowMatchEulerDiscreteScheduler.from_pretrained(
                    folder / kind / "scheduler", local_files_only=True
                ),
            )
    if "redux" in kinds:
        pipes["prior"] = diffusers.FluxPriorReduxPipeline.from_pretrained(
            folder / "redux", **options
        )
    for pipe in pipes.values():
        pipe.to(device)
        pipe.set_progress_bar_config(disable=True)
    return pipes


def draw(
    kind: str, pipelines: Pipelines, asks: Sequence[Ask], *, steps: int, guidance: float
) -> list[Pixels]:
    """Generate every image, in order; results of fill are not yet put into their originals."""
    drawn: list[Pixels] = []
    pipe = pipelines["text2img" if kind == "redux" else kind]
    with tqdm(total=len(asks), desc=kind, unit="image", leave=False, disable=None) as bar:
        for batch in _batches(asks):
            width, height = batch[0].width_px, batch[0].height_px
            colours = pipe(
                **_words(kind, pipelines, batch),
                **_images(kind, batch),
                width=width,
                height=height,
                num_inference_steps=steps,
                guidance_scale=guidance,
                max_sequence_length=TEXT_TOKENS,
                # On the CPU, so that the noise does not depend on the device.
                generator=[torch.Generator("cpu").manual_seed(ask.seed) for ask in batch],
                output_type="np",
            ).images
            drawn.extend((colours * 255).round().astype(np.uint8))
            bar.update(len(batch))
    return drawn


def _batches(asks: Iterable[Ask]) -> Iterator[list[Ask]]:
    """Yield neighbours of one canvas, at most BATCH at once."""
    for _, run in groupby(asks, key=lambda ask: (ask.width_px, ask.height_px)):
        same = list(run)
        for start in range(0, len(same), BATCH):
            yield same[start : start + BATCH]


def _words(kind: str, pipelines: Pipelines, batch: list[Ask]) -> dict[str, Any]:
    prompts = [ask.prompt for ask in batch]
    if kind != "redux":
        return {"prompt": prompts}
    pipe = pipelines["text2img"]
    with torch.no_grad():  # encode_prompt is not decorated, unlike the pipeline's call
        text, pooled, _ = pipe.encode_prompt(
            prompt=prompts,
            prompt_2=None,
            device=pipe.device,
            max_sequence_length=TEXT_TOKENS,
        )
        tokens = torch.stack([_mixed(pipelines["prior"], ask.references) for ask in batch])
    return {"prompt_embeds": torch.cat([text, tokens], dim=1), "pooled_prompt_embeds": pooled}


def _mixed(prior: Any, references: tuple[tuple[Pixels, float], ...]) -> torch.Tensor:
    """Return (tokens, channels): the weighted mean of the images' tokens."""
    images = [Image.fromarray(image) for image, _ in references]
    weights = torch.tensor([weight for _, weight in references], device=prior.device)
    states = prior.encode_image(images, prior.device, 1)
    tokens: torch.Tensor = prior.image_embedder(states).image_embeds
    return (tokens * (weights / weights.sum())[:, None, None]).sum(dim=0)


def _images(kind: str, batch: list[Ask]) -> dict[str, Any]:
    given = [Image.fromarray(ask.given) for ask in batch if ask.given is not None]
    if kind == "kontext":
        area = batch[0].width_px * batch[0].height_px
        return {"image": given, "max_area": area, "_auto_resize": False}
    if kind == "fill":
        masks = [Image.fromarray(ask.mask) for ask in batch if ask.mask is not None]
        return {"image": given, "mask_image": masks}
    return {"control_image": given} if kind == "control" else {}


def finder(
    folder: Path, device: str = "cpu"
) -> Callable[[Pixels, list[str]], list[NDArray[np.float32]]]:
    """Load the segmentation model; return what finds words in an image (`exams.Find`)."""
    options: dict[str, Any] = {"local_files_only": True}
    process = transformers.CLIPSegProcessor.from_pretrained(folder / "segmentation", **options)
    model = transformers.CLIPSegForImageSegmentation.from_pretrained(
        folder / "segmentation", dtype=torch.float32, **options
    ).to(device)

    @torch.no_grad()
    def find(image: Pixels, phrases: list[str]) -> list[NDArray[np.float32]]:
        inputs = process(
            text=phrases,
            images=[Image.fromarray(image)] * len(phrases),
            padding=True,
            return_tensors="pt",
        ).to(device)
        logits = model(**inputs).logits[:, None]
        sure = functional.interpolate(logits.sigmoid(), image.shape[:2], mode="bilinear")
        return list(sure[:, 0].cpu().numpy())

    return find


def estimator(folder: Path, device: str = "cpu") -> Callable[[Pixels], NDArray[np.float32]]:
    """Load the depth model; return what says how near the pixels of an image are."""
    options: dict[str, Any] = {"local_files_only": True}
    process = transformers.DPTImageProcessor.from_pretrained(folder / "depth", **options)
    model = transformers.DepthAnythingForDepthEstimation.from_pretrained(
        folder / "depth", dtype=torch.float32, **options
    ).to(device)

    @torch.no_grad()
    def estimate(image: Pixels) -> NDArray[np.float32]:
        inputs = process(images=Image.fromarray(image), return_tensors="pt").to(device)
        near = model(**inputs).predicted_depth[:, None]
        shown = functional.interpolate(near, image.shape[:2], mode="bilinear")
        found: NDArray[np.float32] = shown[0, 0].cpu().numpy()
        return found

    return estimate
