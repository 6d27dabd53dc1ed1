"""`RenderPlan`: everything that decides an image. Plans are stored, sent to the worker and drawn.

How a request becomes one is in plan.py, which imports far more than who only reads plans needs.
"""

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from flux_mcp.models.parts import Placement, Precision
from flux_mcp.models.registry import LANCZOS, Kind, Quality, Structure
from flux_mcp.models.switches import KINDS_WITH_ONE_STATE, Switches
from flux_mcp.requests.geometry import Rectangle, Size, tiles_of

InputRole = Literal["image", "reference", "mask", "control"]
INPUT_ROLES: Mapping[Kind, frozenset[InputRole]] = {
    "text2img": frozenset(),
    "kontext": frozenset({"reference", "mask"}),
    "fill": frozenset({"image", "mask"}),
    "control": frozenset({"image", "control"}),
    "redux": frozenset({"reference"}),
    "img2img": frozenset({"image"}),
    "upscale": frozenset({"image"}),
}
"""The images each kind takes."""


def drawn_steps(steps: int, strength: float) -> int:
    """Return how many of a model's steps image to image draws: the last ones, at least one.

    As `FluxImg2ImgPipeline.get_timesteps` counts them (diffusers 0.42.1).
    """
    return steps - int(max(steps - min(steps * strength, steps), 0))


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

    @property
    def size(self) -> Size:
        """Width and height."""
        return Size(self.width, self.height)


class PlanLora(BaseModel):
    """A LoRA the plan is drawn with, pinned by the SHA-256 of its file."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    name: str
    """`loras/<name>.safetensors` in the data folder."""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """Of the whole file."""
    weight: float


class PlanUpscale(BaseModel):
    """How images are made larger: by what, pinned by its file's SHA-256, and in which tiles."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    upscaler: str
    """Id of a helper, name of `upscalers/<name>.safetensors` in the data folder, or `lanczos`."""
    revision: str | None = None
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    """Of the weights' file; `None` for lanczos, which has none."""
    factor: Literal[2, 4]
    """What becomes of width and height."""
    model_factor: int | None = Field(default=None, ge=2)
    """What one pass of the upscaler makes of them; `None` for a file, which says so when it is
    loaded, and for lanczos."""
    tile_px: int = Field(gt=0)
    """Side of a tile before it is made larger."""
    overlap_px: int = Field(ge=0)
    """How far tiles reach into each other, where they are blended."""

    @model_validator(mode="after")
    def _parts_fit_each_other(self) -> "PlanUpscale":
        if (self.sha256 is None) != (self.upscaler == LANCZOS):
            raise ValueError("an upscaler has a SHA-256, unless it is lanczos")
        if self.overlap_px >= self.tile_px:
            raise ValueError("tiles overlap by less than their side")
        return self

    def size_of(self, size: Size) -> Size:
        """Return what becomes of a size."""
        return Size(size.width * self.factor, size.height * self.factor)

    def tiles(self, size: Size) -> int:
        """Return the tiles of one image in all passes, as far as is known before it is loaded."""
        if self.upscaler == LANCZOS:
            return 1
        by, total, reached = self.model_factor or self.factor, 0, 1
        while reached < self.factor:
            passed = Size(size.width * reached, size.height * reached)
            total += len(tiles_of(passed, self.tile_px, self.overlap_px))
            reached *= by
        return total


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
    """What is drawn, in pixels; the image itself is `image_size`."""
    height: int = Field(gt=0)
    region: Rectangle | None = None
    """Part of the first input that is drawn again, at `width` and `height`, and pasted back into
    it: where the mask says so, or all of it without a mask. It reaches beyond the image where that
    is drawn with mirrored edges, which are cut off again. `None`: what is drawn is the image.
    Plans for fill that were stored before there were regions cut the input to their own size."""
    steps: int = Field(gt=0)
    guidance: float
    seeds: tuple[int, ...] = Field(min_length=1)
    batched: bool = False
    """All seeds in one pass (other pixels than one by one); else one pass for each seed."""
    max_sequence_length: int = Field(gt=0)
    inputs: tuple[PlanInput, ...] = ()
    strength: float = Field(default=1.0, gt=0)
    """For img2img: how much of the image is drawn again, 1 for all of it. For redux: weight of the
    image tokens against the text tokens, which requests call likeness."""
    structure: Structure | None = None
    """For control: what the input `control` shows, which is drawn along. An `image` beside it is
    what it was made of. Plans that were stored before structures were made with the plan have an
    `image` alone, whose edges the worker takes."""
    loras: tuple[PlanLora, ...] = ()
    """In the order of their names: the last bits of the pixels depend on the order."""
    switches: Switches = Field(default_factory=Switches)
    """Speed switches; plans that were stored before there were any are drawn without."""
    upscale: PlanUpscale | None = None
    """How each finished image is made larger, as an image of its own. In a plan of the kind upscale
    that is all that is done, to its one input."""

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
        if self.strength != 1.0 and self.kind not in ("redux", "img2img"):
            raise ValueError(f"{self.kind} has no strength")
        if self.kind == "img2img":
            self._draws_from_images()
        if self.kind == "upscale":
            self._upscales_one_image()
        if len({lora.name for lora in self.loras}) < len(self.loras):
            raise ValueError("a LoRA is named twice")
        self._switches_fit()
        self._region_fits()
        return self

    def _draws_from_images(self) -> None:
        if self.strength > 1:
            raise ValueError("no more than the whole image can be drawn again")
        if len(self.inputs) not in (1, len(self.seeds)):
            raise ValueError("img2img needs one image for all seeds, or one for each")

    def _upscales_one_image(self) -> None:
        if self.upscale is None or len(self.inputs) != 1 or len(self.seeds) != 1:
            raise ValueError("upscale needs one image, one seed, and says how")
        if Size(self.width, self.height) != self.upscale.size_of(self.inputs[0].size):
            raise ValueError("the image upscaled has another size than the plan says")

    def _region_fits(self) -> None:
        masks = [item for item in self.inputs if item.role == "mask"]
        if self.region is None:
            if masks and self.kind == "kontext":
                raise ValueError("an edit with a mask needs a region")
            return
        if self.kind not in ("fill", "kontext") or not self.inputs:
            raise ValueError(f"{self.kind} draws no region of an image")
        whole = self.inputs[0].size
        image = Rectangle(0, 0, whole.width, whole.height)
        # An edit of a whole image may be drawn with mirrored edges around it.
        is_padded = self.kind == "kontext" and not masks and self.region.holds(image)
        if self.region.size.pixels <= 0 or not (is_padded or image.holds(self.region)):
            raise ValueError("the region reaches outside the image")
        if any(mask.size != whole for mask in masks):
            raise ValueError("the mask has another size than the image")

    def _switches_fit(self) -> None:
        if self.switches.step_cache == "none":
            return
        if self.switches.compiled:
            raise ValueError("a step cache and compiled blocks do not go together")
        if self.negative_prompt is not None and self.kind in KINDS_WITH_ONE_STATE:
            raise ValueError(f"no step cache with a negative prompt for {self.kind}")

    @property
    def image_size(self) -> Size:
        """The size of each finished image, before it is upscaled besides."""
        return Size(self.width, self.height) if self.region is None else self.inputs[0].size

    @property
    def texts(self) -> tuple[str, ...]:
        """The prompt of each image."""
        return self.prompts or (self.prompt,) * len(self.seeds)

    @property
    def passes(self) -> int:
        """How often the pipeline runs."""
        return 1 if self.batched else len(self.seeds)

    @property
    def steps_drawn(self) -> int:
        """Denoising steps of one pass."""
        return drawn_steps(self.steps, self.strength) if self.kind == "img2img" else self.steps

    @property
    def total_steps(self) -> int:
        """Denoising steps of the whole job; of the kind upscale, its tiles."""
        if self.kind == "upscale" and self.upscale is not None:
            return self.upscale.tiles(self.inputs[0].size)
        return self.steps_drawn * self.passes

    @property
    def has_made_structure(self) -> bool:
        """Whether the structure was made of an image: it has both among its inputs."""
        return self.structure is not None and {"image", "control"} <= {i.role for i in self.inputs}

    @property
    def images(self) -> int:
        """How many images it gives: those drawn, and each of them upscaled."""
        also_upscaled = self.upscale is not None and self.kind != "upscale"
        return len(self.seeds) * (2 if also_upscaled else 1)

    @property
    def parents(self) -> tuple[str, ...]:
        """Gallery images this plan draws from, without repeats."""
        return _ids(self.inputs)

    def parents_of(self, index: int) -> tuple[str, ...]:
        """Return those of one image: of several drafts that are drawn again, only its own."""
        has_own = self.kind == "img2img" and len(self.inputs) == len(self.seeds)
        return _ids(self.inputs[index : index + 1]) if has_own else self.parents


def _ids(inputs: tuple[PlanInput, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(one.image_id for one in inputs if one.image_id is not None))
