"""`RenderPlan`: everything that decides an image, and how a request becomes one.

A plan is made once, complete, and checked when it is made; plans are what is stored, sent to the
worker and drawn. Everything here is pure: what must be looked up is an argument.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from flux_mcp.errors import InvalidRequestError, UnsupportedOptionError
from flux_mcp.models.loras.library import Lora
from flux_mcp.models.memory import Load, LoadedAs
from flux_mcp.models.parts import Placement, Precision
from flux_mcp.models.planning.candidates import Wanted, load_of
from flux_mcp.models.planning.switches import KINDS_WITH_ONE_STATE, Drawing
from flux_mcp.models.registry import Kind, ModelSpec, Quality, Structure
from flux_mcp.models.switches import Switches
from flux_mcp.requests.geometry import Size, check_size, size_for_image, size_for_ratio
from flux_mcp.requests.schemas import (
    DrawRequest,
    EditRequest,
    LoraChoice,
    StructuralRequest,
    VariationRequest,
)

TRUE_CFG_SCALE = 4.0
"""Weight of the prompt against the negative prompt; the value of diffusers' own FLUX examples."""

InputRole = Literal["image", "reference", "mask", "control"]
INPUT_ROLES: Mapping[Kind, frozenset[InputRole]] = {
    "text2img": frozenset(),
    "kontext": frozenset({"reference"}),
    "fill": frozenset({"image", "mask"}),
    "control": frozenset({"image", "control"}),
    "redux": frozenset({"reference"}),
}
"""The images each kind takes."""


# --- the plan ------------------------------------------------------------------------------------


class PlanInput(BaseModel):
    """An image the plan needs, as a file of the uploads folder."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    role: InputRole
    sha256: str
    """Of the PNG file: `uploads/<sha256>.png`. RGB, or L for a mask (255 is drawn again)."""
    width: int
    height: int
    weight: float = 1.0
    """Share in a variation."""
    image_id: str | None = None
    """The gallery image it came from, if any: a parent of what is drawn."""


class PlanLora(BaseModel):
    """A LoRA the plan is drawn with, pinned by the SHA-256 of its file."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    name: str
    """`loras/<name>.safetensors` in the data folder."""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """Of the whole file."""
    weight: float


class RenderPlan(BaseModel):
    """Everything that decides the pixels: the same plan, the same image (on one machine)."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    version: Literal[1] = 1
    kind: Kind
    model: str
    revision: str | None
    quality: Quality
    precision: Precision
    """Of the transformer."""
    text_precision: Precision | None = None
    """Of the large text encoder; `None` for what the transformer computes in."""
    placement: Placement = "resident"
    """Where weights wait while they do not work; decides time and memory, not pixels."""
    vae_tile_px: int | None = Field(default=None, gt=0)
    """Side of the tiles the VAE decodes in; `None` for the whole image at once."""
    prompt: str
    """Of the first image; of all, unless `prompts` says otherwise."""
    prompts: tuple[str, ...] = ()
    """One for each seed, where a pack varies them from image to image; else empty."""
    negative_prompt: str | None = None
    true_cfg_scale: float = 1.0
    width: int = Field(gt=0)
    height: int = Field(gt=0)
    steps: int = Field(gt=0)
    guidance: float
    seeds: tuple[int, ...] = Field(min_length=1)
    batched: bool = False
    """All seeds in one pass (other pixels than one by one); else one pass for each seed."""
    max_sequence_length: int = Field(gt=0)
    inputs: tuple[PlanInput, ...] = ()
    strength: float = 1.0
    """For redux: weight of the image tokens against the text tokens."""
    structure: Structure | None = None
    """For control: what `inputs` shows; an `image` has its structure taken first."""
    loras: tuple[PlanLora, ...] = ()
    """In the order of their names: the last bits of the pixels depend on the order."""
    switches: Switches = Field(default_factory=Switches)
    """Speed switches; plans that were stored before there were any are drawn without."""

    @model_validator(mode="after")
    def _parts_fit_each_other(self) -> "RenderPlan":
        if self.prompts and (
            len(self.prompts) != len(self.seeds) or self.prompts[0] != self.prompt
        ):
            raise ValueError("prompts must hold one for each seed, beginning with prompt")
        if (self.negative_prompt is None) != (self.true_cfg_scale == 1.0):
            raise ValueError("a negative prompt and a true_cfg_scale above 1 come together")
        strange = {item.role for item in self.inputs} - INPUT_ROLES[self.kind]
        if strange:
            raise ValueError(f"{self.kind} takes no input of the role {' or '.join(strange)}")
        if self.structure is not None and self.kind != "control":
            raise ValueError(f"{self.kind} follows no structure")
        if self.strength != 1.0 and self.kind != "redux":
            raise ValueError(f"{self.kind} has no strength")
        if len({lora.name for lora in self.loras}) < len(self.loras):
            raise ValueError("a LoRA is named twice")
        self._switches_fit()
        return self

    def _switches_fit(self) -> None:
        if self.switches.step_cache == "none":
            return
        if self.switches.compiled:
            raise ValueError("a step cache and compiled blocks do not go together")
        if self.negative_prompt is not None and self.kind in KINDS_WITH_ONE_STATE:
            raise ValueError(f"no step cache with a negative prompt for {self.kind}")

    @property
    def texts(self) -> tuple[str, ...]:
        """The prompt of each image."""
        return self.prompts or (self.prompt,) * len(self.seeds)

    @property
    def passes(self) -> int:
        """How often the pipeline runs."""
        return 1 if self.batched else len(self.seeds)

    @property
    def total_steps(self) -> int:
        """Denoising steps of the whole job."""
        return self.steps * self.passes

    @property
    def parents(self) -> tuple[str, ...]:
        """Gallery images this plan draws from, without repeats."""
        return tuple(dict.fromkeys(i.image_id for i in self.inputs if i.image_id is not None))


def load_of_plan(plan: RenderPlan, spec: ModelSpec) -> Load:
    """Return how much one pass of a plan draws with a row."""
    wanted = Wanted(
        kind=plan.kind,
        quality=plan.quality,
        width_px=plan.width,
        height_px=plan.height,
        references=len(plan.inputs),
        count=len(plan.seeds),
        batched=plan.batched,
    )
    return load_of(spec, wanted)


def drawing_of(plan: RenderPlan, spec: ModelSpec) -> Drawing:
    """Return the parts of a plan that decide which switches it can have."""
    return Drawing(
        spec=spec,
        precision=plan.precision,
        placement=plan.placement,
        steps=plan.steps,
        has_true_cfg=plan.negative_prompt is not None,
    )


# --- from a request ------------------------------------------------------------------------------


@dataclass(frozen=True)
class PlanParts:
    """What is decided about a request before its plan is made."""

    revision: str | None
    """Commit of the weights' repository, or `None` for those in the package."""
    seed: int
    """What to draw from when the request names no seed."""
    texts: tuple[str, ...] = ()
    """What a pack made the prompts of, one for each image; else the request's own."""
    inputs: tuple[PlanInput, ...] = ()
    """The request's images, in order."""
    loaded_as: LoadedAs | None = None
    """How the model is held; without a known GPU as it is stored, all on the device."""
    loras: tuple[PlanLora, ...] = ()
    """The request's LoRAs, as `plan_loras` returns them."""
    switches: Switches = field(default_factory=Switches)
    """Speed switches, chosen for what `planned_drawing` returns."""


def make_plan(request: DrawRequest, spec: ModelSpec, parts: PlanParts) -> RenderPlan:
    """Return the plan of a request.

    Args:
        request: What was asked.
        spec: The row to draw with.
        parts: What else was decided.

    Raises:
        InvalidSizeError: the model cannot draw that size.
        UnsupportedOptionError: the model cannot do what an option asks.
        InvalidRequestError: more steps than the model takes.
    """
    refuse_what_the_model_cannot(request, spec)
    size = _size(request, spec, parts.inputs)
    first_seed = parts.seed if request.seed is None else request.seed
    texts = parts.texts or (request.prompt or "",)
    loaded_as = parts.loaded_as
    drawing = planned_drawing(request, spec, loaded_as)
    return RenderPlan(
        kind=spec.kind,
        model=spec.id,
        revision=parts.revision,
        quality=request.quality,
        precision=drawing.precision,
        text_precision=spec.text_precision if loaded_as is None else loaded_as.text_precision,
        placement=drawing.placement,
        vae_tile_px=None if loaded_as is None else loaded_as.tile_px,
        prompt=texts[0],
        prompts=texts if len(set(texts)) > 1 else (),
        negative_prompt=request.negative_prompt,
        true_cfg_scale=TRUE_CFG_SCALE if drawing.has_true_cfg else 1.0,
        width=size.width,
        height=size.height,
        steps=drawing.steps,
        guidance=spec.default_guidance if request.guidance is None else request.guidance,
        seeds=tuple(first_seed + index for index in range(request.count)),
        batched=request.batched and request.count > 1,
        max_sequence_length=spec.max_sequence_length,
        inputs=parts.inputs,
        strength=request.strength if isinstance(request, VariationRequest) else 1.0,
        structure=structure_of(request),
        loras=parts.loras,
        switches=parts.switches,
    )


def planned_drawing(request: DrawRequest, spec: ModelSpec, loaded_as: LoadedAs | None) -> Drawing:
    """Return the parts of a request's plan that decide which switches it can have."""
    return Drawing(
        spec=spec,
        precision=spec.precision if loaded_as is None else loaded_as.precision,
        placement="resident" if loaded_as is None else loaded_as.placement,
        steps=spec.steps[request.quality] if request.steps is None else request.steps,
        has_true_cfg=request.negative_prompt is not None,
    )


def plan_loras(choices: Sequence[LoraChoice], found: Sequence[Lora]) -> tuple[PlanLora, ...]:
    """Return the plan's LoRAs, by name.

    Args:
        choices: What the request names.
        found: Their files, in the same order.

    Raises:
        InvalidRequestError: two names are one file.
    """
    planned = sorted(
        (
            PlanLora(name=lora.name, sha256=lora.sha256, weight=choice.weight)
            for choice, lora in zip(choices, found, strict=True)
        ),
        key=lambda lora: lora.name,
    )
    for one in planned:
        same = [lora.name for lora in planned if lora.sha256 == one.sha256]
        if len(same) > 1:
            raise InvalidRequestError(
                f"loras: {' and '.join(same)} are the same file.", "Name it once."
            )
    return tuple(planned)


def refuse_what_the_model_cannot(request: DrawRequest, spec: ModelSpec) -> None:
    """Refuse options that a model does not have, as far as the request alone tells.

    Raises:
        UnsupportedOptionError: the model cannot do what an option asks.
        InvalidRequestError: more steps than the model takes.
    """
    if request.negative_prompt is not None and not spec.takes_negative_prompt:
        raise UnsupportedOptionError(
            f"{spec.id} cannot use a negative prompt for {spec.kind}.",
            "Say in the prompt what should be there instead.",
        )
    if request.guidance is not None and not spec.takes_guidance:
        raise UnsupportedOptionError(
            f"{spec.id} ignores guidance: it is distilled without it.", "Leave guidance out."
        )
    if request.steps is not None and request.steps > spec.max_steps:
        raise InvalidRequestError(
            f"steps: {spec.id} takes at most {spec.max_steps}.",
            f"Ask for {spec.max_steps} or fewer.",
        )
    references = len(request.images) if isinstance(request, EditRequest | VariationRequest) else 0
    if references > spec.max_reference_images:
        raise UnsupportedOptionError(
            f"{spec.id} takes at most {_images(spec.max_reference_images)} for {spec.kind}, "
            f"not {references}.",
            "Leave some out, or combine them into one image first.",
        )
    structure = structure_of(request)
    if structure is not None and structure not in spec.structures:
        raise UnsupportedOptionError(
            f"{spec.id} follows {', '.join(spec.structures)}, not {structure}.",
            "Leave model out to have one chosen that does.",
        )


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"


def _size(request: DrawRequest, spec: ModelSpec, inputs: Sequence[PlanInput]) -> Size:
    if request.width is not None and request.height is not None:
        size = Size(request.width, request.height)
        check_size(size, spec)
        return size
    if request.aspect_ratio is not None:
        return size_for_ratio(request.aspect_ratio, spec)
    if inputs and not isinstance(request, VariationRequest):
        return size_for_image(Size(inputs[0].width, inputs[0].height), spec)
    return size_for_ratio("1:1", spec)


# --- what the caller should know -----------------------------------------------------------------


def plan_notices(
    request: DrawRequest, plan: RenderPlan, spec: ModelSpec, install_hint: str | None
) -> tuple[str, ...]:
    """Say what the caller should know about a plan: nothing is decided without a word.

    Args:
        request: What was asked.
        plan: What will be drawn.
        spec: The row that draws it.
        install_hint: How to get a real model, where none is installed for this kind.
    """
    notices = []
    if spec.is_demonstration:
        notices.append(
            "Drawn by micro, the small demonstration model inside the package: it knows coloured "
            "shapes on plain backgrounds and nothing else."
            + (f" {install_hint}" if install_hint else "")
        )
    if request.width is None and request.aspect_ratio is None and plan.inputs:
        given = Size(plan.inputs[0].width, plan.inputs[0].height)
        if given != Size(plan.width, plan.height) and not isinstance(request, VariationRequest):
            notices.append(f"The image of {given} is drawn at {plan.width}x{plan.height}.")
    if plan.batched:
        notices.append("Drawn in one pass: pixels differ slightly from images drawn alone.")
    if plan.steps < spec.steps["low"]:
        notices.append(f"{plan.steps} steps are fewer than {spec.id} needs for a clean image.")
    return tuple(notices)


def lora_notices(
    choices: Sequence[LoraChoice], found: Sequence[Lora], texts: Sequence[str]
) -> tuple[str, ...]:
    """Say what keeps a LoRA from showing as it should.

    Args:
        choices: What the request names.
        found: Their files, in the same order.
        texts: The prompts.
    """
    notices = []
    for choice, lora in zip(choices, found, strict=True):
        about = lora.about
        if about.trigger_words and not _says_one(texts, about.trigger_words):
            words = ", ".join(f"'{word}'" for word in about.trigger_words)
            notices.append(
                f"The LoRA '{lora.name}' shows when the prompt says {words}, and not every prompt "
                f"does."
            )
        if lora.left_out:
            notices.append(f"Of the LoRA '{lora.name}' is not used: {'; '.join(lora.left_out)}.")
        low, high = about.weight_range or (choice.weight, choice.weight)
        if not low <= choice.weight <= high:
            notices.append(
                f"The LoRA '{lora.name}' is made for weights from {low:g} to {high:g}, not "
                f"{choice.weight:g}."
            )
    return tuple(notices)


def _says_one(texts: Sequence[str], words: Sequence[str]) -> bool:
    return all(any(word.casefold() in text.casefold() for word in words) for text in texts)


# --- parts of a request --------------------------------------------------------------------------


_NOT_PART_OF_A_REQUEST = {"wait_s", "preview", "dry_run", "idempotency_key"}


def structure_of(request: DrawRequest) -> Structure | None:
    """Return what a structural request follows."""
    return request.structure if isinstance(request, StructuralRequest) else None


def wanted_of(request: DrawRequest) -> Wanted:
    """Return what of a request decides how it is drawn; a size nobody named is the model's own."""
    references = 0 if request.kind == "text2img" else 1
    if isinstance(request, EditRequest | VariationRequest):
        references = len(request.images)
    return Wanted(
        kind=request.kind,
        quality=request.quality,
        model=request.model,
        structure=structure_of(request),
        width_px=request.width,
        height_px=request.height,
        references=references,
        count=request.count,
        batched=request.batched,
        steps=request.steps,
    )


def as_asked(request: DrawRequest) -> dict[str, Any]:
    """Return the request as it is stored and compared: without how the caller waits for it."""
    asked = request.model_dump(mode="json", exclude=_NOT_PART_OF_A_REQUEST, exclude_none=True)
    return {key: _without_bytes(value) for key, value in asked.items()}


def _without_bytes(value: Any) -> Any:
    """Name a data: URI by its hash: megabytes of base64 do not belong into a row."""
    if isinstance(value, str) and value.startswith("data:"):
        return f"data:sha256:{hashlib.sha256(value.encode()).hexdigest()}"
    if isinstance(value, list):
        return [_without_bytes(item) for item in value]
    if isinstance(value, dict):
        return {key: _without_bytes(item) for key, item in value.items()}
    return value
