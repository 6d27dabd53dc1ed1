"""Run the benchmarks, each in a separate process, and record their results if asked to.

python benchmarks/run.py                  all of them
python benchmarks/run.py --quick          few repetitions: do they still run?
python benchmarks/run.py --only start     one; may be given several times
python benchmarks/run.py --record         also append each result to results/<name>.jsonl
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parent
NAMES = (
    "start",
    "commands",
    "tool_list",
    "answers",
    "status",
    "cancel",
    "gallery",
    "overhead",
    "kinds",
    "embeddings",
    "switches",
    "prefetch",
    "compose",
    "audit",
    "load",
    "scheduling",
)


def main() -> int:
    """Run the chosen benchmarks; return how many failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="few repetitions")
    parser.add_argument("--only", action="append", choices=NAMES, metavar="NAME", help="run one")
    parser.add_argument("--record", action="store_true", help="append to results/<name>.jsonl")
    asked = parser.parse_args()
    if asked.quick and asked.record:
        parser.error("a quick run is not worth recording")
    failed = [name for name in asked.only or NAMES if not _run(name, asked.quick, asked.record)]
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return len(failed)


def _run(name: str, quick: bool, record: bool) -> bool:
    """Run one and print its output; return whether it ended with a result."""
    command = [sys.executable, str(BENCHMARKS / f"{name}.py"), *(["--quick"] if quick else [])]
    last = ""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, encoding="utf-8") as process:
        for line in process.stdout or ():
            print(line, end="", flush=True)
            last = line.strip() or last
    if process.returncode != 0:
        return False
    found = json.loads(last)
    if record:
        results = BENCHMARKS / "results"
        results.mkdir(exist_ok=True)
        with (results / f"{name}.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(found, ensure_ascii=False) + "\n")
    return True


if __name__ == "__main__":
    sys.exit(main())
