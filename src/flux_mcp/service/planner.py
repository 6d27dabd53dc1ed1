"""From a request to everything that is decided about it: `Planner.decide` returns a `Decision`.

One visit to the database for what it holds, then one to a thread for all that blocks: there the
disk and the GPU are looked at once (`Installed`), and the rest is decided from that.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

from flux_mcp.compose.language import encoder_notices
from flux_mcp.compose.library import PackLibrary
from flux_mcp.compose.tokens import TokenCount, count_prompt, cut_warning
from flux_mcp.errors import InvalidRequestError, UnsupportedOptionError, WeightsMissingError
from flux_mcp.images.references import StoredReference
from flux_mcp.models.families import FAMILIES
from flux_mcp.models.file_hashes import FileHashes
from flux_mcp.models.formats import require_takes_loras
from flux_mcp.models.hub.cache import (
    Snapshot,
    find_snapshot,
    install_command,
    pull_command,
    require_snapshot,
)
from flux_mcp.models.loras.fit import check_control_file
from flux_mcp.models.loras.library import (
    Lora,
    LoraLibrary,
    architecture_of,
    open_loras,
    require_fit,
)
from flux_mcp.models.memory import LoadedAs
from flux_mcp.models.planning.candidates import Machine, real_models, recommended
from flux_mcp.models.planning.machine import (
    choices_here,
    target_device,
    this_load_support,
    within_setting,
)
from flux_mcp.models.planning.speed import Figure
from flux_mcp.models.planning.support import LoadSupport
from flux_mcp.models.planning.switches import SwitchSettings, TargetDevice, choose_switches
from flux_mcp.models.planning.tiers import choose_for
from flux_mcp.models.registry import KIND_NAMES, Kind, ModelSpec, Registry
from flux_mcp.models.upscalers import Upscaler, find_upscaler, sha256_of_weights
from flux_mcp.requests.plan import (
    PlanParts,
    lora_notices,
    make_plan,
    plan_loras,
    plan_notices,
    planned_drawing,
    refuse_what_the_model_cannot,
    structure_of,
    wanted_of,
)
from flux_mcp.requests.render_plan import PlanUpscale, RenderPlan
from flux_mcp.requests.schemas import DrawRequest, GenerateRequest, JobRequest, StructuralRequest
from flux_mcp.requests.upscaling import (
    UpscaleRequest,
    plan_upscale,
    refuse_too_large,
    upscale_notices,
    upscale_plan,
)
from flux_mcp.requests.validation import Mistakes
from flux_mcp.service.inputs import Incoming, InputReader, stored_references, wrong_references
from flux_mcp.service.prompts import Wording, compose_request, plain
from flux_mcp.service.refining import Refinement, refine
from flux_mcp.service.resolving import StoredImage
from flux_mcp.settings.installation import platform_name
from flux_mcp.settings.settings import Settings


@dataclass(frozen=True)
class Decision:
    """Everything that is decided about a request."""

    plan: RenderPlan
    notices: tuple[str, ...]
    incoming: tuple[Incoming, ...]
    """Its images, not stored yet."""
    wording: Wording | None
    """`None` where no words are needed: an image is only made larger."""
    tokens: tuple[tuple[TokenCount, ...], ...]
    """For each different prompt, its tokens for each text encoder."""
    expected_s: float | None = None
    """Seconds of drawing on this machine's GPU, learned or computed; `None` without a GPU."""
    loras: tuple[Lora, ...] = ()
    """Those the request names, in its order."""


@dataclass(frozen=True)
class StoredFacts:
    """What the database holds for one decision."""

    figures: Mapping[str, Sequence[Figure]] = field(default_factory=dict)
    """What finished jobs took, newest first, by the name of the GPU."""
    images: Mapping[StoredReference, StoredImage] = field(default_factory=dict)
    """The image that each reference of the request stands for, if the database knows it."""


ReadStored = Callable[[Collection[StoredReference], JobRequest], Awaitable[StoredFacts]]
"""Returns the facts for a request with these references, in one visit to the database; raises
`UnknownImageError` if there is no such image."""


class Planner:
    """Decides how requests are answered on this machine.

    Args:
        settings: Which licences may be chosen, and where weights lie.
        registry: What can be drawn with.
        inputs: Reads the images of a request.
        packs: The prompt packs.
        find_machine: Returns the GPU and the machine, `None` where no GPU is known; may block.
        read_stored: Reads what the database holds; left out, nothing is known.
    """

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        inputs: InputReader,
        packs: PackLibrary,
        find_machine: Callable[[], Machine | None] = lambda: None,
        read_stored: ReadStored | None = None,
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._inputs = inputs
        self._packs = packs
        self._find_machine = find_machine
        self._read_stored = read_stored
        self._hashes = FileHashes()

    @cached_property
    def loras(self) -> LoraLibrary:
        """The LoRAs of this data folder."""
        return open_loras(self._settings, self._registry)

    @cached_property
    def _support(self) -> LoadSupport:
        return this_load_support()

    async def decide(self, request: JobRequest, *, refuse: bool = True) -> Decision:
        """Compose the prompt, choose the model, read the images, fill every gap; write nothing.

        Args:
            request: What was asked.
            refuse: Whether a prompt its pack's audit refuses is an error, or only reported.

        Raises:
            RequestError: something about the request is wrong; what can be found before its images
                are read and its model is chosen, all at once.
            WeightsMissingError: no model for it is on this disk.
            WeightsInvalidError: the model is a LoRA, and does not fit its base.
            TooLittleMemoryError: those that are do not fit.
        """
        stored, mistakes = StoredFacts(), Mistakes()
        wrong_references(request, self._inputs.access(), mistakes)
        if self._read_stored is not None:
            with mistakes.noted():
                stored = await self._read_stored(stored_references(request), request)
        if isinstance(request, UpscaleRequest):
            return await asyncio.to_thread(self._decide_upscale, request, stored, mistakes)
        return await asyncio.to_thread(self._decide, request, stored, mistakes, refuse=refuse)

    def _decide_upscale(
        self, request: UpscaleRequest, stored: StoredFacts, mistakes: Mistakes
    ) -> Decision:
        mistakes.refuse()
        row = next((one.row for one in stored.images.values()), None)
        is_demo = row is not None and self._registry.is_demonstration(row.kind, row.model)
        upscaler, how = self._upscaler(request.upscale, for_demonstration=is_demo)
        (incoming,) = self._inputs.read(request, stored.images)
        image = incoming.plan_input
        refuse_too_large(how, image.size, self._settings.max_image_pixels)
        prompt, seed = ("", 0) if row is None else (row.prompt, row.seed)
        plan = upscale_plan(how, image, prompt=prompt, seed=seed)
        notices = (
            *incoming.image.notices,
            *upscale_notices(how, upscaler, image.size, is_drawn=False),
        )
        return Decision(plan, notices, (incoming,), None, ())

    def _upscaler(
        self, factor: Literal[2, 4], *, for_demonstration: bool
    ) -> tuple[Upscaler, PlanUpscale]:
        """Return what makes images larger: what the setting names, or the best there is.

        Raises:
            RequestError: the setting names nothing that can be used.
            EngineError: its weights, or what loads them, are not on this machine.
        """
        found = find_upscaler(
            self._registry,
            self._settings,
            self._settings.upscaler,
            for_demonstration=for_demonstration,
        )
        sha256 = None if found.file is None else sha256_of_weights(found.file, self._hashes)
        return found, plan_upscale(found, sha256, factor)

    def _decide(
        self, request: DrawRequest, stored: StoredFacts, mistakes: Mistakes, *, refuse: bool
    ) -> Decision:
        # Before the words are composed: the seed decides what a pack leaves to chance.
        seed = secrets.randbelow(2**32) if request.seed is None else request.seed
        wording = plain(request)
        loras: tuple[Lora, ...] = ()
        refinement: Refinement | None = None
        with mistakes.noted():
            refinement = _refined(request, stored)
        with mistakes.noted():
            wording = self._word(request, seed, refinement, refuse=refuse)
        with mistakes.noted():
            # Those of a pack too: they are in the request that its words make.
            loras = self.loras.find_all([one.name for one in wording.request.loras or ()])
        if request.model is not None:
            with mistakes.noted():
                named = self._registry.find(request.drawn_kind, request.model)
                refuse_what_the_model_cannot(request, named)
        mistakes.refuse()
        request = wording.request
        installed = self._look(request, stored)
        missing = _model_to_install(request, installed)
        how_to_install = None if missing is None else install_command(missing, self._settings)
        chosen = _choose(request, installed, loras, how_to_install)
        spec = chosen.spec
        fit_notices = _require_fit(spec, installed, loras)
        if refinement is not None:
            request, left_out = refinement.for_model(spec)
            fit_notices = (*left_out, *fit_notices, *refinement.changed_loras(loras))
        planned_loras = plan_loras(request.loras or (), loras)
        counting = [
            lora
            for choice, lora in zip(request.loras or (), loras, strict=True)
            if choice.weight != 0
        ]
        drawing = replace(
            planned_drawing(request, spec, chosen.loaded_as),
            has_wide_loras=not all(lora.header.is_narrow for lora in counting),
        )
        if counting:
            require_takes_loras(drawing.precision)
        refuse_what_the_model_cannot(request, spec)  # before its images are decoded
        upscaler: tuple[Upscaler, PlanUpscale] | None = None
        if request.upscale is not None:
            upscaler = self._upscaler(request.upscale, for_demonstration=spec.is_demonstration)
        incoming = self._inputs.read(
            request, stored.images, for_demonstration=spec.is_demonstration
        )
        if isinstance(request, StructuralRequest):
            incoming = self._inputs.with_structure(request, spec, incoming)
        switches = choose_switches(
            drawing,
            installed.target,
            _switch_settings(self._settings, request),
        )
        parts = PlanParts(
            revision=chosen.snapshot.revision,
            seed=seed,
            seeds=() if refinement is None else refinement.seeds,
            texts=wording.texts,
            inputs=tuple(item.plan_input for item in incoming),
            edit_fit=self._settings.edit_fit,
            masked=next((item.mask.touched for item in incoming if item.mask), None),
            loaded_as=chosen.loaded_as,
            loras=planned_loras,
            switches=switches.switches,
            upscale=None if upscaler is None else upscaler[1],
        )
        plan = make_plan(request, spec, parts)
        upscaled: tuple[str, ...] = ()
        if upscaler is not None:
            found, how = upscaler
            refuse_too_large(how, plan.image_size, self._settings.max_image_pixels)
            upscaled = upscale_notices(how, found, plan.image_size, is_drawn=True)
        tokens = _count(plan, spec, installed)
        family = FAMILIES[spec.family]
        notices = (
            *chosen.notices,
            *wording.notices,
            *dict.fromkeys(notice for item in incoming for notice in item.image.notices),
            *plan_notices(
                plan,
                spec,
                None
                if missing is None
                else f"Real models: {pull_command((missing.id,), self._settings)}",
            ),
            *switches.notices,
            *upscaled,
            *encoder_notices(wording.parts(), family.reads_best, spec.id),
            *dict.fromkeys(filter(None, map(cut_warning, tokens))),
            *lora_notices(request.loras or (), loras, plan.texts),
            *fit_notices,
        )
        return Decision(plan, notices, incoming, wording, tokens, chosen.expected_s, loras)

    def _word(
        self, request: DrawRequest, seed: int, refinement: Refinement | None, *, refuse: bool
    ) -> Wording:
        if refinement is not None:
            drafts = refinement
            return Wording(
                drafts.request, drafts.texts, notices=drafts.notices, kept=drafts.composed
            )
        if request.pack is None:
            return plain(request)
        pack = self._packs.find(request.pack.name)
        return compose_request(request, pack, seed, refuse=refuse)

    def _look(self, request: DrawRequest, stored: StoredFacts) -> "Installed":
        """Look at the disk and the GPU, once for a decision."""
        settings, registry = self._settings, self._registry
        rows = {(row.kind, row.id): row for row in registry[request.drawn_kind].values()}
        bases = {row.base for row in rows.values()} - {None}
        rows |= {("text2img", base): registry.find("text2img", base) for base in bases if base}
        found = {key: find_snapshot(row, settings) for key, row in rows.items()}
        machine = within_setting(self._find_machine(), settings.host_memory_gib)
        gpu = None if machine is None else machine.gpu.name
        return Installed(
            registry=registry,
            settings=settings,
            support=self._support,
            snapshots={key: one for key, one in found.items() if one is not None},
            machine=machine,
            target=_target(settings, machine),
            figures=stored.figures.get(gpu, ()) if gpu else (),
        )


def _refined(request: DrawRequest, stored: StoredFacts) -> Refinement | None:
    """Return what drafts make of a request; `None` where it names none, or not all are there.

    Raises:
        InvalidRequestError: a draft is no image of the gallery, or they cannot be drawn again.
    """
    if not isinstance(request, GenerateRequest) or not request.refine_from:
        return None
    references = stored_references(request)
    found = [stored.images[one] for one in references if one in stored.images]
    ids = {one.image_id for one in found}
    rows = [one.row for one in found if one.row is not None]
    # One image can be named in several ways, and an upload is no draft.
    if len(references) < len(request.refine_from) or min(len(ids), len(rows)) < len(found):
        raise InvalidRequestError(
            "refine_from takes images of the gallery, each once.",
            "Give their ids. flux_variation with strength draws any other image again.",
        )
    if len(found) < len(references):
        return None  # which are missing was said where they were looked up
    return refine(request, rows)


# --- what there is -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Installed:
    """What one decision chooses from, as it was found once at its beginning."""

    registry: Registry
    settings: Settings
    support: LoadSupport
    snapshots: Mapping[tuple[Kind, str], Snapshot]
    """Where the weights lie, for every row of the request's kind and their bases on this disk."""
    machine: Machine | None
    """`None` where no GPU is known."""
    target: TargetDevice
    figures: Sequence[Figure]
    """What finished jobs took on this GPU, newest first."""

    def has(self, spec: ModelSpec) -> bool:
        """Whether a row can be drawn with: its own weights and its base's are on this disk."""
        base = spec.base is None or ("text2img", spec.base) in self.snapshots
        return base and (spec.kind, spec.id) in self.snapshots

    def require(self, spec: ModelSpec) -> Snapshot:
        """Return where the weights of a row lie; its base's are on this disk as well.

        Raises:
            WeightsMissingError: some are not; the hint is the command that installs them.
        """
        if not self.has(spec):
            return require_snapshot(spec, self.registry, self.settings)
        return self.snapshots[spec.kind, spec.id]

    def base_of(self, spec: ModelSpec) -> Snapshot:
        """Return where the weights of a row's base lie; of one without a base, its own."""
        if spec.base is None:
            return self.require(spec)
        return self.require(self.registry.find("text2img", spec.base))


def _target(settings: Settings, machine: Machine | None) -> TargetDevice:
    if machine is not None:
        return target_device("cuda", machine.gpu.compute)
    # Where torch will find Metal only the worker knows; what Metal can, a processor can.
    may_be_metal = settings.device == "auto" and platform_name().startswith("darwin")
    return target_device("mps" if settings.device == "mps" or may_be_metal else "cpu", None)


def _switch_settings(settings: Settings, request: DrawRequest) -> SwitchSettings:
    return SwitchSettings(
        settings.attention, settings.compile, settings.channels_last, request.step_cache
    )


# --- the model -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _ChosenModel:
    """The row to draw with, where its weights lie, how it is held, what is said about it."""

    spec: ModelSpec
    snapshot: Snapshot
    notices: tuple[str, ...] = ()
    loaded_as: LoadedAs | None = None
    """`None` where no GPU's memory is known, and for the demonstration; so `expected_s`."""
    expected_s: float | None = None


def _choose(
    request: DrawRequest, installed: Installed, loras: Sequence[Lora], how_to_install: str | None
) -> _ChosenModel:
    """Return the model that the request names, or the best one for it.

    Raises:
        UnknownModelError: there is none of that name.
        UnsupportedOptionError: this version cannot load it.
        WeightsMissingError: it, or every model for the request, is missing on this disk.
        TooLittleMemoryError: those that are on this disk do not fit.
    """
    if request.model is not None:
        named = installed.registry.find(request.drawn_kind, request.model)
        _refuse_what_cannot_be_loaded(named, installed)
        snapshot = installed.require(named)
        if named.is_demonstration:
            return _ChosenModel(named, snapshot)

    def fitting(spec: ModelSpec) -> bool:
        return installed.has(spec) and all(spec.family in lora.families for lora in loras)

    # A model the LoRAs were made for, or else any, which is refused with its name.
    for usable in (fitting, installed.has) if loras else (installed.has,):
        found = _best(request, installed, usable)
        if found is None:
            is_kept_out = how_to_install is None and not loras
            found = _demonstration(request, installed, usable, is_kept_out=is_kept_out)
        if found is not None:
            return found
    raise WeightsMissingError(
        f"No model for {KIND_NAMES[request.drawn_kind]} is on this machine.",
        f"Run: {how_to_install}."
        if how_to_install
        else "Name one: the setting 'licences' leaves out those that are here.",
    )


def _best(
    request: DrawRequest, installed: Installed, usable: Callable[[ModelSpec], bool]
) -> _ChosenModel | None:
    """Return the best real model for a request; `None` where none is usable."""
    choices = choices_here(
        installed.registry, installed.settings, usable, installed.figures, installed.support
    )
    found = choose_for(wanted_of(request), installed.machine, choices)
    if found is None:
        return None
    snapshot = installed.require(found.spec)
    if found.loaded is None:
        return _ChosenModel(found.spec, snapshot, found.notices)
    loaded = found.loaded
    return _ChosenModel(found.spec, snapshot, found.notices, loaded.loaded_as, loaded.seconds)


def _demonstration(
    request: DrawRequest,
    installed: Installed,
    usable: Callable[[ModelSpec], bool],
    *,
    is_kept_out: bool,
) -> _ChosenModel | None:
    """Return micro, where no real model may answer; `None` if it is not usable either."""
    structure = structure_of(request)
    for spec in installed.registry[request.drawn_kind].values():
        follows = structure is None or structure in spec.structures
        if spec.is_demonstration and follows and usable(spec):
            notice = (
                f"The models for {KIND_NAMES[request.drawn_kind]} that are here have licences the "
                "setting 'licences' leaves out; name one to use it."
            )
            return _ChosenModel(spec, installed.require(spec), (notice,) if is_kept_out else ())
    return None


def _refuse_what_cannot_be_loaded(spec: ModelSpec, installed: Installed) -> None:
    if installed.support.can_load(spec):
        return
    rows = installed.registry[spec.kind].values()
    able = [row.id for row in rows if installed.support.can_load(row)]
    kind = KIND_NAMES[spec.kind]
    raise UnsupportedOptionError(
        f"{spec.id} is known, but this version cannot draw with it for {kind} yet.",
        f"Models that can be used for {kind}: {', '.join(able)}.",
    )


def _model_to_install(request: DrawRequest, installed: Installed) -> ModelSpec | None:
    """Return the real model to install for a request; `None` where one is on this disk."""
    structure = structure_of(request)
    real = real_models(installed.registry, request.drawn_kind, structure)
    if any(installed.support.can_load(row) and installed.has(row) for row in real):
        return None
    return recommended(installed.registry, request.drawn_kind, installed.support, structure)


# --- what must be read of the chosen model -------------------------------------------------------


def _require_fit(spec: ModelSpec, installed: Installed, loras: Sequence[Lora]) -> tuple[str, ...]:
    """Refuse a control LoRA that does not fit its base, and LoRAs that do not fit the model.

    Returns:
        What the caller should know of how the request's are used.

    Raises:
        WeightsInvalidError: the model is a LoRA, and does not fit its base.
        LoraMismatchError: one of the request's does not fit.
    """
    base = installed.base_of(spec)
    if spec.lora:
        check_control_file(spec, installed.require(spec), base.folder / "transformer")
    layers = architecture_of(spec, base.folder) if loras else None
    return tuple(notice for lora in loras for notice in require_fit(lora, spec, layers))


def _count(
    plan: RenderPlan, spec: ModelSpec, installed: Installed
) -> tuple[tuple[TokenCount, ...], ...]:
    """Count the tokens of each different prompt with the model's own tokenizers."""
    folder = installed.base_of(spec).parts_folder
    return tuple(
        count_prompt(text, folder, plan.max_sequence_length) for text in dict.fromkeys(plan.texts)
    )
