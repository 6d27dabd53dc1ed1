"""docs/models/speed.md has one line for each row of switches.toml, and says what it says."""

from pathlib import Path

from flux_mcp.models.switches import AttentionRow, StepCacheRow, load_switches

PAGE = Path(__file__).resolve().parents[2] / "docs" / "models" / "speed.md"


def table(heading: str) -> list[str]:
    section = PAGE.read_text(encoding="utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return [line for line in section.splitlines() if line.startswith("| `")]


def row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |".replace("|  |", "| |")


def attention(name: str, of: AttentionRow) -> str:
    places = [
        f"{device} {of.min_compute}+" if device == "cuda" else device
        for device in sorted(of.computes)
    ]
    packages = ", ".join(f"`{package}>={least}`" for package, least in of.packages.items())
    where = "any" if len(places) == 3 else ", ".join(places)
    return row(f"`{name}`", of.title, of.pixels, where, packages)


def step_cache(name: str, of: StepCacheRow) -> str:
    numbers = ", ".join(f"{option} {value}" for option, value in of.options.items())
    models = ", ".join(sorted(of.checkpoints)) or "all"
    return row(f"`{name}`", of.title, ", ".join(sorted(of.families)), models, numbers)


def test_every_attention_backend_has_its_line() -> None:
    assert table("Attention") == [attention(*item) for item in load_switches().attention.items()]


def test_every_step_cache_has_its_line() -> None:
    assert table("Step caches") == [step_cache(*i) for i in load_switches().step_cache.items()]
    text = PAGE.read_text(encoding="utf-8")
    assert {of.least_steps for of in load_switches().step_cache.values()} == {8}
    assert "all need 8 steps or more" in text


def test_the_page_names_what_is_compiled_and_what_rounds() -> None:
    rows = load_switches()
    precisions = table("Compilation")[0].split(" | ")[0]
    assert set(precisions.strip("| ").split(", ")) == {f"`{p}`" for p in rows.compile.precisions}
    assert rows.channels_last.pixels == rows.compile.pixels == "rounding"
    assert "`channels_last` is *rounding*" in PAGE.read_text(encoding="utf-8")
