"""Drafts that are drawn again: what their rows say becomes the rest of the request. Pure.

A draft is drawn again image to image. With the same seed alone another model, or the same one at
another size, draws another image; what people choose a draft for is what it shows.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flux_mcp.errors import InvalidRequestError
from flux_mcp.gallery.store import ImageRecord
from flux_mcp.models.loras.library import Lora
from flux_mcp.models.registry import KIND_NAMES, QUALITIES, Kind, ModelSpec, Quality
from flux_mcp.requests.schemas import GenerateRequest, LoraChoice

REFINABLE: frozenset[Kind] = frozenset({"text2img", "img2img"})
"""Kinds whose prompts describe the whole image; that of an edit is an instruction."""
STRENGTHS: Mapping[int, float] = {1: 0.4, 2: 0.15}
"""How much of a draft is drawn again, by the factor of its size.

At 0.4 FLUX.1 dev begins at a noise of 0.68 at one megapixel (shift of 1.15, diffusers 0.42.1):
objects and their places stay, surfaces and edges are new. At twice the size its shift is 3.23, and
0.15 begins at 0.82: as little of what is left of the draft is hidden, counted in the same objects,
because noise averages out over four times the pixels (the rule of the resolution shift in
arXiv:2403.03206, section 5.3.2)."""
_SAME: Mapping[str, Callable[[ImageRecord], object]] = {
    "size": lambda one: (one.width, one.height),
    "negative prompt": lambda one: one.negative_prompt,
    "LoRAs": lambda one: sorted((lora["name"], lora["weight"]) for lora in one.loras),
    "pack": lambda one: (one.composed or {}).get("pack"),
}
"""What the drafts of one call have in common, because their plan has it once."""


@dataclass(frozen=True)
class Refinement:
    """What drafts make of a request."""

    request: GenerateRequest
    """What was asked, with what the drafts say where the caller said nothing."""
    given: frozenset[str]
    """The arguments that the caller gave."""
    texts: tuple[str, ...]
    """The prompt of each image."""
    seeds: tuple[int, ...]
    composed: tuple[dict[str, Any], ...]
    """What a pack made the prompts of, as the drafts' rows have it; empty for other prompts."""
    lora_files: Mapping[str, str]
    """SHA-256 of each LoRA the drafts were drawn with, by its name; without those left out."""
    notices: tuple[str, ...]

    def for_model(self, spec: ModelSpec) -> tuple[GenerateRequest, tuple[str, ...]]:
        """Return the request as a model can draw it, and what was left out of it.

        The drafts' negative prompt, where the model takes none; one that the caller gave stays,
        and is refused.
        """
        is_own = "negative_prompt" in self.given
        if is_own or self.request.negative_prompt is None or spec.takes_negative_prompt:
            return self.request, ()
        notice = f"The draft's negative prompt is left out: {spec.id} cannot use one."
        return self.request.model_copy(update={"negative_prompt": None}), (notice,)

    def changed_loras(self, loras: Sequence[Lora]) -> tuple[str, ...]:
        """Say which LoRAs have another file than the drafts were drawn with."""
        return tuple(
            f"The LoRA '{lora.name}' is not the file the draft was drawn with."
            for lora in loras
            if self.lora_files.get(lora.name, lora.sha256) != lora.sha256
        )


def refine(request: GenerateRequest, drafts: Sequence[ImageRecord]) -> Refinement:
    """Return what drafts make of a request.

    What the request says itself goes before what the drafts say.

    Args:
        request: What was asked; it names the drafts.
        drafts: Their rows, in the same order.

    Raises:
        InvalidRequestError: one is no draft of this tool, or they do not go together.
    """
    _refuse_others(drafts)
    first, given = drafts[0], frozenset(request.model_fields_set)
    scale = request.refine_scale or 1
    wanted: dict[str, Any] = {
        "count": len(drafts),
        "prompt": request.prompt or first.prompt,
        "refine_strength": request.refine_strength or STRENGTHS[scale],
    }
    if request.width is None:
        wanted |= {"width": first.width * scale, "height": first.height * scale}
    if "quality" not in given:
        wanted["quality"] = _better(first.plan.get("quality"))
    has_own_loras = request.loras is not None
    if not has_own_loras and first.loras:
        wanted["loras"] = [
            LoraChoice(name=lora["name"], weight=lora["weight"]) for lora in first.loras
        ]
    if request.negative_prompt is None:
        wanted["negative_prompt"] = first.negative_prompt
    texts, seeds = tuple(one.prompt for one in drafts), tuple(one.seed for one in drafts)
    composed = tuple(one.composed for one in drafts if one.composed is not None)
    if request.prompt is not None:
        texts, composed = (request.prompt,) * len(drafts), ()
    if request.seed is not None:
        seeds = tuple(range(request.seed, request.seed + len(drafts)))
    refined = request.model_copy(update=wanted)
    return Refinement(
        request=refined,
        given=given,
        texts=texts,
        seeds=seeds,
        composed=composed,
        lora_files={} if has_own_loras else {one["name"]: one["sha256"] for one in first.loras},
        notices=(_notice(refined, given, scale),),
    )


def _refuse_others(drafts: Sequence[ImageRecord]) -> None:
    for one in drafts:
        if one.kind not in REFINABLE:
            raise InvalidRequestError(
                f"refine_from: {one.id} was not generated from words ({KIND_NAMES[one.kind]}).",
                "flux_variation with strength and a prompt draws any image again.",
            )
    for what, of in _SAME.items():
        if any(of(one) != of(drafts[0]) for one in drafts):
            raise InvalidRequestError(
                f"refine_from: the drafts differ in {what}.",
                "Refine those that are alike in one call, the others in another.",
            )


def _better(quality: object) -> Quality:
    """Return the quality above a draft's."""
    place = QUALITIES.index(quality) if quality in QUALITIES else 0
    return QUALITIES[min(place + 1, len(QUALITIES) - 1)]


def _notice(request: GenerateRequest, given: frozenset[str], scale: int) -> str:
    own = [name for name in ("prompt", "negative_prompt", "loras", "seed") if name in given]
    size = "the same size" if scale == 1 else f"{scale} times the width and height"
    if "width" in given:
        size = "another size"
    other = f", but for {' and '.join(own)}" if own else ""
    return (
        f"Drawn again in quality '{request.quality}' at {size}, with each draft's own words, seed "
        f"and LoRAs{other}. refine_strength is {request.refine_strength:g}; more changes more."
    )
