"""What does a cached prompt cost, instead of running the text encoders? Unit: ratio to encoding.

Method: prompts that differ are each encoded, then taken from memory, then from disk by a cache that
has just been opened; each time until the embeddings are on the device that draws. The three take
turns in one process; the medians of the ratios of neighbours count. Files were written just before,
so they come from the system's page cache, as they do for a worker that starts again.

With micro on the CPU always. With encoders of FLUX.1's size (random weights, bf16, 512 tokens) on a
CUDA GPU if there is one: resident, and offloaded to host memory between jobs. Without a GPU an
entry of that size is still read, to be set against others' measurements of encoding.
"""

import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "DIFFUSERS_VERBOSITY": "error",
    "TRANSFORMERS_VERBOSITY": "error",
    "TQDM_DISABLE": "1",
}

from common import THREADS, Result, median_ratio, ms, scratch, start

from flux_mcp.models.families import FLUX1
from flux_mcp.models.registry import load_registry
from flux_mcp.pipelines.device import Device, arithmetic, choose_device
from flux_mcp.pipelines.loading.loaders import make_pipeline
from flux_mcp.pipelines.memory.residency import Residency
from flux_mcp.pipelines.texts import EmbeddingCache, EmbeddingFiles, TextEmbeddings, encode_text
from flux_mcp.settings.settings import Settings

ROOM_BYTES = 10**9
FLUX1_TOKENS, FLUX1_CHANNELS, FLUX1_POOLED = 512, 4096, 768
T5_XXL = {
    "vocab_size": 32128,
    "d_model": FLUX1_CHANNELS,
    "d_kv": 64,
    "d_ff": 10240,
    "num_layers": 24,
    "num_heads": 64,
    "feed_forward_proj": "gated-gelu",
    "tie_word_embeddings": False,
}
"""config.json of google/t5-v1_1-xxl, the second encoder of FLUX.1."""
CLIP_L = {
    "hidden_size": FLUX1_POOLED,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "projection_dim": 768,
}
"""config.json of openai/clip-vit-large-patch14, the first."""

Seconds = dict[str, list[float]]


def measure(quick: bool) -> Result:
    """Measure with micro, then at the size of FLUX.1."""
    import torch

    torch.set_num_threads(THREADS)
    prompts = 5 if quick else 40
    result = Result("embeddings", quick, {"prompts": prompts})
    with scratch() as folder:
        device = choose_device("auto")
        micro = _micro_encoder(result, folder)
        _report(result, "micro", _three_ways(micro, Device("cpu"), folder, 128, prompts))
        if device.kind == "cuda":
            encoder = _flux1_encoder(micro, device)
            resident = partial(_three_ways, encoder, device, folder, FLUX1_TOKENS, prompts)
            _report(result, "flux1 resident", resident())
            encoder.enable_model_cpu_offload(device=device.name)
            _report(result, "flux1 offloaded", resident())
        else:
            result.line("encoders of FLUX.1's size", "not run: torch finds no CUDA GPU")
            _flux1_entry(result, folder, prompts)
    return result


def _micro_encoder(result: Result, folder: Path) -> Any:
    """Load micro's text encoders, as a worker does when a prompt is missing."""
    registry = load_registry()
    residency = Residency(registry, Settings(data_dir=folder), Device("cpu"))
    resident = residency.pipeline(
        registry.find("text2img", "micro"), "resident", lambda _message: None
    )
    started = time.perf_counter()
    encoder = residency.text_encoder(resident, lambda _message: None)
    result.absolute["micro"] = {"load_encoders_ms": ms(time.perf_counter() - started)}
    return encoder


def _flux1_encoder(micro: Any, device: Device) -> Any:
    """Make encoders of FLUX.1's size with random weights; words are cut as micro cuts them."""
    import torch
    from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

    tokenizer = micro.tokenizer
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    with torch.device(device.name):
        clip = CLIPTextModel(CLIPTextConfig(**CLIP_L, **ends)).to(torch.bfloat16).eval()
        t5 = T5EncoderModel(T5Config(**T5_XXL)).to(torch.bfloat16).eval()
    parts = dict.fromkeys(("scheduler", "vae", "transformer")) | {
        "text_encoder": clip,
        "tokenizer": tokenizer,
        "text_encoder_2": t5,
        "tokenizer_2": micro.tokenizer_2,
    }
    return make_pipeline("FluxPipeline", parts)


def _three_ways(encoder: Any, device: Device, folder: Path, length: int, prompts: int) -> Seconds:
    """Take each prompt's embeddings to the device in each way; return the seconds."""
    files = EmbeddingFiles(folder / f"embeddings-{time.monotonic_ns()}", ROOM_BYTES)
    cache = EmbeddingCache(arithmetic(device), ROOM_BYTES, files)

    def encoded(text: str) -> TextEmbeddings:
        found = encode_text(encoder, FLUX1.embeddings, text, length)
        encoder.maybe_free_model_hooks()
        return found

    seconds: Seconds = {"encode": [], "keep": [], "memory": [], "disk": []}
    _timed(device, lambda: encoded("the first one warms up"))
    for number in range(prompts):
        text = f"a photograph of {number} red foxes in the snow"
        key = cache.key(["benchmark"], text, length)
        found, taken = _timed(device, partial(encoded, text))
        seconds["encode"].append(taken)
        seconds["keep"].append(_timed(device, partial(cache.put, key, found))[1])
        again = EmbeddingCache(arithmetic(device), ROOM_BYTES, files)
        for way, asked in (("memory", cache), ("disk", again)):
            seconds[way].append(_timed(device, partial(_found, asked, key))[1])
    return seconds


def _found(cache: EmbeddingCache, key: str) -> TextEmbeddings:
    found = cache.get(key)
    if found is None:
        raise RuntimeError("the cache lost an entry")
    return found


def _timed(
    device: Device, get: Callable[[], TextEmbeddings | None]
) -> tuple[TextEmbeddings, float]:
    """Get embeddings and copy them to the device; return them and the seconds it took."""
    import torch

    started = time.perf_counter()
    found = get() or {}
    placed = [tensor.to(device.name, copy=True) for tensor in found.values()]
    if device.kind == "cuda":
        torch.cuda.synchronize(device.name)
    del placed
    return found, time.perf_counter() - started


def _flux1_entry(result: Result, folder: Path, prompts: int) -> None:
    """Read an entry of FLUX.1's size from memory and from disk, on this CPU."""
    import torch

    cpu = Device("cpu")
    embeddings = {
        "prompt_embeds": torch.randn(1, FLUX1_TOKENS, FLUX1_CHANNELS).to(torch.bfloat16),
        "pooled_prompt_embeds": torch.randn(1, FLUX1_POOLED).to(torch.bfloat16),
    }
    files = EmbeddingFiles(folder / "flux1", ROOM_BYTES)
    cache = EmbeddingCache("", ROOM_BYTES, files)
    key = cache.key([], "", FLUX1_TOKENS)
    cache.put(key, embeddings)
    seconds: Seconds = {"memory": [], "disk": []}
    for _ in range(prompts):
        again = EmbeddingCache("", ROOM_BYTES, files)
        for way, asked in (("memory", cache), ("disk", again)):
            seconds[way].append(_timed(cpu, partial(_found, asked, key))[1])
    found = {f"{way}_ms": ms(statistics.median(each)) for way, each in seconds.items()}
    result.absolute["flux1 entry of 4.2 MB"] = found
    result.line(
        "an entry of FLUX.1's size, from memory, from disk",
        f"{found['memory_ms']:.1f} ms, {found['disk_ms']:.1f} ms",
        "others' encoding: 24 ms (H100)",
    )


def _report(result: Result, name: str, seconds: Seconds) -> None:
    median = {f"{way}_ms": ms(statistics.median(each)) for way, each in seconds.items()}
    result.absolute[name] = result.absolute.get(name, {}) | median
    for way in ("memory", "disk"):
        ratio = median_ratio(seconds[way], seconds["encode"])
        result.ratios[f"{name}, {way} / encode"] = ratio
        result.line(
            f"{name}: from {way} / encoding",
            f"{ratio:.3f} ({median[f'{way}_ms']:.2f} / {median['encode_ms']:.2f} ms)",
            "below 1",
        )


if __name__ == "__main__":
    start(__doc__, measure)
