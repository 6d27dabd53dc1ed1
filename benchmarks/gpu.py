"""What does a CUDA GPU do with FLUX.1 at full size, against what it could do at best?

python benchmarks/gpu.py                       every case (docs/gpu.md)
python benchmarks/gpu.py --list                the cases, what they need, what they answer
python benchmarks/gpu.py --only drawing        a group, or one case; may be given several times
python benchmarks/gpu.py --budget-s 540        begin nothing after so long; the rest is "not run"
python benchmarks/gpu.py --scratch DIR         keep weights and compiled code for the next run
python benchmarks/gpu.py --scale tiny --device cpu --output FILE
                                               the same code with small parts: does it still run?

Nothing is downloaded: the weights are random numbers of the published sizes. Each result is a line
of JSON, written as soon as it is measured.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

BENCHMARKS = Path(__file__).resolve().parent
RESULTS = BENCHMARKS / "results" / "gpu.jsonl"


def main() -> int:
    """Run what was asked for; return how many cases failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--list", action="store_true", help="show the cases and stop")
    parser.add_argument("--only", action="append", metavar="NAME", help="a case or a group")
    parser.add_argument("--scale", choices=("full", "tiny"), default="full", help="sizes")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="where")
    parser.add_argument("--scratch", type=Path, help="folder to keep; else a temporary one")
    parser.add_argument("--output", type=Path, help=f"file of results; else {RESULTS.name}")
    parser.add_argument("--budget-s", type=float, help="seconds for everything")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--rates", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    from gpu_checks.cases import chosen

    try:
        names = [case.name for case in chosen(asked.only)]
    except ValueError as error:
        parser.error(str(error))
    if asked.list:
        _show_cases(names)
        return 0
    if asked.child:
        from gpu_checks.child import main as run_cases

        run_cases(asked.scale, asked.scratch, names, asked.rates)
        return 0
    if asked.device == "cuda" and not _has_gpu():
        print(_NO_GPU, file=sys.stderr)
        return 2
    output = asked.output or (RESULTS if asked.scale == "full" else None)
    return _run(asked, names, output)


_NO_GPU = (
    "No CUDA GPU: the driver's tool nvidia-smi names none. Run this where there is one, or with "
    "--scale tiny --device cpu to see whether it still runs."
)


def _has_gpu() -> bool:
    from gpu_checks.gpu import read_gpu

    return bool(read_gpu())


def _run(asked: argparse.Namespace, names: list[str], output: Path | None) -> int:
    from gpu_checks.results import Results
    from gpu_checks.runner import Runner

    results = Results(output, asked.scale, asked.device)
    with tempfile.TemporaryDirectory(
        prefix="flux-mcp-gpu-", ignore_cleanup_errors=True
    ) as temporary:
        scratch = (asked.scratch or Path(temporary)).resolve()
        scratch.mkdir(parents=True, exist_ok=True)
        Runner(results, asked.scale, asked.device, scratch, asked.budget_s).run(names)
    results.show(Console(width=150))
    return len([line for line in results.lines if line["status"] == "failed"])


def _show_cases(names: list[str]) -> None:
    from gpu_checks.cases import CASES

    table = Table()
    for heading in ("case", "group", "question", "needs"):
        table.add_column(heading)
    for case in CASES:
        if case.name in names:
            table.add_row(case.name, case.group, case.question, str(case.needs))
    Console(width=150).print(table)


if __name__ == "__main__":
    sys.exit(main())
