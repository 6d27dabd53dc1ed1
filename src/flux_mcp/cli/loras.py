"""`flux-mcp loras`: the LoRAs of the data folder. Needs neither the database nor torch."""

from collections.abc import Iterable
from typing import Any

from flux_mcp.cli.common import (
    console,
    plain,
    print_json,
)
from flux_mcp.errors import InvalidRequestError
from flux_mcp.models.loras.library import LoraLibrary, open_loras
from flux_mcp.models.registry import load_registry
from flux_mcp.service.answers import LoraAnswer
from flux_mcp.settings.settings import Settings

MIB = 2**20
_FORMS = {"lokr": "LoKr", "diff": "whole layers", "bias": "biases"}


def print_loras(settings: Settings, *, as_json: bool) -> None:
    """Print every file of the folder, and what is wrong with those that cannot be used."""
    answers = [LoraAnswer.of(lora) for lora in _library(settings).listing()]
    if as_json:
        print_json({"loras": [answer.model_dump(mode="json") for answer in answers]})
        return
    out = console()
    width = max((len(answer.name) for answer in answers), default=0)
    for answer in answers:
        if not answer.usable:
            problem = plain(answer.problem or "")
            out.print(f"{plain(answer.name):<{width}}  cannot be used: {problem}", style="red")
            continue
        words = ", ".join(answer.trigger_words)
        out.print(
            f"{answer.name:<{width}}  {' or '.join(answer.families):<6}  {_ranks(answer)}  "
            f"{(answer.sha256 or '')[:12]}" + (f"  trigger words: {plain(words)}" if words else "")
        )
    if not answers:
        out.print("There are no LoRAs.")
    out.print(f"Put .safetensors files into {settings.paths.loras}")


def print_lora(settings: Settings, name: str, *, as_json: bool) -> None:
    """Print what is known of one.

    Raises:
        UnknownLoraError: there is none of that name.
        InvalidLoraError: its file is wrong.
    """
    lora = _library(settings).find(name)
    answer = LoraAnswer.of(lora)
    if as_json:
        print_json(answer)
        return
    out = console()
    out.print(f"{plain(answer.title or answer.name)} ({answer.name})", style="bold")
    low, high = answer.weight_range or (None, None)
    facts = {
        "file": str(lora.path),
        "size": f"{lora.size_bytes / MIB:.1f} MiB, {', '.join(answer.dtypes)}",
        "sha256": lora.sha256,
        "family": " or ".join(answer.families),
        "trigger words": ", ".join(answer.trigger_words) or "none known",
        "weights": None if low is None else f"{low:g} to {high:g}",
        "layers": f"{answer.layers} ({_ranks(answer)}{_alphas(answer)})",
        "not used": "; ".join(answer.left_out) or None,
        "layout": answer.layout,
        "licence": answer.licence,
        "source": answer.source,
    }
    for label, value in facts.items():
        if value is not None:
            out.print(f"  {label:<14}{plain(value)}")


def _ranks(answer: LoraAnswer) -> str:
    ranks = [f"rank {_numbers(answer.ranks)}"] if answer.ranks else []
    others = [_FORMS[form] for form in answer.forms if form in _FORMS]
    return ", ".join([*ranks, *others])


def _alphas(answer: LoraAnswer) -> str:
    return f", alpha {_numbers(answer.alphas)}" if answer.alphas else ""


def _numbers(values: Iterable[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _library(settings: Settings) -> LoraLibrary:
    return open_loras(settings, load_registry())


def read_loras(written: Iterable[str]) -> list[dict[str, Any]]:
    """Read what --lora gives, as the tools' argument `loras`.

    Raises:
        InvalidRequestError: a weight is no number.
    """
    chosen = []
    for one in written:
        name, _, weight = one.rpartition(":") if ":" in one else (one, "", "1")
        try:
            chosen.append({"name": name, "weight": float(weight)})
        except ValueError as error:
            raise InvalidRequestError(
                f"--lora {one}: '{weight}' is no weight.", "Write it as --lora name:0.8."
            ) from error
    return chosen
