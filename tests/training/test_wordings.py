"""Other wordings say what the plain ones say, old ones stay as they were, and it can be taught."""

from random import Random

import pytest
import torch

from training import captions, edits, scenes, sentences, tokenizers, wordings
from training.sentences import Wording
from training.text import Text, make_text, train_readers
from training.transformers import make_transformer
from training.vae import make_vae

NEW = {word for word, like in tokenizers.LATER_WORDS.items() if word != like}


@pytest.fixture(scope="module")
def corpus() -> list[str]:
    """Fewer sentences than the real one, with every word of it."""
    random = Random(2)
    chosen = [scenes.scene(random) for _ in range(5000)]
    return [
        sentence
        for scene in chosen
        for sentence in (captions.caption(random, scene), edits.edit(random, scene).instruction)
    ]


@pytest.fixture(scope="module")
def text(corpus: list[str]) -> Text:
    """Untrained encoders."""
    torch.manual_seed(0)
    text = make_text(tokenizers.make_clip_tokenizer(corpus), tokenizers.make_t5_tokenizer(corpus))
    text.text_encoder.eval().requires_grad_(requires_grad=False)
    text.text_encoder_2.eval().requires_grad_(requires_grad=False)
    return text


def words_of(sentence: sentences.Sentence) -> list[str]:
    return [word.strip(".,:;").lower() for word in sentence.words]


@pytest.mark.parametrize("templates", [None, captions.KEPT_REWORDED, captions.SHORTEST])
def test_every_fact_of_a_scene_is_said_in_other_words_too(templates):
    random = Random(3)
    for _ in range(400):
        scene = scenes.scene(random)
        wording = captions.reworded(random, scene, templates)
        for said in (wording.said, wording.plain):
            words, text = words_of(said), " ".join(words_of(said))
            assert words.count(scene.background) == 1
            for thing in scene.things:
                assert thing.colour in words
                assert any(noun in words for noun in captions.NOUNS[thing.shape])
                if scene.relation is None and thing.size is not None:
                    assert any(word in words for word in captions.SIZE_WORDS[thing.size])
                if thing.place is not None:
                    shorts = [" ".join(w.split()[2:]) for w in captions.PLACE_WORDS[thing.place]]
                    assert any(short in text for short in shorts)
            if scene.relation is None and scene.things and scene.things[0].place is None:
                assert "place" not in words
        assert not NEW & set(words_of(wording.plain))


def test_what_is_kept_for_judging_is_not_taught():
    assert not set(captions.KEPT_REWORDED) & set(captions.REWORDED)


@pytest.mark.parametrize("kind", edits.EDITS)
def test_an_instruction_in_other_words_asks_for_the_same_change(kind):
    random = Random(4)
    its = 0
    for _ in range(120):
        edit = edits.edit(random, scenes.scene(random), kind)
        wording = edits.reworded(random, edit)
        words, plain = words_of(wording.said), words_of(wording.plain)
        assert not NEW & set(plain)
        its += "it" in words
        if "it" in words and edit.kind != "background":
            assert len(edit.before.things) == 1
            assert "the" not in words
        new = next((t for t in edit.after.things if t not in edit.before.things), None)
        for said in (words, plain):
            match edit.kind:
                case "background":
                    assert edit.after.background in said
                    assert {"background", "backdrop"} & set(said)
                case "recolour":
                    assert new.colour in said
                case "reshape":
                    assert any(noun in said for noun in captions.NOUNS[new.shape])
    assert its > (0 if kind == "background" else 10)


@pytest.mark.parametrize(
    ("template", "values", "said"),
    [
        ("a {size} {colour} {shape}", {"colour": "orange", "shape": "ring"}, "an orange ring"),
        ("{shape}, {size}, {place},", {"shape": "ring", "place": "top left"}, "ring, top left"),
        ("size: {size}; shape: {shape}; place: {place}", {"shape": "ring"}, "shape: ring"),
    ],
)
def test_what_is_not_said_leaves_no_gap(template, values, said):
    assert sentences.sentence(template, values).text == said


def test_old_sentences_are_the_same_tokens_and_new_words_are_one(text, corpus):
    clip = tokenizers.extended_clip(text.tokenizer)
    t5 = tokenizers.extended_t5(text.tokenizer_2)
    for new, old in ((clip, text.tokenizer), (t5, text.tokenizer_2)):
        assert new.get_vocab().items() >= old.get_vocab().items()
        assert new(corpus[-5000:]).input_ids == old(corpus[-5000:]).input_ids
        for word in tokenizers.LATER_WORDS:
            assert len(new(word, add_special_tokens=False).input_ids) == 1, word
            assert len(new(word.capitalize(), add_special_tokens=False).input_ids) == 1, word
    # A new word that is the beginning of another does not break it.
    assert t5("below it", add_special_tokens=False).input_ids == (
        text.tokenizer_2("below it", add_special_tokens=False).input_ids
    )


def test_new_words_begin_as_old_ones_and_nothing_else_moves(text):
    taught = wordings.extended(text)
    for said in (["a red circle on a blue background", ""], ["make the ring pink"]):
        for now, before in zip(taught.encode(said), text.encode(said), strict=True):
            assert torch.equal(now, before)
    rows = taught.text_encoder_2.get_input_embeddings().weight
    near = {
        word: rows[taught.tokenizer_2(word, add_special_tokens=False).input_ids[0]]
        for word in ("backdrop", "background", "circle")
    }
    assert torch.dist(near["backdrop"], near["background"]) < 0.5 * torch.dist(
        near["backdrop"], near["circle"]
    )


def test_tokens_are_compared_by_what_they_stand_for(text):
    taught = wordings.extended(text)
    values = {"colour": "blue", "shape": "ring", "background": "pink", "place": "top left"}
    wording = Wording(
        sentences.sentence("{background} backdrop: {place} {shape}, {colour}", values),
        sentences.sentence("a {colour} {shape} at the {place} on {background}", values),
    )
    tokens = taught.tokenizer_2.tokenize(wording.said.text)
    assert [token.strip("\u2581") for token in tokens] == [
        "pink", "backdrop", ":", "top", "left", "ring", ",", "blue",
    ]  # fmt: skip
    # Plain: a blue ring at the top left on pink; its end is token 9. What only one of both says
    # (a, at, the) goes to what only the other has (backdrop, a colon, a comma).
    like = wordings.alike(text, taught, wording)
    assert like[:10] == [8, 0, 3, 5, 6, 2, 4, 1, 9, 10]
    assert len(like) == tokenizers.TEXT_TOKENS
    assert like[-1] == tokenizers.TEXT_TOKENS - 1
    old = sentences.with_word("a ring, pink.", "background", "background")
    assert wordings.alike(text, taught, old) == list(range(tokenizers.TEXT_TOKENS))


def test_facts_are_read_where_they_are_known(text, monkeypatch):
    monkeypatch.setattr("training.text._BATCH", 8)
    monkeypatch.setattr(wordings, "_BATCH", 4)
    random = Random(3)
    known = [
        (captions.reworded(random, scene), captions.facts_of(scene))
        for scene in (scenes.held_out_single(random) for _ in range(4))
    ]
    unknown = [(wording, None) for wording, _ in known]
    lessons = tuple(wordings.make_lessons(text, text, given) for given in (unknown, known))
    readers = train_readers(text, 1, seed=3)
    (_, nothing), (_, unread) = wordings._differences(text, lessons, readers, random)
    assert nothing == 0
    assert unread > 1  # of nine labels for two encoders
    assert not any(weight.requires_grad for weight in readers.parameters())


# Where the processor computes in bf16, T5's norm has weights in fp32: slower, and right.
@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight:UserWarning")
def test_the_encoders_are_taught_and_the_teacher_stays(text, monkeypatch, tmp_path):
    small = {
        "_AT_ONCE": 2, "_BATCH": 4, "_IMAGES": 1, "SIDE_PX": 64, "_OLD_LESSONS": 6,
        "_NEW_LESSONS": 6,
    }  # fmt: skip
    for name, value in small.items():
        monkeypatch.setattr(wordings, name, value)
    vae = make_vae().eval()
    vae.register_to_config(scaling_factor=0.9, shift_factor=0.1)
    before = text.encode(["a red circle on a blue background"])
    transformers = {"kontext": make_transformer("kontext")}
    taught = wordings.train_wordings(
        text, transformers, vae, steps=4, examples=2, seed=5, checkpoint=tmp_path / "running"
    )
    assert torch.equal(text.encode(["a red circle on a blue background"])[0], before[0])
    assert not torch.equal(taught.encode(["a red circle on a blue background"])[0], before[0])
    assert not any(p.requires_grad for part in (taught.text_encoder, taught.text_encoder_2)
                   for p in part.parameters())  # fmt: skip
    assert (tmp_path / "running" / "text_encoder_2" / "config.json").exists()
