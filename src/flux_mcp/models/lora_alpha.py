"""PEFT's settings inside a LoRA file, as far as they scale its layers. Pure."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from flux_mcp.errors import InvalidLoraError

ADAPTER_METADATA_KEY = "lora_adapter_metadata"
"""Where diffusers puts PEFT's settings (diffusers/loaders/lora_base.py, 0.42.1)."""
TEXT_ENCODERS = ("text_encoder", "lora_te")
"""Names of their layers begin so."""
MEND = "Get the LoRA again, or convert it to the layout of diffusers or kohya's sd-scripts."


@dataclass(frozen=True)
class AdapterAlpha:
    """PEFT's settings, as diffusers stores them: alpha for all layers, and where it differs."""

    lora_alpha: float | None
    patterns: Mapping[str, float]
    is_rank_stabilised: bool

    def alpha(self, name: str, rank: int) -> float:
        """Return a layer's alpha; PEFT compares the end of the name."""
        dotted = f".{name}"
        found = (a for end, a in self.patterns.items() if dotted.endswith(f".{end}"))
        alpha = next(found, self.lora_alpha)
        if alpha is None:
            return float(rank)
        # Rank-stabilised: scaled by alpha / sqrt(rank) (PEFT's use_rslora).
        return float(alpha) * math.sqrt(rank) if self.is_rank_stabilised else float(alpha)


def adapter_alpha(metadata: Mapping[str, str]) -> AdapterAlpha | None:
    """Read the settings a file's metadata has; most have none.

    Raises:
        InvalidLoraError: they are damaged, or say it is a DoRA.
    """
    text = metadata.get(ADAPTER_METADATA_KEY)
    if text is None:
        return None
    try:
        values = json.loads(text)
        ours = {
            key.removeprefix("transformer."): value
            for key, value in values.items()
            if not key.startswith(TEXT_ENCODERS)
        }
        if ours.get("use_dora"):
            raise InvalidLoraError("It is a DoRA, which is not supported.", MEND)
        patterns = {_plain_name(k): float(v) for k, v in (ours.get("alpha_pattern") or {}).items()}
        alpha = ours.get("lora_alpha")
        return AdapterAlpha(
            None if alpha is None else float(alpha), patterns, bool(ours.get("use_rslora"))
        )
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise InvalidLoraError(f"Its {ADAPTER_METADATA_KEY} is damaged.", MEND) from error


def _plain_name(pattern: str) -> str:
    """Return the name a pattern stands for. PEFT allows regular expressions; no file needs one.

    Raises:
        ValueError: it is an expression: it would be run on every name, however long that takes.
    """
    name = pattern.removeprefix("^").removesuffix("$")
    if not re.fullmatch(r"[\w.]+", name):
        raise ValueError(pattern)
    return name
