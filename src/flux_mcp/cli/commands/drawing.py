"""`flux-mcp generate`, `edit`, `fill`, `vary`, `structure`, `upscale`: make images, wait for them.

A command's signature is made from the table of flags: a new argument of a request is a row more.
The help stands here, as importing the requests takes longer than a help may.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from flux_mcp.cli.common import (
    AsJson,
    ConfigPath,
    DataDir,
    new_app,
    read_settings,
    run,
    run_now,
    set_up_logging,
)
from flux_mcp.cli.completing import (
    complete_images,
    complete_loras,
    complete_models,
    complete_packs,
    complete_qualities,
    complete_upscalers,
)

Words, Whole, Number, Many = str | None, int | None, float | None, list[str] | None


@dataclass(frozen=True)
class Flag:
    """One flag.

    Attributes:
        name: Of the request's argument, or of what cli/arguments.py makes one from.
        type: As typer reads it.
        help: Its line.
        written: Its flag, where that is not the name with hyphens.
        complete: Offers its values.
        only: The commands that have it; empty for all.
        unless: The commands that have it not.
        default: Where it is not given.
        is_argument: Whether it has no flag but a place.
    """

    name: str
    type: Any
    help: str
    written: str | None = None
    complete: Any = None
    only: frozenset[str] = frozenset()
    unless: frozenset[str] = frozenset()
    default: Any = None
    is_argument: bool = False

    def is_of(self, command: str) -> bool:
        """Return whether a command has it."""
        return command not in self.unless and (not self.only or command in self.only)

    def parameter(self) -> inspect.Parameter:
        """Return it as typer reads it from a signature."""
        if self.is_argument:
            info: Any = typer.Argument(help=self.help, show_default=False)
        else:
            names = [self.written] if self.written else [f"--{self.name.replace('_', '-')}"]
            info = typer.Option(
                *names, help=self.help, autocompletion=self.complete, show_default=False
            )
        return inspect.Parameter(
            self.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=self.default,
            annotation=Annotated[self.type, info],
        )


_SEVERAL, _ONE = frozenset({"edit", "vary"}), frozenset({"fill", "structure"})
_MASKED, _FILL = frozenset({"edit", "fill"}), frozenset({"fill"})
_VARY, _STRUCTURE = frozenset({"vary"}), frozenset({"structure"})
_GENERATE, _UPSCALE = frozenset({"generate"}), frozenset({"upscale"})
_REFERENCE = "A file, or the id of a gallery image"

SHAPED = (
    Flag(
        "pack",
        Words,
        "Let this prompt pack write the prompt; 'packs list' shows them.",
        complete=complete_packs,
    ),
    Flag("subject", Words, "With --pack: a subject of it, '*', or your own words."),
    Flag("variable", Many, "With --pack: light=window; light='*' for any.", "--var"),
    Flag("extra", Words, "With --pack: words of your own for the end."),
    Flag(
        "lora",
        Many,
        "name, or name:0.8; again for another. 'loras list' shows them.",
        complete=complete_loras,
    ),
    Flag("image", Many, f"{_REFERENCE}; again for another.", None, complete_images, _SEVERAL),
    Flag("image", Words, f"{_REFERENCE}.", None, complete_images, _ONE),
    Flag(
        "weight",
        list[float] | None,
        "Share of an image against the others; again for each, in their order.",
        only=_VARY,
    ),
    Flag(
        "control_image",
        Words,
        "A finished structure: white edges on black, or a depth map.",
        None,
        complete_images,
        _STRUCTURE,
    ),
    Flag("mask", Words, "An image: white is changed, black is kept.", None, None, _MASKED),
    Flag(
        "box",
        Words,
        "Change this rectangle: X0,Y0,X1,Y1, in pixels or as fractions.",
        None,
        None,
        _MASKED,
    ),
    Flag("words", Words, "Change what these words find: 'the red car'.", None, None, _MASKED),
    Flag("pick", Words, "Of what they find: all, largest, or 1, 2, ...", None, None, _MASKED),
    Flag("outpaint", Words, "Extend the image: 16:9, or left=128,top=0.5.", None, None, _MASKED),
    Flag("mask_json", Words, "The mask as the tools take it, in JSON.", None, None, _MASKED),
)
"""Flags that cli/arguments.py makes arguments of another shape from."""
PLAIN = (
    Flag(
        "refine_from",
        Many,
        "Draw this image of the gallery again, better; again for another.",
        complete=complete_images,
        only=_GENERATE,
    ),
    Flag("refine_scale", Whole, "2: at twice the size.", only=_GENERATE),
    Flag("refine_strength", Number, "Share of a draft that is redrawn.", only=_GENERATE),
    Flag("invert", bool, "Swap what is changed and what is kept.", only=_MASKED, default=False),
    Flag("grow_px", Whole, "Make the mask larger by so many pixels.", only=_MASKED),
    Flag("feather_px", Whole, "Soften the mask's edge by so many pixels.", only=_MASKED),
    Flag("strength", Number, "Redraw this share of one image, 0 to 1.", only=_VARY),
    Flag("likeness", Number, "How much the images count against the words.", only=_VARY),
    Flag("structure", Words, "canny follows edges, depth a depth map.", only=_STRUCTURE),
    Flag("canny_high", Whole, "Fewer edges the higher it is, 1 to 2040.", only=_STRUCTURE),
    Flag("canny_low", Whole, "How faint an edge may get; else half.", only=_STRUCTURE),
    Flag("width", Whole, "Pixels, a multiple of 16.", unless=_FILL),
    Flag("height", Whole, "Pixels, a multiple of 16.", unless=_FILL),
    Flag("aspect_ratio", Words, "For example 16:9.", unless=_FILL),
    Flag("quality", Words, "low, standard or high.", complete=complete_qualities),
    Flag("model", Words, "Model id; else chosen by quality.", complete=complete_models),
    Flag("steps", Whole, "Denoising steps."),
    Flag("guidance", Number, "How closely to follow the prompt."),
    Flag("negative_prompt", Words, "What to steer away from."),
    Flag("seed", Whole, "Same seed, same image."),
    Flag("count", Whole, "How many images, at most 8."),
    Flag("batched", bool, "All in one pass: faster, other pixels.", default=False),
    Flag(
        "step_cache",
        Words,
        "first_block, taylorseer or magcache: a faster draft with other pixels.",
    ),
    Flag("upscale", Whole, "Also make each 2 or 4 times as wide and high."),
    Flag("session", Words, "Name of this exploration."),
    Flag("idempotency_key", Words, "Called again with the same key, it is the same job."),
    Flag("dry_run", bool, "Show prompt, audit and plan; generate nothing.", default=False),
)
"""Flags that are arguments of the tools, by the same name."""
RESULT = (
    Flag(
        "prompts",
        Words,
        "Instead of a prompt: a file, or - for stdin, one job a line.",
        unless=_UPSCALE,
    ),
    Flag("output", Path | None, "Also write it here: .png, .jpg or .webp; several get numbers."),
    Flag("output_quality", Whole, "Of a JPEG or WebP, 1 to 100: else 90."),
    Flag("force", bool, "Let --output replace a file.", default=False),
    Flag("open", bool, "Open it in the desktop's viewer.", default=False),
    Flag("show", bool | None, "Show it in the terminal.", "--show/--no-show"),
)
"""What to do with the images."""
_UPSCALER = Flag(
    "upscaler",
    Words,
    "What upscales: a model's id, a file's name in upscalers/, or lanczos; else the setting.",
    complete=complete_upscalers,
)
_OF_UPSCALE = frozenset({"session", "idempotency_key", "dry_run"})
"""Arguments that `upscale` has in common with the others."""
_COMMON = (
    ("data_dir", DataDir, None),
    ("config", ConfigPath, None),
    ("as_json", AsJson, False),
)

_PROMPT = "What the image shows, in full sentences; - reads stdin. Or --pack."
_PROMPTS = {
    "generate": _PROMPT,
    "edit": "The change, and what stays; - reads stdin. Or --pack.",
    "fill": "What is seen inside the mask; - reads stdin. Or --pack.",
    "vary": "Words to steer the variation; may be left out.",
    "structure": "What to show along the structure; - reads stdin. Or --pack.",
}
_ABOUT: Mapping[str, str] = {
    "generate": """Generate an image and wait for it. Ctrl-C cancels it.

    The image's path is printed; it is kept in the gallery with prompt, seed, model.
    Example: flux-mcp generate "a red bicycle against a white wall"
    With a pack: flux-mcp generate --pack product-shot --var light=window
    """,
    "edit": """Change an image as an instruction says, and wait for it. Ctrl-C cancels it.

    The file that is given is not touched: the result is a new image.
    Example: flux-mcp edit "paint the car red, keep the rest" --image car.png
    """,
    "fill": """Generate inside a mask and keep the rest. Ctrl-C cancels it.

    The mask is an image, a box or JSON. The file that is given is not touched.
    Example: flux-mcp fill "a red door" --image house.png --box 40,80,90,200
    """,
    "vary": """Generate something like one or several images. Ctrl-C cancels it.

    The files that are given are not touched.
    Example: flux-mcp vary --image one.png --image two.png --count 4
    """,
    "upscale": """Make an image 2 or 4 times as wide and high. Ctrl-C cancels it.

    The file that is given is not touched: the result is a new image in the gallery.
    Example: flux-mcp upscale photo.png --factor 4 --output large.png
    """,
    "structure": """Generate an image that follows the edges of another. Ctrl-C cancels it.

    The file that is given is not touched.
    Example: flux-mcp structure "a stone house" --image sketch.png
    """,
}


def flags_of(command: str) -> tuple[Flag, ...]:
    """Return the flags of a command, in the order of its help."""
    if command == "upscale":
        image = Flag("image", Words, f"{_REFERENCE}.", is_argument=True)
        factor = Flag("upscale", Whole, "2 or 4: times the width and height; else 2.", "--factor")
        common = (one for one in PLAIN if one.name in _OF_UPSCALE)
        return (image, factor, _UPSCALER, *common, *(one for one in RESULT if one.is_of(command)))
    prompt = Flag("prompt", Words, _PROMPTS[command], is_argument=True)
    return (
        prompt,
        *(one for one in (*SHAPED, *PLAIN, _UPSCALER, *RESULT) if one.is_of(command)),
    )


def _command(name: str) -> Callable[..., None]:
    flags = flags_of(name)

    def command(**given: Any) -> None:
        from flux_mcp.cli.generate import Begun, draw_and_wait
        from flux_mcp.cli.output_files import OutputFlags
        from flux_mcp.observability.tracing import start_tracing

        common = {key: given.pop(key) for key, _, _ in _COMMON}
        output = OutputFlags(
            given.pop("output"),
            given.pop("output_quality"),
            force=given.pop("force"),
            open=given.pop("open"),
            show=given.pop("show"),
        )
        settings = read_settings(
            common["data_dir"], config=common["config"], upscaler=given.pop("upscaler")
        )
        set_up_logging("warning", settings.log_format)
        run_now(lambda: start_tracing(settings))
        begun = Begun()
        # 0 is a value: `--seed 0` was given.
        asked = {
            key: value
            for key, value in given.items()
            if value is not None and value is not False and value != []
        }
        work = draw_and_wait(settings, name, asked, output, begun, as_json=common["as_json"])
        run(work, begun.when_interrupted)

    parameters = [one.parameter() for one in flags] + [
        inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
        for key, kind, default in _COMMON
    ]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {one.name: one.annotation for one in parameters}
    command.__doc__ = _ABOUT[name]
    return command


def _app(name: str) -> typer.Typer:
    app = new_app()
    app.command(name)(_command(name))
    return app


def __getattr__(name: str) -> typer.Typer:
    """Return the `app` of a command, by the command's name."""
    if name in _ABOUT:
        return _app(name)
    raise AttributeError(name)
