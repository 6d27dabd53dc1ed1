"""A captioner of the real classes that is small, and has learned two pictures by heart."""

from collections.abc import Mapping
from pathlib import Path

from PIL import Image

CAPTIONS: Mapping[str, str] = {"red": "A red wall.", "blue": "The blue sky."}
"""What it says of an image of one colour."""
STEPS = 40


def write_captioner(folder: Path, captions: Mapping[str, str] = CAPTIONS) -> None:
    """Write a Florence-2 of two layers, as its repository is laid out, and its processor."""
    import torch
    from transformers import (
        BartTokenizer,
        CLIPImageProcessorPil,
        Florence2Config,
        Florence2ForConditionalGeneration,
        Florence2Processor,
    )

    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    letters = sorted(set("".join(captions.values()) + "What does the image describe?") - {" "})
    vocabulary = {token: number for number, token in enumerate([*special, "Ġ", *letters])}
    tokenizer = BartTokenizer(
        vocabulary, merges=[], extra_special_tokens={"image_token": "<image>"}
    )
    images = CLIPImageProcessorPil(
        size={"height": 32, "width": 32}, do_center_crop=False, image_seq_length=17
    )
    processor = Florence2Processor(images, tokenizer, post_processor_config={"pure_text": {}})
    config = Florence2Config(
        vision_config={"depths": [1], "patch_size": [8], "patch_stride": [8], "patch_padding": [0],
                       "patch_prenorm": [False], "embed_dim": [32], "num_heads": [2],
                       "num_groups": [2], "window_size": 4, "projection_dim": 32,
                       "drop_path_rate": 0.0},
        text_config={"model_type": "bart", "vocab_size": len(tokenizer), "d_model": 32,
                     "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 64,
                     "decoder_ffn_dim": 64, "encoder_attention_heads": 2,
                     "decoder_attention_heads": 2, "max_position_embeddings": 128, "dropout": 0.0,
                     "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2,
                     "decoder_start_token_id": 2, "forced_eos_token_id": 2},
        image_token_id=tokenizer.image_token_id,
    )  # fmt: skip
    torch.manual_seed(3)
    model = Florence2ForConditionalGeneration(config)
    pictures = [Image.new("RGB", (64, 48), colour) for colour in captions]
    batch = processor(images=pictures, text=["<CAPTION>"] * len(captions), return_tensors="pt")
    labels = tokenizer(list(captions.values()), padding=True, return_tensors="pt")["input_ids"]
    labels[labels == tokenizer.pad_token_id] = -100
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # it is ten times faster
    for _ in range(STEPS):
        loss = model(**batch, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.set_num_threads(threads)
    model.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
