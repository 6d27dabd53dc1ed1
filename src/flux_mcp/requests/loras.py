"""LoRAs of a request -> those of its plan, with what the caller should know. Pure."""

from collections.abc import Sequence

from flux_mcp.errors import InvalidRequestError
from flux_mcp.models.loras import Lora
from flux_mcp.requests.choices import LoraChoice
from flux_mcp.requests.plan import PlanLora


def plan_loras(choices: Sequence[LoraChoice], found: Sequence[Lora]) -> tuple[PlanLora, ...]:
    """Return the plan's LoRAs, by name.

    Args:
        choices: What the request names.
        found: Their files, in the same order.

    Raises:
        InvalidRequestError: two names are one file.
    """
    planned = sorted(
        (
            PlanLora(name=lora.name, sha256=lora.sha256, weight=choice.weight)
            for choice, lora in zip(choices, found, strict=True)
        ),
        key=lambda lora: lora.name,
    )
    for one in planned:
        same = [lora.name for lora in planned if lora.sha256 == one.sha256]
        if len(same) > 1:
            raise InvalidRequestError(
                f"loras: {' and '.join(same)} are the same file.", "Name it once."
            )
    return tuple(planned)


def lora_notices(
    choices: Sequence[LoraChoice], found: Sequence[Lora], texts: Sequence[str]
) -> tuple[str, ...]:
    """Say what keeps a LoRA from showing as it should.

    Args:
        choices: What the request names.
        found: Their files, in the same order.
        texts: The prompts.
    """
    notices = []
    for choice, lora in zip(choices, found, strict=True):
        about = lora.about
        if about.trigger_words and not _says_one(texts, about.trigger_words):
            words = ", ".join(f"'{word}'" for word in about.trigger_words)
            notices.append(
                f"The LoRA '{lora.name}' shows when the prompt says {words}, and not every prompt "
                f"does."
            )
        if lora.header.text_encoder_layers:
            notices.append(
                f"The LoRA '{lora.name}' was also trained on a text encoder; that part is not used."
            )
        low, high = about.weight_range or (choice.weight, choice.weight)
        if not low <= choice.weight <= high:
            notices.append(
                f"The LoRA '{lora.name}' is made for weights from {low:g} to {high:g}, not "
                f"{choice.weight:g}."
            )
    return tuple(notices)


def _says_one(texts: Sequence[str], words: Sequence[str]) -> bool:
    return all(any(word.casefold() in text.casefold() for word in words) for text in texts)
