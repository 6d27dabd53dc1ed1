"""docs/dependencies.md has one line for each dependency of pyproject.toml, and no other."""

import re
import tomllib
from importlib.metadata import version
from pathlib import Path

from flux_mcp.models.formats import load_formats
from flux_mcp.models.upscalers import SPANDREL

FORMATS = "Other formats of weights"
FORMAT_EXTRAS = {"bitsandbytes", "flux2-dev", "gguf", "sam"}
IN_THE_BASE = {"torchao"}
REPOSITORY = Path(__file__).resolve().parents[2]


def named(requirements: list[str]) -> list[str]:
    return sorted(re.split(r"[<>=!~;\[ ]", requirement)[0] for requirement in requirements)


def described(section: str) -> dict[str, list[str]]:
    page = (REPOSITORY / "docs" / "dependencies.md").read_text(encoding="utf-8")
    body = page.split(f"\n## {section}\n")[1].split("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in body.splitlines() if line.startswith("| `")]
    return {row[0].strip("`"): row[1:] for row in rows}


def project() -> dict[str, dict[str, list[str]] | list[str]]:
    text = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)["project"]


def test_every_runtime_dependency_has_a_line_and_no_line_is_stale() -> None:
    assert sorted(described("At run time")) == named(project()["dependencies"])


def test_every_development_dependency_has_a_line_and_no_line_is_stale() -> None:
    extras = project()["optional-dependencies"]
    assert set(extras) == {"dev", "heic", "keyring", "otel", "upscalers", *FORMAT_EXTRAS}
    assert sorted(described("For development")) == named(extras["dev"])
    for extra, section in (
        ("heic", "To read HEIC: the extra `heic`"),
        ("otel", "To send traces: the extra `otel`"),
        ("keyring", "To find a token in the system's keyring: the extra `keyring`"),
    ):
        assert sorted(described(section)) == named(extras[extra])
        # `make setup` installs dev alone, and the tests use the extras.
        assert set(extras[extra]) <= set(extras["dev"])


def test_the_package_for_upscalers_is_installed_alone_and_pinned() -> None:
    wanted = project()["optional-dependencies"]["upscalers"]
    assert list(described("To use upscalers of your own: the extra `upscalers`")) == named(wanted)
    assert wanted[0] in SPANDREL
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    (pinned,) = re.findall(r"^SPANDREL := spandrel==(\S+)$", makefile, re.MULTILINE)
    assert version("spandrel") == pinned
    assert "--no-deps '$(SPANDREL)'" in makefile


def test_every_extra_for_a_format_of_weights_has_its_lines() -> None:
    extras = project()["optional-dependencies"]
    lines = {
        (extra.strip("`"), name)
        for name, cells in described(FORMATS).items()
        for extra in cells[0].split(", ")
    }
    assert lines == {(extra, name) for extra in FORMAT_EXTRAS for name in named(extras[extra])}
    assert set(load_formats().extra) == FORMAT_EXTRAS | IN_THE_BASE
    assert set(named(project()["dependencies"])) >= IN_THE_BASE


def test_every_line_says_what_is_used() -> None:
    for name, cells in {**described("At run time"), **described("For development")}.items():
        assert cells[0].strip(), name
