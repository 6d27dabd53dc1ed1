"""MCP prompts: one for each prompt pack, and a guide to prompting FLUX; completions for both."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mcp.types import (
    Completion,
    GetPromptResult,
    Prompt,
    PromptArgument,
    PromptMessage,
    TextContent,
)

from flux_mcp.compose.choices import ANY
from flux_mcp.compose.composer import Composition, advise, draft_from
from flux_mcp.compose.guide import families, guide
from flux_mcp.compose.library import PackLibrary
from flux_mcp.compose.packs import EXTRA, SUBJECT, Pack, Variable
from flux_mcp.compose.problems import nearest, shorten
from flux_mcp.errors import InvalidRequestError, UnknownPackError
from flux_mcp.requests.schemas import PackChoice, tool_of
from flux_mcp.requests.validation import parse_request
from flux_mcp.service.prompts import choice_of

GUIDE = "how-to-prompt-flux"
FAMILY = "family"
MAX_COMPLETIONS = 100
"""What the protocol allows in one answer."""
_LISTED_CHOICES = 12
_LISTED_FINDINGS = 8


# --- the list ----------------------------------------------------------------------------------


def listed_prompts(packs: PackLibrary) -> list[Prompt]:
    """Return the guide, then every usable pack."""
    family = PromptArgument(
        name=FAMILY, description=f"Only one of: {', '.join(families())}.", required=False
    )
    teaching = Prompt(
        name=GUIDE,
        title="How to ask FLUX for an image",
        description="Teaches the model that writes prompts what FLUX follows and what it ignores: "
        "full sentences, positive wording, text in quotation marks, and what differs by family.",
        arguments=[family],
    )
    # A pack with the guide's name is hidden by it.
    return [teaching, *(_listed(pack) for pack in packs if pack.name != GUIDE)]


def _listed(pack: Pack) -> Prompt:
    arguments = [
        PromptArgument(
            name=argument.name, description=_about(argument), required=argument.is_required
        )
        for argument in pack.arguments
    ]
    extra = PromptArgument(name=EXTRA, description="Words of your own for the end.", required=False)
    return Prompt(
        name=pack.name,
        title=pack.title,
        description=f"{pack.description} (Prompt pack {pack.version}.)",
        arguments=[*arguments, extra],
    )


def _about(argument: Variable) -> str:
    names = list(argument.choices)
    shown = ", ".join(names[:_LISTED_CHOICES]) + (", ..." if len(names) > _LISTED_CHOICES else "")
    parts = [argument.description]
    if names:
        parts.append(f"One of: {shown}; {ANY} for any.")
    if argument.free_text:
        parts.append("Or words of your own.")
    if argument.default is not None:
        parts.append(f"Left out: {argument.default}.")
    return " ".join(part for part in parts if part)


# --- one prompt --------------------------------------------------------------------------------


def found_prompt(packs: PackLibrary, name: str, given: Mapping[str, Any]) -> GetPromptResult:
    """Return the message of a prompt.

    Raises:
        RequestError: there is no such prompt, or it has no such argument or choice.
    """
    # Clients send what their user left empty as an empty text.
    values = {key: str(value) for key, value in given.items() if str(value).strip()}
    if name == GUIDE:
        _refuse_unknown(name, values, [FAMILY])
        return _message("How to write prompts for FLUX.", guide(values.get(FAMILY)))
    pack = _find(packs, name)
    _refuse_unknown(name, values, [*(one.name for one in pack.arguments), EXTRA])
    choices: dict[str, Any] = {key: values.pop(key) for key in (SUBJECT, EXTRA) if key in values}
    if values:
        choices["variables"] = values
    asked = parse_request(PackChoice, {"name": name, **choices})
    # Seed 0 gives one example of the choices left to the seed; the call has a seed of its own.
    example = draft_from(pack, choice_of(asked), 0)
    return _message(pack.description, _asking(pack, asked, example))


def _find(packs: PackLibrary, name: str) -> Pack:
    try:
        return packs.find(name)
    except UnknownPackError as error:
        known = [GUIDE, *(pack.name for pack in packs)]
        raise UnknownPackError(
            f"There is no prompt '{shorten(name)}'.", nearest(name, known, what="Prompts")
        ) from error


def _refuse_unknown(name: str, given: Iterable[str], known: Sequence[str]) -> None:
    for argument in given:
        if argument not in known:
            raise InvalidRequestError(
                f"The prompt '{name}' has no argument '{shorten(argument)}'.",
                nearest(argument, known, what="Arguments"),
            )


def _asking(pack: Pack, asked: PackChoice, example: Composition) -> str:
    """Return which tool to call, with what, and the prompt that results."""
    random = [one.name for one in example.chosen if one.is_random]
    kind = pack.defaults.kind
    choices = asked.model_dump(exclude_unset=True)
    if asked.variables:
        # The form that is published with the tools.
        choices["variables"] = [f"{name}={choice}" for name, choice in asked.variables.items()]
    arguments = json.dumps({"pack": choices}, ensure_ascii=False)
    given = arguments if kind == "text2img" else f"{arguments} and the image it starts from"
    lines = [
        f"Generate an image with the prompt pack '{pack.name}': call {tool_of(kind)} with {given}.",
        f"The pack composes this prompt (do not send it yourself):\n\n{example.prompt}",
    ]
    if random:
        lines.append(f"Left to the seed, here as one example: {', '.join(random)}.")
    findings = [finding for finding in example.audit.findings if finding.verdict != "advice"]
    lines += [
        f"The audit: {finding.verdict} because of '{shorten(finding.text)}' in {finding.block}: "
        f"{finding.reason} {advise(finding.rewording)}".rstrip()
        for finding in findings[:_LISTED_FINDINGS]
    ]
    if len(findings) > _LISTED_FINDINGS:
        lines.append(f"The audit: {len(findings) - _LISTED_FINDINGS} more.")
    lines += example.notices
    return "\n\n".join(lines)


def _message(description: str, text: str) -> GetPromptResult:
    content = TextContent(type="text", text=text)
    return GetPromptResult(
        description=description, messages=[PromptMessage(role="user", content=content)]
    )


# --- completions -------------------------------------------------------------------------------


def completed(packs: PackLibrary, name: str, argument: str, begun: str) -> Completion:
    """Return the completions of a prompt's argument; empty for an unknown prompt or argument."""
    return matching(_values(packs, name, argument), begun)


def matching(values: Sequence[str], begun: str) -> Completion:
    """Return the values that begin with what was typed, then those that contain it."""
    begun = begun.strip().lower()
    first = [value for value in values if value.lower().startswith(begun)]
    then = [value for value in values if begun in value.lower() and value not in first]
    found = [*first, *then]
    return Completion(
        values=found[:MAX_COMPLETIONS], total=len(found), has_more=len(found) > MAX_COMPLETIONS
    )


def _values(packs: PackLibrary, name: str, argument: str) -> list[str]:
    if name == GUIDE:
        return list(families()) if argument == FAMILY else []
    for pack in packs:
        for one in pack.arguments:
            if (pack.name, one.name) == (name, argument):
                return [*one.choices, ANY] if one.choices else []
    return []
