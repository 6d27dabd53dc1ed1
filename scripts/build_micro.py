"""Build the `micro` family: a whole FLUX, very small, as diffusers folders.

    python scripts/build_micro.py                 into src/flux_mcp/weights/micro
    python scripts/build_micro.py --out DIR       into DIR
    python scripts/build_micro.py --force         build again although it is there

Writes `text2img` (every part), `kontext`, `fill`, `control` (transformer and scheduler; the other
parts are those of `text2img`) and `redux` (the image encoder). The weights are random but always
the same, and the geometry is that of FLUX.1: a VAE with factor 8 and 16 latent channels, 64, 384 or
128 transformer channels in, guidance embeddings, three rotary axes. Nothing is downloaded; the
tokenizers are trained here on a few lines.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DEFAULT_OUT = Path(__file__).resolve().parents[1] / "src" / "flux_mcp" / "weights" / "micro"

TRANSFORMER_KINDS = {
    # kind: (pipeline class, channels into the transformer, seed of its weights)
    "text2img": ("FluxPipeline", 64, 1),
    "kontext": ("FluxKontextPipeline", 64, 2),
    "fill": ("FluxFillPipeline", 384, 3),  # 64 noise + 64 masked picture + 256 mask
    "control": ("FluxControlPipeline", 128, 4),  # 64 noise + 64 structure
}
OWN_PARTS = ("transformer", "scheduler")
FOLDERS = (*TRANSFORMER_KINDS, "redux")

# Sizes that must agree: T5 d_model = joint_attention_dim = Redux txt_in_features;
# CLIP hidden_size = pooled_projection_dim; SigLIP hidden_size = redux_dim;
# sum(ROPE_AXES) = HEAD_CHANNELS.
TEXT_CHANNELS = 32
POOLED_CHANNELS = 32
IMAGE_CHANNELS = 24
HEADS = 2
HEAD_CHANNELS = 16
ROPE_AXES = (4, 4, 8)
LATENT_CHANNELS = 16
T5_CHARACTER_SCORE = -12.0

SENTENCES = [
    "a cat holding a sign that says hello world",
    "a photo of a red fox in the snow, golden hour",
    "make the sky dark and add a moon",
    "robot made of exotic candies and chocolates",
    "replace the mug with a glass vase full of tulips",
    "a large blue circle on a green background, a small yellow square at the left",
    "0123456789 !?.,;:'\"()-",
]


def is_complete(out: Path) -> bool:
    """Whether every folder is there; builds are renamed into place whole, so indexes suffice."""
    return all((out / folder / "model_index.json").is_file() for folder in FOLDERS)


def clip_tokenizer() -> Any:
    """Byte-level BPE in which nothing is unknown."""
    from tokenizers import pre_tokenizers
    from transformers import CLIPTokenizer

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<|startoftext|>": 0, "<|endoftext|>": 1}
    for byte in alphabet:
        for token in (byte, byte + "</w>"):
            vocabulary[token] = len(vocabulary)
    merges: list[tuple[str, str]] = []
    for word in sorted({word for line in SENTENCES for word in line.split() if word.isalpha()}):
        for pair in _merges_of(word):
            if pair not in merges:
                merges.append(pair)
                vocabulary.setdefault("".join(pair), len(vocabulary))
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77)


def _merges_of(word: str) -> Iterator[tuple[str, str]]:
    """Yield the merges that spell a word from its left: (c, a), (ca, t</w>)."""
    letters = [*word[:-1], word[-1] + "</w>"]
    left = letters[0]
    for letter in letters[1:]:
        yield left, letter
        left += letter


def t5_tokenizer() -> Any:
    """Unigram: whole words by their count, single characters for the rest.

    Made by hand, because the library's trainer orders equal scores by chance.
    """
    from transformers import T5Tokenizer

    words = sorted({word for line in SENTENCES for word in line.split() if word.isalpha()})
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", T5_CHARACTER_SCORE)]
    pieces += [("\u2581" + word, -float(len(words)) / 10) for word in words]
    pieces += [(chr(code), T5_CHARACTER_SCORE) for code in range(33, 127)]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=512)


def scheduler() -> Any:
    """FLUX.1 dev's own settings."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(
        shift=3.0,
        use_dynamic_shifting=True,
        base_shift=0.5,
        max_shift=1.15,
        base_image_seq_len=256,
        max_image_seq_len=4096,
    )


def shared_parts() -> dict[str, Any]:
    """VAE, text encoders and tokenizers, which every kind uses."""
    import torch
    from diffusers import AutoencoderKL
    from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

    torch.manual_seed(0)
    tokenizer, tokenizer_2 = clip_tokenizer(), t5_tokenizer()
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=POOLED_CHANNELS,
            intermediate_size=2 * POOLED_CHANNELS,
            num_hidden_layers=2,
            num_attention_heads=4,
            projection_dim=POOLED_CHANNELS,
            max_position_embeddings=77,
            bos_token_id=tokenizer.bos_token_id,
            # The pooled vector is looked up at this token; the default id would give every prompt
            # the same one, without a word.
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    text_encoder_2 = T5EncoderModel(
        T5Config(
            vocab_size=len(tokenizer_2),
            d_model=TEXT_CHANNELS,
            d_kv=8,
            d_ff=2 * TEXT_CHANNELS,
            num_layers=2,
            num_heads=4,
            feed_forward_proj="gated-gelu",
            tie_word_embeddings=False,
            use_cache=False,
        )
    )
    vae = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=LATENT_CHANNELS,
        sample_size=64,
        block_out_channels=(8, 8, 8, 8),  # four levels: factor 8
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        scaling_factor=0.3611,  # FLUX.1's
        shift_factor=0.1159,  # FLUX.1's
        use_quant_conv=False,
        use_post_quant_conv=False,
        force_upcast=True,
    )
    return {
        "vae": vae.eval(),
        "text_encoder": text_encoder.eval(),
        "tokenizer": tokenizer,
        "text_encoder_2": text_encoder_2.eval(),
        "tokenizer_2": tokenizer_2,
    }


def transformer(in_channels: int, seed: int) -> Any:
    """Build a FluxTransformer2DModel with two double and two single blocks."""
    import torch
    from diffusers import FluxTransformer2DModel

    torch.manual_seed(seed)
    return FluxTransformer2DModel(
        patch_size=1,
        in_channels=in_channels,
        out_channels=4 * LATENT_CHANNELS,  # the default, in_channels, fails for fill and control
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=HEAD_CHANNELS,
        num_attention_heads=HEADS,
        joint_attention_dim=TEXT_CHANNELS,
        pooled_projection_dim=POOLED_CHANNELS,
        guidance_embeds=True,
        axes_dims_rope=ROPE_AXES,
    ).eval()


def redux_parts() -> dict[str, Any]:
    """SigLIP (16 picture tokens; FLUX.1 has 729) and the projection into text space."""
    import torch
    from diffusers.pipelines.flux.modeling_flux import ReduxImageEncoder
    from transformers import SiglipImageProcessor, SiglipVisionConfig, SiglipVisionModel

    torch.manual_seed(5)
    image_encoder = SiglipVisionModel(
        SiglipVisionConfig(
            hidden_size=IMAGE_CHANNELS,
            intermediate_size=2 * IMAGE_CHANNELS,
            num_hidden_layers=2,
            num_attention_heads=4,
            image_size=56,
            patch_size=14,
        )
    )
    embedder = ReduxImageEncoder(redux_dim=IMAGE_CHANNELS, txt_in_features=TEXT_CHANNELS)
    return {
        "image_encoder": image_encoder.eval(),
        "feature_extractor": SiglipImageProcessor(size={"height": 56, "width": 56}),
        "image_embedder": embedder.eval(),
    }


def write_all(folder: Path) -> Iterator[str]:
    """Write every kind below `folder`, yielding the kind just written."""
    import diffusers

    shared = shared_parts()
    for kind, (pipeline_class, in_channels, seed) in TRANSFORMER_KINDS.items():
        own = {"transformer": transformer(in_channels, seed), "scheduler": scheduler()}
        pipeline = getattr(diffusers, pipeline_class)(**shared, **own)
        if kind == "text2img":
            pipeline.save_pretrained(folder / kind)
        else:
            for name in OWN_PARTS:
                own[name].save_pretrained(folder / kind / name)
            pipeline.save_config(folder / kind)  # model_index.json
        yield kind
    diffusers.FluxPriorReduxPipeline(**redux_parts()).save_pretrained(folder / "redux")
    yield "redux"


def forget_where_it_was_built(folder: Path) -> None:
    """Name the processor's class as the hub does, not by the backend found on this machine."""
    for path in (folder / "redux").rglob("*.json"):
        text = path.read_text(encoding="utf-8")
        path.write_text(text.replace("SiglipImageProcessorPil", "SiglipImageProcessor"), "utf-8")


def build(out: Path) -> float:
    """Build into a folder beside `out` and rename it: an interrupted build leaves nothing behind.

    Returns:
        Size of what was built, in MiB.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    out.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    replaced = building.with_name(building.name + "-replaced")
    columns = (TextColumn("building micro: {task.description}"), BarColumn(), TimeElapsedColumn())
    try:
        with Progress(*columns, console=Console(stderr=True)) as progress:
            task = progress.add_task("importing torch and diffusers", total=len(FOLDERS))
            for kind in write_all(building):
                progress.update(task, advance=1, description=kind)
        forget_where_it_was_built(building)
        building.chmod(0o755)  # mkdtemp's is 0o700
        size = sum(path.stat().st_size for path in building.rglob("*") if path.is_file())
        if out.exists():
            out.rename(replaced)
        building.rename(out)
    finally:
        shutil.rmtree(building, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)
    return size / 2**20


def main() -> None:
    """Read the command line, build, say what was done."""
    parser = argparse.ArgumentParser(description="Build the micro family of FLUX weights.")
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help="folder of the five kinds")
    parser.add_argument("--force", action="store_true", help="build although it is there")
    arguments = parser.parse_args()
    out = arguments.out.resolve()
    if is_complete(out) and not arguments.force:
        print(f"micro is built already: {out} (--force builds it again)")
        return
    # Read by the libraries at import: no network, no chatter on the terminal.
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"
    os.environ["TQDM_DISABLE"] = "1"
    started = time.perf_counter()
    size = build(out)
    seconds = time.perf_counter() - started
    print(f"built micro ({', '.join(FOLDERS)}; {size:.1f} MiB) in {seconds:.1f} s: {out}")


if __name__ == "__main__":
    sys.exit(main())
