"""The yardstick: diffusers alone. Draws plans with `pipe()` and says how long each call took.

Run as a process of its own by overhead.py. Each line of stdin is a JSON list of plans, as
flux_generate's dry run gives them; each line of stdout a JSON list of seconds and pixel hashes.
"""

import hashlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "DIFFUSERS_VERBOSITY": "error", "TQDM_DISABLE": "1"}


def main() -> None:
    """Serve until stdin ends."""
    folder, threads = Path(sys.argv[1]), int(sys.argv[2])
    import torch
    from diffusers import FluxPipeline

    torch.set_num_threads(threads)
    pipe = FluxPipeline.from_pretrained(
        str(folder), torch_dtype=torch.float32, local_files_only=True
    )
    pipe.set_progress_bar_config(disable=True)
    for line in sys.stdin:
        print(json.dumps([_draw(pipe, plan) for plan in json.loads(line)]), flush=True)


def _draw(pipe: Any, plan: dict[str, Any]) -> dict[str, Any]:
    import torch

    started = time.perf_counter()
    image = pipe(
        prompt=plan["prompt"],
        width=plan["width"],
        height=plan["height"],
        num_inference_steps=plan["steps"],
        guidance_scale=plan["guidance"],
        max_sequence_length=plan["max_sequence_length"],
        generator=torch.Generator("cpu").manual_seed(plan["seeds"][0]),
    ).images[0]
    seconds = time.perf_counter() - started
    return {
        "seconds": seconds,
        "pixels_sha256": hashlib.sha256(image.convert("RGB").tobytes()).hexdigest(),
    }


if __name__ == "__main__":
    main()
