"""The reference pages are what the code says."""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "build_reference.py"


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("build_reference", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        # As Python does for a script: what it imports lies beside it.
        patch.syspath_prepend(SCRIPT.parent)
        spec.loader.exec_module(module)
        yield module


def test_no_page_is_stale(script: ModuleType) -> None:
    """If this fails: python scripts/build_reference.py."""
    assert script.stale() == []


def test_the_check_finds_a_stale_page_and_names_it(
    script: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, text in script.pages().items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert script.stale(tmp_path) == []
    (tmp_path / "settings.md").write_text("old", encoding="utf-8")
    (tmp_path / "errors.md").unlink()
    monkeypatch.setattr(script, "stale", lambda: ["settings.md", "errors.md"])
    monkeypatch.setattr(sys, "argv", ["build_reference.py", "--check"])
    assert script.main() == 1
    assert "settings.md, errors.md" in capsys.readouterr().err


def test_every_tool_setting_and_code_has_its_line(script: ModuleType) -> None:
    from flux_mcp.errors import QueueFullError
    from flux_mcp.server.tools import TOOLS
    from flux_mcp.settings.settings import Settings

    pages = script.pages()
    assert all(f"\n## {row.name}\n" in pages["tools.md"] for row in TOOLS)
    assert all(
        f"`FLUX_MCP_{name.upper()}`" in pages["settings.md"] for name in Settings.model_fields
    )
    assert f"| `{QueueFullError.code}` |" in pages["errors.md"]


def test_the_pages_are_the_same_on_every_machine(script: ModuleType) -> None:
    assert not any(str(Path.home()) + "/" in text for text in script.pages().values())
