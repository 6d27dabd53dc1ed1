"""Names that callers give by habit, from other APIs or by a slip, and what to give instead.

Nothing is renamed for the caller: it would have to be true of every value. The hint has the whole
replacement, ready to be copied.
"""

import json
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

from flux_mcp.errors import nearest_name

_OURS: Mapping[str, tuple[str, ...]] = {
    # Names in diffusers and hosted APIs, which models use by habit, and ours: the first that the
    # tool has.
    "num_inference_steps": ("steps",),
    "sampling_steps": ("steps",),
    "guidance_scale": ("guidance",),
    "cfg": ("guidance",),
    "cfg_scale": ("guidance",),
    "true_cfg_scale": ("negative_prompt",),
    "num_images_per_prompt": ("count",),
    "num_images": ("count",),
    "num_outputs": ("count",),
    "batch_size": ("count",),
    "n": ("count",),
    "generator": ("seed",),
    "size": ("width", "aspect_ratio"),
    "image_size": ("width", "aspect_ratio"),
    "resolution": ("width", "aspect_ratio"),
    "ratio": ("aspect_ratio",),
    "image": ("images",),
    "images": ("image",),
    "reference": ("images", "image"),
    "references": ("images", "image"),
    "input_image": ("image", "images"),
    "image_path": ("image", "images"),
    "image_id": ("image", "images"),
    "image_url": ("image", "images"),
    "init_image": ("image", "images"),
    "source": ("image", "images"),
    "path": ("image", "images"),
    "uri": ("image", "images"),
    "url": ("image", "images"),
    "box": ("mask",),
    "bbox": ("mask", "box"),
    "region": ("mask",),
    "mask_image": ("mask",),
    "mask_url": ("mask",),
    "control_type": ("structure",),
    "instruction": ("prompt",),
    "text": ("query", "prompt"),
    "template": ("pack",),
    "lora": ("loras",),
    "lora_weights": ("loras",),
    "scale": ("weight", "guidance"),
    "strength": ("weight", "strength"),
    "denoise": ("strength",),
    "denoising_strength": ("strength",),
    "prompt_strength": ("strength",),
    "image_prompt_strength": ("likeness",),
    "similarity": ("likeness",),
    "timeout": ("wait_s",),
    "wait": ("wait_s",),
    "max_results": ("limit",),
    "id": ("job_id", "image", "images"),
    "w": ("width",),
    "h": ("height",),
}
_WRAPPERS = ("arguments", "args", "kwargs", "input", "inputs", "params", "parameters", "request")
"""Names of an object that holds the arguments."""
_WITHOUT: Mapping[str, str] = {
    # What there is no argument for, and what is done instead.
    "weights": 'A weight stands beside its image or LoRA: {"image": "img_...", "weight": 0.7}.',
    "image": "flux_edit changes an image, flux_variation makes more like it.",
    "images": "flux_edit changes an image, flux_variation makes more like it.",
    "init_image": "flux_edit changes an image, flux_variation makes more like it.",
    "mask": "flux_fill changes only what is inside a mask.",
    "mask_image": "flux_fill changes only what is inside a mask.",
    "control_image": "flux_structural follows the structure of an image.",
    "structure": "flux_structural follows the structure of an image.",
    "strength": "Say in the prompt how much is to change; flux_variation has a strength.",
    "image_strength": "Say in the prompt how much is to change; flux_variation has a strength.",
    "denoise": "Say in the prompt how much is to change; flux_variation has a strength.",
    "denoising_strength": "Say in the prompt how much is to change; flux_variation has a strength.",
    "prompt_strength": "Say in the prompt how much is to change; flux_variation has a strength.",
    "output_format": "Leave it out: images are stored as PNG.",
    "response_format": "Leave it out: images are stored as PNG, and the result has their paths.",
    "format": "Leave it out: images are stored as PNG.",
    "output": "Leave it out: the result has the path of each image.",
    "output_path": "Leave it out: the result has the path of each image.",
    "filename": "Leave it out: the result has the path of each image.",
    "scheduler": "Leave it out: each model has its own.",
    "sampler": "Leave it out: each model has its own.",
    "sampler_name": "Leave it out: each model has its own.",
    "style": "Say it in the prompt, or name a LoRA.",
    **dict.fromkeys(
        ("polygon", "ellipse", "outpaint"),
        "It is a part of the argument mask, which flux_fill and flux_edit take.",
    ),
    **dict.fromkeys(_WRAPPERS, "Give what is inside it as the arguments themselves."),
}
_SIZE = re.compile(r"\s*(\d{1,5})\s*[xX\u00d7*:,]\s*(\d{1,5})\s*")
_LONGEST_VALUE = 80
"""Characters of a value that a hint repeats; more is only named."""


def instead_of(name: str, value: Any, known: Collection[str]) -> str:
    """Return the hint for an argument that does not exist.

    Args:
        name: As it was given.
        value: What was given with it.
        known: The arguments there are.
    """
    ours = meant_by(name, known)
    if ours is None:
        return _WITHOUT.get(name.lower(), f"Arguments: {', '.join(known)}.")
    whole = _WHOLE.get(ours, _as_it_is)(ours, value)
    return f"Did you mean '{ours}'?" + (f" Give {whole}." if whole else "")


def replaced_by(name: str, value: Any, known: Collection[str]) -> tuple[str, ...]:
    """Return the arguments that `instead_of` proposes; none if it proposes nothing certain."""
    if name.lower() in _WRAPPERS and isinstance(value, dict):
        return tuple(value)
    ours = meant_by(name, known)
    if ours == "width" and isinstance(value, str) and _SIZE.fullmatch(value):
        return ("width", "height")
    return () if ours is None else (ours,)


def meant_by(name: str, known: Collection[str]) -> str | None:
    """Return which of the arguments there are a name was meant to be; `None` if that is open."""
    lower = name.lower()
    ours = next((one for one in _OURS.get(lower, ()) if one in known), None)
    return ours if ours or lower in _WITHOUT else nearest_name(name, known)


# --- whole replacements --------------------------------------------------------------------------


def _as_it_is(ours: str, value: Any) -> str:
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        return _pair(ours, value)
    return ""


def _pair(ours: str, value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return f'"{ours}": {text}' if len(text) <= _LONGEST_VALUE and text.isprintable() else ""


def _sides(ours: str, value: Any) -> str:
    found = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        return _as_it_is(ours, value) if isinstance(value, int) else ""
    return f'"width": {found[1]}, "height": {found[2]}'


def _image_list(ours: str, value: Any) -> str:
    return _pair(ours, [value]) if isinstance(value, str) else ""


def _mask(ours: str, value: Any) -> str:
    if isinstance(value, str):
        return _pair(ours, {"image": value})
    return _pair(ours, {"box": value}) if isinstance(value, dict | list) else ""


def _loras(ours: str, value: Any) -> str:
    return _pair(ours, [{"name": value, "weight": 1}]) if isinstance(value, str) else ""


_WHOLE: Mapping[str, Callable[[str, Any], str]] = {
    "width": _sides,
    "images": _image_list,
    "mask": _mask,
    "loras": _loras,
}
