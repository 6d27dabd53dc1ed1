"""Planner: from a request to the plan that answers it, with what the caller should be told.

Puts registry, weights on disk, intake and the pure rules of requests/ together. Owns no state.
"""

import asyncio
import hashlib
import secrets
from dataclasses import dataclass
from typing import Any

from flux_mcp.compose.library import PackLibrary
from flux_mcp.compose.tokens import TokenCount, count_prompt, cut_warning
from flux_mcp.config import Settings
from flux_mcp.errors import WeightsMissingError
from flux_mcp.intake import Incoming, Intake
from flux_mcp.models.registry import ModelSpec, Registry
from flux_mcp.models.tiers import choose_model, real_models, recommended
from flux_mcp.models.weights import Snapshot, install_command, is_installed, require_snapshot
from flux_mcp.requests.plan import RenderPlan, make_plan, plan_notices
from flux_mcp.requests.schemas import DrawRequest, StructuralRequest
from flux_mcp.wording import Wording, compose_request, plain

_NOT_PART_OF_A_REQUEST = {"wait_s", "preview", "dry_run", "idempotency_key"}


@dataclass(frozen=True)
class Decision:
    """Everything that is decided about a request."""

    plan: RenderPlan
    notices: tuple[str, ...]
    incoming: tuple[Incoming, ...]
    """Its pictures, not stored yet."""
    wording: Wording
    tokens: tuple[tuple[TokenCount, ...], ...]
    """For each different prompt, its tokens for each text encoder."""


class Planner:
    """Decides how requests are answered on this machine."""

    def __init__(
        self, settings: Settings, registry: Registry, intake: Intake, packs: PackLibrary
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._intake = intake
        self._packs = packs

    async def decide(self, request: DrawRequest, *, refuse: bool = True) -> Decision:
        """Compose the prompt, choose the model, read the pictures, fill every gap; write nothing.

        Args:
            request: What was asked.
            refuse: Whether a prompt its pack's audit refuses is an error, or only reported.

        Raises:
            RequestError: something about the request is wrong.
            WeightsMissingError: no model for it is on this disk.
        """
        # Before the words are: what a pack leaves to chance is the seed's to decide.
        seed = secrets.randbelow(2**32) if request.seed is None else request.seed
        wording = await asyncio.to_thread(self._word, request, seed, refuse=refuse)
        request = wording.request
        spec, snapshot, notices, hint = await asyncio.to_thread(self._choose, request)
        incoming = await self._intake.collect(request)
        plan = make_plan(
            request,
            spec,
            revision=snapshot.revision,
            seed=seed,
            inputs=[item.plan_input for item in incoming],
            texts=wording.texts,
        )
        tokens = await asyncio.to_thread(self._count, plan, spec, snapshot)
        cut = dict.fromkeys(filter(None, map(cut_warning, tokens)))
        notices = (*notices, *wording.notices, *plan_notices(request, plan, spec, hint), *cut)
        return Decision(plan, notices, tuple(incoming), wording, tokens)

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

    def _choose(
        self, request: DrawRequest
    ) -> tuple[ModelSpec, Snapshot, tuple[str, ...], str | None]:
        """Return the row to draw with, where it lies, notices, and how to get a real model.

        The last is `None` where a real model is on this disk.
        """

        def installed(spec: ModelSpec) -> bool:
            return is_installed(spec, self._registry, self._settings)

        structure = request.structure if isinstance(request, StructuralRequest) else None
        how = hint = None
        if not any(map(installed, real_models(self._registry, request.kind, structure))):
            best = recommended(self._registry, request.kind, structure)
            how = install_command(best, self._settings)
            hint = f"For real pictures run: {how}."
        notices: tuple[str, ...] = ()
        if request.model is not None:
            spec = self._registry.find(request.kind, request.model)
        else:
            choice = choose_model(
                self._registry, request.kind, request.quality, installed, structure
            )
            if choice is None:
                raise WeightsMissingError(
                    f"No model for {request.kind} is on this machine.", f"Run: {how}."
                )
            spec, notices = choice.spec, choice.notices
        snapshot = require_snapshot(spec, self._registry, self._settings)
        return spec, snapshot, notices, hint


def as_asked(request: DrawRequest) -> dict[str, Any]:
    """Return the request as it is stored and compared: without how the caller waits for it."""
    asked = request.model_dump(mode="json", exclude=_NOT_PART_OF_A_REQUEST, exclude_none=True)
    return {key: _without_bytes(value) for key, value in asked.items()}


def _without_bytes(value: Any) -> Any:
    """Name a data: URI by its hash: megabytes of base64 do not belong into a row."""
    if isinstance(value, str) and value.startswith("data:"):
        return f"data:sha256:{hashlib.sha256(value.encode()).hexdigest()}"
    if isinstance(value, list):
        return [_without_bytes(item) for item in value]
    if isinstance(value, dict):
        return {key: _without_bytes(item) for key, item in value.items()}
    return value
