"""The documents name commands, words, files and versions that exist, and no machine's own paths."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from flux_mcp import __version__
from flux_mcp.cli.app import build_app
from flux_mcp.models.registry import load_registry
from flux_mcp.models.user_rows import read_own_rows
from flux_mcp.server.tools import TOOLS

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = sorted(
    [
        *REPOSITORY.glob("*.md"),
        *REPOSITORY.glob("docs/**/*.md"),
        REPOSITORY / "data" / "README.md",
        *REPOSITORY.glob("benchmarks/*.md"),
        *REPOSITORY.glob("examples/**/*.md"),
    ]
)
IMAGES = sorted(REPOSITORY.glob("docs/images/*.svg"))
README = REPOSITORY / "README.md"
COMMANDS = REPOSITORY / "docs" / "cli.md"
README_LINES = 150

FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
COMMAND = re.compile(r"(?:^|\s|/)flux-mcp(?= |$)(.*)")
MAKE = re.compile(r"\bmake ([a-z-]+)")
MACHINE_PATH = re.compile(r"(?<![\w./}])/(?:work|root|tmp|home|Users|mnt|opt)/")


def name_of(page: Path) -> str:
    return page.relative_to(REPOSITORY).as_posix()


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def code_of(text: str) -> Iterator[str]:
    """Yield every line of a code block, and every span of code outside of them."""
    for block in FENCE.findall(text):
        for line in block.splitlines()[1:-1]:
            yield line.split("  #")[0].strip()
    yield from SPAN.findall(FENCE.sub("", text))


def commands_of(page: Path) -> Iterator[list[str]]:
    for code in code_of(text_of(page)):
        found = COMMAND.search(code)
        if found is not None:
            yield shlex.split(found[1])


def follow(arguments: list[str]) -> tuple[Any, list[str]]:
    """Walk down the command tree; return the command and what is left of the arguments."""
    command: Any = typer.main.get_command(build_app())
    left = list(arguments)
    while left and left[0] in getattr(command, "commands", {}):
        command = command.commands[left.pop(0)]
    return command, left


def pages() -> Any:

    return pytest.mark.parametrize("page", PAGES, ids=name_of)


@pages()
def test_every_flux_mcp_command_that_is_named_exists_with_its_options(page: Path) -> None:
    for arguments in commands_of(page):
        command, left = follow(arguments)
        options = {name for parameter in command.params for name in parameter.opts}
        given = {item for item in left if item.startswith("--")}
        assert given <= options | {"--help"}, arguments
        is_group = bool(getattr(command, "commands", None))
        assert not is_group or not left or left[0].startswith("--"), arguments


def test_the_page_of_commands_names_each_of_them() -> None:
    tree: Any = typer.main.get_command(build_app())
    named = {" ".join(arguments[:2]) for arguments in commands_of(COMMANDS)}
    for name, command in tree.commands.items():
        assert not command.hidden, name
        for below in getattr(command, "commands", {None: None}):
            wanted = name if below is None else f"{name} {below}"
            assert any(f"{one} ".startswith(f"{wanted} ") for one in named), wanted


def test_the_readme_is_short() -> None:
    assert len(text_of(README).splitlines()) <= README_LINES


@pages()
def test_every_word_of_make_that_is_named_exists(page: Path) -> None:
    makefile = text_of(REPOSITORY / "Makefile")
    words = set(" ".join(re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)).split())
    named = {word for code in code_of(text_of(page)) for word in MAKE.findall(code)}
    assert named <= words
    assert all(re.search(rf"^{word}:", makefile, re.MULTILINE) for word in words)


def anchors_of(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", text_of(page)), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pages()
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    for link in LINK.findall(FENCE.sub("", text_of(page))):
        if re.match(r"[a-z]+:", link):
            continue
        place, _, anchor = link.partition("#")
        target = (page.parent / place).resolve() if place else page
        assert target.is_relative_to(REPOSITORY), link
        assert target.exists(), link
        assert not anchor or anchor in anchors_of(target), link


def test_the_newest_version_of_the_changelog_is_ours() -> None:
    versions = re.findall(r"^## \[(\d[^\]]*)\]", text_of(REPOSITORY / "CHANGELOG.md"), re.MULTILINE)
    assert versions[0] == __version__


@pytest.mark.parametrize("page", [*PAGES, *IMAGES], ids=name_of)
def test_no_document_contains_a_path_of_a_machine(page: Path) -> None:
    assert MACHINE_PATH.findall(text_of(page)) == []


def test_the_readme_lists_every_tool() -> None:
    lines = text_of(README).splitlines()
    for tool in TOOLS:
        assert any(line.startswith(f"| `{tool.name}` |") for line in lines), tool.name


def test_the_page_of_models_lists_each_with_its_facts() -> None:
    lines = text_of(REPOSITORY / "docs" / "models" / "README.md").splitlines()
    for row in load_registry():
        line = next(line for line in lines if line.startswith(f"| `{row.id}` | `{row.kind}` |"))
        assert f"{row.disk_gib:g}" in line
        assert row.licence in line
        assert row.repository is None or f"`{row.repository}`" in line


def test_the_page_of_models_shows_rows_that_can_be_used(tmp_path: Path) -> None:
    page = text_of(REPOSITORY / "docs" / "models" / "README.md")
    (example,) = re.findall(r"^```toml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    path = tmp_path / "models.toml"
    path.write_text(example, encoding="utf-8")
    found = read_own_rows(path, load_registry())
    assert found.problems == ()
    assert len(found.rows) == example.count("[[model]]")


def test_decisions_are_numbered_without_gaps_and_have_their_parts() -> None:
    decisions = sorted((REPOSITORY / "docs" / "decisions").glob("*.md"))
    assert [int(page.name[:4]) for page in decisions] == list(range(1, len(decisions) + 1))
    for page in decisions:
        text = text_of(page)
        assert text.startswith(f"# {int(page.name[:4])}. "), page.name
        for part in ("**Context.**", "**Choice.**", "**What would change it.**"):
            assert part in text, page.name
