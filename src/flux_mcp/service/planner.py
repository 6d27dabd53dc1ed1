"""Planner: from a request to the plan that answers it, with what the caller should be told.

Puts registry, weights on disk, intake and the pure rules of requests/ together. Owns no state.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from flux_mcp.compose.library import PackLibrary
from flux_mcp.compose.tokens import TokenCount, count_prompt, cut_warning
from flux_mcp.errors import UnsupportedOptionError, WeightsMissingError
from flux_mcp.models.hub.cache import Snapshot, install_command, is_installed, require_snapshot
from flux_mcp.models.loras.fit import require_control_fit
from flux_mcp.models.loras.library import Lora, architecture_of, open_loras, require_fit
from flux_mcp.models.memory import Holding
from flux_mcp.models.planning.candidates import (
    Choices,
    LoadSupport,
    Machine,
    real_models,
    recommended,
    this_load_support,
)
from flux_mcp.models.planning.machine import within_setting
from flux_mcp.models.planning.speed import Figure
from flux_mcp.models.planning.tiers import choose_tier, choose_without_gpu
from flux_mcp.models.registry import ModelSpec, Registry
from flux_mcp.requests.plan import (
    RenderPlan,
    lora_notices,
    make_plan,
    plan_loras,
    plan_notices,
    structure_of,
    wanted_of,
    with_switches,
)
from flux_mcp.requests.schemas import (
    DrawRequest,
)
from flux_mcp.service.inputs import Incoming, Intake
from flux_mcp.service.prompts import Wording, compose_request, plain
from flux_mcp.settings.settings import Settings

Learned = Callable[[str], Awaitable[Sequence[Figure]]]
"""Returns what finished jobs took on a GPU, by its name, newest first."""


@dataclass(frozen=True)
class Decision:
    """Everything that is decided about a request."""

    plan: RenderPlan
    notices: tuple[str, ...]
    incoming: tuple[Incoming, ...]
    """Its images, not stored yet."""
    wording: Wording
    tokens: tuple[tuple[TokenCount, ...], ...]
    """For each different prompt, its tokens for each text encoder."""
    expected_s: float | None = None
    """Seconds of drawing on this machine's GPU, learned or computed; `None` without a GPU."""
    loras: tuple[Lora, ...] = ()
    """Those the request names, in its order."""


@dataclass(frozen=True)
class _Chosen:
    """The row to draw with, where it lies, how it is held, what is said about it."""

    spec: ModelSpec
    snapshot: Snapshot
    notices: tuple[str, ...]
    holding: Holding | None = None
    """`None` where no GPU's memory is known, and for the demonstration; so the next one."""
    expected_s: float | None = None


class Planner:
    """Decides how requests are answered on this machine.

    Args:
        settings: Which licences may be chosen, and where weights lie.
        registry: What can be drawn with.
        intake: Takes in the images of a request.
        packs: The prompt packs.
        find_machine: Returns the GPU and the machine, `None` where no GPU is known; may block.
        learned: What finished jobs took; nothing if left out.
    """

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        intake: Intake,
        packs: PackLibrary,
        find_machine: Callable[[], Machine | None] = lambda: None,
        learned: Learned | None = None,
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._intake = intake
        self._packs = packs
        self._find_machine = find_machine
        self._learned = learned
        self._engine: LoadSupport = this_load_support()
        self.loras = open_loras(settings, registry)

    async def decide(self, request: DrawRequest, *, refuse: bool = True) -> Decision:
        """Compose the prompt, choose the model, read the images, fill every gap; write nothing.

        Args:
            request: What was asked.
            refuse: Whether a prompt its pack's audit refuses is an error, or only reported.

        Raises:
            RequestError: something about the request is wrong.
            WeightsMissingError: no model for it is on this disk.
            WeightsInvalidError: the model is a LoRA, and does not fit its base.
            TooLittleMemoryError: those that are do not fit.
        """
        # Before the words are: what a pack leaves to chance is the seed's to decide.
        seed = secrets.randbelow(2**32) if request.seed is None else request.seed
        wording = await asyncio.to_thread(self._word, request, seed, refuse=refuse)
        request = wording.request
        loras = await asyncio.to_thread(self._find_loras, request)
        found = await asyncio.to_thread(self._find_machine)
        machine = within_setting(found, self._settings.host_memory_gib)
        figures: Sequence[Figure] = ()
        if machine is not None and machine.gpu.name and self._learned is not None:
            figures = await self._learned(machine.gpu.name)
        hint = await asyncio.to_thread(self._how_to_install, request)
        chosen = await asyncio.to_thread(self._choose, request, machine, figures, hint, loras)
        spec, snapshot = chosen.spec, chosen.snapshot
        await asyncio.to_thread(self._require_fit, loras, spec)
        planned = await asyncio.to_thread(plan_loras, request.loras or (), loras)
        incoming = await self._intake.collect(request)
        plan = make_plan(
            request,
            spec,
            revision=snapshot.revision,
            seed=seed,
            inputs=[item.plan_input for item in incoming],
            texts=wording.texts,
            holding=chosen.holding,
        ).model_copy(update={"loras": planned})
        switching = (request, plan, spec, self._settings, machine)
        plan, about_speed = await asyncio.to_thread(with_switches, *switching)
        tokens = await asyncio.to_thread(self._count, plan, spec, snapshot)
        cut = dict.fromkeys(filter(None, map(cut_warning, tokens)))
        about_plan = plan_notices(request, plan, spec, hint and f"For real images run: {hint}.")
        advice = lora_notices(request.loras or (), loras, plan.texts)
        notices = (*chosen.notices, *wording.notices, *about_plan, *about_speed, *cut, *advice)
        images = tuple(incoming)
        return Decision(plan, notices, images, wording, tokens, chosen.expected_s, loras)

    def _word(self, request: DrawRequest, seed: int, *, refuse: bool) -> Wording:
        if request.pack is None:
            return plain(request)
        pack = self._packs.find(request.pack.name)
        return compose_request(request, pack, seed, refuse=refuse)

    def _count(
        self, plan: RenderPlan, spec: ModelSpec, snapshot: Snapshot
    ) -> tuple[tuple[TokenCount, ...], ...]:
        """Count the tokens of each different prompt with the model's own tokenizers."""
        if spec.base is not None:
            base = self._registry.find("text2img", spec.base)
            snapshot = require_snapshot(base, self._registry, self._settings)
        return tuple(
            count_prompt(text, snapshot.parts_folder, plan.max_sequence_length)
            for text in dict.fromkeys(plan.texts)
        )

    def _is_installed(self, spec: ModelSpec) -> bool:
        return is_installed(spec, self._registry, self._settings)

    def _find_loras(self, request: DrawRequest) -> tuple[Lora, ...]:
        return tuple(self.loras.find(choice.name) for choice in request.loras or ())

    def _require_fit(self, loras: tuple[Lora, ...], spec: ModelSpec) -> None:
        require_control_fit(spec, self._registry, self._settings)
        layers = architecture_of(spec, self._registry, self._settings) if loras else None
        for lora in loras:
            require_fit(lora, spec, layers)

    def _how_to_install(self, request: DrawRequest) -> str | None:
        """Return how to get a real model for a request; `None` where one is on this disk."""
        structure = structure_of(request)
        real = real_models(self._registry, request.kind, structure)
        if any(self._engine.can_load(row) and self._is_installed(row) for row in real):
            return None
        best = recommended(self._registry, request.kind, self._engine, structure)
        return install_command(best, self._settings)

    def _choose(
        self,
        request: DrawRequest,
        machine: Machine | None,
        figures: Sequence[Figure],
        how_to_install: str | None,
        loras: tuple[Lora, ...],
    ) -> _Chosen:
        if request.model is not None:
            named = self._registry.find(request.kind, request.model)
            self._refuse_what_cannot_be_loaded(named)
            snapshot = require_snapshot(named, self._registry, self._settings)
            if named.is_demonstration:
                return _Chosen(named, snapshot, ())

        def fitting(spec: ModelSpec) -> bool:
            return self._is_installed(spec) and all(spec.family in lora.families for lora in loras)

        # A model the LoRAs were made for, or else any, which is refused with its name.
        for usable in (fitting, self._is_installed) if loras else (self._is_installed,):
            found = self._best(request, machine, figures, usable)
            if found is None:
                is_kept_out = how_to_install is None and not loras
                found = self._demonstration(request, usable, is_kept_out=is_kept_out)
            if found is not None:
                return found
        raise WeightsMissingError(
            f"No model for {request.kind} is on this machine.",
            f"Run: {how_to_install}."
            if how_to_install
            else "Name one: the setting 'licences' leaves out those that are here.",
        )

    def _best(
        self,
        request: DrawRequest,
        machine: Machine | None,
        figures: Sequence[Figure],
        usable: Callable[[ModelSpec], bool],
    ) -> _Chosen | None:
        """Return the best real model for a request; `None` where none is usable."""
        licences = self._settings.licences
        choices = Choices(
            registry=self._registry,
            is_installed=usable,
            engine=self._engine,
            licences=None if licences is None else frozenset(licences),
            figures=figures,
        )
        wanted = wanted_of(request)
        if machine is None:
            found = choose_without_gpu(wanted, choices)
            return found and self._chosen(found[0], found[1])
        tier = choose_tier(wanted, machine, choices)
        if tier is None:
            return None
        held = tier.chosen
        return self._chosen(held.spec, tier.notices, held.holding, held.seconds)

    def _chosen(
        self,
        spec: ModelSpec,
        notices: tuple[str, ...],
        holding: Holding | None = None,
        seconds: float | None = None,
    ) -> _Chosen:
        snapshot = require_snapshot(spec, self._registry, self._settings)
        return _Chosen(spec, snapshot, notices, holding, seconds)

    def _refuse_what_cannot_be_loaded(self, spec: ModelSpec) -> None:
        if not self._engine.can_load(spec):
            able = [
                row.id for row in self._registry[spec.kind].values() if self._engine.can_load(row)
            ]
            raise UnsupportedOptionError(
                f"{spec.id} is known, but this version cannot draw with it for {spec.kind} yet.",
                f"Models that can be used for {spec.kind}: {', '.join(able)}.",
            )

    def _demonstration(
        self, request: DrawRequest, usable: Callable[[ModelSpec], bool], *, is_kept_out: bool
    ) -> _Chosen | None:
        """Return micro, where no real model may answer; `None` if it is not usable either."""
        structure = structure_of(request)
        for spec in self._registry[request.kind].values():
            follows = structure is None or structure in spec.structures
            if spec.is_demonstration and follows and usable(spec):
                notice = (
                    f"The models for {request.kind} that are here have licences the setting "
                    "'licences' leaves out; name one to use it."
                )
                return self._chosen(spec, (notice,) if is_kept_out else ())
        return None
