"""The text encoders: CLIP (one vector for a prompt) and T5 (one for each token).

FLUX gives text tokens no position, so the encoders themselves must bind a colour to its shape.
They learn that first, on the facts of captions, and are frozen before any image is generated: all
kinds then share them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

import torch
from torch import nn
from torch.nn import functional
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from training import captions, edits, scenes
from training.captions import Facts
from training.loop import Bar, descend, rate
from training.tokenizers import TEXT_TOKENS

POOLED_CHANNELS = 96
TEXT_CHANNELS = 128
_BATCH = 128
_LEARNING_RATE = 2e-3
_READING_RATE = 5e-3

LABELS: dict[str, tuple[str | None, ...]] = {
    "background": (None, *scenes.COLOURS),
    "shape": (None, *scenes.SHAPES),
    "colour": (None, *scenes.COLOURS),
    "size": (None, *scenes.RADII),
    "place": (None, *scenes.PLACES),
    "second_shape": (None, *scenes.SHAPES),
    "second_colour": (None, *scenes.COLOURS),
    "relation": (None, *scenes.PAIR_CENTRES),
    "edit": (None, *edits.EDITS),
}
"""Field of `Facts` -> what it may say."""


@dataclass(frozen=True)
class Text:
    """Tokenizers and encoders, as every pipeline holds them."""

    tokenizer: CLIPTokenizer
    text_encoder: CLIPTextModel
    tokenizer_2: T5Tokenizer
    text_encoder_2: T5EncoderModel

    def ids(self, prompts: list[str], tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return CLIP's (n, 77) and T5's (n, tokens) ids, padded as FluxPipeline pads them."""
        return (
            self.tokenizer(
                prompts, padding="max_length", max_length=77, truncation=True, return_tensors="pt"
            ).input_ids,
            self.tokenizer_2(
                prompts,
                padding="max_length",
                max_length=tokens,
                truncation=True,
                return_tensors="pt",
            ).input_ids,
        )

    @torch.no_grad()
    def encode(
        self, prompts: list[str], tokens: int = TEXT_TOKENS
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return `prompt_embeds` (n, tokens, 128) and `pooled_prompt_embeds` (n, 96)."""
        return self.embed(prompts, tokens)

    def embed(
        self, prompts: list[str], tokens: int = TEXT_TOKENS
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what `encode` does, with gradients if the encoders are being trained."""
        device = self.text_encoder.device
        clip_ids, t5_ids = self.ids(prompts, tokens)
        # CLIP looks only back and reads its vector at the first end token: what follows is idle.
        longest = int((clip_ids == self.tokenizer.eos_token_id).int().argmax(1).max()) + 1
        pooled = self.text_encoder(clip_ids[:, :longest].to(device)).pooler_output
        return self.text_encoder_2(t5_ids.to(device))[0], pooled


def make_text(tokenizer: CLIPTokenizer, tokenizer_2: T5Tokenizer) -> Text:
    """Make both encoders, untrained."""
    clip = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=POOLED_CHANNELS,
            intermediate_size=2 * POOLED_CHANNELS,
            num_hidden_layers=3,  # two gather, the third reads what was gathered
            num_attention_heads=3,
            projection_dim=POOLED_CHANNELS,
            max_position_embeddings=77,
            bos_token_id=tokenizer.bos_token_id,
            # The pooled vector is looked up at this token; the default id would give every prompt
            # the same one, without a word.
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    t5 = T5EncoderModel(
        T5Config(
            vocab_size=len(tokenizer_2),
            d_model=TEXT_CHANNELS,
            d_kv=32,
            d_ff=2 * TEXT_CHANNELS,
            num_layers=2,
            num_heads=4,
            feed_forward_proj="gated-gelu",
            dropout_rate=0.0,
            tie_word_embeddings=False,
            use_cache=False,
        )
    )
    with torch.no_grad():
        t5.shared.weight.mul_(0.1)  # T5's own deviation of 1 drowns what its layers add
        _look_at_neighbours(t5)
    return Text(tokenizer, clip, tokenizer_2, t5)


def _look_at_neighbours(t5: T5EncoderModel) -> None:
    """Let two heads begin with the token before and the token after.

    A colour is next to its shape; from T5's own start, which sees no order, that is learned
    late (at 700 steps half of the sentences were read wrong). Rows of the relative bias: 1 is one
    token back, half of all rows + 1 is one ahead (T5Attention._relative_position_bucket).
    """
    bias = t5.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight
    bias[1, 0] += 4.0
    bias[bias.shape[0] // 2 + 1, 1] += 4.0


def sentence(random: Random) -> tuple[str, Facts]:
    """Choose a sentence of any kind the pipelines are asked with, and what it says."""
    while True:
        # Held-out triples may be read about, just never seen; but none is named here either.
        scene = scenes.scene(random, pairs=0.4)
        draw = random.random()
        if draw < 0.62:
            return captions.caption(random, scene), captions.facts_of(scene)
        if draw < 0.92:
            edit = edits.edit(random, scene)
            return edit.instruction, edit.facts
        if scene.things:
            thing = scene.things[0]
            facts = Facts(shape=thing.shape, colour=thing.colour)
            return captions.thing_alone(random, thing), facts
        return "", Facts()


class Reader(nn.Module):
    """Asks an encoder for every label: from the pooled vector, or by a query over the tokens.

    Args:
        channels: Of the encoder.
        over_tokens: Whether it gives a vector for each token.
    """

    def __init__(self, channels: int, *, over_tokens: bool) -> None:
        super().__init__()
        self.heads = nn.ModuleDict(
            {name: nn.Linear(channels, len(values)) for name, values in LABELS.items()}
        )
        self.queries = nn.Parameter(torch.randn(len(LABELS), channels) * channels**-0.5)
        self.keys = nn.Linear(channels, channels, bias=False)
        self._over_tokens = over_tokens

    def forward(self, states: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return for each label the logits of its values: (n, values)."""
        if not self._over_tokens:
            return {name: head(states) for name, head in self.heads.items()}
        attention = torch.einsum("qc,ntc->nqt", self.queries, self.keys(states)).softmax(-1)
        read = attention @ states
        return {name: head(read[:, i]) for i, (name, head) in enumerate(self.heads.items())}


def make_readers() -> nn.ModuleDict:
    """Make a reader for each encoder, untrained."""
    return nn.ModuleDict(
        {
            "clip": Reader(POOLED_CHANNELS, over_tokens=False),
            "t5": Reader(TEXT_CHANNELS, over_tokens=True),
        }
    )


def labels_of(facts: Sequence[Facts], device: torch.device) -> dict[str, torch.Tensor]:
    """Return for each label which of its values each sentence says: (n,)."""
    return {
        name: torch.tensor([values.index(getattr(one, name)) for one in facts], device=device)
        for name, values in LABELS.items()
    }


def misread(
    readers: nn.ModuleDict, states: Mapping[str, torch.Tensor], labels: Mapping[str, torch.Tensor]
) -> tuple[torch.Tensor, dict[str, float]]:
    """Return how wrongly sentences are read, and the share read right with each encoder.

    Args:
        readers: As `make_readers` makes them.
        states: Of CLIP (n, 96), of T5 (n, tokens, 128), by the names of the readers.
        labels: As `labels_of` returns them.
    """
    losses, right = [], {}
    for name, reader in readers.items():
        answers = reader(states[name])
        losses += [
            functional.cross_entropy(found, labels[field]) for field, found in answers.items()
        ]
        right[name] = _right(answers, labels)
    return torch.stack(losses).sum(), right


def train_readers(text: Text, steps: int, seed: int) -> nn.ModuleDict:
    """Return readers of what finished encoders make of their sentences, frozen."""
    torch.manual_seed(seed)
    random = Random(seed)
    device = text.text_encoder.device
    readers = make_readers().to(device)
    weights = list(readers.parameters())
    optimizer = torch.optim.AdamW(weights, _READING_RATE, weight_decay=0.0)
    bar = Bar("readers", steps)
    for step in bar.steps():
        prompts, labels = _batch(random, device)
        tokens, pooled = text.encode(prompts)
        loss, right = misread(readers, {"clip": pooled, "t5": tokens}, labels)
        descend(loss, [optimizer], weights, rate(step, steps))
        bar.show({"loss": loss.detach(), **right})
    return readers.eval().requires_grad_(requires_grad=False)


def train_text(text: Text, steps: int, device: torch.device, seed: int) -> dict[str, float]:
    """Train both encoders in place; return the share of labels read right, for each encoder."""
    torch.manual_seed(seed)
    random = Random(seed)
    clip, t5 = text.text_encoder.to(device).train(), text.text_encoder_2.to(device).train()
    readers = make_readers().to(device)
    weights = [parameter for module in (clip, t5, readers) for parameter in module.parameters()]
    optimizer = torch.optim.AdamW(weights, _LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.0)
    bar = Bar("text encoders", steps)
    for step in bar.steps():
        prompts, labels = _batch(random, device)
        tokens = TEXT_TOKENS if random.random() < 0.85 else random.choice((24, 48, 64))
        clip_ids, t5_ids = text.ids(prompts, tokens)
        longest = int((clip_ids == text.tokenizer.eos_token_id).int().argmax(1).max()) + 1
        states = {
            "clip": clip(clip_ids[:, :longest].to(device)).pooler_output,
            "t5": t5(t5_ids.to(device))[0],
        }
        loss, right = misread(readers, states, labels)
        descend(loss, [optimizer], weights, rate(step, steps))
        bar.show({"loss": loss.detach(), **right})
    clip.eval().requires_grad_(requires_grad=False)
    t5.eval().requires_grad_(requires_grad=False)
    return bar.means()


def _batch(random: Random, device: torch.device) -> tuple[list[str], dict[str, torch.Tensor]]:
    pairs = [sentence(random) for _ in range(_BATCH)]
    return [prompt for prompt, _ in pairs], labels_of([facts for _, facts in pairs], device)


def _right(answers: Mapping[str, torch.Tensor], labels: Mapping[str, torch.Tensor]) -> float:
    """Return the share of sentences of which every label was read right."""
    hits = torch.stack([answers[name].argmax(1) == labels[name] for name in LABELS])
    return hits.all(0).float().mean().item()
