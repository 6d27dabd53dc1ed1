"""`flux-mcp models plan`: the model and the way to load it that fit a GPU, all being installed.

Needs no worker; for this machine's own GPU it reads what finished jobs took.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast, get_args

import typer

from flux_mcp.cli.common import (
    console,
    opened,
    plain,
    print_json,
    print_table,
    read_kind,
    report_error,
)
from flux_mcp.doctor.machine import look
from flux_mcp.errors import (
    FluxMcpError,
    InvalidRequestError,
    TooLittleMemoryError,
    UnknownModelError,
)
from flux_mcp.models.parts import load_parts
from flux_mcp.models.planning.candidates import (
    Candidate,
    Choices,
    Gpu,
    Machine,
    Wanted,
    candidates,
)
from flux_mcp.models.planning.machine import (
    DriverGpu,
    GpuReader,
    choices_here,
    nvidia_tool,
    this_load_support,
    within_setting,
)
from flux_mcp.models.planning.speed import Figure, is_known_gpu
from flux_mcp.models.planning.tiers import ModelChoice, choose_for
from flux_mcp.models.registry import KIND_NAMES, KINDS, QUALITIES, Quality, Structure
from flux_mcp.models.user_rows import open_registry
from flux_mcp.settings.settings import Settings

_MOST_GIB = 65_536


@dataclass(frozen=True)
class PlanFlags:
    """What is to be planned, and for which GPU: the flags as they were given."""

    quality: str | None
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
        if kind not in KINDS:
            raise InvalidRequestError(
                "Images are upscaled by a helper, which is not planned.",
                "'flux-mcp models list' shows which are here.",
            )
        structures = get_args(Structure)
        structure = self.structure and _one_of("--structure", self.structure, structures)
        if (self.width_px is None) != (self.height_px is None):
            raise InvalidRequestError("--width and --height go together.", "Give both or neither.")
        if min(self.width_px or 1, self.height_px or 1) < 1:
            raise InvalidRequestError("--width and --height are pixels.", "Give 1 or more.")
        needed = 0 if kind == "text2img" else 1
        return Wanted(
            kind=kind,
            quality=one_quality("--quality", self.quality or "standard"),
            model=self.model,
            structure=cast("Structure | None", structure),
            width_px=self.width_px,
            height_px=self.height_px,
            references=needed if self.references is None else self.references,
            count=self.count,
            batched=self.batched,
        )

    def machine(self, settings: Settings) -> Machine | None:
        """Return the GPU and the machine to plan for; `None` where no GPU is known.

        Raises:
            InvalidRequestError: a size is none, or a GPU of that name is known nowhere.
        """
        reader = GpuReader(settings.data_dir, nvidia_tool())
        if self.gpu is not None:
            _check_gpu(self.gpu, [] if self.vram_gib is not None else reader.ask().gpus)
        named = named_machine(self.vram_gib, self.ram_gib, self.gpu)
        if named is not None:
            return named
        found = look(settings, reader, None).planned
        if found is not None and self.gpu is not None:
            found = reader.read(self.gpu)
        if found is None:
            return None
        if self.ram_gib is not None:
            return Machine(found.gpu, self.ram_gib)
        return within_setting(found, settings.host_memory_gib)


def _check_gpu(name: str, here: Sequence[DriverGpu]) -> None:
    """Refuse the name of a GPU whose speed is not known and that is not in this machine.

    Raises:
        InvalidRequestError: it is none.
    """
    if any(one.name == name for one in here) or is_known_gpu(name):
        return
    known = ", ".join(row.name for row in load_parts().gpu)
    raise InvalidRequestError(
        f"--gpu: '{plain(name)[:40]}' is no GPU whose speed is known.",
        f"Say one of {known}; or leave it out, and give its memory: --vram 16.",
    )


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


def one_quality(flag: str, given: str) -> Quality:
    """Return the quality that a flag names.

    Raises:
        InvalidRequestError: there is none of that name.
    """
    return cast("Quality", _one_of(flag, given, QUALITIES))


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
    figures = _figures(settings, machine) if asked.vram_gib is None else ()
    choices = choices_here(open_registry(settings), settings, lambda _: True, figures)
    considered = [] if machine is None or not explain else [*candidates(wanted, machine, choices)]
    shown = {"considered": [_as_json(one) for one in considered]} if explain else {}
    try:
        choice = choose_for(wanted, machine, choices)
        if choice is None:
            raise UnknownModelError(
                f"No model may be chosen for {KIND_NAMES[wanted.kind]}.",
                "The setting 'licences' leaves all of them out: name one with --model.",
            )
    except FluxMcpError as error:
        if not as_json:
            _print_considered(considered)
        raise typer.Exit(report_error(error, **shown)) from error
    if as_json:
        vram_gib = None if machine is None else machine.gpu.free_gib
        asked_for = {"quality": wanted.quality, "vram_gib": vram_gib}
        print_json({**asked_for, **_choice_as_json(choice), **shown})
        return
    _print_considered(considered)
    if asked.quality is None and asked.model is None:
        print_qualities(wanted, machine, choices)
        console().print(f"\nQuality '{wanted.quality}', that of a call that names none:")
    _print_choice(choice, machine)


def _figures(settings: Settings, machine: Machine | None) -> tuple[Figure, ...]:
    """Return what finished jobs took on this machine's GPU, as calls count with it."""
    if machine is None or machine.gpu.name is None or not settings.paths.database.is_file():
        return ()
    name = machine.gpu.name

    async def learned() -> tuple[Figure, ...]:
        async with opened(settings, executes=False) as service:
            return await service.runtime.learned(name)

    return asyncio.run(learned())


def print_qualities(
    wanted: Wanted, machine: Machine | None, choices: Choices, *, to_stderr: bool = False
) -> None:
    """Print one line for each quality: the model, how it is loaded, what that takes."""
    rows = []
    for quality in QUALITIES:
        try:
            choice = choose_for(replace(wanted, quality=quality), machine, choices)
        except TooLittleMemoryError:
            choice = None
        rows.append((quality, *_cells(choice)))
    header = ("quality", "model", "loaded as", "GiB", "time")
    print_table(header, rows, right=("GiB", "time"), to_stderr=to_stderr)


def _cells(choice: ModelChoice | None) -> tuple[str, str, str, str]:
    if choice is None:
        return "nothing fits", "", "", ""
    if choice.loaded is None:
        return choice.spec.id, "as the worker can", "", ""
    loaded_as = choice.loaded.loaded_as
    return (
        choice.spec.id,
        f"{loaded_as.precision} {loaded_as.placement}",
        f"{choice.loaded.peak_gib:.1f}",
        f"{choice.loaded.seconds:.0f} s",
    )


def _choice_as_json(choice: ModelChoice) -> dict[str, Any]:
    notices = {"notices": list(choice.notices)}
    if choice.loaded is not None:
        return {**_as_json(choice.loaded), **notices}
    unknown = ("precision", "text_precision", "placement", "vae_tile_px", "peak_gib", "ram_gib")
    return {
        "kind": choice.spec.kind,
        "model": choice.spec.id,
        **dict.fromkeys((*unknown, "seconds")),
        "licence": choice.spec.licence,
        "drawable": True,
        "refused": None,
        **notices,
    }


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


def _print_choice(choice: ModelChoice, machine: Machine | None) -> None:
    out, spec = console(), choice.spec
    facts = {"Model": f"{spec.title} ({spec.id}), {spec.licence}"}
    if choice.loaded is None or machine is None:
        facts["GPU"] = "none is known: the worker loads it as it can. Plan for one with --vram 16"
    else:
        chosen, loaded_as = choice.loaded, choice.loaded.loaded_as
        about = load_parts().placement[loaded_as.placement].about
        facts |= {
            "Precision": f"{loaded_as.precision}, text encoder {loaded_as.text_precision}",
            "Placement": f"{loaded_as.placement}: {about}",
            "GPU": f"{chosen.peak_gib:.1f} GiB at most, of {machine.gpu.free_gib:g}",
            "RAM": f"{chosen.ram_gib:.0f} GiB",
            "Time": f"about {chosen.seconds:.0f} s, "
            + ("as jobs here took" if chosen.is_measured else "estimated"),
        }
    for name, value in facts.items():
        out.print(f"{name:<10} {plain(value)}")
    for notice in choice.notices:
        console(stderr=True).print(f"Note: {plain(notice)}", style="yellow")


def _print_considered(considered: list[Candidate]) -> None:
    """Print one line for each way, down to the first that fits."""
    if not considered:
        return
    fitting = [n for n, one in enumerate(considered) if one.refused is None]
    quick = [n for n in fitting if considered[n].slow_s is None]
    best = next(iter(quick or fitting), None)
    shown = considered if best is None else considered[: best + 1]
    rows = [_line(one, is_taken=number == best) for number, one in enumerate(shown)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        console().print("  ".join(cells).rstrip())


def _line(one: Candidate, *, is_taken: bool) -> tuple[str, ...]:
    way = one.loaded_as
    tiles = "" if way.tile_px is None else f", tiles of {way.tile_px} px"
    return (
        one.spec.id,
        f"{way.precision}/{way.text_precision}",
        f"{way.placement}{tiles}",
        f"{one.peak_gib:.1f} GiB",
        f"{one.ram_gib:.1f} GiB RAM",
        "taken" if is_taken else one.refused or f"takes about {one.slow_s or 0:.0f} s an image",
    )
