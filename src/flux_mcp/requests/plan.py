"""Request + registry row -> RenderPlan, which has no gaps. Pure.

Only plans are rendered and stored.
"""

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from flux_mcp.errors import InvalidRequestError, UnsupportedOptionError
from flux_mcp.models.candidates import Wanted, load_of
from flux_mcp.models.memory import Holding, Load
from flux_mcp.models.parts import Placement, Precision
from flux_mcp.models.registry import Kind, ModelSpec, Quality, Structure
from flux_mcp.models.switches import Switches
from flux_mcp.requests.geometry import Size, check_size, size_for_picture, size_for_ratio
from flux_mcp.requests.schemas import (
    DrawRequest,
    StructuralRequest,
    VariationRequest,
)

TRUE_CFG_SCALE = 4.0
"""Weight of the prompt against the negative prompt; the value of diffusers' own FLUX examples."""

InputRole = Literal["image", "reference", "mask", "control"]


class PlanInput(BaseModel):
    """A picture the plan needs, as a file of the uploads folder."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    role: InputRole
    sha256: str
    """Of the PNG file: `uploads/<sha256>.png`. RGB, or L for a mask (255 is drawn anew)."""
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
    """Everything that decides the pixels: the same plan, the same picture (on one machine)."""

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
    """Side of the tiles the VAE decodes in; `None` for the whole picture at once."""
    prompt: str
    """Of the first picture; of all, unless `prompts` says otherwise."""
    prompts: tuple[str, ...] = ()
    """One for each seed, where a pack varies them from picture to picture; else empty."""
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
    """For redux: weight of the picture tokens against the text tokens."""
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
        """The prompt of each picture."""
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
        inputs: The request's pictures, already stored, in order.
        holding: How the model is held; without a known card as it is stored, all on the device.
        texts: What a pack made the prompts of, one for each picture; else the request's own.

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
            f"{spec.id} takes at most {_pictures(spec.max_reference_images)} for {spec.kind}, "
            f"not {len(references)}.",
            "Leave some out, or combine them into one picture first.",
        )
    structure = getattr(request, "structure", None)
    if structure is not None and structure not in spec.structures:
        raise UnsupportedOptionError(
            f"{spec.id} follows {', '.join(spec.structures)}, not {structure}.",
            "Leave model out to have one chosen that does.",
        )


def _pictures(count: int) -> str:
    return "1 picture" if count == 1 else f"{count} pictures"


def _size(request: DrawRequest, spec: ModelSpec, inputs: Sequence[PlanInput]) -> Size:
    if request.width is not None and request.height is not None:
        size = Size(request.width, request.height)
        check_size(size, spec)
        return size
    if request.aspect_ratio is not None:
        return size_for_ratio(request.aspect_ratio, spec)
    if inputs and not isinstance(request, VariationRequest):
        return size_for_picture(Size(inputs[0].width, inputs[0].height), spec)
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
            notices.append(f"The picture of {given} is drawn at {plan.width}x{plan.height}.")
    if plan.batched:
        notices.append("Drawn in one pass: pixels differ slightly from pictures drawn alone.")
    if plan.steps < spec.steps["low"]:
        notices.append(f"{plan.steps} steps are fewer than {spec.id} needs for a clean picture.")
    return tuple(notices)
