"""Token counts: as the text encoders count, without torch and transformers."""

import json
import shutil
from pathlib import Path

import pytest
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

from flux_mcp.compose.tokens import (
    CLIP_TOKENS,
    TokenCount,
    count_prompt,
    count_tokens,
    cut_warning,
)
from flux_mcp.models.registry import load_registry
from flux_mcp.settings.installation import PACKAGE_DIR

UNKNOWN = "<unk>"
END = "<|endoftext|>"
WORDS = ("a", "red", "cat", "sits", "on", "the", "mat")
MICRO = PACKAGE_DIR / "weights" / "micro" / "text2img"


def whole_words(folder: Path, cuts_at: int | None = None) -> Path:
    """Write a tokenizer.json that knows whole words, with a mark behind."""
    folder.mkdir(parents=True)
    vocabulary = {word: number for number, word in enumerate((*WORDS, "</s>", "<unk>"))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", vocabulary["</s>"])]
    )
    if cuts_at is not None:
        tokenizer.enable_truncation(cuts_at)
        tokenizer.enable_padding(length=cuts_at)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def bytes_of_clip() -> dict[str, int]:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = ["<|startoftext|>", "<|endoftext|>", *alphabet, *(f"{one}</w>" for one in alphabet)]
    return {token: number for number, token in enumerate(tokens)}


def clip_files(folder: Path) -> Path:
    """Write vocab.json and merges.txt as the repositories of FLUX.1 have them."""
    folder.mkdir(parents=True)
    vocabulary = bytes_of_clip()
    merges = [("c", "a"), ("ca", "t</w>"), ("r", "e"), ("re", "d</w>")]
    for left, right in merges:
        vocabulary[left + right] = len(vocabulary)
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    lines = ["#version: 0.2", *(f"{left} {right}" for left, right in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n")
    return folder


def test_marks_are_counted_and_the_limit_is_kept(tmp_path: Path) -> None:
    folder = whole_words(tmp_path / "tokenizer_2")
    count = count_tokens("a red cat sits", folder, 5)
    assert count == TokenCount("tokenizer_2", 5, 5, is_exact=True, cut="")
    assert count.warning == ""


def test_what_is_cut_is_quoted(tmp_path: Path) -> None:
    folder = whole_words(tmp_path / "tokenizer_2")
    count = count_tokens("a red cat sits on the mat", folder, 5)
    assert count.tokens == 8
    assert count.cut == "on the mat"
    assert count.warning == (
        "The model reads 5 tokens of a prompt and this one has 8: from 'on the mat' on it is cut."
    )
    long = count_tokens("a red cat " * 4, folder, 2)
    assert "from 'red cat a red cat a ...' on it is cut" in long.warning


def test_a_tokenizer_that_cuts_and_pads_by_itself_is_kept_from_it(tmp_path: Path) -> None:
    folder = whole_words(tmp_path / "tokenizer_2", cuts_at=4)
    assert count_tokens("a red cat sits on the mat", folder, 4).tokens == 8
    assert count_tokens("a", folder, 4).tokens == 2


def test_clip_is_read_from_vocabulary_and_merges(tmp_path: Path) -> None:
    folder = clip_files(tmp_path / "tokenizer")
    assert count_tokens("Red  CAT", folder, 77).tokens == 2 + 2
    assert count_tokens("red cat's 12", folder, 77).tokens == 2 + 2 + 2 + 2
    assert count_tokens("red cat dog", folder, 5).cut == "og"


def test_clip_counts_the_same_from_either_kind_of_files(tmp_path: Path) -> None:
    folder = clip_files(tmp_path / "tokenizer")
    whole = tmp_path / "whole"
    whole.mkdir()
    merges = [tuple(line.split()) for line in (folder / "merges.txt").read_text().splitlines()[1:]]
    tokenizer = Tokenizer(
        models.BPE(
            vocab=json.loads((folder / "vocab.json").read_text()),
            merges=merges,
            end_of_word_suffix="</w>",
            unk_token=END,
        )
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(
                Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"),
                behavior="removed",
                invert=True,
            ),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.post_processor = processors.RobertaProcessing(("<|endoftext|>", 1), ("<s>", 0))
    tokenizer.save(str(whole / "tokenizer.json"))
    for text in ("a red cat", "Déjà vu: 3 cats' toys!", "\n"):
        assert count_tokens(text, folder, 77).tokens == count_tokens(text, whole, 77).tokens


def qwen_files(folder: Path) -> Path:
    """Write a vocabulary as ComfyUI has it, with the settings that `models adopt` gives it."""
    folder.mkdir(parents=True)
    vocabulary = {one: n for n, one in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    merges = [("c", "a"), ("ca", "t"), ("r", "e"), ("re", "d"), ("\u0120", "red")]
    for left, right in merges:
        vocabulary[left + right] = len(vocabulary)
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("\n".join(f"{left} {right}" for left, right in merges))
    settings = {"tokenizer_class": "Qwen2Tokenizer", "unk_token": None}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def test_qwen_is_read_from_vocabulary_and_merges(tmp_path: Path) -> None:
    folder = qwen_files(tmp_path / "tokenizer")
    assert count_tokens("a red cat", folder, 512).tokens == 4  # "a", " red", " ", "cat"
    assert count_tokens("cat red", folder, 512).tokens == 2
    assert count_tokens("redcat's", folder, 512).tokens == 4


def test_a_vocabulary_that_lacks_what_a_text_has_gives_an_estimate(tmp_path: Path) -> None:
    folder = qwen_files(tmp_path / "tokenizer")
    (folder / "tokenizer_config.json").unlink()  # CLIP's words end in what Qwen's have not
    count = count_tokens("word " * 100, folder, 512)
    assert (count.tokens, count.is_exact) == (125, False)


@pytest.fixture(scope="session")
def spiece(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from sentencepiece import SentencePieceTrainer

    folder = tmp_path_factory.mktemp("t5") / "tokenizer_2"
    folder.mkdir()
    SentencePieceTrainer.train(
        sentence_iterator=iter(["a red cat sits on the mat", "the mat is red"] * 20),
        model_prefix=str(folder / "spiece"),
        vocab_size=40,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return folder


def test_t5_is_read_from_a_sentencepiece_model(spiece: Path) -> None:
    from sentencepiece import SentencePieceProcessor

    text = "a red cat sits on the mat"
    pieces = SentencePieceProcessor(model_file=str(spiece / "spiece.model")).encode(text)
    count = count_tokens(text, spiece, len(pieces) + 1)
    assert (count.tokens, count.is_exact, count.cut) == (len(pieces) + 1, True, "")
    assert text.endswith(count_tokens(text, spiece, 6).cut)
    assert count_tokens(text, spiece, 6).cut


@pytest.mark.parametrize("broken", [None, "{", '{"model": {"type": "BPE"}}'])
def test_without_a_tokenizer_that_can_be_read_the_count_is_an_estimate(
    tmp_path: Path, broken: str | None
) -> None:
    folder = tmp_path / "tokenizer_2"
    folder.mkdir()
    if broken is not None:
        (folder / "tokenizer.json").write_text(broken)
    count = count_tokens("word " * 100, folder, 512)
    assert count == TokenCount("tokenizer_2", 125, 512, is_exact=False, cut="")
    assert "this one has about 125: from" in count_tokens("word " * 100, folder, 100).warning


def test_a_tokenizer_that_changed_on_disk_is_read_again(tmp_path: Path) -> None:
    folder = whole_words(tmp_path / "tokenizer_2")
    assert count_tokens("a red cat", folder, 9).tokens == 4
    shutil.rmtree(folder)
    clip_files(folder)
    assert count_tokens("a red cat", folder, 9).tokens == 5


def test_only_what_the_last_encoder_does_not_read_is_cut(tmp_path: Path) -> None:
    whole_words(tmp_path / "tokenizer")
    whole_words(tmp_path / "tokenizer_2")
    counts = count_prompt("a red cat " * 30, tmp_path, 512)
    assert [(count.encoder, count.limit) for count in counts] == [
        ("tokenizer", CLIP_TOKENS),
        ("tokenizer_2", 512),
    ]
    assert counts[0].warning
    assert cut_warning(counts) == ""
    assert "reads 80 tokens" in cut_warning(count_prompt("a red cat " * 30, tmp_path, 80))
    assert "reads 32 tokens" in cut_warning(count_prompt("a red cat " * 11, tmp_path, 32))
    assert cut_warning(()) == ""


def test_a_model_with_one_encoder_reads_its_whole_length(tmp_path: Path) -> None:
    whole_words(tmp_path / "tokenizer")
    assert [count.limit for count in count_prompt("a red cat", tmp_path, 512)] == [512]


@pytest.mark.skipif(not MICRO.is_dir(), reason="the weights of micro are not in this checkout")
def test_the_tokenizers_of_micro_are_counted_exactly() -> None:
    limit = load_registry().find("text2img", "micro").max_sequence_length
    text = "a large red circle on a blue background in the top left corner"
    clip, t5 = count_prompt(text, MICRO, limit)
    assert (clip.is_exact, t5.is_exact) == (True, True)
    assert t5.tokens == len(text.split()) + 1
    assert cut_warning((clip, t5)) == ""
    assert "is cut" in cut_warning(count_prompt(text * 3, MICRO, limit))
