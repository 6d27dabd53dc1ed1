"""`flux-mcp generate`: generate an image and wait for it."""

from typing import Annotated

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
    complete_loras,
    complete_models,
    complete_packs,
    complete_qualities,
)

app = new_app()


@app.command()
def generate(
    *,
    prompt: Annotated[
        str | None,
        typer.Argument(help="What the image shows, in full sentences; - reads stdin. Or --pack."),
    ] = None,
    pack: Annotated[
        str | None,
        typer.Option(
            help="Let this prompt pack write the prompt; 'packs list' shows them.",
            autocompletion=complete_packs,
        ),
    ] = None,
    subject: Annotated[
        str | None, typer.Option(help="With --pack: a subject of it, '*', or your own words.")
    ] = None,
    variable: Annotated[
        list[str] | None,
        typer.Option("--var", help="With --pack: light=window; light='*' for any."),
    ] = None,
    extra: Annotated[
        str | None, typer.Option(help="With --pack: words of your own for the end.")
    ] = None,
    width: Annotated[int | None, typer.Option(help="Pixels, a multiple of 16.")] = None,
    height: Annotated[int | None, typer.Option(help="Pixels, a multiple of 16.")] = None,
    aspect_ratio: Annotated[str | None, typer.Option(help="For example 16:9.")] = None,
    quality: Annotated[
        str | None, typer.Option(help="low, standard or high.", autocompletion=complete_qualities)
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Model id; else chosen by quality.", autocompletion=complete_models),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps.")] = None,
    guidance: Annotated[
        float | None, typer.Option(help="How closely to follow the prompt.")
    ] = None,
    negative_prompt: Annotated[str | None, typer.Option(help="What to steer away from.")] = None,
    seed: Annotated[int | None, typer.Option(help="Same seed, same image.")] = None,
    count: Annotated[int | None, typer.Option(help="How many images, at most 8.")] = None,
    lora: Annotated[
        list[str] | None,
        typer.Option(
            help="name, or name:0.8; again for another. 'loras list' shows them.",
            autocompletion=complete_loras,
        ),
    ] = None,
    step_cache: Annotated[
        str | None,
        typer.Option(help="first_block, taylorseer or magcache: a faster draft with other pixels."),
    ] = None,
    session: Annotated[str | None, typer.Option(help="Name of this exploration.")] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Show prompt, audit and plan; generate nothing."),
    ] = False,
    data_dir: DataDir = None,
    config: ConfigPath = None,
    as_json: AsJson = False,
) -> None:
    """Generate an image and wait for it. Ctrl-C cancels it.

    The image's path is printed; it is kept in the gallery with prompt, seed, model.
    Example: flux-mcp generate "a red bicycle against a white wall"
    With a pack: flux-mcp generate --pack product-shot --var light=window
    """
    from flux_mcp.cli.generate import Begun, GenerateFlags, generate_and_wait
    from flux_mcp.observability.tracing import start_tracing

    asked = {
        "prompt": prompt,
        "width": width,
        "height": height,
        "aspect_ratio": aspect_ratio,
        "quality": quality,
        "model": model,
        "steps": steps,
        "guidance": guidance,
        "negative_prompt": negative_prompt,
        "seed": seed,
        "count": count,
        "step_cache": step_cache,
        "session": session,
        "dry_run": dry_run,
    }
    given = {name: value for name, value in asked.items() if value is not None}
    settings = read_settings(data_dir, config=config)
    set_up_logging("warning", settings.log_format)
    run_now(lambda: start_tracing(settings))
    flags = GenerateFlags(pack, subject, tuple(variable or ()), extra, tuple(lora or ()))
    begun = Begun()
    run(generate_and_wait(settings, given, flags, begun, as_json=as_json), begun.when_interrupted)
