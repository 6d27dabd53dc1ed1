"""The prompts of a request: its own words, or what a prompt pack composes for each image."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from flux_mcp.compose.assemble import Block
from flux_mcp.compose.audit import audit
from flux_mcp.compose.choices import Choice
from flux_mcp.compose.composer import Composition, draft_from, parts_in, require_allowed
from flux_mcp.compose.packs import Defaults, Pack
from flux_mcp.compose.problems import shorten
from flux_mcp.requests.schemas import DrawRequest, LoraChoice, PackChoice, tool_of

MAX_WARNINGS = 8
"""Most warnings of the audit among a job's notices, which are part of every answer."""


@dataclass(frozen=True)
class Wording:
    """The prompts of a request, one for each image, and what they are made of."""

    request: DrawRequest
    """What was asked, with the pack's own defaults where the caller said nothing."""
    texts: tuple[str, ...]
    compositions: tuple[Composition, ...] = ()
    """One for each image; empty where no pack was named."""
    notices: tuple[str, ...] = ()
    kept: tuple[dict[str, Any], ...] = ()
    """What `reports` returns for images whose prompts were composed before."""

    def parts(self) -> tuple[str, ...]:
        """Return every text that the prompts are made of, once: what callers and packs wrote."""
        parts = (part for one in self.compositions for part in parts_in(one.blocks, one.fills))
        return tuple(dict.fromkeys(parts if self.compositions else self.texts))

    def reports(self) -> tuple[dict[str, Any], ...]:
        """Return for each image where the parts of its prompt came from; empty without a pack."""
        return tuple(one.report() for one in self.compositions) or self.kept


def plain(request: DrawRequest) -> Wording:
    """Return the request's own words."""
    return Wording(request, (request.prompt or "",) * request.count)


def compose_request(request: DrawRequest, pack: Pack, seed: int, *, refuse: bool) -> Wording:
    """Return what a pack makes of a request.

    Args:
        request: What was asked; it names this pack.
        pack: The pack.
        seed: Of the first image: decides what a `*` chooses. Image n is composed with
            seed + n - 1, so it has the same words when it is drawn again alone.
        refuse: Whether a prompt that the audit refuses is an error; else a notice says so.

    Raises:
        RequestError: a choice the pack does not have, or a prompt too long or refused.
    """
    if request.pack is None:
        return plain(request)
    choice = choice_of(request.pack)
    compositions = [draft_from(pack, choice, seed, index) for index in range(request.count)]
    if refuse:
        for composition in compositions:
            require_allowed(composition)
    notices = dict.fromkeys(notice for one in compositions for notice in one.notices)
    notices |= dict.fromkeys(_warnings(compositions))
    if any(one.audit.verdict == "refuse" for one in compositions):
        notices["The audit refuses this prompt: without dry_run nothing would be queued."] = None
    if tool_of(pack.defaults.kind) != request.tool:
        notices[f"The pack '{pack.name}' is made for {tool_of(pack.defaults.kind)}."] = None
    elif request.keeps_size and any(_sizes(pack.defaults).values()):
        notices[f"The size of the pack '{pack.name}' is not used: the image keeps its own."] = None
    return Wording(
        request=_with_defaults(request, pack.defaults),
        texts=tuple(one.prompt for one in compositions),
        compositions=tuple(compositions),
        notices=tuple(notices),
    )


def choice_of(asked: PackChoice) -> Choice:
    """Return the argument of a tool as the composer takes it."""
    return Choice(asked.name, asked.subject, asked.variables, asked.extra or "")


def judge_plain(text: str) -> Composition:
    """Return a prompt without a pack as a composition of one block, judged by no pattern."""
    block = Block("prompt", text, 0, "argument prompt")
    return Composition(
        pack="",
        version="",
        digest="",
        prompt=text,
        blocks=(block,),
        fills=(),
        chosen=(),
        audit=audit([block], []),
        defaults=Defaults("text2img"),
        notices=(),
    )


def _warnings(compositions: Sequence[Composition]) -> Sequence[str]:
    """Return the audit's first warnings and how many more there are; a dry run shows all."""
    warnings = dict.fromkeys(
        f"'{shorten(one.text)}' in {one.block}: {one.reason.rstrip('.')}."
        for composition in compositions
        for one in composition.audit.findings
        if one.verdict == "warn"
    )
    shown, left_out = list(warnings)[:MAX_WARNINGS], len(warnings) - MAX_WARNINGS
    return [*shown, f"The audit has {left_out} more warnings."] if left_out > 0 else shown


def _with_defaults(request: DrawRequest, defaults: Defaults) -> DrawRequest:
    """Return the request with the pack's defaults where the caller left something open.

    Only for the kind that the pack is made for.
    """
    if defaults.kind != request.drawn_kind:
        return request
    wanted: dict[str, Any] = {}
    if request.model is None and defaults.model is not None:
        wanted["model"] = defaults.model
    if "quality" not in request.model_fields_set and defaults.quality is not None:
        wanted["quality"] = defaults.quality
    if request.loras is None and defaults.loras:
        wanted["loras"] = [
            LoraChoice(name=lora.name, weight=lora.weight) for lora in defaults.loras
        ]
    # With a mask the image keeps its own size: a pack's is for images that have none yet.
    if request.width is None and request.aspect_ratio is None and not request.keeps_size:
        wanted |= {name: value for name, value in _sizes(defaults).items() if value is not None}
    return request.model_copy(update=wanted)


def _sizes(defaults: Defaults) -> dict[str, Any]:
    return {name: getattr(defaults, name) for name in ("aspect_ratio", "width", "height")}
