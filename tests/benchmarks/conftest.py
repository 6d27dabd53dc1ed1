"""The benchmarks' own modules, which are scripts beside the package."""

import sys
from pathlib import Path

# At the end: a benchmark must not shadow anything.
sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
