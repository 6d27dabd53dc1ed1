"""Which models would be used, which are on the disk, and what is worth installing."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

from flux_mcp.doctor.facts import Extra, Fit, Fits, GpuSize, KindFits, LicenceFact, Model, PullFact
from flux_mcp.doctor.machine import missing_extras
from flux_mcp.errors import TooLittleMemoryError
from flux_mcp.models.formats import has_extra, install_line, lacking_extras, load_formats
from flux_mcp.models.hub.cache import (
    find_snapshot,
    problem_in_words,
    pull_command,
    state_of,
    state_of_model,
)
from flux_mcp.models.hub.remove import disk_bytes
from flux_mcp.models.hub.selection import download_gib, licence_page, rows_of
from flux_mcp.models.memory import GIB
from flux_mcp.models.planning.candidates import (
    Candidate,
    Choices,
    Gpu,
    Machine,
    Wanted,
    real_models,
)
from flux_mcp.models.planning.recommending import loading_in_words, recommend, to_recommend, usual
from flux_mcp.models.planning.support import load_support_with
from flux_mcp.models.planning.tiers import choose_for, choose_tier
from flux_mcp.models.registry import (
    KIND_NAMES,
    QUALITIES,
    ROW_KINDS,
    Kind,
    ModelSpec,
    Registry,
    load_licences,
)
from flux_mcp.settings.settings import Settings

COMMON_GPUS_GIB = (8.0, 12.0, 16.0, 24.0)
"""Memory of GPUs that people have: what each would allow is shown where there is none."""
_NOTHING = Fit(
    model=None,
    is_demonstration=False,
    precision=None,
    text_precision=None,
    placement=None,
    vae_tile_px=None,
    peak_gib=None,
    ram_gib=None,
    seconds=None,
    is_measured=False,
    licence=None,
    notices=(),
    refusal=None,
)


def fits_of(machine: Machine | None, choices: Choices, *, is_this_machine: bool = True) -> Fits:
    """Return the models that requests would use, with what is installed and with all pulled.

    Args:
        machine: What is planned for; `None` where no GPU is known.
        choices: What is installed, and what the engine can load.
        is_this_machine: Whether what is installed here counts.
    """
    rows = tuple(
        KindFits(
            kind=kind,
            quality=quality,
            now=fit_of(usual(kind, quality), machine, choices) if is_this_machine else None,
            pulled=fit_of(usual(kind, quality), machine, choices.as_if_pulled),
        )
        for kind in ROW_KINDS
        for quality in QUALITIES
    )
    return Fits(
        vram_gib=None if machine is None else round(machine.gpu.free_gib, 2),
        ram_gib=None if machine is None or machine.ram_gib is None else round(machine.ram_gib, 1),
        is_this_machine=is_this_machine,
        rows=rows,
    )


def common_gpus(choices: Choices, ram_gib: float) -> Iterator[GpuSize]:
    """Yield what common GPUs would allow in this machine, every model pulled."""
    for vram_gib in COMMON_GPUS_GIB:
        machine = Machine(Gpu(vram_gib, vram_gib), ram_gib)
        fit = fit_of(usual("text2img", "standard"), machine, choices.as_if_pulled)
        yield GpuSize(vram_gib=vram_gib, fit=fit)


def fit_of(wanted: Wanted, machine: Machine | None, choices: Choices) -> Fit:
    """Return the model that a request would use, or why it would be refused."""
    try:
        found = choose_for(wanted, machine, choices)
    except TooLittleMemoryError as error:
        return _NOTHING.model_copy(update={"refusal": f"{error.message} {error.hint}".rstrip()})
    if found is None:
        return _demonstration(wanted, choices.registry)
    if found.loaded is None:
        spec = found.spec
        return _NOTHING.model_copy(
            update={"model": spec.id, "licence": spec.licence, "notices": found.notices}
        )
    return _loaded(found.loaded, found.notices)


def _loaded(chosen: Candidate, notices: tuple[str, ...]) -> Fit:
    spec, loaded_as = chosen.spec, chosen.loaded_as
    return Fit(
        model=spec.id,
        is_demonstration=False,
        precision=loaded_as.precision,
        text_precision=loaded_as.text_precision,
        placement=loaded_as.placement,
        vae_tile_px=loaded_as.tile_px,
        peak_gib=round(chosen.peak_gib, 2),
        ram_gib=round(chosen.ram_gib, 2),
        seconds=round(chosen.seconds, 1),
        is_measured=chosen.is_measured,
        licence=spec.licence,
        notices=notices,
        refusal=None,
    )


def _demonstration(wanted: Wanted, registry: Registry) -> Fit:
    """Return the demonstration, which is used where no real model can be."""
    rows: list[ModelSpec] = [row for row in registry[wanted.kind].values() if row.is_demonstration]
    if not rows:
        return _NOTHING.model_copy(update={"refusal": "No model for it is here."})
    update = {"model": rows[0].id, "is_demonstration": True, "licence": rows[0].licence}
    return _NOTHING.model_copy(update=update)


@dataclass(frozen=True)
class Stock:
    """What is on this disk.

    Args:
        settings: Where weights lie.
        choices: What is installed, and what the engine can load.
        machine: What plans count with; `None` where no GPU is known.
    """

    settings: Settings
    choices: Choices
    machine: Machine | None

    def models(self) -> tuple[Model, ...]:
        """Return every model of the registry but the demonstration."""
        real = (row.id for row in self.choices.registry if not row.is_demonstration)
        return tuple(self._model(model) for model in dict.fromkeys(real))

    def _model(self, model: str) -> Model:
        rows = rows_of(self.choices.registry, model)
        first = rows[0]
        snapshot = find_snapshot(first, self.settings)
        return Model(
            id=model,
            title=first.title,
            kinds=tuple(row.kind for row in rows),
            state=state_of_model(model, self.choices.registry, self.settings),
            problem=problem_in_words(rows, self.settings),
            used_gib=round(self._used_bytes(rows) / GIB, 2),
            disk_gib=first.disk_gib,
            precision=first.precision,
            licence=first.licence,
            is_allowed=self._is_allowed(first),
            gated=first.gated,
            licence_page=licence_page(first.repository) if first.repository else None,
            is_drawable=all(self.choices.support.can_load(row) for row in rows),
            missing_extras=tuple({name: None for row in rows for name in lacking_extras(row)}),
            folder=None if snapshot is None else str(snapshot.folder),
            command=pull_command((model,), self.settings) if self._can_be_pulled(model) else None,
        )

    def _can_be_pulled(self, model: str) -> bool:
        rows = rows_of(self.choices.registry, model)
        is_whole = state_of_model(model, self.choices.registry, self.settings) == "installed"
        return not is_whole and all(row.repository is not None for row in rows)

    def _used_bytes(self, rows: list[ModelSpec]) -> int:
        repositories = {row.repository for row in rows if row.repository is not None}
        own = {path for row in rows for path in row.files.values()}
        files = sum(path.stat().st_size for path in own if path.is_file())
        return files + sum(disk_bytes(name, self.settings) for name in repositories)

    def _is_allowed(self, row: ModelSpec) -> bool:
        return self.choices.licences is None or row.licence in self.choices.licences

    # --- what to pull ------------------------------------------------------------------------

    def pulls(self) -> tuple[PullFact, ...]:
        """Return what to download: a model for each kind that has none, the first kind's first."""
        needed: dict[str, list[tuple[Kind, ModelSpec, Candidate | None]]] = {}
        for kind in ROW_KINDS:
            if self._has(kind):
                continue
            found = self._recommended(kind)
            if found is not None:
                needed.setdefault(found[0].id, []).append((kind, *found))
        counted = [row for row in self.choices.registry if self.choices.is_installed(row)]
        pulls = []
        for model, uses in needed.items():
            rows = self._rows_of_pull(uses[0][1])
            pulls.append(self._pull(model, uses, rows, download_gib(rows, counted)))
            counted += rows
        return tuple(pulls)

    def _has(self, kind: Kind) -> bool:
        real = real_models(self.choices.registry, kind)
        return any(
            self.choices.support.can_load(row) and self.choices.is_installed(row) for row in real
        )

    def _recommended(self, kind: Kind) -> tuple[ModelSpec, Candidate | None] | None:
        if self.machine is None:
            return next(((row, None) for row in to_recommend(kind, self.choices)), None)
        # What other programs use now does not decide what is worth installing.
        gpu = replace(self.machine.gpu, free_gib=self.machine.gpu.total_gib)
        found = recommend(replace(self.machine, gpu=gpu), self.choices, (kind,))
        return None if found is None else (found.best.spec, found.best)

    def _rows_of_pull(self, spec: ModelSpec) -> list[ModelSpec]:
        """Return the row of a model, and its base where that is missing."""
        if spec.base is None:
            return [spec]
        base = self.choices.registry.find("text2img", spec.base)
        return [spec, base] if state_of(base, self.settings) != "installed" else [spec]

    def _pull(
        self,
        model: str,
        found: list[tuple[Kind, ModelSpec, Candidate | None]],
        rows: list[ModelSpec],
        disk_gib: float,
    ) -> PullFact:
        _, spec, best = found[0]
        gated = (row.repository for row in rows if row.gated)
        return PullFact(
            model=model,
            kinds=tuple(kind for kind, _, _ in found),
            licence=spec.licence,
            licence_pages=tuple(licence_page(name) for name in gated if name is not None),
            disk_gib=round(disk_gib, 1),
            why=None if best is None else loading_in_words(best),
            command=pull_command((model,), self.settings),
        )

    # --- licences and extras -------------------------------------------------------------------

    def licences(self) -> tuple[LicenceFact, ...]:
        """Return the licences of what is installed."""
        here: dict[str, ModelSpec] = {
            row.id: row
            for row in self.choices.registry
            if not row.is_demonstration and self.choices.is_installed(row)
        }
        return tuple(
            LicenceFact(
                licence=licence,
                about=load_licences()[licence].about,
                is_allowed=self.choices.licences is None or licence in self.choices.licences,
                models=tuple(key for key, row in here.items() if row.licence == licence),
            )
            for licence in dict.fromkeys(row.licence for row in here.values())
        )

    def extras(self) -> tuple[Extra, ...]:
        """Return the extras that are not installed, and what each would change here."""
        return tuple(
            Extra(name=name, gives=gives, helps=self._help_of(name), command=install_line(name))
            for name, gives in missing_extras()
        )

    def _help_of(self, extra: str) -> str | None:
        """Return what an extra would change on this machine; `None` if nothing."""
        formats = load_formats().extra
        if self.machine is None or extra not in formats:
            return None
        more = load_support_with({extra, *(name for name in formats if has_extra(name))})
        # With what is installed; if that is nothing, with what could be.
        has_any = any(self._has(kind) for kind in ROW_KINDS)
        now = self.choices if has_any else self.choices.as_if_pulled
        before = _best_of_each(self.machine, now)
        after = _best_of_each(self.machine, replace(now, support=more))
        # What cannot be generated at all without it comes first.
        for way in sorted(after, key=lambda way: way in before):
            worse, better = before.get(way), after[way]
            if worse is None or (worse.spec.id, worse.loaded_as) != (
                better.spec.id,
                better.loaded_as,
            ):
                instead = "nothing" if worse is None else _named(worse)
                return f"{way}: {_named(better)}, instead of {instead}"
        return None


def _best_of_each(machine: Machine, choices: Choices) -> Mapping[str, Candidate]:
    """Return the best candidate that fits, for each kind and quality that has one."""
    found: dict[str, Candidate] = {}
    for kind in ROW_KINDS:
        for quality in QUALITIES:
            with suppress(TooLittleMemoryError):
                tier = choose_tier(usual(kind, quality), machine, choices)
                if tier is not None:
                    found[f"{KIND_NAMES[kind]}, {quality}"] = tier.chosen
    return found


def _named(one: Candidate) -> str:
    return f"{one.spec.id} in {loading_in_words(one)}"
