"""`flux-mcp models plan`: the model and the way to load it that fit a GPU, all being installed.

Needs neither the database nor a worker.
"""

from dataclasses import dataclass, replace
from typing import Annotated, Any, cast, get_args

import typer

from flux_mcp.cli.common import (
    AsJson,
    ConfigPath,
    DataDir,
    console,
    plain,
    print_json,
    read_kind,
    read_settings,
    report_error,
    run_now,
)
from flux_mcp.cli.completing import complete_kinds, complete_models, complete_qualities
from flux_mcp.errors import FluxMcpError, InvalidRequestError, UnknownModelError
from flux_mcp.models.parts import load_parts
from flux_mcp.models.planning.candidates import (
    Candidate,
    Gpu,
    Machine,
    Wanted,
    as_if_installed,
    candidates,
)
from flux_mcp.models.planning.machine import GpuReader, nvidia_tool, this_load_support
from flux_mcp.models.planning.tiers import Tier, choose_tier
from flux_mcp.models.registry import KIND_NAMES, QUALITIES, Quality, Structure
from flux_mcp.models.user_rows import open_registry
from flux_mcp.settings.settings import Settings

_MOST_GIB = 65_536


def plan(
    *,
    quality: Annotated[
        str, typer.Option(help="low, standard or high.", autocompletion=complete_qualities)
    ] = "standard",
    vram: Annotated[
        float | None,
        typer.Option(help="Memory of the GPU, GiB; else that of this machine's GPU."),
    ] = None,
    ram: Annotated[
        float | None, typer.Option(help="RAM of the machine, GiB; else it is enough.")
    ] = None,
    kind: Annotated[
        str,
        typer.Option(
            help="generate, edit, fill, structure or vary.", autocompletion=complete_kinds
        ),
    ] = "generate",
    model: Annotated[
        str | None, typer.Option(help="Model id; else by quality.", autocompletion=complete_models)
    ] = None,
    width: Annotated[int | None, typer.Option(help="Pixels; else the model's own.")] = None,
    height: Annotated[int | None, typer.Option(help="Pixels; else the model's own.")] = None,
    count: Annotated[int, typer.Option(min=1, help="Images.")] = 1,
    batched: Annotated[bool, typer.Option("--batched", help="All of them in one pass.")] = False,
    references: Annotated[
        int | None, typer.Option(min=0, help="Images to read; else 1 where a kind needs it.")
    ] = None,
    structure: Annotated[
        str | None, typer.Option(help="canny or depth, for the kind structure.")
    ] = None,
    gpu: Annotated[
        str | None, typer.Option(help="Name of the GPU, for its speed: 'RTX 4090'.")
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Every way that was considered, and why not.")
    ] = False,
    data_dir: DataDir = None,
    config: ConfigPath = None,
    as_json: AsJson = False,
) -> None:
    """Show the model for a GPU, and how it would be loaded: precision, placement, memory, time.

    As if every model were installed and this version could load them all. Ends with
    3 and the code too_little_memory if nothing fits.
    Example: flux-mcp models plan --quality high --vram 16 --ram 32
    """
    asked = PlanFlags(
        quality=quality,
        kind=kind,
        model=model,
        width_px=width,
        height_px=height,
        count=count,
        batched=batched,
        references=references,
        structure=structure,
        vram_gib=vram,
        ram_gib=ram,
        gpu=gpu,
    )
    settings = read_settings(data_dir, config=config)
    run_now(lambda: print_plan(settings, asked, explain=explain, as_json=as_json))


@dataclass(frozen=True)
class PlanFlags:
    """What is to be planned, and for which GPU: the flags as they were given."""

    quality: str
    kind: str
    model: str | None
    width_px: int | None
    height_px: int | None
    count: int
    batched: bool
    references: int | None
    structure: str | None
    vram_gib: float | None
    ram_gib: float | None
    gpu: str | None

    def wanted(self) -> Wanted:
        """Return what of it decides a tier.

        Raises:
            InvalidRequestError: a word that is not one of ours, or a size of one side only.
        """
        kind = read_kind("--kind", self.kind)
        structures = get_args(Structure)
        structure = self.structure and _one_of("--structure", self.structure, structures)
        if (self.width_px is None) != (self.height_px is None):
            raise InvalidRequestError("--width and --height go together.", "Give both or neither.")
        if min(self.width_px or 1, self.height_px or 1) < 1:
            raise InvalidRequestError("--width and --height are pixels.", "Give 1 or more.")
        needed = 0 if kind == "text2img" else 1
        return Wanted(
            kind=kind,
            quality=cast("Quality", _one_of("--quality", self.quality, QUALITIES)),
            model=self.model,
            structure=cast("Structure | None", structure),
            width_px=self.width_px,
            height_px=self.height_px,
            references=needed if self.references is None else self.references,
            count=self.count,
            batched=self.batched,
        )

    def machine(self, settings: Settings) -> Machine:
        """Return the GPU and the machine to plan for.

        Raises:
            InvalidRequestError: no GPU is named, and this machine has none; or no size at all.
        """
        named = named_machine(self.vram_gib, self.ram_gib, self.gpu)
        if named is not None:
            return named
        found = GpuReader(settings.data_dir, nvidia_tool()).read(self.gpu)
        if found is None:
            raise InvalidRequestError("No GPU was found on this machine.", "Name one: --vram 16.")
        return Machine(found.gpu, found.ram_gib if self.ram_gib is None else self.ram_gib)


def named_machine(
    vram_gib: float | None, ram_gib: float | None, gpu: str | None = None
) -> Machine | None:
    """Return the machine that flags describe; `None` where they name no GPU.

    Raises:
        InvalidRequestError: a size is none.
    """
    for flag, gib in {"--vram": vram_gib, "--ram": ram_gib}.items():
        if gib is not None and not 0 < gib < _MOST_GIB:
            raise InvalidRequestError(f"{flag} is a size in GiB, above 0.", f"Say {flag} 16.")
    return None if vram_gib is None else Machine(Gpu(vram_gib, vram_gib, gpu), ram_gib)


def _one_of(flag: str, given: str, known: tuple[str, ...]) -> str:
    if given not in known:
        raise InvalidRequestError(
            f"{flag}: '{plain(given)[:40]}' is not known.", f"Say {', '.join(known)}."
        )
    return given


def print_plan(settings: Settings, asked: PlanFlags, *, explain: bool, as_json: bool) -> None:
    """Print the tier that fits a GPU, and the ways that were considered.

    Raises:
        InvalidRequestError: a flag cannot be used.
        UnknownModelError: the named model is not of this kind.
        TooLittleMemoryError: nothing fits; with `as_json` it has been printed as well.
    """
    wanted, machine = asked.wanted(), asked.machine(settings)
    registry = open_registry(settings)
    licences = settings.licences
    choices = replace(
        as_if_installed(registry), licences=None if licences is None else frozenset(licences)
    )
    considered = list(candidates(wanted, machine, choices)) if explain else []
    shown = {"considered": [_as_json(one) for one in considered]} if explain else {}
    try:
        tier = choose_tier(wanted, machine, choices)
        if tier is None:
            raise UnknownModelError(
                f"No model may be chosen for {KIND_NAMES[wanted.kind]}.",
                "The setting 'licences' leaves all of them out: name one with --model.",
            )
    except FluxMcpError as error:
        if not as_json:
            _print_considered(considered)
        raise typer.Exit(report_error(error, **shown)) from error
    if as_json:
        asked_for = {"quality": wanted.quality, "vram_gib": machine.gpu.free_gib}
        print_json({**asked_for, **_as_json(tier.chosen), "notices": list(tier.notices), **shown})
        return
    _print_considered(considered)
    _print_tier(tier, machine)


def _as_json(candidate: Candidate) -> dict[str, Any]:
    spec, loaded_as = candidate.spec, candidate.loaded_as
    return {
        "kind": spec.kind,
        "model": spec.id,
        "precision": loaded_as.precision,
        "text_precision": loaded_as.text_precision,
        "placement": loaded_as.placement,
        "vae_tile_px": loaded_as.tile_px,
        "peak_gib": round(candidate.peak_gib, 2),
        "ram_gib": round(candidate.ram_gib, 2),
        "seconds": round(candidate.seconds, 1),
        "licence": spec.licence,
        "drawable": this_load_support().can_load_as(spec, loaded_as),
        "refused": candidate.refused,
    }


def _print_tier(tier: Tier, machine: Machine) -> None:
    out, chosen = console(), tier.chosen
    spec, loaded_as = chosen.spec, chosen.loaded_as
    facts = {
        "Model": f"{spec.title} ({spec.id}), {spec.licence}",
        "Precision": f"{loaded_as.precision}, text encoder {loaded_as.text_precision}",
        "Placement": f"{loaded_as.placement}: {load_parts().placement[loaded_as.placement].about}",
        "GPU": f"{chosen.peak_gib:.1f} GiB at most, of {machine.gpu.free_gib:g}",
        "RAM": f"{chosen.ram_gib:.0f} GiB",
        "Time": f"about {chosen.seconds:.0f} s, estimated",
    }
    for name, value in facts.items():
        out.print(f"{name:<10} {plain(value)}")
    for notice in tier.notices:
        console(stderr=True).print(f"Note: {plain(notice)}", style="yellow")
    if not this_load_support().can_load_as(spec, loaded_as):
        console(stderr=True).print("Note: this version cannot load it so yet.", style="yellow")


def _print_considered(considered: list[Candidate]) -> None:
    """Print one line for each way, down to the first that fits."""
    if not considered:
        return
    best = next((index for index, one in enumerate(considered) if one.refused is None), None)
    shown = considered if best is None else considered[: best + 1]
    rows = [_line(one) for one in shown]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        console().print("  ".join(cells).rstrip())


def _line(one: Candidate) -> tuple[str, ...]:
    way = one.loaded_as
    tiles = "" if way.tile_px is None else f", tiles of {way.tile_px} px"
    return (
        one.spec.id,
        f"{way.precision}/{way.text_precision}",
        f"{way.placement}{tiles}",
        f"{one.peak_gib:.1f} GiB",
        f"{one.ram_gib:.1f} GiB RAM",
        one.refused or "taken",
    )
