"""How well exported weights follow their prompts: tables with the goals, and contact sheets.

    python -m training.evaluate --weights DIR --count 64
    python -m training.evaluate --weights DIR --count 64 --kinds fill control --sheets DIR

Generated with diffusers' own pipelines and fixed seeds: the same weights give the same numbers.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from random import Random
from types import MappingProxyType

import diffusers
import transformers
from rich.console import Console
from rich.table import Table

from training import sheets, stock
from training.answers import Panel, Row
from training.exams import EXAMS, depth, segmentation

HELPERS = ("segmentation", "depth")
ALL = [*EXAMS, *HELPERS]
STEPS = 8
GUIDANCE: Mapping[str, float] = MappingProxyType(dict.fromkeys(EXAMS, 3.0))
SEED = 20_000
"""Far from the seeds of the training: every example is new."""


@dataclass(frozen=True)
class Report:
    """The results of one kind."""

    kind: str
    rows: tuple[Row, ...]
    panels: tuple[Panel, ...]
    """Every example, for the sheet."""


def evaluate_kind(
    kind: str,
    pipelines: stock.Pipelines,
    count: int,
    seed: int,
    steps: int = STEPS,
    guidance: float | None = None,
) -> Report:
    """Judge about `count` examples of each measure with a goal, and some of the others."""
    draw = partial(
        stock.draw,
        kind,
        pipelines,
        steps=steps,
        guidance=GUIDANCE[kind] if guidance is None else guidance,
    )
    answers = EXAMS[kind](draw, count, Random(seed))
    return Report(kind, answers.rows(kind), tuple(answers.panels))


def evaluate_helper(kind: str, weights: Path, count: int, seed: int, device: str) -> Report:
    """Judge the segmentation or the depth model on about `count` images."""
    if kind == "segmentation":
        answers = segmentation(stock.finder(weights, device), count, Random(seed))
    else:
        answers = depth(stock.estimator(weights, device), count, Random(seed))
    return Report(kind, answers.rows(kind), tuple(answers.panels))


def table(report: Report) -> Table:
    """Return a kind's numbers with their goals."""
    shown = Table("measure", title=report.kind, title_justify="left")
    for name in ("images", "value", "goal", "reached"):
        shown.add_column(name, justify="right")
    for row in report.rows:
        reached = {True: "[green]yes", False: "[red]no", None: ""}[row.reached]
        shown.add_row(row.name, str(row.count), _number(row, row.value), _goal(row), reached)
    return shown


def _goal(row: Row) -> str:
    if row.at_most is not None:
        return f"<= {_number(row, row.at_most)}"
    return "" if row.at_least is None else f">= {_number(row, row.at_least)}"


def _number(row: Row, value: float | None) -> str:
    """Write shares in percent; F1, IoU and differences as they are."""
    if value is None:
        return "-"
    plain = any(word in row.name for word in ("F1", "255", "IoU", "correlation"))
    return f"{value:.3f}" if plain else f"{value:.1%}"


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", type=Path, required=True, help="the folder of the kinds")
    parser.add_argument("--count", type=int, default=64, help="examples of each kind")
    parser.add_argument("--kinds", nargs="+", choices=ALL, default=ALL)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--guidance", type=float, help="for all kinds, instead of their own")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--sheets", type=Path, help="write a contact sheet of each kind here")
    parser.add_argument("--json", type=Path, help="write the numbers here")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> None:
    """Evaluate the kinds that were asked for, on the command line or by `words`."""
    asked = _arguments(words)
    console = Console()
    # Loading such small files needs no progress bar.
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    pipelines: stock.Pipelines = {}
    if set(asked.kinds) - set(HELPERS):
        pipelines = stock.load(asked.weights, asked.kinds, asked.device)
    numbers = {}
    for kind in asked.kinds:
        if kind in HELPERS:
            report = evaluate_helper(kind, asked.weights, asked.count, asked.seed, asked.device)
        else:
            report = evaluate_kind(
                kind, pipelines, asked.count, asked.seed, asked.steps, asked.guidance
            )
        console.print(table(report))
        numbers[kind] = [asdict(row) | {"reached": row.reached} for row in report.rows]
        if asked.sheets is not None:
            asked.sheets.mkdir(parents=True, exist_ok=True)
            how = "" if kind in HELPERS else f", {asked.steps} steps"
            title = f"{kind}{how}, a random sample"
            sheets.sheet(report.panels, asked.seed, title).save(asked.sheets / f"{kind}.png")
    if asked.json is not None:
        asked.json.write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
