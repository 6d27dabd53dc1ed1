"""Requests: one pydantic model for the arguments of each tool, as a caller gives them, with gaps.

A field's description is published with the tool, read by the models that call it, and repeated as
the hint of an error about the field; tests/server/test_schema.py bounds what all of them together
may cost. Only shape and range are checked here; what a particular model can do is decided in
plan.py.
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from flux_mcp.models.loras.library import MAX_WEIGHT
from flux_mcp.models.registry import Kind, Quality, Structure
from flux_mcp.models.switches import StepCache
from flux_mcp.requests.geometry import AspectRatio
from flux_mcp.requests.validation import (
    MAX_COUNT,
    MAX_LORAS,
    MAX_PROMPT_CHARACTERS,
    MAX_SEED,
    MAX_WAIT_S,
    Key,
    MistakeError,
    ModelId,
    Name,
    Prompt,
    Real,
    Request,
    Words,
    parse_json_text,
    printable,
)

ImageReference = Annotated[
    str,
    Field(
        min_length=1,
        description="Gallery id, flux://images/{id}, absolute path or data: URI.",
    ),
]


class Box(Request):
    """A rectangle in the image's own pixels; (0, 0) is the top left corner."""

    x: int = Field(ge=0)
    y: int = Field(ge=0)
    width: int = Field(ge=1)
    height: int = Field(ge=1)


class Mask(Request):
    """The area to generate again: exactly one of `image` and `box`."""

    image: ImageReference | None = Field(
        None, description="Same size: white is changed, black kept."
    )
    box: Box | None = Field(None, description="In pixels from the top left.")

    @model_validator(mode="after")
    def _is_given_one_way(self) -> "Mask":
        if (self.image is None) == (self.box is None):
            raise MistakeError(
                "give exactly one of image and box", "A box is {x, y, width, height} in pixels."
            )
        return self


class WeightedImage(Request):
    """An image with its share in a variation."""

    image: ImageReference
    weight: Real = Field(1, ge=0, le=2, description="Share against the others.")


MAX_NAME_CHARACTERS = 100

Value = Annotated[str, Field(max_length=MAX_PROMPT_CHARACTERS), AfterValidator(printable)]


def _as_mapping(given: object) -> object:
    """Accept `["light=dawn"]` as well as `{"light": "dawn"}`.

    The list is what is published: an object without named properties is refused or emptied when
    tools are converted for Gemini and for strict modes.
    """
    given = parse_json_text(given)
    if not isinstance(given, list) or not all(isinstance(pair, str) for pair in given):
        return given
    variables: dict[str, str] = {}
    for pair in given:
        name, sign, value = pair.partition("=")
        if not sign or not name.strip():
            raise MistakeError(
                f"'{pair[:MAX_NAME_CHARACTERS]}' is not variable=choice",
                "Write each as 'light=dawn'.",
            )
        if name.strip() in variables:
            raise MistakeError(
                f"'{name.strip()[:MAX_NAME_CHARACTERS]}' is there twice",
                "Give each variable once; several choices as 'dawn|dusk'.",
            )
        variables[name.strip()] = value
    return variables


def _short_names(variables: dict[str, str]) -> dict[str, str]:
    if any(len(name) > MAX_NAME_CHARACTERS for name in variables):
        raise MistakeError(
            "the name of a variable is too long",
            f"It has {MAX_NAME_CHARACTERS} characters at most.",
        )
    return variables


class PackChoice(Request):
    """A prompt pack, and what is chosen in it."""

    name: Name
    subject: Value | None = Field(None, description="A name, '*' for any, or own words.")
    variables: Annotated[
        dict[str, Value],
        BeforeValidator(_as_mapping, json_schema_input_type=list[str]),
        AfterValidator(_short_names),
    ] = Field(
        default_factory=dict,
        max_length=50,
        description="'variable=choice' each; '*' for any.",
    )
    extra: Value | None = Field(None, description="Added at the end.")

    @model_validator(mode="before")
    @classmethod
    def _plain_name(cls, data: Any) -> Any:
        """Accept `pack: "product-shot"` as well as `{"name": "product-shot"}`."""
        return {"name": data} if isinstance(data, str) else data


class LoraChoice(Request):
    """A LoRA, and how strongly it counts."""

    name: Name
    weight: Real = Field(1, ge=-MAX_WEIGHT, le=MAX_WEIGHT)

    @model_validator(mode="before")
    @classmethod
    def _plain_name(cls, data: Any) -> Any:
        """Accept `"striped"` as well as `{"name": "striped"}`."""
        return {"name": data} if isinstance(data, str) else data


def _each_once(loras: list[LoraChoice]) -> list[LoraChoice]:
    if len({lora.name for lora in loras}) < len(loras):
        raise MistakeError("one of them is named twice", "Name each once, with one weight.")
    return loras


LoraChoices = Annotated[
    list[LoraChoice],
    BeforeValidator(parse_json_text),
    Field(max_length=MAX_LORAS),
    AfterValidator(_each_once),
]


class DrawRequest(Request):
    """What the five requests that generate images have in common."""

    kind: ClassVar[Kind]
    tool: ClassVar[str]
    """The tool that takes it."""
    needs_words: ClassVar[bool] = True
    """Whether there must be a prompt or a pack."""

    prompt: Prompt | None = Field(None, description="What to show.")
    pack: Annotated[PackChoice, BeforeValidator(parse_json_text)] | None = Field(
        None,
        description="Instead of prompt: a prompt pack, listed as flux://packs/{name}.",
    )
    negative_prompt: Words | None = Field(
        None,
        max_length=MAX_PROMPT_CHARACTERS,
        description="What to avoid; few models support it.",
    )
    aspect_ratio: AspectRatio | None = Field(None, description="Instead of width and height.")
    width: int | None = Field(None, ge=1, description="Pixels, a multiple of 16.")
    height: int | None = Field(None, ge=1, description="Pixels, a multiple of 16.")
    quality: Quality = Field("standard", description="low: fast draft. high: slow, best.")
    model: ModelId | None = Field(None, description="Left out: quality decides.")
    steps: int | None = Field(None, ge=1, description="Left out: the model's own.")
    guidance: Real | None = Field(
        None,
        ge=0,
        le=100,
        description="Left out: the model's own.",
    )
    seed: int | None = Field(
        None,
        ge=0,
        le=MAX_SEED,
        description="Same seed, same image. Left out: random.",
    )
    count: int = Field(1, ge=1, le=MAX_COUNT, description="Number of images.")
    batched: bool = Field(
        default=False,
        description="All in one pass: faster, other pixels.",
    )
    loras: LoraChoices | None = Field(
        None,
        description="Of the model's family, listed as flux://loras/{name}.",
    )
    step_cache: StepCache = Field(
        "none",
        description="Faster, approximate drafts.",
    )
    session: Name | None = Field(None, description="Any name, to search and cancel by.")
    preview: Literal["none", "small", "normal"] = Field(
        "small", description="small 512 px, normal 1024 px."
    )
    wait_s: Real = Field(
        45,
        ge=0,
        le=MAX_WAIT_S,
        description="Seconds to wait; then a job_id is answered.",
    )
    dry_run: bool = Field(
        default=False,
        description="Answer prompt, audit and plan only.",
    )
    idempotency_key: Key | None = Field(None, description="Same key, same job.")

    @model_validator(mode="after")
    def _words_are_given_one_way(self) -> "DrawRequest":
        if self.prompt is not None and self.pack is not None:
            raise MistakeError(
                "give either prompt or pack, not both", "Words of your own go into pack.extra."
            )
        if self.needs_words and self.prompt is None and self.pack is None:
            field = type(self).model_fields["prompt"]
            raise MistakeError(
                "there is neither prompt nor pack", f"Give prompt or pack. {field.description}"
            )
        return self

    @model_validator(mode="after")
    def _size_is_given_one_way(self) -> "DrawRequest":
        if (self.width is None) != (self.height is None):
            raise MistakeError(
                "width and height must be given together", "Give both, or aspect_ratio instead."
            )
        if self.width is not None and self.aspect_ratio is not None:
            raise MistakeError(
                "give either aspect_ratio or width and height, not both", "Leave one way out."
            )
        return self


class GenerateRequest(DrawRequest):
    """Draw a new image from words."""

    kind: ClassVar[Kind] = "text2img"
    tool: ClassVar[str] = "flux_generate"

    prompt: Prompt | None = Field(
        None,
        description="What to show, in full sentences: subject, setting, light, style. Quote text "
        "that is to be written.",
    )


class EditRequest(DrawRequest):
    """Change an image as an instruction says."""

    kind: ClassVar[Kind] = "kontext"
    tool: ClassVar[str] = "flux_edit"

    prompt: Prompt | None = Field(
        None,
        description="The change as an instruction, and what stays: 'make the car red, keep the "
        "rest'.",
    )
    images: Annotated[
        list[ImageReference], BeforeValidator(parse_json_text), Field(min_length=1, max_length=8)
    ] = Field(description="The image to change; further ones are references.")


class FillRequest(DrawRequest):
    """Generate inside a mask and keep the rest."""

    kind: ClassVar[Kind] = "fill"
    tool: ClassVar[str] = "flux_fill"

    prompt: Prompt | None = Field(
        None, description="What is seen inside the mask: a description, not an instruction."
    )
    image: ImageReference
    mask: Annotated[Mask, BeforeValidator(parse_json_text)] = Field(
        description="The area to change: box or image."
    )
    invert: bool = Field(default=False, description="Change outside the mask instead.")
    feather_px: int = Field(0, ge=0, le=256, description="Soften the mask's edge.")


class VariationRequest(DrawRequest):
    """Generate something like one or several images."""

    kind: ClassVar[Kind] = "redux"
    tool: ClassVar[str] = "flux_variation"
    needs_words: ClassVar[bool] = False

    images: Annotated[
        list[WeightedImage], BeforeValidator(parse_json_text), Field(min_length=1, max_length=8)
    ] = Field(description="The images to vary or mix.")
    prompt: Words | None = Field(
        None, max_length=MAX_PROMPT_CHARACTERS, description="Words to steer the variation."
    )
    strength: Real = Field(1, gt=0, le=2, description="Images against words.")

    @model_validator(mode="before")
    @classmethod
    def _plain_references(cls, data: Any) -> Any:
        """Accept `images: ["id", ...]` as well as `[{"image": "id", "weight": 1}]`."""
        if isinstance(data, dict) and "images" in data:
            images = parse_json_text(data["images"])
            if isinstance(images, list):
                images = [{"image": item} if isinstance(item, str) else item for item in images]
            return {**data, "images": images}
        return data

    @model_validator(mode="after")
    def _some_weight(self) -> "VariationRequest":
        if all(item.weight == 0 for item in self.images):
            raise MistakeError(
                "at least one image needs a weight above 0", "Leave weight out to count all alike."
            )
        return self


class StructuralRequest(DrawRequest):
    """Generate an image that follows the structure of another."""

    kind: ClassVar[Kind] = "control"
    tool: ClassVar[str] = "flux_structural"

    prompt: Prompt | None = Field(None, description="What to show along the structure.")
    structure: Structure = Field(
        "canny",
        description="canny follows edges; depth a depth map, given as control_image.",
    )
    image: ImageReference | None = Field(
        None, description="Image whose edges are followed. Not with control_image."
    )
    control_image: ImageReference | None = Field(
        None, description="Finished structure: white edges on black, or a depth map."
    )

    @model_validator(mode="after")
    def _structure_is_given_one_way(self) -> "StructuralRequest":
        if (self.image is None) == (self.control_image is None):
            raise MistakeError(
                "give exactly one of image and control_image",
                "image is an image whose edges are taken, control_image a finished structure.",
            )
        if self.structure == "depth" and self.image is not None:
            raise MistakeError(
                "depth needs a depth map in control_image, not an image",
                "Give control_image, or structure 'canny' with image.",
            )
        return self


DRAW_REQUESTS: dict[Kind, type[DrawRequest]] = {
    request.kind: request
    for request in (
        GenerateRequest,
        EditRequest,
        FillRequest,
        VariationRequest,
        StructuralRequest,
    )
}


def tool_of(kind: Kind) -> str:
    """Return the tool whose jobs are of a kind."""
    return DRAW_REQUESTS[kind].tool


class SearchRequest(Request):
    """Find finished images."""

    query: str | None = Field(
        None, max_length=500, description="Words of the prompt; all must occur."
    )
    kind: Kind | None = Field(
        None,
        description="Of flux_generate, flux_edit, flux_fill, flux_structural, flux_variation.",
    )
    model: str | None = Field(None, max_length=100, description="Model id.")
    session: str | None = Field(None, max_length=100, description="Name of a group of images.")
    seed: int | None = Field(None, ge=0, le=MAX_SEED + MAX_COUNT, description="Exact seed.")
    created_after: str | None = Field(
        None, max_length=40, description="ISO 8601 date or time, UTC."
    )
    created_before: str | None = Field(
        None, max_length=40, description="ISO 8601 date or time, UTC."
    )
    limit: int = Field(20, ge=1, le=50, description="Most images in one answer.")
    cursor: str | None = Field(
        None, max_length=200, description="next_cursor of the answer before."
    )
    preview: Literal["none", "small", "normal"] = Field(
        "small", description="Contact sheet in the result."
    )


class GetJobRequest(Request):
    """Look at one job, or at the queue."""

    job_id: Name | None = Field(
        None, description="Id of a job or of a download of weights. Left out: the queue."
    )
    wait_s: Real = Field(
        20, ge=0, le=MAX_WAIT_S, description="Longest wait in seconds for its end."
    )
    preview: Literal["none", "small", "normal"] = Field(
        "small", description="small 512 px, normal 1024 px."
    )


class CancelJobRequest(Request):
    """Cancel one job, or all of a session."""

    job_id: Name | None = Field(None, description="Id of a job or of a download of weights.")
    session: Name | None = Field(None, description="Instead: every unfinished job of this session.")

    @model_validator(mode="after")
    def _is_given_one_way(self) -> "CancelJobRequest":
        if (self.job_id is None) == (self.session is None):
            raise MistakeError(
                "give exactly one of job_id and session",
                "flux_get_job without an id lists the jobs that can be cancelled.",
            )
        return self
