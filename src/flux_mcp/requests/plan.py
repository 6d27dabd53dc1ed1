"""How a request becomes a `RenderPlan`.

A plan is made once, complete, and checked when it is made. Everything here is pure: what must be
looked up is an argument.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from flux_mcp.errors import (
    InvalidImageError,
    InvalidRequestError,
    InvalidSizeError,
    RequestError,
    UnsupportedOptionError,
)
from flux_mcp.models.loras.library import Lora
from flux_mcp.models.memory import Load, LoadedAs
from flux_mcp.models.planning.candidates import Wanted, load_of
from flux_mcp.models.planning.switches import Drawing
from flux_mcp.models.registry import KIND_NAMES, ModelSpec, Structure
from flux_mcp.models.switches import Switches
from flux_mcp.requests.geometry import (
    DrawnRegion,
    Rectangle,
    Size,
    check_size,
    choose_region,
    cut_to_shape,
    fitted_region,
    joined_sizes,
    reference_size,
    size_for_image,
    size_for_ratio,
    whole_region,
)
from flux_mcp.requests.render_plan import (
    PlanInput,
    PlanLora,
    PlanUpscale,
    RenderPlan,
    drawn_steps,
)
from flux_mcp.requests.schemas import (
    DrawRequest,
    EditRequest,
    GenerateRequest,
    JobRequest,
    LoraChoice,
    StructuralRequest,
    VariationRequest,
)
from flux_mcp.requests.validation import together
from flux_mcp.settings.settings import EditFit

DEMONSTRATION_NOTICE = "micro is a demo and draws coloured shapes only."
"""How the notice of an image of the demonstration begins; tools say it once in a session."""
TRUE_CFG_SCALE = 4.0
"""Weight of the prompt against the negative prompt; the value of diffusers' own FLUX examples."""

GENERATED_FROM = 128
"""Least value of a mask that is generated again: diffusers' fill pipeline splits its mask at one
half (`FluxFillPipeline.mask_processor`, `do_binarize=True`; 128 / 255 > 0.5)."""


def load_of_plan(plan: RenderPlan, spec: ModelSpec) -> Load:
    """Return how much one pass of a plan draws with a row."""
    unread = {"mask", "image"} if plan.has_made_structure else {"mask"}
    wanted = Wanted(
        kind=plan.kind,
        quality=plan.quality,
        width_px=plan.width,
        height_px=plan.height,
        references=sum(item.role not in unread for item in plan.inputs),
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
        steps=plan.steps_drawn,
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
    seeds: tuple[int, ...] = ()
    """One for each image, where they are not counted up from the first."""
    texts: tuple[str, ...] = ()
    """What a pack made the prompts of, one for each image; else the request's own."""
    inputs: tuple[PlanInput, ...] = ()
    """The request's images, in order."""
    edit_fit: EditFit = "pad"
    """How a whole image is drawn whose size the model does not draw."""
    masked: Rectangle | None = None
    """The part of the first image where its mask is not 0, if there is a mask."""
    loaded_as: LoadedAs | None = None
    """How the model is held; without a known GPU as it is stored, all on the device."""
    loras: tuple[PlanLora, ...] = ()
    """The request's LoRAs, as `plan_loras` returns them."""
    switches: Switches = field(default_factory=Switches)
    """Speed switches, chosen for what `planned_drawing` returns."""
    upscale: PlanUpscale | None = None
    """How each image is made larger, if that is asked for."""


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
        InvalidImageError: the model cannot read an image of that size.
    """
    refuse_what_the_model_cannot(request, spec)
    size, region = _drawn(request, spec, parts)
    first_seed = parts.seed if request.seed is None else request.seed
    texts = parts.texts or (request.prompt or "",)
    loaded_as = parts.loaded_as
    drawing = planned_drawing(request, spec, loaded_as)
    _refuse_narrow_references(spec, size, region, parts.inputs)
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
        region=region,
        steps=steps_of(request, spec),
        guidance=_guidance(request, spec),
        seeds=parts.seeds or tuple(first_seed + index for index in range(request.count)),
        batched=request.batched and request.count > 1,
        max_sequence_length=spec.max_sequence_length,
        inputs=parts.inputs,
        strength=strength_of(request),
        structure=structure_of(request),
        loras=parts.loras,
        switches=parts.switches,
        upscale=parts.upscale,
    )


def planned_drawing(request: DrawRequest, spec: ModelSpec, loaded_as: LoadedAs | None) -> Drawing:
    """Return the parts of a request's plan that decide which switches it can have."""
    steps = steps_of(request, spec)
    if spec.kind == "img2img":
        steps = drawn_steps(steps, strength_of(request))
    return Drawing(
        spec=spec,
        precision=spec.precision if loaded_as is None else loaded_as.precision,
        placement="resident" if loaded_as is None else loaded_as.placement,
        steps=steps,
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
    """Refuse what a model cannot, as far as the request alone tells.

    Raises:
        RequestError: what `what_the_model_cannot` yields, all at once.
    """
    found = list(what_the_model_cannot(request, spec))
    if found:
        raise together(found)


def what_the_model_cannot(request: DrawRequest, spec: ModelSpec) -> Iterator[RequestError]:
    """Yield every mistake in what a request asks of a model, as far as the request alone tells.

    An `UnsupportedOptionError` for an option it does not have, an `InvalidRequestError` for more
    steps than it takes, an `InvalidSizeError` for a size that it cannot generate.
    """
    if request.negative_prompt is not None and not spec.takes_negative_prompt:
        yield UnsupportedOptionError(
            f"{spec.id} cannot use a negative prompt for {KIND_NAMES[spec.kind]}.",
            "Say in the prompt what should be there instead.",
        )
    if request.guidance and not spec.takes_guidance:  # 0 asks for what it does
        yield UnsupportedOptionError(
            f"{spec.id} ignores guidance: it is distilled without it.", "Leave guidance out."
        )
    if request.steps is not None and request.steps > spec.max_steps:
        yield InvalidRequestError(
            f"steps: {spec.id} takes at most {spec.max_steps}.",
            f"Ask for {spec.max_steps} or fewer.",
        )
    references = len(request.images) if isinstance(request, EditRequest | VariationRequest) else 0
    if references > spec.most_references:
        yield UnsupportedOptionError(
            f"{spec.id} takes at most {_images(spec.most_references)} for "
            f"{KIND_NAMES[spec.kind]}, not {references}.",
            "Leave some out.",
        )
    structure = structure_of(request)
    if structure is not None and structure not in spec.structures:
        yield UnsupportedOptionError(
            f"{spec.id} follows {', '.join(spec.structures)}, not {structure}.",
            "Leave model out to have one chosen that does.",
        )
    if request.width is not None and request.height is not None and not request.keeps_size:
        try:
            check_size(Size(request.width, request.height), spec)
        except InvalidSizeError as error:
            yield error


def _guidance(request: DrawRequest, spec: ModelSpec) -> float:
    if request.guidance is None or not spec.takes_guidance:
        return spec.default_guidance
    return request.guidance


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"


def _drawn(
    request: DrawRequest, spec: ModelSpec, parts: PlanParts
) -> tuple[Size, Rectangle | None]:
    """Return the size to draw at, and the part of the first image that is drawn."""
    if request.keeps_size:
        image = parts.inputs[0].size
        _refuse_another_size(request, image, spec)
        drawn = (
            whole_region(image, spec)
            if parts.masked is None
            else choose_region(image, parts.masked, spec)
        )
        return drawn.size, drawn.region
    asked = _size_asked(request, spec)
    if asked is not None:
        return asked, None
    if isinstance(request, EditRequest):
        drawn = fitted_region(parts.inputs[0].size, spec, parts.edit_fit)
        same = drawn.size == parts.inputs[0].size
        return drawn.size, None if same else drawn.region
    if isinstance(request, StructuralRequest):
        return structure_size(request, spec, parts.inputs[0].size), None
    if spec.kind == "img2img":
        return size_for_image(parts.inputs[0].size, spec), None
    return size_for_ratio("1:1", spec), None


def _size_asked(request: DrawRequest, spec: ModelSpec) -> Size | None:
    if request.width is not None and request.height is not None:
        return Size(request.width, request.height)
    return None if request.aspect_ratio is None else size_for_ratio(request.aspect_ratio, spec)


def structure_size(request: StructuralRequest, spec: ModelSpec, image: Size) -> Size:
    """Return the size that the structure of an image is drawn at.

    Raises:
        InvalidSizeError: the model cannot draw that size.
    """
    return _size_asked(request, spec) or size_for_image(image, spec)


def _refuse_narrow_references(
    spec: ModelSpec, size: Size, region: Rectangle | None, inputs: Sequence[PlanInput]
) -> None:
    """Refuse a reference that the model's pipeline would refuse when it is read.

    Raises:
        InvalidImageError: it is too small or too narrow.
    """
    family = spec.family_spec
    references = [item.size for item in inputs if item.role == "reference"]
    if spec.kind != "kontext" or family.reference_max_ratio is None:
        return
    if region is not None:
        references[0] = size
    for given in references:
        read = reference_size(given, family.reference_max_pixels or size.pixels)
        short, long = sorted((read.width, read.height))
        if short < family.reference_min_side_px or long > family.reference_max_ratio * short:
            raise InvalidImageError(
                f"An image of {given} is too small or too narrow for {spec.id}.",
                f"Give one of at least {family.reference_min_side_px} px a side, "
                f"at most {family.reference_max_ratio} times as long as wide.",
            )


def _refuse_another_size(request: DrawRequest, image: Size, spec: ModelSpec) -> None:
    """Refuse a size for an image that keeps its own.

    Raises:
        InvalidSizeError: another size or shape than the image's is asked for.
    """
    asked = ""
    if request.width is not None and request.height is not None:
        size = Size(request.width, request.height)
        asked = "" if size == image else str(size)
    elif request.aspect_ratio is not None:
        across, down = (int(part) for part in request.aspect_ratio.split(":"))
        # An image that was generated in this shape is off by the rounding to multiples.
        is_same = abs(image.width - image.height * across / down) < spec.size_multiple
        asked = "" if is_same else request.aspect_ratio
    if asked:
        raise InvalidSizeError(
            f"With this mask the result is {image}; it cannot become {asked}.",
            "Leave out aspect_ratio, width and height. To extend an image give "
            '"mask": {"outpaint": {"aspect_ratio": "16:9"}}; to cut it, crop it first.',
        )


# --- what the caller should know -----------------------------------------------------------------


def plan_notices(plan: RenderPlan, spec: ModelSpec, install_hint: str | None) -> tuple[str, ...]:
    """Say what the caller should know about a plan: nothing is decided without a word.

    Args:
        plan: What will be drawn.
        spec: The row that draws it.
        install_hint: How to get a real model, where none is installed for this kind.
    """
    notices = []
    if spec.is_demonstration:
        notices.append(f"{DEMONSTRATION_NOTICE} {install_hint or ''}".rstrip())
    notices += input_notices(plan, spec)
    if plan.kind == "img2img" and not all(plan.texts):
        notices.append(
            "There is no prompt: nothing says what is drawn again. A prompt that describes the "
            "image keeps it closer."
        )
    if plan.batched:
        notices.append("Drawn in one pass: pixels differ slightly from images drawn alone.")
    if plan.steps < spec.steps["low"]:
        notices.append(f"{plan.steps} steps are fewer than {spec.id} needs for a clean image.")
    return tuple(notices)


def input_notices(plan: RenderPlan, spec: ModelSpec) -> tuple[str, ...]:
    """Say how each image of a plan is cut and scaled, with the numbers."""
    notices = []
    rest = list(enumerate(plan.inputs, start=1))
    if plan.region is not None:
        notices.append(_region_notice(plan, plan.region))
        rest = rest[1:]
    size, side = Size(plan.width, plan.height), spec.family_spec.encoder_side_px
    references = [item.size for item in plan.inputs if item.role == "reference"]
    if plan.kind == "kontext" and len(references) > spec.max_reference_images:
        notices.append(_joined_notice(plan, spec, references))
        rest = []
    for number, item in rest:
        name = f"Image {number}" if plan.kind in ("kontext", "redux") else "The image"
        if item.role == "reference" and plan.kind == "kontext":
            read = reference_size(item.size, spec.family_spec.reference_max_pixels or size.pixels)
            if read != item.size:
                notices.append(f"{name} of {item.size} is read at {read}.")
        elif item.role == "reference" and item.size != Size(side, side):
            notices.append(f"{name} of {item.size} is read at {side}x{side}, whatever its shape.")
        elif item.role in ("image", "control") and item.size != size:
            cut = cut_to_shape(item.size, size)
            how = "" if cut == item.size else f"cut to its middle {cut} and "
            notices.append(f"{name} of {item.size} is {how}scaled to {size}.")
    return tuple(dict.fromkeys(filter(None, notices)))


def _joined_notice(plan: RenderPlan, spec: ModelSpec, references: list[Size]) -> str:
    drawn = Size(plan.width, plan.height)
    first, *others = references
    joined = joined_sizes([first if plan.region is None else drawn, *others])
    whole = Size(sum(one.width for one in joined), joined[0].height)
    read = reference_size(whole, spec.family_spec.reference_max_pixels or drawn.pixels)
    return (
        f"{spec.id} reads one image: the {len(references)} are joined side by side, the first on "
        f"the left, and read as one at {read}. Models of FLUX.2 read each by itself."
    )


def _region_notice(plan: RenderPlan, region: Rectangle) -> str:
    image, drawn = plan.inputs[0].size, DrawnRegion(region, Size(plan.width, plan.height))
    is_whole = region.size == image
    if not Rectangle(0, 0, image.width, image.height).holds(region):
        return _padded_notice(image, drawn)
    is_masked = any(item.role == "mask" for item in plan.inputs)
    edges = "" if is_masked or is_whole else " The edges around it keep their pixels."
    if drawn.size == region.size:
        told = f"Drawn: {region} of the image of {image}, pixel for pixel.{edges}"
        return "" if is_whole else told
    what = f"The image of {image}" if is_whole else f"{region} of the image of {image}"
    lost = " Detail finer than that is lost where it is drawn." if drawn.scale < 1 else ""
    if not is_masked:
        advice = " A mask keeps the rest as it is; width and height keep this size."
    elif drawn.scale < 1:
        advice = " A smaller mask keeps more; several areas can be filled one after another."
    else:
        advice = ""
    return (
        f"{what} is drawn at {drawn.size} (scale {drawn.scale:.3g}) and scaled back to "
        f"{region.size}.{edges}{lost}{advice}"
    )


def _padded_notice(image: Size, drawn: DrawnRegion) -> str:
    """Say how an image is drawn that was extended to a size that the model draws."""
    extended = f"The image of {image} is extended to {drawn.region.size} by its mirrored edges"
    if drawn.size == drawn.region.size:
        return f"{extended}, drawn pixel for pixel, and cut to its own size again."
    lost = " Detail finer than that is lost where it is drawn." if drawn.scale < 1 else ""
    return (
        f"{extended}, drawn at {drawn.size} (scale {drawn.scale:.3g}), scaled back and cut to its "
        f"own size again.{lost} A mask keeps the rest as it is; width and height keep this size."
    )


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


def steps_of(request: DrawRequest, spec: ModelSpec) -> int:
    """Return the steps of a request's plan; image to image draws the last of them only."""
    return spec.steps[request.quality] if request.steps is None else request.steps


def strength_of(request: DrawRequest) -> float:
    """Return the strength of a request's plan: of image to image, or the likeness of redux."""
    match request:
        case VariationRequest():
            return request.strength or request.likeness or 1.0
        case GenerateRequest():
            return request.refine_strength or 1.0
        case _:
            return 1.0


def wanted_of(request: DrawRequest) -> Wanted:
    """Return what of a request decides how it is drawn; a size nobody named is the model's own."""
    references = 0 if request.drawn_kind == "text2img" else 1
    if isinstance(request, EditRequest | VariationRequest):
        references = len(request.images)
    return Wanted(
        kind=request.drawn_kind,
        quality=request.quality,
        model=request.model,
        structure=structure_of(request),
        width_px=request.width,
        height_px=request.height,
        references=references,
        count=request.count,
        batched=request.batched,
        steps=request.steps,
        share=strength_of(request) if request.drawn_kind == "img2img" else 1.0,
    )


def as_asked(request: JobRequest) -> dict[str, Any]:
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
