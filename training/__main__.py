"""Train the micro family from nothing: `python -m training`.

Stages run in order; each leaves its result in the work folder and is skipped when that is there.
"""

import argparse
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read at import: nothing is downloaded
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel

from training import evaluate, folders, latents, lora, redux, tasks, tokenizers
from training.depth import export_depth, train_depth
from training.depth import make_model as make_depth
from training.flow import FlowSpec, train_flow
from training.segmentation import export_segmentation, train_segmentation
from training.segmentation import make_model as make_segmentation
from training.text import Text, make_text, train_text
from training.transformers import make_transformer, widen
from training.upscaling import export_upscaler, load_upscaler, train_upscaler
from training.vae import train_vae
from training.wordings import train_wordings

ROOT = Path(__file__).resolve().parents[1]
DEFAULT_WORK = ROOT / "training" / "work"
DEFAULT_OUT = ROOT / "src" / "flux_mcp" / "weights" / "micro"


@dataclass(frozen=True)
class Run:
    """Where and on what this training runs."""

    work: Path
    out: Path
    device: torch.device
    workers: int
    compiled: bool
    scale: float
    """Steps and examples are multiplied by this: below 1 for a trial run."""

    def scaled(self, number: int) -> int:
        """Return a number of steps or examples of this run."""
        return max(8, round(number * self.scale))

    def vae(self) -> AutoencoderKL:
        """Read the trained VAE, frozen."""
        vae = AutoencoderKL.from_pretrained(self.work / "vae").to(self.device)
        frozen: AutoencoderKL = vae.to(memory_format=torch.channels_last).eval()
        return frozen.requires_grad_(requires_grad=False)

    def text(self, name: str = "text") -> Text:
        """Read the text encoders a stage left, frozen."""
        text = folders.load_text(self.work / name)
        text.text_encoder.to(self.device)
        text.text_encoder_2.to(self.device)
        return text

    def last_text(self) -> Text:
        """Read the text encoders that will be exported: `wordings`, or those that were taken."""
        return self.text("wordings" if (self.work / "wordings").exists() else "text")

    def transformer(self, name: str, kind: str) -> FluxTransformer2DModel:
        """Read the transformer a stage left."""
        model = make_transformer(kind)
        model.load_state_dict(torch.load(self.work / f"{name}.pt", weights_only=True))
        return model.to(self.device)


def _train_vae(run: Run) -> None:
    train_vae(run.scaled(4500), run.device, seed=1).save_pretrained(run.work / "vae")


def _train_text(run: Run) -> None:
    corpus = tokenizers.sentences(seed=2)
    torch.manual_seed(2)
    text = make_text(tokenizers.make_clip_tokenizer(corpus), tokenizers.make_t5_tokenizer(corpus))
    means = train_text(text, run.scaled(2000), run.device, seed=2)
    print(f"sentences read wholly right: CLIP {means['clip']:.1%}, T5 {means['t5']:.1%}")
    folders.save_text(text, run.work / "text")


@dataclass(frozen=True)
class FlowStage:
    """One training of a transformer."""

    kind: str
    start: str | None
    """The stage whose weights it starts from."""
    steps: int
    examples: int
    seed: int
    distil: bool = False
    adam_rate: float = 1e-3
    muon_rate: float = 2e-3
    store: str | None = None
    """The stage whose examples it learns from, if not its own."""
    canvases: Mapping[tuple[int, int], float] = field(default_factory=lambda: tasks.CANVASES)


_GUIDED: Mapping[str, Any] = {"distil": True, "adam_rate": 3e-4, "muon_rate": 5e-4}

FLOW_STAGES: Mapping[str, FlowStage] = MappingProxyType(
    {
        "text2img": FlowStage("text2img", None, 20_000, 24_000, 10),
        "text2img-large": FlowStage(
            "text2img", "text2img", 7400, 12_000, 17, adam_rate=7e-4, muon_rate=1.4e-3,
            canvases=tasks.LARGE_CANVASES,
        ),
        "text2img-guided": FlowStage(
            "text2img", "text2img-large", 520, 12_000, 14, store="text2img-large", **_GUIDED
        ),
        "kontext": FlowStage("kontext", "text2img", 6900, 14_000, 11),
        "kontext-guided": FlowStage(
            "kontext", "kontext", 450, 14_000, 18, store="kontext", **_GUIDED
        ),
        "fill": FlowStage("fill", "text2img", 3100, 12_000, 12),
        "fill-guided": FlowStage("fill", "fill", 600, 12_000, 19, store="fill", **_GUIDED),
        "control": FlowStage("control", "text2img", 1200, 12_000, 13),
    }
)  # fmt: skip
"""Name -> how. The kinds start from the plain text2img: a guided one no longer draws images as
they are spread in the data, and is the last of its line."""


def _train_flow(run: Run, name: str) -> None:
    stage = FLOW_STAGES[name]
    store_path = run.work / f"{stage.store or name}-examples.pt"
    if store_path.exists():
        stores = torch.load(store_path, weights_only=False)  # written by this program
    else:
        stores = latents.make_stores(
            stage.kind, run.vae(), run.scaled(stage.examples), stage.seed, stage.canvases
        )
        torch.save(stores, store_path)
    torch.manual_seed(stage.seed)
    if stage.start is None:
        model = make_transformer(stage.kind)
    else:
        model = widen(run.transformer(stage.start, FLOW_STAGES[stage.start].kind), stage.kind)
    spec = FlowSpec(
        name, run.scaled(stage.steps), stage.seed, distil=stage.distil,
        adam_rate=stage.adam_rate, muon_rate=stage.muon_rate, compiled=run.compiled,
        checkpoint=run.work / f"{name}-running.pt",
    )  # fmt: skip
    trained = train_flow(model.to(run.device), stores, run.text(), spec, workers=run.workers)
    torch.save(trained.state_dict(), run.work / f"{name}.pt")


def _train_redux(run: Run) -> None:
    encoder = redux.train_redux(
        run.transformer("text2img-large", "text2img"), run.vae(), run.text(),
        steps=run.scaled(1200), examples=run.scaled(10_000),
        device=run.device, seed=15,
    )  # fmt: skip
    torch.save(encoder.state_dict(), run.work / "redux.pt")


def _train_lora(run: Run) -> None:
    trained = lora.train_lora(
        run.transformer("text2img-large", "text2img"), run.vae(), run.text(),
        steps=run.scaled(500), device=run.device, seed=16,
    )  # fmt: skip
    lora.save_lora(trained, run.work / "lora")


def _train_upscaling(run: Run) -> None:
    trained = train_upscaler(run.scaled(5000), run.device, seed=21)
    trained.save_pretrained(run.work / "upscaling")


def _train_wordings(run: Run) -> None:
    taught = train_wordings(
        run.text(), {kind: run.transformer(name, kind) for kind, name in EXPORTED.items()},
        run.vae(), steps=run.scaled(2000), examples=run.scaled(128), seed=20,
        checkpoint=run.work / "wordings-running",
    )  # fmt: skip
    folders.save_text(taught, run.work / "wordings")


def _train_segmentation(run: Run) -> None:
    torch.set_num_threads(1)  # with a busy neighbour, two are ten times slower
    trained = train_segmentation(run.last_text(), run.scaled(2600), run.device, seed=21)
    torch.save(trained.state_dict(), run.work / "segmentation.pt")


def _train_depth(run: Run) -> None:
    torch.set_num_threads(1)  # as above
    trained = train_depth(run.scaled(1500), run.device, seed=22)
    torch.save(trained.state_dict(), run.work / "depth.pt")


def export_helpers(run: Run) -> None:
    """Write the folders of the helpers that were trained in this work folder."""
    if (run.work / "segmentation.pt").exists():
        text = run.last_text()
        finder = make_segmentation(text)
        finder.load_state_dict(torch.load(run.work / "segmentation.pt", weights_only=True))
        export_segmentation(finder, text.tokenizer, run.out)
    if (run.work / "depth.pt").exists():
        estimator = make_depth()
        estimator.load_state_dict(torch.load(run.work / "depth.pt", weights_only=True))
        export_depth(estimator, run.out)
    if (run.work / "upscaling").exists():
        export_upscaler(load_upscaler(run.work / "upscaling"), run.out)


def export(run: Run) -> None:
    """Write the five folders of the kinds, and those of the helpers."""
    vae, text = run.vae(), run.text("wordings")
    for kind, name in EXPORTED.items():
        folders.export(kind, vae, text, run.transformer(name, kind), run.out)
    encoder = redux.ImageEncoder()
    encoder.load_state_dict(torch.load(run.work / "redux.pt", weights_only=True))
    redux.export_redux(encoder, run.out)
    export_helpers(run)


def take(run: Run, exported: Path) -> None:
    """Put the parts of exported folders into the work folder, as what the stages left.

    Only the last transformer of each kind is among them: enough for `wordings` and `export`.
    """
    folders.load_vae(exported).save_pretrained(run.work / "vae")
    folders.save_text(folders.load_text(exported / "text2img"), run.work / "text")
    for kind, name in EXPORTED.items():
        torch.save(folders.load_transformer(kind, exported).state_dict(), run.work / f"{name}.pt")
    torch.save(redux.load_redux(exported).state_dict(), run.work / "redux.pt")


EXPORTED = MappingProxyType(
    {
        "text2img": "text2img-guided",
        "kontext": "kontext-guided",
        "fill": "fill-guided",
        "control": "control",
    }
)
"""Kind -> the stage whose weights its folder gets."""


def _flow(name: str) -> Callable[[Run], None]:
    return lambda run: _train_flow(run, name)


STAGES: Mapping[str, tuple[str, Callable[[Run], None]]] = MappingProxyType(
    {
        "vae": ("vae", _train_vae),
        "text": ("text", _train_text),
        **{name: (f"{name}.pt", _flow(name)) for name in FLOW_STAGES},
        "redux": ("redux.pt", _train_redux),
        "lora": ("lora", _train_lora),
        "wordings": ("wordings", _train_wordings),
        "segmentation": ("segmentation.pt", _train_segmentation),
        "depth": ("depth.pt", _train_depth),
        "upscaling": ("upscaling", _train_upscaling),
    }
)
"""Name -> what it leaves in the work folder, and how it is run."""


def main() -> None:
    """Read the command line and run the stages that are still to do."""
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    parser.add_argument(
        "stages", nargs="*", help=f"only these: {', '.join(STAGES)}, export, export-helpers"
    )
    parser.add_argument("--work", type=Path, default=DEFAULT_WORK, help="folder of the stages")
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help="folder of the five kinds")
    parser.add_argument(
        "--take", type=Path, metavar="DIR",
        help="begin with the parts of these exported folders, for wordings and what follows",
    )  # fmt: skip
    parser.add_argument("--device", help="cpu or cuda; by default cuda if available")
    parser.add_argument("--workers", type=int, help="processes of one thread each, on a CPU")
    parser.add_argument(
        "--scale", type=float, default=1.0, help="factor for the steps; 0.01 for a trial run"
    )
    arguments = parser.parse_args()
    unknown = set(arguments.stages) - set(STAGES) - {"export", "export-helpers"}
    if unknown:
        parser.error(f"no such stage: {', '.join(sorted(unknown))}")
    device = torch.device(arguments.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    workers = arguments.workers or (1 if device.type == "cuda" else max(1, os.cpu_count() or 1))
    # Compiling for a CPU needs a C++ compiler; a short trial run ends before it pays.
    compiled = arguments.scale > 0.2 and shutil.which("c++") is not None
    run = Run(arguments.work, arguments.out, device, workers, compiled, arguments.scale)
    run.work.mkdir(parents=True, exist_ok=True)
    if arguments.take is not None:
        take(run, arguments.take)
    for name, (result, train) in STAGES.items():
        if arguments.stages and name not in arguments.stages:
            continue
        if (run.work / result).exists():
            print(f"{name}: done already ({run.work / result})")
            continue
        started = time.perf_counter()
        train(run)
        print(f"{name}: {time.perf_counter() - started:.0f} s", flush=True)
    if not arguments.stages or "export" in arguments.stages:
        export(run)
    elif "export-helpers" in arguments.stages:
        export_helpers(run)
    if not arguments.stages:
        evaluate.main(["--weights", str(run.out), "--count", str(run.scaled(200))])


if __name__ == "__main__":
    main()
