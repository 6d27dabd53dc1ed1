"""What the adapters of all families share: decoded inputs, embeddings, size, steps and guidance.

An adapter turns a plan and its images into the arguments of a stock pipeline's call. It keeps the
pipelines of diffusers 0.42.1 from changing sizes that were asked for, stretching images and mixing
up batches. The passes themselves are run by engine.py.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from flux_mcp.errors import InvalidImageError, InvalidRequestError, UnsupportedOptionError
from flux_mcp.models.formats import format_of
from flux_mcp.pipelines.loaded import Resident
from flux_mcp.pipelines.loading.quantisers import compute_dtype
from flux_mcp.requests.geometry import Rectangle, Size, joined_sizes, reference_size
from flux_mcp.requests.plan import GENERATED_FROM
from flux_mcp.requests.render_plan import InputRole, RenderPlan

Pixels = NDArray[np.uint8]
Embeddings = dict[str, Any]
"""By the pipelines' arguments: `prompt_embeds` (1, tokens, channels); in FLUX.1
`pooled_prompt_embeds` (1, channels) too; with true CFG the same with `negative_` before them."""


class EncodedTexts(Protocol):
    """The embeddings of a plan's texts."""

    @property
    def negative(self) -> str | None:
        """The text that the plan is steered away from, if any."""
        ...

    def __getitem__(self, text: str, /) -> Mapping[str, Any]:
        """Return the embeddings of a text, on the CPU; not to be changed."""
        ...


@dataclass(frozen=True)
class PlanImage:
    """An input of the plan, decoded: of the first image and its mask, the region that is drawn."""

    role: InputRole
    image: Image.Image
    """RGB; L for a mask."""
    weight: float


def open_images(plan: RenderPlan, blobs: Mapping[str, bytes]) -> tuple[PlanImage, ...]:
    """Decode the plan's inputs in their order.

    Of the first and of a mask, the plan's region in the size it is drawn at.

    Raises:
        InvalidImageError: an image is missing or cannot be read.
    """
    opened = []
    for number, item in enumerate(plan.inputs):
        image = _open(blobs.get(item.sha256), item.role)
        if plan.region is not None and (number == 0 or item.role == "mask"):
            image = region_to_draw(image, plan.region, Size(plan.width, plan.height))
        opened.append(PlanImage(item.role, image, item.weight))
    return tuple(opened)


def _open(data: bytes | None, role: InputRole) -> Image.Image:
    if data is None:
        raise InvalidImageError(f"The {role} image did not reach the worker.")
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as opened:
            opened.load()
            mode = "L" if role == "mask" else "RGB"
            # Not converted to what it is: a photograph of 50 megapixels takes 200 MB once.
            return opened if opened.mode == mode else opened.convert(mode)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InvalidImageError(f"The {role} image cannot be read: {error}.") from error


def region_to_draw(image: Image.Image, region: Rectangle, size: Size) -> Image.Image:
    """Return a part of an image in another size.

    Of a mask (L), white wherever a pixel that is generated again is touched: thin lines would
    vanish when a mask is scaled down, and the model would be asked for nothing.
    """
    part = _with_mirrored_edges(image, region)
    if region.size == size:
        return part
    target = (size.width, size.height)
    if part.mode != "L":
        return part.resize(target, Image.Resampling.LANCZOS)
    hard = part.point(lambda value: 255 if value >= GENERATED_FROM else 0)
    return hard.resize(target, Image.Resampling.BOX).point(lambda value: 255 if value else 0)


def side_by_side(images: Sequence[Image.Image]) -> Image.Image:
    """Return RGB images joined from left to right, all as high as the first; one as it is."""
    if len(images) == 1:
        return images[0]
    sizes = joined_sizes([Size(*image.size) for image in images])
    joined = Image.new("RGB", (sum(size.width for size in sizes), sizes[0].height))
    left = 0
    for image, size in zip(images, sizes, strict=True):
        scaled = image.resize((size.width, size.height), Image.Resampling.LANCZOS)
        joined.paste(scaled, (left, 0))
        left += size.width
    return joined


def _with_mirrored_edges(image: Image.Image, region: Rectangle) -> Image.Image:
    """Return a part of an image; where it reaches beyond it, the edges are mirrored."""
    left, top, right, bottom = region.edges
    before_x, before_y = max(0, -left), max(0, -top)
    after_x, after_y = max(0, right - image.width), max(0, bottom - image.height)
    if not any((before_x, before_y, after_x, after_y)):
        return image.crop(region.edges)
    # Only an edit without a mask has such a region, and its image is RGB.
    beyond = ((before_y, after_y), (before_x, after_x), (0, 0))
    whole = Image.fromarray(np.pad(np.asarray(image), beyond, mode="symmetric"))
    x, y = left + before_x, top + before_y
    return whole.crop((x, y, x + region.width, y + region.height))


class Adapter:
    """The call of one kind's pipeline, and what all kinds have in common.

    Args:
        plan: What is drawn.
        images: Its inputs, decoded.
        resident: The pipeline that draws it.
        texts: Its texts; looked up when `embeddings` is called.

    Raises:
        UnsupportedOptionError: it has a negative prompt, which this kind's pipeline does not take.
    """

    def __init__(
        self,
        plan: RenderPlan,
        images: Sequence[PlanImage],
        resident: Resident,
        texts: EncodedTexts,
    ) -> None:
        family = resident.spec.family_spec
        if plan.negative_prompt is not None and plan.kind not in family.negative_prompt_kinds:
            raise UnsupportedOptionError(
                f"{plan.model} cannot use a negative prompt for {plan.kind}.",
                "Say in the prompt what should be there instead.",
            )
        self.plan = plan
        self.images = images
        self.resident = resident
        self.texts = texts

    def embeddings(self, prompt: str) -> Embeddings:
        """Return the embeddings of a prompt of the plan, and of the one it is steered away from."""
        encoded = self._on_device(prompt)
        if self.texts.negative is not None:
            negative = self._on_device(self.texts.negative)
            encoded |= {f"negative_{name}": tensor for name, tensor in negative.items()}
        return encoded

    def arguments(self, numbers: range) -> dict[str, Any]:
        """Return the call's arguments for one pass, without the prompts.

        Args:
            numbers: Of the plan's images, from 0: those that the pass draws.
        """
        plan = self.plan
        common: dict[str, Any] = {
            "width": plan.width,
            "height": plan.height,
            "num_inference_steps": plan.steps,
            "guidance_scale": plan.guidance,
            "max_sequence_length": plan.max_sequence_length,
        }
        if plan.negative_prompt is not None:
            common["true_cfg_scale"] = plan.true_cfg_scale
        return common | self.own_arguments(numbers)

    def own_arguments(self, _numbers: range) -> dict[str, Any]:
        """Return what only this kind's call has."""
        return {}

    def only(self, role: InputRole) -> Image.Image:
        """Return the plan's one image of a role.

        Raises:
            InvalidRequestError: there is none, or more than one.
        """
        found = [item.image for item in self.images if item.role == role]
        if len(found) != 1:
            raise InvalidRequestError(f"{self.plan.kind} needs one {role}, not {len(found)}.")
        return found[0]

    def drawn_from(self, numbers: range) -> list[Image.Image]:
        """Return the image that each image of a pass is drawn from, in the plan's size.

        Raises:
            InvalidRequestError: there is none.
        """
        images = [item.image for item in self.images if item.role == "image"]
        if not images:
            raise InvalidRequestError(f"{self.plan.kind} needs an image.")
        each = images * len(self.plan.seeds) if len(images) == 1 else images
        return [self.fitted(each[number], Image.Resampling.LANCZOS) for number in numbers]

    def fitted(self, image: Image.Image, method: Image.Resampling) -> Image.Image:
        """Cut and scale an image to the plan's size: the pipelines themselves would stretch it."""
        return ImageOps.fit(image, (self.plan.width, self.plan.height), method)

    def references(self) -> list[Image.Image]:
        """Return the plan's references in their order.

        Raises:
            InvalidRequestError: there is none.
        """
        found = [item.image for item in self.images if item.role == "reference"]
        if not found:
            raise InvalidRequestError(f"{self.plan.kind} needs a reference.")
        return found

    def as_reference(self, image: Image.Image) -> Image.Image:
        """Return an image in the size that a reference of an edit is encoded at."""
        most = self.resident.spec.family_spec.reference_max_pixels
        size = reference_size(Size(*image.size), most or self.plan.width * self.plan.height)
        if image.size == (size.width, size.height):
            return image
        return image.resize((size.width, size.height), Image.Resampling.LANCZOS)

    def _on_device(self, text: str) -> Embeddings:
        device = self.resident.pipe._execution_device  # noqa: SLF001 - where hooks put the parts
        # In what the transformer computes in, which may not be the encoder's. A copy on the CPU
        # too: a pipeline must not change what the cache keeps.
        dtype = compute_dtype(format_of(self.resident.spec.precision).compute)
        return {name: t.to(device, dtype, copy=True) for name, t in self.texts[text].items()}
