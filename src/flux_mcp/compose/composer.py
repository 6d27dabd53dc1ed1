"""A library and a choice -> a prompt that may be drawn. The way into this room."""

from dataclasses import dataclass
from typing import Any

from flux_mcp.compose.assemble import MAX_CHARACTERS, Block, Fill, assemble
from flux_mcp.compose.audit import Audit, Finding, audit
from flux_mcp.compose.choices import Choice, ChosenPart, choose, notices_about, parts_of
from flux_mcp.compose.library import PackLibrary
from flux_mcp.compose.packs import Defaults, Pack
from flux_mcp.compose.problems import shorten
from flux_mcp.errors import PromptRefusedError

_LONGEST_REASON = 600
_ADVISES = ("Say ", "Write ", "Leave ")
"""How the audit's own proposals begin."""


@dataclass(frozen=True)
class Limits:
    """What a prompt may be at most."""

    max_characters: int = MAX_CHARACTERS


@dataclass(frozen=True)
class Composition:
    """A prompt put together from a pack, with everything that decided it."""

    pack: str
    version: str
    digest: str
    """As `Pack.digest`."""
    prompt: str
    blocks: tuple[Block, ...]
    fills: tuple[Fill, ...]
    chosen: tuple[ChosenPart, ...]
    """What the subject and each variable came to; those that were drawn say so."""
    audit: Audit
    defaults: Defaults
    notices: tuple[str, ...]

    def report(self) -> dict[str, Any]:
        """Return as JSON values where each part of the prompt came from, for the gallery row."""
        return {
            "pack": self.pack,
            "version": self.version,
            "digest": self.digest,
            "chosen": {one.name: one.value for one in self.chosen},
            "drawn": [one.name for one in self.chosen if one.is_drawn],
            "blocks": [
                {
                    "name": block.name,
                    "source": block.source,
                    "start": block.start,
                    "end": block.end,
                    "text": block.text,
                    "filled": [
                        {"placeholder": fill.placeholder, "source": fill.source, "text": fill.text}
                        for fill in self.fills
                        if fill.block == block.name
                    ],
                }
                for block in self.blocks
            ],
            "verdict": self.audit.verdict,
        }


def compose(
    library: PackLibrary, choice: Choice, seed: int, index: int = 0, limits: Limits | None = None
) -> Composition:
    """Return the prompt of a choice, audited.

    Args:
        library: The packs.
        choice: What the caller asks.
        seed: Decides what is drawn. Image n of several draws with seed + n - 1, as its pixels do:
            drawn again alone, with its own seed, it gets the same prompt.
        index: Which image of several, from 0.
        limits: What the prompt may be at most.

    Raises:
        UnknownPackError: there is no such pack.
        InvalidPackError: its files are wrong.
        InvalidRequestError: a variable, choice or placeholder the pack does not have.
        PromptTooLongError: the message has the length of each block.
        PromptRefusedError: the audit refuses; it has the findings.
    """
    composition = draft(library, choice, seed, index, limits)
    require_allowed(composition)
    return composition


def draft(
    library: PackLibrary, choice: Choice, seed: int, index: int = 0, limits: Limits | None = None
) -> Composition:
    """Return the same as `compose`, also if the audit refuses it: for a dry run.

    Raises:
        RequestError: as `compose`, but for PromptRefusedError.
    """
    return draft_from(library.find(choice.pack), choice, seed, index, limits)


def draft_from(
    pack: Pack, choice: Choice, seed: int, index: int = 0, limits: Limits | None = None
) -> Composition:
    """Return the same as `draft`, of a pack at hand."""
    chosen = choose(pack, choice, seed + index)
    assembled = assemble(
        parts_of(pack, chosen, choice.extra),
        woven=pack.woven,
        max_characters=(limits or Limits()).max_characters,
    )
    standing = {block.name.removeprefix("variable:") for block in assembled.blocks}
    filled = {fill.placeholder for fill in assembled.fills}
    return Composition(
        pack=pack.name,
        version=pack.version,
        digest=pack.digest,
        prompt=assembled.prompt,
        blocks=assembled.blocks,
        fills=assembled.fills,
        chosen=chosen,
        audit=audit(assembled.blocks, pack.forbidden),
        defaults=pack.defaults,
        notices=notices_about(pack, chosen, frozenset(standing | filled)),
    )


def require_allowed(composition: Composition) -> None:
    """Let a composition pass that may be drawn.

    Raises:
        PromptRefusedError: the audit refuses it; the message has the first finding, the hint a
            positive wording.
    """
    if composition.audit.verdict != "refuse":
        return
    refused = [one for one in composition.audit.findings if one.verdict == "refuse"]
    more = f" {len(refused) - 1} more." if len(refused) > 1 else ""
    raise PromptRefusedError(
        f"The pack '{composition.pack}' refuses '{shorten(refused[0].text)}' in "
        f"{refused[0].block}: {shorten(refused[0].reason.rstrip('.'), _LONGEST_REASON)}.{more}",
        _advice(refused[0]),
        findings=composition.audit.findings,
    )


def _advice(finding: Finding) -> str:
    return advise(finding.rewording) or "Say instead what the image shows."


def advise(rewording: str) -> str:
    """Return a finding's rewording as a sentence; a pack's own is only the words to write."""
    if not rewording or rewording.startswith(_ADVISES):
        return rewording
    return f"Say instead: {rewording.rstrip('.')}."
