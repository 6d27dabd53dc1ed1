"""From a library of packs and a choice to an audited prompt: the entry point of this package."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from flux_mcp.compose.assemble import Block, Fill, assemble
from flux_mcp.compose.audit import Audit, Finding, audit
from flux_mcp.compose.choices import Choice, ResolvedArgument, choose, notices_about, parts_of
from flux_mcp.compose.language import audit_notices
from flux_mcp.compose.library import PackLibrary
from flux_mcp.compose.packs import Defaults, Pack
from flux_mcp.compose.problems import shorten
from flux_mcp.errors import PromptRefusedError

_LONGEST_REASON = 600
_ADVISES = ("Say ", "Write ", "Leave ")
"""The first words of the audit's own rewordings."""


@dataclass(frozen=True)
class Composition:
    """A prompt of a pack, with everything that decided it."""

    pack: str
    version: str
    digest: str
    """As `Pack.digest`."""
    prompt: str
    blocks: tuple[Block, ...]
    fills: tuple[Fill, ...]
    chosen: tuple[ResolvedArgument, ...]
    """The subject and each variable with its value; random values are marked."""
    audit: Audit
    defaults: Defaults
    notices: tuple[str, ...]

    def report(self) -> dict[str, Any]:
        """Return where each part of the prompt came from, as JSON values for the gallery row."""
        return {
            "pack": self.pack,
            "version": self.version,
            "digest": self.digest,
            "chosen": {one.name: one.value for one in self.chosen},
            "drawn": [one.name for one in self.chosen if one.is_random],
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


def compose(library: PackLibrary, choice: Choice, seed: int, index: int = 0) -> Composition:
    """Return the prompt of a choice, audited.

    Args:
        library: The packs.
        choice: The values the caller gives.
        seed: Decides the random choices. Image n of several uses seed + n - 1, as its pixels do:
            generated again alone, with its own seed, it gets the same prompt.
        index: Which image of several, from 0.

    Raises:
        UnknownPackError: there is no such pack.
        InvalidPackError: its files have errors.
        InvalidRequestError: a variable, choice or placeholder the pack does not have.
        PromptTooLongError: the message has the length of each block.
        PromptRefusedError: the audit refuses it; the error has the findings.
    """
    composition = draft(library, choice, seed, index)
    require_allowed(composition)
    return composition


def draft(library: PackLibrary, choice: Choice, seed: int, index: int = 0) -> Composition:
    """Return the same as `compose`, also if the audit refuses it: for a dry run.

    Raises:
        RequestError: as `compose`, except PromptRefusedError.
    """
    return draft_from(library.find(choice.pack), choice, seed, index)


def draft_from(pack: Pack, choice: Choice, seed: int, index: int = 0) -> Composition:
    """Return the same as `draft`, from a pack instead of a library."""
    chosen = choose(pack, choice, seed + index)
    assembled = assemble(
        parts_of(pack, chosen, choice.extra),
        woven=pack.woven,
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
        notices=(
            *notices_about(pack, chosen, frozenset(standing | filled)),
            *(audit_notices(parts_in(assembled.blocks, assembled.fills)) if pack.forbidden else ()),
        ),
    )


def parts_in(blocks: Iterable[Block], fills: Iterable[Fill]) -> tuple[str, ...]:
    """Return the texts a prompt is made of: those that fill placeholders, and the blocks."""
    return (*(fill.text for fill in fills), *(block.text for block in blocks))


def require_allowed(composition: Composition) -> None:
    """Raise an error for a composition that the audit refuses.

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
    """Return a finding's rewording as a sentence: a pack's own has only the words to write."""
    if not rewording or rewording.startswith(_ADVISES):
        return rewording
    return f"Say instead: {rewording.rstrip('.')}."
