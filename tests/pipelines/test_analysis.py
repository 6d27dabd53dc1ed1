"""What models see in an image: real classes of transformers, small, most with random weights.

How well micro's own models find things is in tests/pipelines/test_micro_weights.py.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from flux_mcp.errors import InternalError, InvalidRequestError, WeightsInvalidError
from flux_mcp.pipelines.analysis import Analyst, one_line
from flux_mcp.settings.settings import PACKAGE_DIR
from flux_mcp.worker_protocol.analysis import (
    MAX_CAPTION_CHARS,
    AnalysisModel,
    Caption,
    CaptionMessage,
    FindMessage,
    Found,
)
from tests.pipelines.captioner import CAPTIONS, write_captioner

IMAGE = Image.effect_noise((70, 50), 60).convert("RGB")
TOKENIZER = PACKAGE_DIR / "weights" / "micro" / "text2img" / "tokenizer"


def find(model: AnalysisModel, **more: Any) -> tuple[Found, np.ndarray]:
    """Return what an analyst finds, and its mask."""
    message = FindMessage(model=model, words="the red circle", threshold=0.01, **more)
    found, blobs = Analyst().answer(message, IMAGE)
    assert isinstance(found, Found)
    return found, np.frombuffer(blobs["mask"], np.uint8).reshape(IMAGE.height, IMAGE.width)


def check(model: AnalysisModel) -> None:
    """Check that regions, picked ones and mask say the same."""
    found, mask = find(model)
    assert found.regions
    assert found.surest >= max(one.score for one in found.regions) - 1e-6
    assert set(np.unique(mask)) <= {0, 255}
    rows, columns = np.nonzero(mask)
    assert columns.min() == min(one.left for one in found.regions)
    assert rows.max() + 1 == max(one.bottom for one in found.regions)
    lefts = [one.left for one in found.regions]
    assert lefts == sorted(lefts)
    largest, its_mask = find(model, pick="largest")
    (number,) = largest.picked
    assert found.regions[number].pixels == max(one.pixels for one in found.regions)
    assert (its_mask == 255).sum() == found.regions[number].pixels
    assert find(model, pick=1)[0].picked == (0,)
    too_many, nothing = find(model, pick=100)
    assert too_many.picked == ()
    assert not nothing.any()


def clipseg(folder: Path) -> AnalysisModel:
    """A CLIPSeg of two layers."""
    from transformers import (
        CLIPSegConfig,
        CLIPSegForImageSegmentation,
        CLIPSegProcessor,
        CLIPTokenizer,
        ViTImageProcessor,
    )

    tokenizer = CLIPTokenizer.from_pretrained(TOKENIZER)
    text = {"vocab_size": len(tokenizer), "hidden_size": 16, "intermediate_size": 32,
            "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 32,
            "projection_dim": 16, "eos_token_id": tokenizer.eos_token_id}  # fmt: skip
    vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
              "num_attention_heads": 2, "image_size": 32, "patch_size": 8}  # fmt: skip
    config = CLIPSegConfig(
        text_config=text, vision_config=vision, projection_dim=16, extract_layers=[0, 1],
        reduce_dim=16, decoder_num_attention_heads=2, decoder_intermediate_size=32,
    )  # fmt: skip
    CLIPSegForImageSegmentation(config).save_pretrained(folder)
    images = ViTImageProcessor(size={"height": 32, "width": 32})
    CLIPSegProcessor(images, tokenizer).save_pretrained(folder)
    return AnalysisModel(model_class="CLIPSegForImageSegmentation", folder=folder)


@pytest.fixture(scope="module", autouse=True)
def seeded() -> None:
    import torch

    torch.manual_seed(3)


def test_clipseg_finds_connected_regions(tmp_path: Path) -> None:
    check(clipseg(tmp_path))


def test_words_that_are_too_long_are_refused(tmp_path: Path) -> None:
    message = FindMessage(model=clipseg(tmp_path), words="red " * 50, threshold=0.5)
    with pytest.raises(InvalidRequestError, match="longer than the 32 tokens"):
        Analyst().answer(message, IMAGE)


def test_weights_that_are_not_whole_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    model = clipseg(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights.popitem()
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsInvalidError, match="not whole: 1 tensors are missing"):
        find(model)


def test_sam_3_finds_things(tmp_path: Path) -> None:
    pytest.importorskip("torchvision", reason="the extra sam")
    from transformers import (
        CLIPTokenizer,
        Sam3Config,
        Sam3ImageProcessor,
        Sam3Model,
        Sam3Processor,
    )

    tokenizer = CLIPTokenizer.from_pretrained(TOKENIZER)
    small = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 32}
    backbone = {**small, "model_type": "sam3_vit_model", "num_hidden_layers": 2,
                "image_size": 112, "pretrain_image_size": 112,
                "window_size": 4, "global_attn_indexes": [1], "patch_size": 14}  # fmt: skip
    config = Sam3Config(
        vision_config={"backbone_config": backbone, "fpn_hidden_size": 32,
                       "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]]},
        text_config={**small, "vocab_size": len(tokenizer), "num_hidden_layers": 2,
                     "max_position_embeddings": 32, "projection_dim": 32},
        geometry_encoder_config={**small, "num_layers": 1},
        detr_encoder_config={**small, "num_layers": 1},
        detr_decoder_config={**small, "num_layers": 1, "num_queries": 8},
        mask_decoder_config={"hidden_size": 32, "num_attention_heads": 2},
    )  # fmt: skip
    Sam3Model(config).save_pretrained(tmp_path)
    images = Sam3ImageProcessor(
        size={"height": 112, "width": 112}, mask_size={"height": 32, "width": 32}
    )
    Sam3Processor(images, tokenizer, target_size=112).save_pretrained(tmp_path)
    check(AnalysisModel(model_class="Sam3Model", folder=tmp_path))


def test_grounding_dino_finds_boxes_and_sam_2_their_outlines(tmp_path: Path) -> None:
    pytest.importorskip("torchvision", reason="the extra sam")
    from transformers import (
        BertTokenizer,
        GroundingDinoConfig,
        GroundingDinoForObjectDetection,
        GroundingDinoImageProcessor,
        GroundingDinoProcessor,
        Sam2Config,
        Sam2ImageProcessor,
        Sam2Model,
        Sam2Processor,
    )

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "?", "the", "red", "circle"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    boxes, outlines = tmp_path / "boxes", tmp_path / "outlines"
    config = GroundingDinoConfig(
        backbone_config={"model_type": "swin", "embed_dim": 16, "depths": [1, 1, 1, 1],
                         "num_heads": [1, 1, 2, 2], "window_size": 4, "image_size": 64,
                         "out_indices": [2, 3, 4]},
        text_config={"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1,
                     "num_attention_heads": 2, "intermediate_size": 32,
                     "vocab_size": len(words)},
        d_model=32, num_queries=8, encoder_layers=1, decoder_layers=2, encoder_ffn_dim=32,
        decoder_ffn_dim=32, encoder_attention_heads=2, decoder_attention_heads=2,
    )  # fmt: skip
    GroundingDinoForObjectDetection(config).save_pretrained(boxes)
    GroundingDinoProcessor(
        GroundingDinoImageProcessor(size={"shortest_edge": 64, "longest_edge": 96}),
        BertTokenizer(str(tmp_path / "vocab.txt")),
    ).save_pretrained(boxes)
    hiera = {"hidden_size": 8, "num_attention_heads": 1, "image_size": [128, 128],
             "blocks_per_stage": [1, 1, 2, 1], "embed_dim_per_stage": [8, 16, 32, 64],
             "num_attention_heads_per_stage": [1, 1, 2, 2], "global_attention_blocks": [3],
             "window_positional_embedding_background_size": [4, 4]}  # fmt: skip
    sam = Sam2Config(
        vision_config={"backbone_config": {"model_type": "sam2_hiera_det_model", **hiera},
                       "backbone_channel_list": [64, 32, 16, 8], "fpn_hidden_size": 32,
                       "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]]},
        prompt_encoder_config={"hidden_size": 32, "image_size": 128},
        mask_decoder_config={"hidden_size": 32, "mlp_dim": 32, "num_hidden_layers": 2,
                             "num_attention_heads": 2, "iou_head_hidden_dim": 32},
    )  # fmt: skip
    Sam2Model(sam).save_pretrained(outlines)
    images = Sam2ImageProcessor(
        size={"height": 128, "width": 128}, mask_size={"height": 32, "width": 32}
    )
    Sam2Processor(images, target_size=128).save_pretrained(outlines)
    found_by = AnalysisModel(
        model_class="GroundingDinoForObjectDetection",
        folder=boxes,
        outlines=AnalysisModel(model_class="Sam2Model", folder=outlines),
    )
    check(found_by)


# --- captions ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def captioner(tmp_path_factory: pytest.TempPathFactory) -> AnalysisModel:
    folder = tmp_path_factory.mktemp("captioner")
    write_captioner(folder)
    return AnalysisModel(model_class="Florence2ForConditionalGeneration", folder=folder)


def caption(model: AnalysisModel, colour: str) -> str:
    image = Image.new("RGB", (70, 50), colour)
    told, blobs = Analyst().answer(CaptionMessage(model=model), image)
    assert isinstance(told, Caption)
    assert not blobs
    return told.text


def test_florence_2_says_what_an_image_shows(captioner: AnalysisModel) -> None:
    assert {colour: caption(captioner, colour) for colour in CAPTIONS} == CAPTIONS


def test_a_caption_that_ends_too_late_says_so(
    captioner: AnalysisModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flux_mcp.pipelines.analysis.MAX_CAPTION_TOKENS", 6)
    assert caption(captioner, "red") == "A re …"


def test_a_caption_is_one_line() -> None:
    assert one_line(" a\x00red\n\tcircle\u202e\u2028 on\x1b[31m\u3000white. ") == (
        "a red circle on [31m white."
    )
    long = one_line("red " * 100)
    assert len(long) <= MAX_CAPTION_CHARS
    assert long.endswith("red …")


def test_what_captions_nothing_is_refused(tmp_path: Path) -> None:
    clip = AnalysisModel(model_class="CLIPSegForImageSegmentation", folder=tmp_path)
    with pytest.raises(InternalError, match="says nothing"):
        caption(clip, "red")
