"""The parts beside the transformer: VAE and encoders, each by itself."""

from typing import Any

from gpu_checks import parts
from gpu_checks.bench import Bench
from gpu_checks.clock import median_seconds, seconds_of
from gpu_checks.work import CLIP_TOKENS, Flops, count, text_flops, vae_flops


def rates(bench: Bench) -> None:
    """Report what the device can do; every floor is made of it."""
    found = bench.rates
    bench.figure("product", found.product / 1e12, "TFLOP/s bf16", side=bench.scale.matrix_side)
    if found.product_fp8 is not None:
        bench.figure("product_fp8", found.product_fp8 / 1e12, "TFLOP/s fp8")
    for name, rate in found.attention.items():
        bench.figure(f"attention/{name}", rate / 1e12, "TFLOP/s bf16")
    for name in ("copy_on_device", "to_device_pinned", "to_device", "from_device_pinned"):
        bench.figure(name, getattr(found, name) / 1e9, "GB/s")


def vae(bench: Bench) -> None:
    """Measure decoding and encoding: plain, channels last, compiled."""
    import torch

    product = bench.rates.product
    scale, device = bench.scale, bench.device
    model = parts.vae(scale, device.name)
    side = scale.side_px
    decoding, encoding = vae_flops(scale, side)
    latent = torch.randn(1, 16, side // 8, side // 8, device=device.name, dtype=model.dtype)
    image = torch.rand(1, 3, side, side, device=device.name, dtype=model.dtype) * 2 - 1

    def measure(way: str) -> None:
        with torch.no_grad():
            for name, work, flops in (
                ("decode", lambda: model.decode(latent), decoding),
                ("encode", lambda: model.encode(image), encoding),
            ):
                first_s = seconds_of(work, device)
                seconds = median_seconds(work, device, scale.quick_repetitions)
                bench.figure(
                    f"{name}_s",
                    seconds,
                    "s",
                    floor=flops.total / product,
                    way=way,
                    first_s=first_s,
                )

    measure("plain")
    model.to(memory_format=torch.channels_last)
    latent, image = (t.to(memory_format=torch.channels_last) for t in (latent, image))
    measure("channels last")
    torch.compiler.reset()
    for half in (model.decoder, model.encoder):
        half.compile(backend=scale.compiler)
    measure("channels last, compiled")


def encoders(bench: Bench) -> None:
    """Measure the encoders of text and of a reference image."""
    import torch

    product = bench.rates.product
    scale, device = bench.scale, bench.device
    t5, clip = parts.t5(scale, device.name), parts.clip(scale, device.name)

    def ids(tokens: int) -> Any:
        return torch.randint(5, 800, (1, tokens), device=device.name)

    def measure(name: str, work: Any, flops: Flops, **details: Any) -> None:
        with torch.no_grad():
            seconds = median_seconds(work, device, scale.quick_repetitions)
        bench.figure(name, seconds, "s", floor=flops.total / product, **details)

    for tokens in (512, 256):
        text = ids(tokens)
        measure("t5_s", lambda text=text: t5(text), text_flops(scale, tokens), tokens=tokens)
    short = ids(CLIP_TOKENS)
    measure("clip_s", lambda: clip(short), count(lambda: clip(short)))
    prior = parts.redux(scale, device.name)
    encoder, embedder = prior["image_encoder"], prior["image_embedder"]
    side = scale.siglip["image_size"]
    pixels = torch.rand(1, 3, side, side, device=device.name, dtype=encoder.dtype)

    def see() -> Any:
        return embedder(encoder(pixels).last_hidden_state).image_embeds

    measure("reference_s", see, count(see), what="SigLIP and Redux")
