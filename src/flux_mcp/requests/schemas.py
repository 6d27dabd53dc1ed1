"""Requests to draw: a pydantic model for each tool's arguments, as a caller gives them, with gaps.

A field's description is the hint of an error about it, and stands on docs/tools.md. What is
published with the tool, and read by models with every conversation, is its `brief` where it has
one; tests/server/test_schema.py bounds what all of them together may cost. Only shape and range
are checked here; what a particular model can do is decided in plan.py.
"""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, JsonValue, model_validator
from pydantic.json_schema import SkipJsonSchema

from flux_mcp.models.loras import MAX_WEIGHT
from flux_mcp.models.registry import Kind, Quality, Structure
from flux_mcp.models.switches import StepCache
from flux_mcp.requests.geometry import AspectRatio
from flux_mcp.requests.image_arguments import ImageReference, OneImage, WeightedImage
from flux_mcp.requests.mask_arguments import MAX_GROW_PX, Mask
from flux_mcp.requests.upscaling import Factor, UpscaleRequest
from flux_mcp.requests.validation import (
    MAX_COUNT,
    MAX_LORAS,
    MAX_PROMPT_CHARACTERS,
    MAX_SEED,
    MAX_WAIT_S,
    USUAL_WAIT_S,
    Key,
    MistakeError,
    ModelId,
    Name,
    Prompt,
    Real,
    Request,
    Words,
    as_list,
    brief,
    parse_json_text,
    printable,
)

MAX_NAME_CHARACTERS = 100

Value = Annotated[str, Field(max_length=MAX_PROMPT_CHARACTERS), AfterValidator(printable)]


def _as_mapping(given: object) -> object:
    """Accept `["light=dawn"]` and `"light=dawn"` as well as `{"light": "dawn"}`.

    The list is what is published: an object without named properties is refused or emptied when
    tools are converted for Gemini and for strict modes.
    """
    given = parse_json_text(given)
    if isinstance(given, str) and "=" in given:
        given = [given]
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

    example: ClassVar[str] = '{"name": "...", "subject": "...", "variables": ["light=dawn"]}'

    name: Name = Field(
        description="Name of the pack; an error lists those there are.", json_schema_extra=brief("")
    )
    subject: Value | None = Field(
        None,
        description="One of the pack's subjects by name, '*' for any of them, or your own words.",
        json_schema_extra=brief("A name, '*' for any, or own words."),
    )
    variables: Annotated[
        dict[str, Value],
        BeforeValidator(_as_mapping, json_schema_input_type=list[str]),
        AfterValidator(_short_names),
    ] = Field(
        default_factory=dict,
        max_length=50,
        description="Each 'variable=choice'. A choice is its name, '*' for any, or "
        "'noir:3|pastel:1' for one of these by weight; the seed of each image decides. Left out: "
        "the default.",
        json_schema_extra=brief("Each 'variable=choice'."),
    )
    extra: Value | None = Field(
        None,
        description="Words of your own for the end.",
        json_schema_extra=brief("Added at the end."),
    )

    @model_validator(mode="before")
    @classmethod
    def _plain_name(cls, data: Any) -> Any:
        """Accept `pack: "product-shot"` as well as `{"name": "product-shot"}`."""
        return {"name": data} if isinstance(data, str) else data


class LoraChoice(Request):
    """A LoRA, and how strongly it counts."""

    example: ClassVar[str] = '[{"name": "...", "weight": 0.8}]'

    name: Key = Field(
        description="Its file's name without .safetensors; in a folder: folder/name.",
        json_schema_extra=brief(""),
    )
    weight: Real = Field(
        1,
        ge=-MAX_WEIGHT,
        le=MAX_WEIGHT,
        description="0 is without it, 1 as it was trained.",
        json_schema_extra=brief(""),
    )

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
    BeforeValidator(as_list),
    Field(max_length=MAX_LORAS),
    AfterValidator(_each_once),
]


class DrawRequest(Request):
    """What the five requests that generate images have in common."""

    kind: ClassVar[Kind]
    tool: ClassVar[str]
    """The tool that takes it."""
    words_of: ClassVar[tuple[str, ...]] = ("prompt", "pack")
    """Arguments that say what to show; there must be one of them, unless there are none."""

    prompt: Prompt | None = Field(None, description="What to show.")
    pack: Annotated[PackChoice, BeforeValidator(parse_json_text)] | None = Field(
        None,
        description="Instead of prompt: a prompt pack writes it, and refuses what it forbids. "
        "{'name': ..., 'subject': ..., 'variables': [...], 'extra': ...}; flux://packs/{name} "
        "lists its choices.",
        json_schema_extra=brief("Instead of prompt: a prompt pack, listed as flux://packs/{name}."),
    )
    negative_prompt: Words | None = Field(
        None,
        max_length=MAX_PROMPT_CHARACTERS,
        description="What to steer away from. Doubles the time. Only where the model supports it; "
        "prefer saying what you do want in the prompt.",
        json_schema_extra=brief("What to avoid; few models support it."),
    )
    aspect_ratio: AspectRatio | None = Field(
        None,
        description="Shape at the model's usual pixel count. Not together with width/height.",
        json_schema_extra=brief("Instead of width and height.", left_out="auto"),
    )
    width: int | None = Field(
        None,
        ge=1,
        description="Width in pixels, a multiple of 16. Give height too.",
        json_schema_extra=brief("A multiple of 16, or 0: by aspect_ratio.", left_out=0),
    )
    height: int | None = Field(
        None,
        ge=1,
        description="Height in pixels, a multiple of 16. Give width too.",
        json_schema_extra=brief("As width.", left_out=0),
    )
    quality: Quality = Field(
        "standard",
        description="low is a fast draft, standard the usual, high the slow best.",
        json_schema_extra=brief("low: draft; high: slow, best."),
    )
    model: ModelId | None = Field(
        None,
        description="Model id. Leave out to let quality choose.",
        json_schema_extra=brief("Left out: quality decides."),
    )
    steps: int | None = Field(
        None,
        ge=1,
        description="Denoising steps. Leave out, or 0, for the model's own number.",
        json_schema_extra=brief("0: the model's own.", left_out=0),
    )
    guidance: Real | None = Field(
        None,
        ge=0,
        le=100,
        description="How strongly the prompt is followed, from 0 to 100. Leave out, or -1, for the "
        "model's own value.",
        json_schema_extra=brief("-1: the model's own.", left_out=-1),
    )
    seed: int | None = Field(
        None,
        ge=0,
        le=MAX_SEED,
        description="Same seed and arguments, same image. Leave out, or -1, for a random one "
        "(reported with the result). Image n of several gets seed + n - 1.",
        json_schema_extra=brief("Same seed, same image. -1: random.", left_out=-1),
    )
    count: int = Field(
        1,
        ge=1,
        le=MAX_COUNT,
        description="How many images to generate.",
        json_schema_extra=brief("Images."),
    )
    batched: bool = Field(
        default=False,
        description="Generate several images in one pass: a little faster on large GPUs, but "
        "pixels differ slightly from those of images generated alone.",
        json_schema_extra=brief("Faster, other pixels."),
    )
    loras: LoraChoices | None = Field(
        None,
        description="Small add-ons on this machine that teach the model a style or a thing: "
        "[{'name': ..., 'weight': 0.8}]. They are listed as resources flux://loras/{name}, with "
        "the words a prompt needs for them; an unknown name is answered with those there are. "
        "Only with a model of the family they were made for.",
        json_schema_extra=brief("Listed as flux://loras/{name}."),
    )
    step_cache: StepCache = Field(
        "none",
        description="Skip work in steps that change little, for a faster draft. Approximate: other "
        "pixels than without, so leave it out for a final image. first_block adapts to the "
        "image. Not for models of few steps.",
        json_schema_extra=brief("Fast, approximate drafts."),
    )
    upscale: Factor | None = Field(
        None,
        description="Also make each finished image 2 or 4 times as wide and high, as an image of "
        "its own; the one that was drawn is kept. Left out, or 0: not.",
        json_schema_extra=brief("Also return it at 2x or 4x; 0: no.", left_out=0),
    )
    session: Name | None = Field(
        None,
        description="Any name that groups images; search and cancel by it.",
        json_schema_extra=brief("To search and cancel by."),
    )
    preview: Literal["none", "small", "normal"] | None = Field(
        None,
        description="Preview image inside the result: none, 512 px or 1024 px. Left out: small, or "
        "none where your program cannot show it.",
        json_schema_extra=brief("small 512 px, normal 1024 px.", left_out="auto"),
    )
    wait_s: Real | None = Field(
        None,
        ge=0,
        le=MAX_WAIT_S,
        description="Longest wait in seconds before answering with a job id to poll. 0 returns at "
        "once. Leave out, or -1, for what suits the client: the setting default_wait_s, or else "
        f"{USUAL_WAIT_S} seconds, and fewer for a client that is known to end its calls sooner.",
        json_schema_extra=brief("Seconds, then a job_id. -1: automatic.", left_out=-1),
    )
    dry_run: bool = Field(
        default=False,
        description="Return the prompt with its audit, the resolved plan and estimates, and a mask "
        "shown over its image; generate and queue nothing.",
        json_schema_extra=brief("Only prompt, audit, plan, mask."),
    )
    idempotency_key: Key | None = Field(
        None,
        description="Repeating a call with the same key returns the same job instead of a second "
        "one.",
        json_schema_extra=brief("Same key, same job."),
    )

    @property
    def drawn_kind(self) -> Kind:
        """The kind of what is drawn; some arguments make it another than the tool's usual one."""
        return self.kind

    @property
    def keeps_size(self) -> bool:
        """Whether the result has the size of the image that was given, whatever else is asked."""
        return False

    @classmethod
    def given(cls, data: Any) -> Any:
        """Keep an empty list of LoRAs beside a pack: it asks for none instead of the pack's."""
        given = super().given(data)
        if isinstance(data, dict) and "pack" in given and parse_json_text(data.get("loras")) == []:
            given["loras"] = []
        return given

    @classmethod
    def contradictions(cls, given: Mapping[str, Any]) -> Iterator[MistakeError]:
        """Yield where words or a size are given in two ways, or by halves."""
        if "prompt" in given and "pack" in given:
            yield MistakeError(
                "give either prompt or pack, not both", "Words of your own go into pack.extra."
            )
        if cls.words_of and not given.keys() & set(cls.words_of):
            yield MistakeError(
                "there is neither prompt nor pack",
                f"Give prompt or pack. {cls.model_fields['prompt'].description}",
            )
        if ("width" in given) != ("height" in given):
            yield MistakeError(
                "width and height must be given together", "Give both, or aspect_ratio instead."
            )
        elif "width" in given and "aspect_ratio" in given and not _is_size_of_shape(given):
            yield MistakeError(
                "give either aspect_ratio or width and height, not both", "Leave one way out."
            )


_SAME_SHAPE = 0.02
"""Two shapes differ by less where a side of about 1024 px was rounded to a multiple of 16."""


def _is_size_of_shape(given: Mapping[str, Any]) -> bool:
    """Whether width and height have the aspect ratio that is given beside them."""
    try:
        across, down = (int(part) for part in given["aspect_ratio"].split(":"))
        width, height = int(given["width"]), int(given["height"])
    except (AttributeError, TypeError, ValueError, OverflowError):
        return False
    return abs(width * down - height * across) < _SAME_SHAPE * height * across


Drafts = Annotated[
    list[Annotated[ImageReference, Field(json_schema_extra=brief(""))]],
    BeforeValidator(as_list),
    Field(min_length=1, max_length=8),
]


class GenerateRequest(DrawRequest):
    """Draw a new image from words."""

    kind: ClassVar[Kind] = "text2img"
    tool: ClassVar[str] = "flux_generate"
    words_of: ClassVar[tuple[str, ...]] = ("prompt", "pack", "refine_from")

    prompt: Prompt | None = Field(
        None,
        description="What to show, in full sentences: subject, setting, light, style. Put words "
        "that should be written in the image in quotation marks.",
        json_schema_extra=brief(
            "What to show, in full sentences: subject, setting, light, style. Quote text that is "
            "to be written."
        ),
    )
    refine_from: Drafts | None = Field(
        None,
        description="Instead of prompt: images generated before that are drawn again, better: "
        "image to image, each with its own prompt, negative prompt, seed and LoRAs, in the quality "
        "above its own unless quality is given. What is given beside it goes before what they say.",
        json_schema_extra=brief(
            "Instead of prompt: ids of drafts to redraw better, with their prompts and seeds."
        ),
    )
    refine_scale: int | None = Field(
        None,
        ge=1,
        le=2,
        description="2 draws the drafts at twice their width and height, 1 at their own size. Left "
        "out, or 0: 1.",
        json_schema_extra=brief("Times their size.", left_out=0),
    )
    refine_strength: Real | None = Field(
        None,
        gt=0,
        le=1,
        description="How much of the drafts is drawn again. Left out, or -1: 0.4, and 0.15 at "
        "twice the size, which keep what they show and where.",
        json_schema_extra=brief("How much is drawn again. -1: automatic.", left_out=-1),
    )

    @property
    def drawn_kind(self) -> Kind:
        """Image to image where drafts are drawn again."""
        return "img2img" if self.refine_from else self.kind

    @classmethod
    def contradictions(cls, given: Mapping[str, Any]) -> Iterator[MistakeError]:
        """Yield also what does not go with drafts, or goes with them only."""
        yield from super().contradictions(given)
        if "refine_from" not in given:
            for name in ("refine_scale", "refine_strength"):
                if name in given:
                    yield MistakeError(
                        f"{name} is for drafts, and refine_from names none",
                        "Give refine_from, or leave it out.",
                    )
            return
        if "pack" in given:
            yield MistakeError(
                "drafts of refine_from keep the words of their own packs",
                "Leave pack out; a prompt goes before their words.",
            )
        if given.get("count", 1) != 1:
            yield MistakeError("refine_from draws one image for each draft", "Leave count out.")
        if "aspect_ratio" in given:
            yield MistakeError(
                "drafts of refine_from keep their shape",
                "Leave aspect_ratio out; refine_scale 2 draws them at twice the size.",
            )
        if "width" in given and "refine_scale" in given:
            yield MistakeError(
                "give either refine_scale or width and height, not both", "Leave one way out."
            )


_FEATHER = (
    "Soften the mask's edge by this many pixels on each side, 256 at most. Left out, or -1: of "
    "shapes a sixteenth of the shorter side, at most 32, so that no seam is seen; an image is "
    "taken as it was painted."
)
_MASK = (
    "{'box': [x0, y0, x1, y1]}, {'polygon': ...}, {'ellipse': ...}, {'outpaint': ...} or "
    "{'image': ...}. Several are united, in one mask or in a list of masks."
)


def _grow_px(**published: JsonValue) -> Any:
    return Field(
        0,
        ge=-MAX_GROW_PX,
        le=MAX_GROW_PX,
        description="Enlarge the mask by this many pixels all around, 256 at most; below 0 shrink "
        "it. What is then softened was white from half up.",
        json_schema_extra=published,
    )


class EditRequest(DrawRequest):
    """Change an image as an instruction says."""

    kind: ClassVar[Kind] = "kontext"
    tool: ClassVar[str] = "flux_edit"
    also_named: ClassVar[Mapping[str, str]] = {"image": "images"}

    prompt: Prompt | None = Field(
        None,
        description="The change as an instruction, and what stays: 'make the car red, keep the "
        "rest'.",
    )
    images: Annotated[
        list[ImageReference], BeforeValidator(as_list), Field(min_length=1, max_length=8)
    ] = Field(
        description="The image to change; further ones are references, which the prompt may count. "
        "A model that reads one image gets up to four joined side by side. The result has the size "
        "of the first, unless width and height or aspect_ratio say otherwise.",
        json_schema_extra=brief("The image to change; further ones are references."),
    )
    mask: Annotated[Mask, BeforeValidator(parse_json_text)] | None = Field(
        None,
        description="The area of the first image that may change; all else keeps its pixels, and "
        f"the image its size. {_MASK}",
        json_schema_extra=brief("Only this area changes."),
    )
    invert: bool = Field(default=False, description="Swap what the mask changes and what it keeps.")
    grow_px: int = _grow_px()
    feather_px: int | None = Field(
        None,
        ge=0,
        le=256,
        description=_FEATHER,
        json_schema_extra=brief("Soften its edge. -1: automatic.", left_out=-1),
    )

    @property
    def keeps_size(self) -> bool:
        """Whether there is a mask: what it keeps stays where it is."""
        return self.mask is not None

    @classmethod
    def contradictions(cls, given: Mapping[str, Any]) -> Iterator[MistakeError]:
        """Yield also where something is said of a mask and there is none; 0 says nothing."""
        yield from super().contradictions(given)
        about = [name for name in ("feather_px", "grow_px", "invert") if given.get(name)]
        if about and "mask" not in given:
            yield MistakeError(
                f"{about[0]} is about a mask, and there is none",
                f"Give a mask, or leave {about[0]} out.",
            )


_KEEPS_SIZE = "Leave it out: the result has the size of the image."


class FillRequest(DrawRequest):
    """Generate inside a mask and keep the rest."""

    kind: ClassVar[Kind] = "fill"
    tool: ClassVar[str] = "flux_fill"
    also_named: ClassVar[Mapping[str, str]] = {"images": "image"}

    prompt: Prompt | None = Field(
        None,
        description="What the finished image shows inside the mask (a description, not an "
        "instruction).",
        json_schema_extra=brief("What is seen inside the mask: a description, not an instruction."),
    )
    # Not published: the image keeps its size. What is given anyway is checked against that.
    aspect_ratio: SkipJsonSchema[AspectRatio | None] = Field(
        None, description=_KEEPS_SIZE, json_schema_extra=brief("", left_out="auto")
    )
    width: SkipJsonSchema[int | None] = Field(
        None, ge=1, description=_KEEPS_SIZE, json_schema_extra=brief("", left_out=0)
    )
    height: SkipJsonSchema[int | None] = Field(
        None, ge=1, description=_KEEPS_SIZE, json_schema_extra=brief("", left_out=0)
    )
    image: OneImage
    mask: Annotated[Mask, BeforeValidator(parse_json_text)] = Field(
        description=f"The area to change: {_MASK}",
        json_schema_extra=brief("The area to change; shapes are united."),
    )
    invert: bool = Field(default=False, description="Swap what is changed and what is kept.")
    grow_px: int = _grow_px(**brief("Enlarge the mask."))
    feather_px: int | None = Field(
        None,
        ge=0,
        le=256,
        description=_FEATHER,
        json_schema_extra=brief("Soften the mask's edge. -1: automatic.", left_out=-1),
    )

    @property
    def keeps_size(self) -> bool:
        """Always: what the mask keeps stays where it is."""
        return True


class VariationRequest(DrawRequest):
    """Generate something like one or several images."""

    kind: ClassVar[Kind] = "redux"
    tool: ClassVar[str] = "flux_variation"
    also_named: ClassVar[Mapping[str, str]] = {"image": "images"}
    words_of: ClassVar[tuple[str, ...]] = ()

    images: Annotated[
        list[WeightedImage], BeforeValidator(as_list), Field(min_length=1, max_length=8)
    ] = Field(description="The images to vary or mix.")
    prompt: Words | None = Field(
        None,
        max_length=MAX_PROMPT_CHARACTERS,
        description="Words to steer it; with strength: what the image shows.",
    )
    strength: Real | None = Field(
        None,
        gt=0,
        le=1,
        description="Image to image: how much of one image is drawn again, from next to nothing "
        "to 1, all of it; 0.3 keeps the composition, 0.7 little more than colours. Left out, or "
        "-1: something like the images is generated instead, as much as likeness says.",
        json_schema_extra=brief(
            "Share of one image to redraw (img2img). -1: only likeness.", left_out=-1
        ),
    )
    likeness: Real | None = Field(
        None,
        gt=0,
        le=2,
        description="How much the images count against the words, above 0 to 2. Left out, or -1: "
        "1. Not with strength.",
        json_schema_extra=brief("Images against words; -1: 1. Not with strength.", left_out=-1),
    )

    @property
    def drawn_kind(self) -> Kind:
        """Image to image where there is a strength."""
        return self.kind if self.strength is None else "img2img"

    @classmethod
    def contradictions(cls, given: Mapping[str, Any]) -> Iterator[MistakeError]:
        """Yield also where one image is to be drawn again and more than that is asked."""
        yield from super().contradictions(given)
        if "strength" not in given:
            return
        if "likeness" in given:
            yield MistakeError(
                "give either strength or likeness, not both",
                "strength draws one image again, likeness makes new ones that are like it.",
            )
        images = given.get("images")
        if isinstance(images, list) and len(images) > 1:
            yield MistakeError(
                f"strength draws one image again, and there are {len(images)}",
                "Give one image; or leave strength out to mix them, and say with likeness how much "
                "they count against the words.",
            )
        elif isinstance(images, list) and any(_weight_of(image) != 1 for image in images):
            yield MistakeError(
                "a weight is the share of one of several images, and strength draws one again",
                "Leave weight out; strength says how much of the image is drawn again.",
            )

    @model_validator(mode="before")
    @classmethod
    def _plain_references(cls, data: Any) -> Any:
        """Accept `images: ["id", ...]` and `image: "id"` for `[{"image": "id", "weight": 1}]`."""
        data = cls.given(data)
        if isinstance(data, dict) and "images" in data:
            images = as_list(data["images"])
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


def _weight_of(image: Any) -> Any:
    """Return the weight of an image of a variation, read already or as it was given."""
    if isinstance(image, WeightedImage):
        return image.weight
    return image.get("weight", 1) if isinstance(image, dict) else 1


MAX_GRADIENT = 2040
"""The steepest that `cv2.Canny` can find in 8 bits: Sobel's kernel sums four differences across and
four down, and both are added up."""


class StructuralRequest(DrawRequest):
    """Generate an image that follows the structure of another."""

    kind: ClassVar[Kind] = "control"
    tool: ClassVar[str] = "flux_structural"
    also_named: ClassVar[Mapping[str, str]] = {"images": "image"}

    prompt: Prompt | None = Field(None, description="What to show along the structure.")
    structure: Structure = Field(
        "canny",
        description="canny follows edges, depth how near things are; either is taken from image.",
        json_schema_extra=brief("canny: edges; depth: how near things are."),
    )
    image: OneImage | None = Field(
        None,
        description="An image whose structure is taken. Not with control_image.",
        json_schema_extra=brief("Image whose structure is followed. Not with control_image."),
    )
    control_image: ImageReference | None = Field(
        None,
        description="A structure image made already: white edges on black, or a depth map.",
        json_schema_extra=brief("Finished structure: white edges on black, or a depth map."),
    )
    canny_high: int | None = Field(
        None,
        ge=1,
        le=MAX_GRADIENT,
        description="How steep an edge of image must be to count, 1 to 2040: fewer edges the "
        "higher it is. Leave out, or 0, to have it chosen for the image; the answer says which.",
        json_schema_extra=brief("Fewer edges the higher; 0: automatic.", left_out=0),
    )
    canny_low: int | None = Field(
        None,
        ge=1,
        le=MAX_GRADIENT,
        description="How steep an edge that begins there must stay, 1 to 2040. Leave out, or 0, "
        "for half of canny_high.",
        json_schema_extra=brief("0: half of it.", left_out=0),
    )

    @classmethod
    def contradictions(cls, given: Mapping[str, Any]) -> Iterator[MistakeError]:
        """Yield also where the structure is given both ways, or not as it is needed."""
        yield from super().contradictions(given)
        low, high = given.get("canny_low"), given.get("canny_high")
        if (low or high) and ("image" not in given or given.get("structure") == "depth"):
            yield MistakeError(
                "canny_low and canny_high are for edges that are taken from image",
                "Leave them out, or give image with structure 'canny'.",
            )
        elif isinstance(low, int) and isinstance(high, int) and low > high:
            yield MistakeError(
                f"canny_low is {low}, more than canny_high, which is {high}",
                "Swap them, or leave canny_low out: it is half of canny_high.",
            )
        if ("image" in given) == ("control_image" in given):
            yield MistakeError(
                "give exactly one of image and control_image",
                "image is an image whose structure is taken, control_image a finished structure.",
            )


DRAW_REQUESTS: Mapping[Kind, type[DrawRequest]] = {
    request.kind: request
    for request in (
        GenerateRequest,
        EditRequest,
        FillRequest,
        VariationRequest,
        StructuralRequest,
    )
}


JobRequest = DrawRequest | UpscaleRequest
"""What becomes a job."""
JOB_REQUESTS: Mapping[Kind, type[JobRequest]] = {
    **DRAW_REQUESTS,
    UpscaleRequest.kind: UpscaleRequest,
}


def tool_of(kind: Kind) -> str:
    """Return the tool that draws a kind; of image to image, the one that takes any image."""
    return DRAW_REQUESTS.get(kind, VariationRequest).tool
