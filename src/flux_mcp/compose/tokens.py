"""How many tokens a prompt has for a model's text encoders, and which part of it they never read.

Reads the tokenizers in a model's folder with `tokenizers` or `sentencepiece`, without torch and
transformers. Both libraries are imported when tokens are first counted.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

CLIP_TOKENS = 77
"""The limit of CLIP's text encoder: `max_position_embeddings` of its configuration."""

_CHARACTERS_PER_TOKEN = 4
"""Of English, roughly; only for folders without a tokenizer that can be read."""
_QUOTED_WORDS = 6
_CLIP_WORDS = (
    # From CLIPTokenizer of transformers 5, for folders without a tokenizer.json.
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)
_QWEN_WORDS = (
    # PRETOKENIZE_REGEX of Qwen2Tokenizer of transformers 5, likewise.
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class TokenCount:
    """A prompt in the tokens of one text encoder."""

    encoder: str
    """The folder of its tokenizer: `tokenizer`, `tokenizer_2`."""
    tokens: int
    """Including those that mark beginning and end."""
    limit: int
    """How many of them the encoder reads."""
    is_exact: bool
    """False where no tokenizer could be read, and the number is an estimate."""
    cut: str
    """The part of the prompt that the encoder never reads; empty if it reads all."""

    @property
    def warning(self) -> str:
        """One sentence if the prompt is cut, else empty."""
        if self.tokens <= self.limit:
            return ""
        about = "" if self.is_exact else "about "
        words = self.cut.split()
        more = " ..." if len(words) > _QUOTED_WORDS else ""
        return (
            f"The model reads {self.limit} tokens of a prompt and this one has {about}"
            f"{self.tokens}: from '{' '.join(words[:_QUOTED_WORDS])}{more}' on it is cut."
        )


def count_prompt(text: str, parts: Path, max_sequence_length: int) -> tuple[TokenCount, ...]:
    """Count the tokens of a prompt for every text encoder of a model.

    Args:
        text: The prompt.
        parts: The model's folder, with `tokenizer/` and perhaps `tokenizer_2/`.
        max_sequence_length: The limit of the last encoder; a CLIP beside it reads 77.
    """
    folders = [parts / name for name in ("tokenizer", "tokenizer_2") if (parts / name).is_dir()]
    *others, last = folders or [parts / "tokenizer"]
    return (
        *(count_tokens(text, folder, CLIP_TOKENS) for folder in others),
        count_tokens(text, last, max_sequence_length),
    )


def cut_warning(counts: tuple[TokenCount, ...]) -> str:
    """Return one sentence if the prompt is cut, else an empty text.

    Only the last encoder counts: a CLIP beside it has little influence on the image.
    """
    return counts[-1].warning if counts else ""


def count_tokens(text: str, tokenizer_dir: Path, limit: int) -> TokenCount:
    """Count the tokens of a text for one tokenizer.

    Args:
        text: The text.
        tokenizer_dir: A folder with `tokenizer.json`, `vocab.json` and `merges.txt` (CLIP, or Qwen
            if `tokenizer_config.json` says so), or `spiece.model` (T5); with none of them, or
            broken ones, the count is an estimate.
        limit: How many tokens the encoder reads, including those that mark beginning and end.
    """
    encoded = _encoded(text, tokenizer_dir)
    if encoded is None:
        tokens = -(-len(text) // _CHARACTERS_PER_TOKEN)
        cut = text[limit * _CHARACTERS_PER_TOKEN :]
        return TokenCount(tokenizer_dir.name, tokens, limit, is_exact=False, cut=cut)
    kept = max(limit - encoded.marks, 0)
    cut = encoded.text_from(kept).strip() if encoded.tokens > kept else ""
    tokens = encoded.tokens + encoded.marks
    return TokenCount(tokenizer_dir.name, tokens, limit, is_exact=True, cut=cut)


@dataclass(frozen=True)
class _Encoded:
    tokens: int
    marks: int
    """Tokens that mark beginning and end, not counted in `tokens`."""
    text_from: Callable[[int], str]
    """The text from a token on."""


Encode = Callable[[str], _Encoded]


def _encoded(text: str, folder: Path) -> _Encoded | None:
    try:
        encode = _encoder(folder)
        return None if encode is None else encode(text)
    except Exception:  # noqa: BLE001  # the libraries raise bare Exception for a broken file
        return None


def _encoder(folder: Path) -> Encode | None:
    for name, load in (
        ("tokenizer.json", _load_json),
        ("vocab.json", _load_vocabulary),
        ("spiece.model", _load_sentencepiece),
    ):
        try:
            about = (folder / name).stat()
            return load(folder, about.st_mtime_ns)
        except OSError:
            continue
    return None


@lru_cache(maxsize=8)
def _load_json(folder: Path, _changed_ns: int) -> Encode:
    from tokenizers import Tokenizer

    return _counting(Tokenizer.from_file(str(folder / "tokenizer.json")))


@lru_cache(maxsize=8)
def _load_vocabulary(folder: Path, _changed_ns: int) -> Encode:
    try:
        settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        settings = {}
    is_qwen = str(settings.get("tokenizer_class", "")).startswith("Qwen")
    return _load_qwen(folder) if is_qwen else _load_clip(folder)


def _load_qwen(folder: Path) -> Encode:
    """Do as Qwen2Tokenizer of transformers 5 does."""
    from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
    from tokenizers.models import BPE

    tokenizer = Tokenizer(BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt")))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_QWEN_WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return _counting(tokenizer, marks=0)


def _load_clip(folder: Path) -> Encode:
    from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
    from tokenizers.models import BPE

    tokenizer = Tokenizer(
        BPE.from_file(
            str(folder / "vocab.json"),
            str(folder / "merges.txt"),
            unk_token="<|endoftext|>",  # noqa: S106  # a token of CLIP's, no password
            continuing_subword_prefix="",
            end_of_word_suffix="</w>",
        )
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_CLIP_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    return _counting(tokenizer, marks=2)


def _counting(tokenizer: Any, marks: int | None = None) -> Encode:
    # Tokenizers saved by a pipeline truncate and pad: the real number would be lost.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    if marks is None:
        marks = tokenizer.num_special_tokens_to_add(is_pair=False)

    def encode(text: str) -> _Encoded:
        offsets = tokenizer.encode(text, add_special_tokens=False).offsets
        return _Encoded(len(offsets), marks, lambda token: text[offsets[token][0] :])

    return encode


@lru_cache(maxsize=8)
def _load_sentencepiece(folder: Path, _changed_ns: int) -> Encode:
    from sentencepiece import SentencePieceProcessor

    processor = SentencePieceProcessor(model_file=str(folder / "spiece.model"))

    def encode(text: str) -> _Encoded:
        pieces = processor.encode(text, out_type=str)
        # T5 adds one mark, </s>, at the end.
        return _Encoded(len(pieces), 1, lambda token: str(processor.decode(pieces[token:])))

    return encode
