"""Request + registry row -> RenderPlan, which has no gaps. Pure.

Only plans are rendered and stored.
"""

import hashlib
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from flux_mcp.errors import InvalidRequestError, UnsupportedOptionError
from flux_mcp.models.loras.library import Lora
from flux_mcp.models.memory import Holding, Load
from flux_mcp.models.parts import Placement, Precision
from flux_mcp.models.planning.candidates import Machine, Wanted, load_of
from flux_mcp.models.planning.switches import (
    Drawing,
    SwitchSettings,
    choose_switches,
    target_device,
)
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
from flux_mcp.settings.installation import platform_name
from flux_mcp.settings.settings import Settings

TRUE_CFG_SCALE = 4.0
"""Weight of the prompt against the negative prompt; the value of diffusers' own FLUX examples."""

InputRole = Literal["image", "reference", "mask", "control"]


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
    """A LoRA the plan is drawn with, pinned by what its file holds."""

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
    """Of the large text encoder; `None` for what the transformer is worked with in."""
    placement: Placement = "resident"
    """Where weights wait while they do not work; decides time and memory, not pixels."""
    vae_tile_px: int | None = None
    """Side of the tiles the VAE decodes in; `None` for the whole image at once."""
    prompt: str
    """Of the first image; of all, unless `prompts` says otherwise."""
    prompts: tuple[str, ...] = ()
    """One for each seed, where a pack varies them from image to image; else empty."""
    negative_prompt: str | None = None
    true_cfg_scale: float = 1.0
    width: int
    height: int
    steps: int
    guidance: float
    seeds: tuple[int, ...] = Field(min_length=1)
    batched: bool = False
    """All seeds in one pass (other pixels than one by one); else one pass for each seed."""
    max_sequence_length: int
    inputs: tuple[PlanInput, ...] = ()
    strength: float = 1.0
    """For redux: weight of the image tokens against the text tokens."""
    structure: Structure | None = None
    """For control: what `inputs` shows; an `image` has its structure taken first."""
    loras: tuple[PlanLora, ...] = ()
    """In the order of their names: the pixels depend on the order, which is nobody's wish."""
    switches: Switches = Field(default_factory=Switches)
    """What makes it faster; plans of before there were any are drawn without, as they were."""

    @model_validator(mode="after")
    def _a_prompt_for_each_seed(self) -> "RenderPlan":
        if self.prompts and (
            len(self.prompts) != len(self.seeds) or self.prompts[0] != self.prompt
        ):
            raise ValueError("prompts must hold one for each seed, beginning with prompt")
        return self

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


def make_plan(
    request: DrawRequest,
    spec: ModelSpec,
    *,
    revision: str | None,
    seed: int,
    inputs: Sequence[PlanInput] = (),
    texts: Sequence[str] = (),
    holding: Holding | None = None,
) -> RenderPlan:
    """Fill every gap of a request, but for its LoRAs, which are read from the disk.

    Args:
        request: What was asked.
        spec: The row to draw with.
        revision: Commit of the weights' repository, or `None` for those in the package.
        seed: What to draw from when the request names no seed.
        inputs: The request's images, already stored, in order.
        holding: How the model is held; without a known GPU as it is stored, all on the device.
        texts: What a pack made the prompts of, one for each image; else the request's own.

    Raises:
        InvalidSizeError: the model cannot draw that size.
        UnsupportedOptionError: the model cannot do what an option asks.
        InvalidRequestError: more steps than the model takes.
    """
    _refuse_what_the_model_cannot(request, spec, inputs)
    size = _size(request, spec, inputs)
    first_seed = seed if request.seed is None else request.seed
    texts = texts or [request.prompt or ""]
    return RenderPlan(
        kind=spec.kind,
        model=spec.id,
        revision=revision,
        quality=request.quality,
        precision=spec.precision if holding is None else holding.precision,
        text_precision=spec.text_precision if holding is None else holding.text_precision,
        placement="resident" if holding is None else holding.placement,
        vae_tile_px=None if holding is None else holding.tile_px,
        prompt=texts[0],
        prompts=tuple(texts) if len(set(texts)) > 1 else (),
        negative_prompt=request.negative_prompt,
        true_cfg_scale=1.0 if request.negative_prompt is None else TRUE_CFG_SCALE,
        width=size.width,
        height=size.height,
        steps=spec.steps[request.quality] if request.steps is None else request.steps,
        guidance=spec.default_guidance if request.guidance is None else request.guidance,
        seeds=tuple(first_seed + index for index in range(request.count)),
        batched=request.batched and request.count > 1,
        max_sequence_length=spec.max_sequence_length,
        inputs=tuple(inputs),
        strength=request.strength if isinstance(request, VariationRequest) else 1.0,
        structure=request.structure if isinstance(request, StructuralRequest) else None,
    )


def _refuse_what_the_model_cannot(
    request: DrawRequest, spec: ModelSpec, inputs: Sequence[PlanInput]
) -> None:
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
    references = [item for item in inputs if item.role == "reference"]
    if len(references) > spec.max_reference_images:
        raise UnsupportedOptionError(
            f"{spec.id} takes at most {_images(spec.max_reference_images)} for {spec.kind}, "
            f"not {len(references)}.",
            "Leave some out, or combine them into one image first.",
        )
    structure = getattr(request, "structure", None)
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
        if lora.header.text_encoder_layers:
            notices.append(
                f"The LoRA '{lora.name}' was also trained on a text encoder; that part is not used."
            )
        low, high = about.weight_range or (choice.weight, choice.weight)
        if not low <= choice.weight <= high:
            notices.append(
                f"The LoRA '{lora.name}' is made for weights from {low:g} to {high:g}, not "
                f"{choice.weight:g}."
            )
    return tuple(notices)


def _says_one(texts: Sequence[str], words: Sequence[str]) -> bool:
    return all(any(word.casefold() in text.casefold() for word in words) for text in texts)


def with_switches(
    request: DrawRequest,
    plan: RenderPlan,
    spec: ModelSpec,
    settings: Settings,
    machine: Machine | None,
) -> tuple[RenderPlan, tuple[str, ...]]:
    """Return a plan with its switches, and what its caller should know about them.

    Args:
        request: What was asked.
        plan: What will be drawn.
        spec: The row that draws it.
        settings: What the owner of the machine wishes.
        machine: The GPU that draws; `None` where none is known.

    Raises:
        UnsupportedOptionError: the request's step cache cannot be used with this plan.
    """
    if machine is not None:
        site = target_device("cuda", machine.gpu.compute)
    else:
        # Where torch will find Metal only the worker knows; what Metal can, a processor can.
        may_be_metal = settings.device == "auto" and platform_name().startswith("darwin")
        site = target_device("mps" if settings.device == "mps" or may_be_metal else "cpu", None)
    wanted_switches = SwitchSettings(
        settings.attention, settings.compile, settings.channels_last, request.step_cache
    )
    chosen = choose_switches(drawing_of(plan, spec), site, wanted_switches)
    return plan.model_copy(update={"switches": chosen.switches}), chosen.notices


def drawing_of(plan: RenderPlan, spec: ModelSpec) -> Drawing:
    """Return what of a plan decides which switches it can have."""
    return Drawing(
        spec=spec,
        precision=plan.precision,
        placement=plan.placement,
        steps=plan.steps,
        has_true_cfg=plan.negative_prompt is not None,
    )


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
