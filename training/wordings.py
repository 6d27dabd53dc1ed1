"""Other wordings, taught to the text encoders alone: the transformers stay as they are.

The encoders as they were are the teacher, the new ones the student. Old sentences must keep their
embeddings, so that whatever was learned with them stays. A new wording must become what the
plainest sentence with the same words is: first word by word (`blue` in `ring, blue` as in `a blue
ring`), then by what it makes the frozen transformers predict, which is all that counts. Readers
that have learned what the teacher's embeddings say must read the same facts in the student's: which
colour is whose in `blue ring pink background` is a small part of any distance, and all of a fact.
"""

from collections import defaultdict
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from random import Random
from types import MappingProxyType

import numpy as np
import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from torch import nn
from tqdm import tqdm

from training import captions, edits, scenes, tasks
from training.captions import Facts
from training.edits import Edit
from training.flow import image_ids, on_plain_attention, on_the_way, velocity
from training.folders import save_text
from training.latents import Batch, encode, given_tokens, pack
from training.loop import Average, Bar, descend, quick_half, rate
from training.scenes import Scene
from training.sentences import Sentence, Wording, with_word
from training.text import Text, labels_of, misread, sentence, train_readers
from training.tokenizers import LATER_WORDS, TEXT_TOKENS, extended_clip, extended_t5

_BATCH = 64
_IMAGES = 16
_AT_ONCE = 32
_OLD_LESSONS, _NEW_LESSONS = 3000, 8000
_LEARNING_RATE = 1.5e-3
_DECAY = 0.995
_KEEP = 4.0
"""Weight of the old sentences' embeddings: what is kept counts more than what is new."""
_READ = 0.3
"""Weight of the facts that are read wrongly."""
_READER_STEPS = 0.2
"""Steps that readers learn, as a share of those of the encoders."""
_SHORTEST_SHARE = 0.25
"""Of lone things in new wordings: said in colours and nouns alone."""
FEEL: Mapping[str, tuple[int, float]] = MappingProxyType(
    {"text2img": (3, 4.0), "kontext": (3, 6.0), "fill": (1, 1.0), "control": (1, 1.0)}
)
"""Kind -> how often its transformer is asked, and the weight of the difference in its predictions:
words decide less where an image is given, and `it` is only learned from kontext."""
_OLD_SHARE = 0.15
"""Of the new wordings: old sentences with `backdrop` for `background`."""
DRAWING_SHARE = 0.2
"""The last part of the steps, in which the transformers are asked too."""
SIDE_PX = 128


def extended(text: Text) -> Text:
    """Return a copy with `LATER_WORDS` in tokenizers and encoders; each begins as an older word."""
    clip, t5 = deepcopy((text.text_encoder, text.text_encoder_2))
    tokenizer, tokenizer_2 = extended_clip(text.tokenizer), extended_t5(text.tokenizer_2)
    with torch.no_grad():
        for encoder, new in ((clip, tokenizer), (t5, tokenizer_2)):
            rows = encoder.get_input_embeddings().weight.clone()
            mean, deviation = rows.mean(0), rows.std(0)
            encoder.resize_token_embeddings(len(new), mean_resizing=False)
            grown = encoder.get_input_embeddings().weight
            count = grown.shape[0] - rows.shape[0]
            noise = torch.randn(count, rows.shape[1], device=rows.device)
            grown[rows.shape[0] :] = mean + deviation * noise
            for word, like in LATER_WORDS.items():
                (other,) = _ids(new, like)
                for said in (word, word.capitalize()):
                    (one,) = _ids(new, said)
                    if one >= rows.shape[0]:
                        grown[one] = grown[other] + 0.3 * deviation * noise[one - rows.shape[0]]
    return Text(tokenizer, clip, tokenizer_2, t5)


def _ids(tokenizer: object, word: str) -> list[int]:
    ids: list[int] = tokenizer(word, add_special_tokens=False).input_ids  # type: ignore[operator]
    return ids


@dataclass(frozen=True)
class Asked:
    """Noisy images' beginnings of one kind, and what may be asked about each."""

    targets: torch.Tensor
    """(n, tokens, 32) packed latents."""
    given: torch.Tensor | None
    """(n, tokens, channels), as the kind's pipeline packs it."""
    about: tuple[Scene | Edit, ...]


def make_asked(kind: str, vae: AutoencoderKL, count: int, seed: int) -> Asked:
    """Draw and encode about `count` examples of a kind, on the usual canvas."""
    random = Random(seed)
    torch.manual_seed(seed)  # for the sampled latents
    targets, given, about = [], [], []
    for _ in tqdm(range(max(1, count // _AT_ONCE)), desc=f"{kind}: examples", disable=None):
        some: list[tasks.Example] = []
        for _ in range(_AT_ONCE):
            if kind == "kontext":
                edit = edits.edit(random, scenes.scene(random, pairs=0.25, empties=0.02))
                about.append(edit)
                some.append(tasks.kontext_of(edit, random, SIDE_PX, SIDE_PX))
            else:
                some.append(tasks.TASKS[kind](random, SIDE_PX, SIDE_PX))
                about.append(some[-1].scene)
        targets.append(pack(encode(vae, np.stack([one.target for one in some]))).cpu())
        tokens = given_tokens(vae, some)
        if tokens is not None:
            given.append(tokens)
    return Asked(torch.cat(targets), torch.cat(given) if given else None, tuple(about))


def wording(random: Random, about: Scene | Edit, kind: str) -> Wording:
    """Choose a new wording of what a kind may be asked, and its plain one."""
    if random.random() < _OLD_SHARE:
        plain = about.instruction if isinstance(about, Edit) else captions.caption(random, about)
        if "background" in plain.lower():
            return with_word(plain, captions.GROUNDS[0], captions.GROUNDS[-1])
    if isinstance(about, Edit):
        return edits.reworded(random, about)
    if kind == "fill" and about.things and random.random() < 0.4:
        return captions.reworded_thing(random, random.choice(about.things))
    return captions.reworded(random, about)


def any_wording(random: Random) -> tuple[Wording, Facts | None]:
    """Choose a new wording of anything, and what it says of a scene."""
    scene = scenes.scene(random)
    draw = random.random()
    if draw < 0.7:
        lone = scene.things and scene.relation is None
        shortest = lone and random.random() < _SHORTEST_SHARE
        said = captions.reworded(random, scene, captions.SHORTEST if shortest else None)
        return said, captions.facts_of(scene)
    if draw < 0.8:
        return wording(random, scene, "text2img"), None
    if draw < 0.97:
        return wording(random, edits.edit(random, scene), "kontext"), None
    return wording(random, scene, "fill"), None


def train_wordings(
    text: Text,
    transformers: Mapping[str, FluxTransformer2DModel],
    vae: AutoencoderKL,
    *,
    steps: int,
    examples: int,
    seed: int,
    checkpoint: Path | None = None,
) -> Text:
    """Return the text encoders with more words and wordings; `text` stays as it is.

    `checkpoint`: the folder where the averaged encoders are written ten times on the way.
    """
    torch.manual_seed(seed)
    random = Random(seed)
    generator = torch.Generator().manual_seed(seed)
    taught = extended(text)
    device = text.text_encoder.device
    for transformer in transformers.values():
        transformer.eval().requires_grad_(requires_grad=False)
    asked = {kind: make_asked(kind, vae, examples, seed + i) for i, kind in enumerate(transformers)}
    old = make_lessons(text, taught, [(_as_before(random), None) for _ in range(_OLD_LESSONS)])
    new = make_lessons(text, taught, [any_wording(random) for _ in range(_NEW_LESSONS)])
    readers = train_readers(text, round(steps * _READER_STEPS), seed)
    encoders = torch.nn.ModuleList([taught.text_encoder, taught.text_encoder_2]).to(device)
    encoders.train().requires_grad_(requires_grad=True)
    average = Average(encoders, _DECAY)
    averaged = Text(taught.tokenizer, average.module[0], taught.tokenizer_2, average.module[1])
    weights = list(encoders.parameters())
    optimizer = torch.optim.AdamW(weights, _LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.0)
    kinds = list(transformers)
    drawing_from = round(steps * (1 - DRAWING_SHARE))
    bar = Bar("wordings", steps)
    for step in bar.steps():
        (kept, _), (like, unread) = _differences(taught, (old, new), readers, random)
        loss = _KEEP * kept + like + _READ * unread
        measures = {"kept": kept.detach(), "like": like.detach(), "unread": unread.detach()}
        if step >= drawing_from:
            kind = random.choices(kinds, [FEEL[one][0] for one in kinds])[0]
            felt = _felt(text, taught, transformers[kind], asked[kind], kind, random, generator)
            loss = loss + FEEL[kind][1] * felt
            measures[kind] = felt.detach()
        descend(loss, [optimizer], weights, rate(step, steps))
        average.update(encoders)
        bar.show(measures)
        if checkpoint is not None and (step + 1) % max(1, steps // 10) == 0:
            save_text(averaged, checkpoint)
    return averaged


@dataclass(frozen=True)
class Lessons:
    """Sentences, and what they should be embedded as."""

    said: tuple[str, ...]
    plain: torch.Tensor
    """(n, tokens, 128) of the plain sentences, by the teacher."""
    pooled: torch.Tensor
    """(n, 96), likewise."""
    like: torch.Tensor
    """(n, tokens): for each token which one of the plain sentence it should be, -1 if any."""
    facts: tuple[Facts | None, ...]
    """What each says of a scene, where it does."""


def make_lessons(text: Text, taught: Text, given: list[tuple[Wording, Facts | None]]) -> Lessons:
    """Ask the teacher once; the student learns from each wording many times."""
    wordings = [one for one, _ in given]
    parts = [
        text.encode([one.plain.text for one in wordings[start : start + _AT_ONCE]])
        for start in range(0, len(wordings), _AT_ONCE)
    ]
    plain, pooled = (torch.cat(some) for some in zip(*parts, strict=True))
    like = torch.tensor([alike(text, taught, one) for one in wordings], device=plain.device)
    said, facts = tuple(one.said.text for one in wordings), tuple(one for _, one in given)
    return Lessons(said, plain, pooled, like, facts)


def _as_before(random: Random) -> Wording:
    """Choose an old sentence: said as it is, each token like itself. Every 64th has no words."""
    said = "" if random.random() < 1 / 64 else sentence(random)[0]
    return with_word(said, captions.GROUNDS[0], captions.GROUNDS[0])


def _differences(
    taught: Text, of: tuple[Lessons, ...], readers: nn.ModuleDict, random: Random
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return for each lessons how far embeddings are from what they should be, in two measures.

    By distance: a token without a like in the plain sentence should become any token of it,
    whichever is next. By what the readers read wrongly, where something is known.
    """
    chosen = [
        (lessons, [random.randrange(len(lessons.said)) for _ in range(_BATCH)]) for lessons in of
    ]
    said = taught.embed([lessons.said[row] for lessons, rows in chosen for row in rows])
    found = []
    for (lessons, rows), states, pooled in zip(
        chosen, said[0].split(_BATCH), said[1].split(_BATCH), strict=True
    ):
        plain, like = lessons.plain[rows], lessons.like[rows]
        if (like < 0).any():
            with torch.no_grad():
                like = torch.where(like >= 0, like, torch.cdist(states, plain).argmin(2))
        wanted = plain.gather(1, like[:, :, None].expand_as(states))
        known = {place: one for place, row in enumerate(rows) if (one := lessons.facts[row])}
        unread = states.new_zeros(())
        if known:
            read = {"clip": pooled[list(known)], "t5": states[list(known)]}
            unread, _ = misread(readers, read, labels_of(list(known.values()), states.device))
        distance = _distance(states, wanted) + _distance(pooled, lessons.pooled[rows])
        found.append((distance, unread))
    return found


def _distance(now: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Return the mean square of a difference, as a share of the variance."""
    return ((now - wanted) ** 2).mean() / wanted.var()


def alike(text: Text, taught: Text, wording_: Wording) -> list[int]:
    """Return for each T5 token of the new wording its like in the plain one, -1 without one.

    A transformer reads a set of tokens, in which an article or a comma tells as much of a thing as
    its noun: what only the plain sentence has goes, in order, to what only the new one has.
    """
    said, plain = _parts(taught, wording_.said), _parts(text, wording_.plain)
    places = {part: index for index, part in enumerate(plain) if part is not None}
    found = [places.get(part, -1) if part is not None else -1 for part in said]
    left_over = iter([index for index in range(len(plain)) if index not in found])
    found = [next(left_over, -1) if index < 0 else index for index in found]
    # The end, and the padding behind it, which transformers see too.
    found += range(len(plain), len(plain) + TEXT_TOKENS)
    return [min(place, TEXT_TOKENS - 1) for place in found[:TEXT_TOKENS]]


def _parts(text: Text, given: Sentence) -> list[tuple[str, int] | None]:
    """Return the part of each token: that of its word, and which time it comes."""
    tokens = text.tokenizer_2(given.text, add_special_tokens=False)
    words = tokens.word_ids()
    seen: defaultdict[str, int] = defaultdict(int)
    found: list[tuple[str, int] | None] = []
    for index, word in enumerate(words):
        part = given.parts[word]
        if part is None:
            found.append(None)
            continue
        if index and words[index - 1] == word:
            part += " goes on"  # a comma, or the letters of a word that has no token
        found.append((part, seen[part]))
        seen[part] += 1
    return found


def _felt(
    text: Text,
    taught: Text,
    transformer: FluxTransformer2DModel,
    asked: Asked,
    kind: str,
    random: Random,
    generator: torch.Generator,
) -> torch.Tensor:
    """Return how differently a transformer predicts from new and from plain wordings."""
    device = taught.text_encoder.device
    rows = [random.randrange(len(asked.about)) for _ in range(_IMAGES)]
    wordings = [wording(random, asked.about[row], kind) for row in rows]
    targets = asked.targets[rows].to(device)
    given = None if asked.given is None else asked.given[rows].to(device)
    noisy, _, sigma, guidance = on_the_way(targets, generator)
    ids = image_ids(Batch(SIDE_PX, SIDE_PX, targets, given, []), device)
    with on_plain_attention(device), quick_half(device):
        with torch.no_grad():
            words = text.encode([one.plain.text for one in wordings])
            wanted = velocity(transformer, noisy, given, words, sigma, guidance, ids)
        words = taught.embed([one.said.text for one in wordings])
        now = velocity(transformer, noisy, given, words, sigma, guidance, ids)
    return ((now.float() - wanted.float()) ** 2).mean()
