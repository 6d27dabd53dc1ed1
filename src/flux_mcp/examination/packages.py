"""Which packages are installed, for what torch was built, which extras are missing: no import.

Everything is read from the files of the distributions: importing torch takes seconds.
"""

import ast
import platform
import re
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from flux_mcp.examination.facts import Torch, TorchBuild
from flux_mcp.models.formats import has_extra, load_formats

PACKAGES = (
    "torch",
    "diffusers",
    "transformers",
    "accelerate",
    "safetensors",
    "mcp",
    "pillow",
    "pydantic",
    "sqlite-utils",
)
LEAST_DRIVER = {"13": 580, "12": 525, "11": 450}
"""Major version of CUDA -> the oldest driver series it runs on (NVIDIA's CUDA Compatibility guide,
"Minor Version Compatibility", table 1). Windows' numbers are a few higher within a series."""
_MORE_EXTRAS = {
    "keyring": ("keyring", "`models pull` finds the hub's token in the system's keyring"),
    "otel": ("opentelemetry-sdk", "traces are sent to a collector"),
}
"""Extras that hold no weights -> a package they bring, and what they give."""


def version_of(package: str) -> str | None:
    """Return an installed package's version; `None` where it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def installed_torch() -> Torch:
    """Return what the installed torch was built for."""
    try:
        distribution = metadata.distribution("torch")
    except metadata.PackageNotFoundError:
        return Torch(version=None, build="unknown", cuda=None, least_driver=None)
    version = distribution.version
    # torch writes it into each wheel; the version of the one on PyPI says nothing of its build.
    place = Path(str(distribution.locate_file("torch/version.py")))
    try:
        says = constants(place.read_text(encoding="utf-8"))
    except (OSError, SyntaxError):
        says = {}
    return torch_build(says.get("__version__") or version, says, is_known=bool(says))


def torch_build(version: str, says: dict[str, str | None], *, is_known: bool) -> Torch:
    """Return what a torch was built for.

    Args:
        version: As it names itself: `2.13.0+cpu`.
        says: The constants of its `version.py`.
        is_known: Whether that could be read.
    """
    cuda, hip = says.get("cuda"), says.get("hip") or says.get("rocm")
    suffix = version.partition("+")[2]
    build: TorchBuild = "cpu" if is_known or suffix == "cpu" else "unknown"
    if cuda or re.fullmatch(r"cu\d+", suffix):
        build = "cuda"
        cuda = cuda or f"{suffix[2:-1]}.{suffix[-1]}"
    elif hip or suffix.startswith("rocm"):
        build = "rocm"
    least = LEAST_DRIVER.get((cuda or "").partition(".")[0])
    return Torch(version=version, build=build, cuda=cuda, least_driver=least)


def constants(source: str) -> dict[str, str | None]:
    """Return the names that a module binds to a string or to None at its top; runs nothing.

    Raises:
        SyntaxError: it is not Python.
    """
    found: dict[str, str | None] = {}
    for line in ast.parse(source).body:
        targets = line.targets if isinstance(line, ast.Assign) else []
        if isinstance(line, ast.AnnAssign):
            targets = [line.target]
        bound = getattr(line, "value", None)
        if isinstance(bound, ast.Constant) and isinstance(bound.value, str | None):
            found |= {target.id: bound.value for target in targets if isinstance(target, ast.Name)}
    return found


def missing_extras() -> Iterator[tuple[str, str]]:
    """Yield each extra of this package that is not installed, and what it would give."""
    for name, row in load_formats().extra.items():
        if not has_extra(name):
            yield name, row.gives
    for name, (package, gives) in _MORE_EXTRAS.items():
        if version_of(package) is None:
            yield name, gives


def is_apple_silicon() -> bool:
    """Whether torch's MPS device can be expected."""
    return platform.system() == "Darwin" and platform.machine() == "arm64"
