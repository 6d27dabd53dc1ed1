"""A hub cache as huggingface_hub lays it out, with files that only look like weights."""

import json
from collections.abc import Sequence
from pathlib import Path

from flux_mcp.settings.settings import Settings

COMMIT = "0123456789abcdef0123456789abcdef01234567"
INDEX = {
    "_class_name": "FluxPipeline",
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "transformer": ["diffusers", "FluxTransformer2DModel"],
    "text_encoder": [None, None],
    "is_distilled": False,
}
FILES = (
    "scheduler/scheduler_config.json",
    "transformer/config.json",
    "transformer/diffusion_pytorch_model-00001-of-00002.safetensors",
    "transformer/diffusion_pytorch_model-00002-of-00002.safetensors",
)


def put_in_hub_cache(
    settings: Settings, repository: str, files: Sequence[str] = FILES, commit: str = COMMIT
) -> Path:
    """Lay a snapshot out as huggingface_hub does: refs, blobs, links."""
    folder = settings.paths.hf_cache / "hub" / f"models--{repository.replace('/', '--')}"
    snapshot = folder / "snapshots" / commit
    for path in (folder / "refs", folder / "blobs", snapshot):
        path.mkdir(parents=True)
    (folder / "refs" / "main").write_text(commit, encoding="utf-8")
    for number, name in enumerate(["model_index.json", *files]):
        blob = folder / "blobs" / f"blob{number}"
        blob.write_text(json.dumps(INDEX), encoding="utf-8")
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / name).symlink_to(blob)
    return snapshot
