"""A plan's texts and their embeddings: from the cache, or from the text encoders.

Knows which texts a plan has and how FLUX encodes one. Keeps nothing: embeddings.py does.
"""

from collections.abc import Callable
from typing import Any

from flux_mcp.pipelines.embedding_files import TextEmbeddings
from flux_mcp.pipelines.embeddings import EmbeddingCache
from flux_mcp.pipelines.resident import Resident
from flux_mcp.requests.plan import RenderPlan


class PlanTexts:
    """The embeddings of one plan's prompts, and of the one it steers away from.

    Args:
        plan: Names the texts, and the tokens each is encoded to.
        resident: Names the encoders; those of another precision or content are others.
        cache: Asked for each text at once, so that nothing is evicted between now and drawing.
        load_encoder: Gives the pipeline that encodes; called once, and only if a text is missing.
    """

    def __init__(
        self,
        plan: RenderPlan,
        resident: Resident,
        cache: EmbeddingCache,
        load_encoder: Callable[[], Any],
    ) -> None:
        negative = steered_from(plan, resident)
        encoders = tuple(resident.text_parts.values())
        self._length = plan.max_sequence_length
        self._cache = cache
        self._keys = {
            text: cache.key(encoders, text, plan.max_sequence_length)
            for text in (*plan.texts, *(() if negative is None else (negative,)))
        }
        looked_up = {text: cache.get(key) for text, key in self._keys.items()}
        self._known = {text: found for text, found in looked_up.items() if found is not None}
        self._missing = [text for text in self._keys if text not in self._known]
        self._encoder = load_encoder() if self._missing else None

    def __getitem__(self, text: str) -> TextEmbeddings:
        """Return what a text became, on the CPU; not to be changed."""
        return self._known[text]

    def encode(self, check: Callable[[], None]) -> None:
        """Encode what the cache did not have, and keep it there.

        Args:
            check: Called before each text; may raise to stop.
        """
        while self._missing:
            check()
            text = self._missing[0]
            self._known[text] = encode_text(self._encoder, text, self._length)
            self._cache.put(self._keys[text], self._known[text])
            del self._missing[0]


def encode_text(encoder: Any, text: str, max_sequence_length: int) -> TextEmbeddings:
    """Return the embeddings of one text, as they came but on the CPU.

    One text at a time: in a batch it would be rounded otherwise.

    Args:
        encoder: Of `Residency.text_encoder`.
        text: Longer ones are cut off: at 77 tokens by the first encoder.
        max_sequence_length: Tokens the second encoder makes of it, padded or cut off.
    """
    import torch

    with torch.no_grad():  # encode_prompt is not decorated, unlike the pipeline's call
        *tensors, _text_ids = encoder.encode_prompt(
            prompt=text,
            device=encoder._execution_device,  # noqa: SLF001 - where hooks put the encoders
            max_sequence_length=max_sequence_length,
        )
    # Copies: what came may be a view into something larger. FLUX.2 has no pooled ones.
    return {
        name: tensor.to("cpu", copy=True).contiguous()
        for name, tensor in zip(_EMBEDDINGS, tensors, strict=False)
    }


_EMBEDDINGS = ("prompt_embeds", "pooled_prompt_embeds")
"""What `encode_prompt` returns, in its order; FLUX.2 the first only (diffusers 0.42.1)."""


def steered_from(plan: RenderPlan, resident: Resident) -> str | None:
    """Return the text a plan is drawn away from, if any.

    FLUX.2 klein's base models compare with the empty prompt where guidance is above 1; distilled
    ones, and dev, take guidance as a number or not at all.
    """
    if plan.negative_prompt is not None:
        return plan.negative_prompt
    compares = not resident.pipe.config.get("is_distilled", True) and plan.guidance > 1
    return "" if compares else None
