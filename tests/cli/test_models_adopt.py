"""`flux-mcp models adopt`: a models folder with true names and shapes becomes rows that plan."""

import json
import tomllib
from pathlib import Path

import pytest
from tokenizers.pre_tokenizers import ByteLevel
from typer.testing import CliRunner

from flux_mcp.cli.commands.models import app
from flux_mcp.compose.tokens import count_prompt
from flux_mcp.models.hub.cache import find_snapshot, require_snapshot
from flux_mcp.models.user_rows import open_registry
from flux_mcp.pipelines.loading.part_files import list_parts
from flux_mcp.settings.settings import Settings
from tests.models.weight_files import (
    CLIP_SHAPES,
    KLEIN_4B,
    QWEN_SHAPES,
    T5_SHAPES,
    VAE2_SHAPES,
    VAE_SHAPES,
    flux1_shapes,
    flux2_shapes,
    sparse_file,
    sparse_gguf,
)


def _vocabulary(folder: Path, name: str, entries: int) -> None:
    folder.mkdir(parents=True)
    letters = sorted(ByteLevel.alphabet())
    known = [*letters, *(f"{letter}</w>" for letter in letters)]
    known += [f"w{number}" for number in range(entries - len(known))]
    words = {word: number for number, word in enumerate(known)}
    content = {"model": {"vocab": list(words)}} if name == "tokenizer.json" else words
    (folder / name).write_text(json.dumps(content), encoding="utf-8")
    (folder / "merges.txt").touch()


@pytest.fixture(scope="module")
def comfyui(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout of ComfyUI with weights, as people have it."""
    root = tmp_path_factory.mktemp("comfy") / "Comfy UI"
    models, dev = root / "models", flux1_shapes()
    sparse_gguf(models / "unet" / "flux1-dev-Q4_K_S.gguf", dev, "Q4_K")
    sparse_file(models / "diffusion_models" / "sub" / "Flux Kontext.SFT", dev, "F8_E4M3")
    sparse_file(models / "diffusion_models" / "flux1-fill.sft", flux1_shapes(in_channels=384))
    sparse_file(models / "diffusion_models" / "flux1-canny-dev.safetensors",
                flux1_shapes(in_channels=128))  # fmt: skip
    sparse_file(models / "diffusion_models" / "some-control.safetensors",
                flux1_shapes(in_channels=128))  # fmt: skip
    klein = flux2_shapes(*KLEIN_4B)
    sparse_file(models / "diffusion_models" / "flux-2-klein-4b.safetensors", klein)
    sparse_file(models / "diffusion_models" / "flux-2-klein-base-4b.safetensors", klein)
    dev2 = flux2_shapes(6144, 8, 48) | {"guidance_in.in_layer.weight": (6144, 256)}
    sparse_file(models / "diffusion_models" / "flux2-dev.sft", dev2)
    whole = {f"model.diffusion_model.{n}": ("F8_E4M3", s) for n, s in flux1_shapes().items()}
    whole |= {f"text_encoders.t5xxl.transformer.{n}": ("F8_E4M3", s) for n, s in T5_SHAPES.items()}
    whole |= {f"text_encoders.clip_l.transformer.{n}": ("F16", s) for n, s in CLIP_SHAPES.items()}
    whole |= {f"vae.{n}": ("BF16", s) for n, s in VAE_SHAPES.items()}
    sparse_file(models / "checkpoints" / "flux1-dev-fp8.safetensors", whole)
    sparse_file(models / "checkpoints" / "sd15.safetensors",
                {"first_stage_model.encoder.conv_in.weight": (128, 3, 3, 3),
                 "first_stage_model.decoder.conv_in.weight": (512, 4, 3, 3)})  # fmt: skip
    (models / "checkpoints" / "old.ckpt").write_bytes(b"PK\x03\x04")
    sparse_file(models / "text_encoders" / "t5xxl_fp16.safetensors", T5_SHAPES, "F16")
    sparse_file(models / "text_encoders" / "t5xxl_fp8_e4m3fn.safetensors", T5_SHAPES, "F8_E4M3")
    sparse_file(models / "text_encoders" / "qwen_3_4b.safetensors", QWEN_SHAPES)
    sparse_file(models / "clip" / "clip_l.safetensors", CLIP_SHAPES, "F16")
    sparse_file(models / "vae" / "ae.sft", VAE_SHAPES, "F32")
    sparse_file(models / "vae" / "flux2-vae.safetensors", VAE2_SHAPES)
    (models / "vae" / "page.safetensors").write_text("<html>")
    sparse_file(models / "loras" / "style.safetensors", {"a.lora_A.weight": (4, 4)})
    _vocabulary(root / "comfy" / "sd1_tokenizer", "vocab.json", 49408)
    _vocabulary(root / "comfy" / "text_encoders" / "t5_tokenizer", "tokenizer.json", 32100)
    _vocabulary(root / "comfy" / "text_encoders" / "qwen25_tokenizer", "vocab.json", 151643)
    return root


def adopt(folder: Path, settings: Settings, *flags: str) -> dict:
    result = CliRunner().invoke(
        app,
        ["adopt", str(folder), "--data-dir", str(settings.data_dir), "--json", *flags],
    )
    assert result.exit_code == 0, result.output
    found: dict = json.loads(result.stdout)
    return found


ADOPTED = {
    # id -> the model it extends, precision, text precision, the columns that name files
    "flux1-dev-q4_k_s": ("flux1-dev", "q4_k", None, "gguf vae_file clip_file text_file"),
    "flux-kontext": ("flux1-kontext-dev", "fp8", None, "file vae_file clip_file text_file"),
    "flux1-fill": ("flux1-fill-dev", "bf16", None, "file vae_file clip_file text_file"),
    "flux1-canny-dev-local": ("flux1-canny-dev", "bf16", None,
                              "file vae_file clip_file text_file"),
    "flux-2-klein-4b": ("flux2-klein-4b", "bf16", None, "file vae_file text_file"),
    "flux1-dev-fp8": ("flux1-dev", "fp8", "fp8", "file vae_file clip_file text_file"),
}  # fmt: skip
UNUSED = {
    "some-control.safetensors": "neither canny nor depth",
    "flux-2-klein-base-4b.safetensors": "a base model of klein",
    "flux2-dev.sft": "models pull flux2-dev",
    "sd15.safetensors": "a VAE of 4 latent channels",
    "old.ckpt": "pickles can run code",
    "page.safetensors": "is a web page",
    "t5xxl_fp8_e4m3fn.safetensors": "no transformer here needs it",
}


def test_a_models_folder_becomes_rows_that_are_installed(comfyui: Path, settings: Settings) -> None:
    dry = adopt(comfyui, settings, "--dry-run")
    assert (dry["written"], settings.paths.models.exists()) == (False, False)
    found = adopt(comfyui, settings, "--yes")
    assert found["written"]
    assert {
        one["id"]: (one["extends"], one["precision"], one["text_precision"],
                    " ".join(one["files"]))
        for one in found["models"]
    } == ADOPTED  # fmt: skip
    reasons = {Path(one["path"]).name: one["why"] for one in found["unused"]}
    assert reasons.keys() == UNUSED.keys()
    for name, why in UNUSED.items():
        assert why in reasons[name]
    assert (found["lora_count"], Path(found["lora_folder"]).name) == (1, "loras")
    whole = next(one for one in found["models"] if one["id"] == "flux1-dev-fp8")
    assert len(set(whole["files"].values())) == 1

    registry = open_registry(settings)
    assert not registry.notices
    for row in registry:
        if row.origin is None:
            continue
        snapshot = require_snapshot(row, registry, settings)
        parts = {part.name: part for part in list_parts(row, snapshot)}
        assert {name for name, part in parts.items() if part.file} == {
            name for name, part in parts.items() if part.loader != "plain"
        }
        assert parts["tokenizer"].folder.joinpath("vocab.json").is_file()
        # Each is counted as its own: a byte is a token, CLIP has two marks and no spaces.
        is_qwen = row.id == "flux-2-klein-4b"
        count = count_prompt("a red cat", parts["tokenizer"].folder.parent, 512)[0]
        assert (count.tokens, count.is_exact) == (9 if is_qwen else 7 + 2, True)
    assert {row.kind for row in registry if row.id == "flux-2-klein-4b"} == {"text2img", "kontext"}


def test_what_is_there_stays_and_nothing_is_added_twice(comfyui: Path, settings: Settings) -> None:
    file = comfyui / "models/diffusion_models/flux-2-klein-4b.safetensors"
    mine = f'# mine\n[[model]]\nid = "my-klein"\nextends = "flux2-klein-4b"\nfile = "{file}"\n'
    settings.paths.models.parent.mkdir(parents=True, exist_ok=True)
    settings.paths.models.write_text(mine, encoding="utf-8")
    adopt(comfyui, settings, "--yes")
    text = settings.paths.models.read_text(encoding="utf-8")
    assert text.startswith(mine)
    assert len(tomllib.loads(text)["model"]) == len(ADOPTED)
    again = adopt(comfyui, settings, "--yes")
    assert not again["written"]
    assert {one["row"] for one in again["models"]} == {"there"}
    assert settings.paths.models.read_text(encoding="utf-8") == text


def test_without_tokenizers_it_says_where_to_get_them(
    comfyui: Path, settings: Settings, tmp_path: Path
) -> None:
    moved = tmp_path / "models"
    moved.symlink_to(comfyui / "models")
    result = CliRunner().invoke(
        app, ["adopt", str(moved), "--data-dir", str(settings.data_dir), "--dry-run"]
    )
    assert result.exit_code == 0
    assert "FLUX.1 dev, but the folder lacks the CLIP tokenizer, the T5 tokenizer" in result.stdout
    assert "--tokenizers DIR" in result.stdout
    tokenizers = comfyui / "comfy"
    found = adopt(moved, settings, "--dry-run", "--tokenizers", str(tokenizers.parent))
    assert len(found["models"]) == len(ADOPTED)


@pytest.mark.parametrize(
    ("rows", "folder", "says"),
    [
        ("", "none", "has none of the folders of ComfyUI and Forge"),
        ('[[model]]\nid = "a"\n', "ComfyUI", "has a mistake"),
    ],
)
def test_what_cannot_be_done_is_refused(
    comfyui: Path, settings: Settings, tmp_path: Path, rows: str, folder: str, says: str
) -> None:
    settings.paths.models.parent.mkdir(parents=True, exist_ok=True)
    settings.paths.models.write_text(rows, encoding="utf-8")
    place = comfyui if folder == "ComfyUI" else tmp_path
    result = CliRunner().invoke(
        app, ["adopt", str(place), "--data-dir", str(settings.data_dir), "--yes"]
    )
    assert result.exit_code == 2
    assert says in " ".join(result.output.split())


def test_an_installed_model_gives_what_a_file_lacks(comfyui: Path, settings: Settings) -> None:
    from tests.models.hub import put_in_hub_cache

    put_in_hub_cache(settings, "black-forest-labs/FLUX.1-dev")
    found = adopt(comfyui, settings, "--yes")
    model = next(one for one in found["models"] if one["id"] == "flux1-dev-q4_k_s")
    assert (list(model["files"]), model["folder"]) == (["gguf"], None)
    row = open_registry(settings).find("text2img", "flux1-dev-q4_k_s")
    assert find_snapshot(row, settings) is not None
