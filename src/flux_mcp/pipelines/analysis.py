"""The process that looks at images: `python -m flux_mcp.pipelines.analysis`.

It finds what words say, estimates depth and captions images, on the CPU, so that the GPU stays with
the worker. Requests come through stdin, one at a time, and answers leave through stdout, as frames.

Importable without torch: the libraries are imported by the requests that need them.
"""

import io
import logging
import os
import signal
import sys
import textwrap
import traceback
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel

from flux_mcp.errors import (
    FluxMcpError,
    InternalError,
    InvalidRequestError,
    OutOfMemoryError,
    WeightsInvalidError,
)
from flux_mcp.pipelines.device import configure_threads, is_out_of_host_memory, is_out_of_memory
from flux_mcp.pipelines.pipe import BROKEN_STREAM_EXIT, EventWriter, claim_stdout
from flux_mcp.requests.mask_arguments import Pick
from flux_mcp.settings.settings import Settings
from flux_mcp.worker_protocol.analysis import (
    MAX_CAPTION_CHARS,
    AnalysisModel,
    AnalysisRequest,
    Caption,
    CaptionMessage,
    DepthMessage,
    FindMessage,
    Found,
    Map,
    NotDone,
    Region,
    parse_request,
)
from flux_mcp.worker_protocol.frames import read_frame_blocking
from flux_mcp.worker_protocol.messages import ErrorInfo

Mask = NDArray[np.bool_]
"""(height, width)."""

SPECK_SHARE = 1 / 5000
"""Of an image: what is smaller than this is no thing of its own in a heat map."""


# --- what words find -----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Thing:
    mask: Mask
    score: float


@dataclass(frozen=True)
class _Things:
    """What a model found, in no order, and the highest score it gave at all."""

    things: tuple[_Thing, ...]
    surest: float


def _find_by_heat_map(loaded: "_LoadedModel", image: Image.Image, message: FindMessage) -> _Things:
    """CLIPSeg: a heat map for the words; each connected part above the threshold is a thing."""
    import cv2
    import torch

    # One by one: the processor would cut words off that are too long for it.
    batch = loaded.processor.tokenizer([message.words], return_tensors="pt", truncation=False)
    limit = loaded.model.config.text_config.max_position_embeddings
    if batch["input_ids"].shape[1] > limit:
        raise InvalidRequestError(
            f"The words are longer than the {limit} tokens this model reads.", "Give fewer words."
        )
    batch |= loaded.processor.image_processor([image], return_tensors="pt")
    with torch.inference_mode():
        logits = loaded.model(**batch).logits
    heat = torch.sigmoid(logits).float().reshape(logits.shape[-2:]).numpy()
    # Between the middles of the model's pixels, which are squares in its own square view.
    heat = cv2.resize(heat, image.size, interpolation=cv2.INTER_LINEAR)
    count, labels, facts, _ = cv2.connectedComponentsWithStats(
        (heat >= message.threshold).astype(np.uint8), connectivity=8
    )
    least = max(1, round(SPECK_SHARE * heat.size))
    masks = [
        labels == label for label in range(1, count) if facts[label, cv2.CC_STAT_AREA] >= least
    ]
    things = tuple(_Thing(mask, float(heat[mask].max())) for mask in masks)
    return _Things(things, float(heat.max()))


def _find_things(loaded: "_LoadedModel", image: Image.Image, message: FindMessage) -> _Things:
    """SAM 3: each thing with its outline and its score."""
    import torch

    batch = loaded.processor(images=image, text=message.words, return_tensors="pt")
    with torch.inference_mode():
        outputs = loaded.model(**batch)
    found = loaded.processor.post_process_instance_segmentation(
        outputs, threshold=message.threshold, target_sizes=[(image.height, image.width)]
    )[0]
    scores = outputs.pred_logits.sigmoid()
    if outputs.presence_logits is not None:
        scores = scores * outputs.presence_logits.sigmoid()
    return _Things(_paired(found["masks"], found["scores"]), float(scores.max()))


def _find_boxes(loaded: "_LoadedModel", image: Image.Image, message: FindMessage) -> _Things:
    """Grounding DINO: boxes, which SAM 2 turns into outlines."""
    import torch

    # Its text is phrases in lower case, each with a full stop (documentation of GroundingDino).
    text = message.words.lower().rstrip(". ") + "."
    batch = loaded.processor(images=image, text=text, return_tensors="pt")
    with torch.inference_mode():
        outputs = loaded.model(**batch)
    found = loaded.processor.post_process_grounded_object_detection(
        outputs,
        batch["input_ids"],
        threshold=message.threshold,
        text_threshold=message.threshold,
        target_sizes=[(image.height, image.width)],
    )[0]
    surest = float(torch.nan_to_num(outputs.logits.sigmoid(), nan=0.0).max())
    boxes = found["boxes"].tolist()
    outlines = loaded.outlines
    if not boxes or outlines is None:
        return _Things((), surest)
    asked = outlines.processor(images=image, input_boxes=[boxes], return_tensors="pt")
    with torch.inference_mode():
        drawn = outlines.model(**asked, multimask_output=False)
    masks = outlines.processor.post_process_masks(drawn.pred_masks, asked["original_sizes"])[0]
    return _Things(_paired(masks[:, 0], found["scores"]), surest)


def _paired(masks: Any, scores: Any) -> tuple[_Thing, ...]:
    pairs = zip(masks, scores, strict=True)
    things = (_Thing(np.asarray(mask, dtype=np.bool_), float(score)) for mask, score in pairs)
    return tuple(thing for thing in things if thing.mask.any())


FINDERS: Mapping[str, Callable[["_LoadedModel", Image.Image, FindMessage], _Things]] = {
    "CLIPSegForImageSegmentation": _find_by_heat_map,
    "Sam3Model": _find_things,
    "GroundingDinoForObjectDetection": _find_boxes,
}
"""How words are found with each class of transformers."""


def _picked(regions: list[Region], pick: Pick) -> tuple[int, ...]:
    if pick == "all":
        return tuple(range(len(regions)))
    if pick == "largest":
        return tuple(
            sorted(range(len(regions)), key=lambda one: regions[one].pixels, reverse=True)[:1]
        )
    return (pick - 1,) if pick <= len(regions) else ()


def _region(thing: _Thing) -> Region:
    rows, columns = np.nonzero(thing.mask.any(axis=1))[0], np.nonzero(thing.mask.any(axis=0))[0]
    return Region(
        left=int(columns[0]),
        top=int(rows[0]),
        right=int(columns[-1]) + 1,
        bottom=int(rows[-1]) + 1,
        pixels=int(thing.mask.sum()),
        score=thing.score,
    )


# --- captions ------------------------------------------------------------------------------------

CAPTION_PROMPTS: Mapping[str, str] = {"Florence2ForConditionalGeneration": "<CAPTION>"}
"""What each class of transformers is asked for one sentence with (documentation of Florence2)."""
MAX_CAPTION_TOKENS = 40


def _caption(loaded: "_LoadedModel", image: Image.Image, prompt: str) -> str:
    import torch

    batch = loaded.processor(images=image, text=prompt, return_tensors="pt")
    with torch.inference_mode():
        # Its own settings are for beams. The likeliest token each time: the same each time.
        tokens = loaded.model.generate(
            **batch,
            max_new_tokens=MAX_CAPTION_TOKENS,
            num_beams=1,
            early_stopping=False,
            do_sample=False,
            use_cache=True,
        )[0]
    text = loaded.processor.tokenizer.decode(tokens, skip_special_tokens=True)
    # The first is where it begins, not what it says. The last of so many is an end that is forced.
    is_cut = len(tokens) - 1 >= MAX_CAPTION_TOKENS
    return one_line(f"{text} …" if is_cut else text)


def one_line(text: str) -> str:
    """Return a text without control characters and line breaks, at most `MAX_CAPTION_CHARS`."""
    plain = "".join(" " if unicodedata.category(one)[0] in "CZ" else one for one in text)
    return textwrap.shorten(plain, MAX_CAPTION_CHARS, placeholder=" …")


# --- models --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _LoadedModel:
    """A model in evaluation mode on the CPU, and what prepares its input."""

    model: Any
    processor: Any
    outlines: "_LoadedModel | None" = None


def _load(model: AnalysisModel) -> _LoadedModel:
    """Load a model and its processor from its folder; nothing is fetched.

    Raises:
        WeightsInvalidError: its files are not what its class expects.
    """
    import torch
    import transformers

    outlines = None if model.outlines is None else _load(model.outlines)
    try:
        network, told = getattr(transformers, model.model_class).from_pretrained(
            model.folder,
            local_files_only=True,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
        processors = (
            transformers.AutoImageProcessor
            if model.model_class in _WITHOUT_WORDS
            else transformers.AutoProcessor
        )
        processor = processors.from_pretrained(model.folder, local_files_only=True)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise WeightsInvalidError(
            f"{model.model_class} cannot be loaded from its folder: {str(error)[:300]}",
            "Verify its files, and download it again.",
        ) from error
    if told["missing_keys"]:
        # transformers fills these with random numbers, and says so in a log only.
        raise WeightsInvalidError(
            f"The weights of {model.model_class} are not whole: {len(told['missing_keys'])} "
            f"tensors are missing, such as {min(told['missing_keys'])}.",
            "Download it again.",
        )
    return _LoadedModel(network.eval(), processor, outlines)


_WITHOUT_WORDS = frozenset({"DepthAnythingForDepthEstimation"})
"""Classes whose folder has an image processor alone."""


# --- requests ------------------------------------------------------------------------------------


class Analyst:
    """Answers requests. Keeps the models it has loaded."""

    def __init__(self) -> None:
        self._loaded: dict[str, _LoadedModel] = {}

    def answer(
        self, message: AnalysisRequest, image: Image.Image
    ) -> tuple[BaseModel, dict[str, bytes]]:
        """Return the answer to a request, and its blobs.

        Raises:
            FluxMcpError: it cannot be done.
        """
        match message:
            case FindMessage():
                return self._find(message, image)
            case DepthMessage():
                return Map(), {"map": self._depth(message, image).tobytes()}
            case CaptionMessage():
                prompt = CAPTION_PROMPTS.get(message.model.model_class)
                if prompt is None:
                    raise InternalError(f"{message.model.model_class} says nothing of images.")
                return Caption(text=_caption(self._model(message.model), image, prompt)), {}

    def _find(self, message: FindMessage, image: Image.Image) -> tuple[BaseModel, dict[str, bytes]]:
        find = FINDERS.get(message.model.model_class)
        if find is None:
            raise InternalError(f"{message.model.model_class} finds no words.")
        found = find(self._model(message.model), image, message)
        pairs = [(_region(thing), thing.mask) for thing in found.things]
        pairs.sort(key=lambda pair: (pair[0].left, pair[0].top, pair[0].right, pair[0].bottom))
        regions = [region for region, _ in pairs]
        picked = _picked(regions, message.pick)
        mask = np.zeros((image.height, image.width), np.uint8)
        for one in picked:
            mask[pairs[one][1]] = 255
        told = Found(regions=tuple(regions), picked=picked, surest=found.surest)
        return told, {"mask": mask.tobytes()}

    def _depth(self, message: DepthMessage, image: Image.Image) -> NDArray[np.uint8]:
        """Return (height, width): 255 for what is nearest, 0 for what is farthest."""
        import torch

        loaded = self._model(message.model)
        batch = loaded.processor(images=image, return_tensors="pt")
        with torch.inference_mode():
            outputs = loaded.model(**batch)
        depth = loaded.processor.post_process_depth_estimation(
            outputs, target_sizes=[(image.height, image.width)]
        )[0]["predicted_depth"].float()
        nearest, farthest = float(depth.max()), float(depth.min())
        if nearest <= farthest:
            return np.zeros((image.height, image.width), np.uint8)
        scaled = (depth - farthest) / (nearest - farthest) * 255
        return np.asarray(scaled.round().numpy(), dtype=np.uint8)

    def _model(self, model: AnalysisModel) -> _LoadedModel:
        key = model.model_dump_json()
        if key not in self._loaded:
            self._loaded[key] = _load(model)
        return self._loaded[key]


def respond(
    message: AnalysisRequest, blobs: Mapping[str, bytes], analyst: Analyst
) -> tuple[BaseModel, dict[str, bytes]]:
    """Return the answer to a request; an error is one as well."""
    error: FluxMcpError
    try:
        with Image.open(io.BytesIO(blobs["image"]), formats=("PNG",)) as opened:
            image = opened.convert("RGB")
        return analyst.answer(message, image)
    except FluxMcpError as deliberate:
        error = deliberate
    except Exception as unexpected:  # noqa: BLE001 - a request must not end the process
        traceback.print_exc()
        if is_out_of_host_memory(unexpected) or is_out_of_memory(unexpected):
            error = OutOfMemoryError(
                "There is no memory (RAM) left to look at the image.",
                "Send a smaller image, or close other programs.",
            )
        else:
            error = InternalError(
                f"Looking at the image failed: {type(unexpected).__name__}: "
                f"{str(unexpected)[:300]}",
                "The worker's log has the details.",
            )
    return NotDone(error=ErrorInfo.of(error)), {}


def main() -> NoReturn:
    """Answer requests until stdin ends."""
    writer = EventWriter(claim_stdout())
    # Ctrl-C in a terminal reaches the whole process group; when to end is the server's decision.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    settings = Settings()
    logging.basicConfig(level=settings.log_level.upper(), stream=sys.stderr)
    analyst = Analyst()
    configure_threads(settings)
    try:
        while (frame := read_frame_blocking(sys.stdin.buffer)) is not None:
            message = parse_request(frame.header)
            writer.send(*respond(message, frame.blobs, analyst))
    except BaseException:  # noqa: BLE001 - whatever it was, no request can be read any more
        traceback.print_exc()
        os._exit(BROKEN_STREAM_EXIT)
    os._exit(0)


if __name__ == "__main__":
    main()
