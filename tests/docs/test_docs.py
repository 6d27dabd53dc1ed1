"""The documents name commands, words, files and versions that exist, and no machine's own paths."""

import os
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from flux_mcp import __version__
from flux_mcp.cli.app import command_tree as build_command_tree
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
DRAWINGS = sorted(REPOSITORY.glob("docs/images/*.svg"))
README = REPOSITORY / "README.md"
COMMANDS = REPOSITORY / "docs" / "cli.md"
ARCHITECTURE = REPOSITORY / "docs" / "architecture.md"
README_LINES = 150
ARCHITECTURE_WORDS = 1500

FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FILE_LINK = re.compile(r"\[`?([\w./-]+\.\w+)`?\]\(([^)\s#:]+)")
"""A link whose text is the name of a file."""
COMMAND = re.compile(r"(?:^|\s|/)flux-mcp(?= |$)(.*)")
MAKE = re.compile(r"\bmake ([a-z-]+)")
MACHINE_PATH = re.compile(r"(?<![\w./}])/(?:work|root|tmp|home|Users|mnt|opt)/")

CODE_FOLDERS = ("src", "tests", "docs", "scripts", "benchmarks", "training", "examples", "packs")
CODE_NAME = re.compile(r"[\w./-]+\.py|(?:src|tests|scripts|benchmarks|training)/[\w./-]*")
ELSEWHERE = {"file_download.py", "training/work/"}
"""Files of other packages, and folders that a command makes."""


def name_of(page: Path) -> str:
    return page.relative_to(REPOSITORY).as_posix()


@cache
def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def prose_of(page: Path) -> str:
    """Return a page without its code blocks."""
    return FENCE.sub("", text_of(page))


def code_of(page: Path) -> Iterator[str]:
    """Yield every line of a code block, and every span of code outside of them."""
    for block in FENCE.findall(text_of(page)):
        for line in block.splitlines()[1:-1]:
            yield line.split("  #")[0].strip()
    yield from SPAN.findall(prose_of(page))


def commands_of(page: Path) -> Iterator[list[str]]:
    for code in code_of(page):
        found = COMMAND.search(code)
        if found is not None:
            yield shlex.split(found[1])


@cache
def command_tree() -> Any:
    return build_command_tree()


def follow(arguments: list[str]) -> tuple[Any, list[str]]:
    """Walk down the command tree; return the command and what is left of the arguments."""
    command, left = command_tree(), list(arguments)
    while left and left[0] in getattr(command, "commands", {}):
        command = command.commands[left.pop(0)]
    return command, left


def is_superseded(page: Path) -> bool:
    return "**Superseded by " in text_of(page)


@cache
def repository_names() -> frozenset[str]:
    """Return each file and folder of the code, with every shorter form of its path."""
    paths = [path for path in REPOSITORY.iterdir() if path.is_file()]
    for code_folder in CODE_FOLDERS:
        for folder, inner, files in os.walk(REPOSITORY / code_folder):
            inner[:] = [name for name in inner if name not in {"node_modules", "__pycache__"}]
            paths += [Path(folder), *(Path(folder, name) for name in files)]
    names = set()
    for path in paths:
        parts = path.relative_to(REPOSITORY).parts
        names |= {"/".join(parts[start:]) for start in range(len(parts))}
    return frozenset(names)


def test_every_flux_mcp_command_that_is_named_exists_with_its_options() -> None:
    wrong = []
    for page in PAGES:
        for arguments in commands_of(page):
            command, left = follow(arguments)
            options = {name for parameter in command.params for name in parameter.opts} | {"--help"}
            unknown = {item for item in left if item.startswith("--")} - options
            is_group = bool(getattr(command, "commands", None))
            if unknown or (is_group and left and not left[0].startswith("--")):
                wrong.append((name_of(page), arguments))
    assert wrong == []


def test_the_page_of_commands_names_each_of_them() -> None:
    named = {" ".join(arguments[:2]) for arguments in commands_of(COMMANDS)}
    for name, command in command_tree().commands.items():
        assert not command.hidden, name
        for below in getattr(command, "commands", {None: None}):
            wanted = name if below is None else f"{name} {below}"
            assert any(f"{one} ".startswith(f"{wanted} ") for one in named), wanted


def test_the_readme_is_short_and_lists_every_tool() -> None:
    lines = text_of(README).splitlines()
    assert len(lines) <= README_LINES
    for tool in TOOLS:
        assert any(line.startswith(f"| `{tool.name}` |") for line in lines), tool.name


def test_the_page_of_the_architecture_is_short() -> None:
    text = re.sub(r"\]\([^)]*\)", "]", prose_of(ARCHITECTURE))
    words = re.findall(r"[\w`][\w`./*-]*", text)
    assert len(words) <= ARCHITECTURE_WORDS


def test_the_page_of_the_architecture_names_classes_that_exist() -> None:
    source = "".join(path.read_text("utf-8") for path in (REPOSITORY / "src").rglob("*.py"))
    named = {name for name in SPAN.findall(prose_of(ARCHITECTURE)) if name[0].isupper()}
    assert named
    assert {name for name in named if f"\nclass {name}" not in source} == set()


def test_every_word_of_make_that_is_named_exists() -> None:
    makefile = text_of(REPOSITORY / "Makefile")
    words = set(" ".join(re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)).split())
    assert all(re.search(rf"^{word}:", makefile, re.MULTILINE) for word in words)
    named = {
        (name_of(page), word)
        for page in PAGES
        for code in code_of(page)
        for word in MAKE.findall(code)
    }
    assert {(page, word) for page, word in named if word not in words} == set()


def anchors_of(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_relative_link_leads_somewhere() -> None:
    wrong = []
    for page in PAGES:
        for link in LINK.findall(prose_of(page)):
            if re.match(r"[a-z]+:", link):
                continue
            place, _, anchor = link.partition("#")
            target = (page.parent / place).resolve() if place else page
            if (
                not target.is_relative_to(REPOSITORY)
                or not target.exists()
                or (anchor and anchor not in anchors_of(target))
            ):
                wrong.append((name_of(page), link))
    assert wrong == []


def test_a_link_named_after_a_file_leads_to_that_file() -> None:
    assert [
        (name_of(page), name, target)
        for page in PAGES
        for name, target in FILE_LINK.findall(text_of(page))
        if not f"/{target}".endswith(f"/{name}")
    ] == []


def test_every_module_and_folder_that_is_named_exists() -> None:
    assert [
        (name_of(page), name)
        for page in PAGES
        if not is_superseded(page)
        for name in SPAN.findall(prose_of(page))
        if CODE_NAME.fullmatch(name) and name not in ELSEWHERE
        if name.rstrip("/") not in repository_names()
    ] == []


def test_no_document_contains_a_path_of_a_machine() -> None:
    found = {name_of(page): MACHINE_PATH.findall(text_of(page)) for page in [*PAGES, *DRAWINGS]}
    assert {name: paths for name, paths in found.items() if paths} == {}


def test_the_newest_version_of_the_changelog_is_ours() -> None:
    versions = re.findall(r"^## \[(\d[^\]]*)\]", text_of(REPOSITORY / "CHANGELOG.md"), re.MULTILINE)
    assert versions[0] == __version__


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


def test_every_folder_of_tests_is_described() -> None:
    folders = {path.name for path in (REPOSITORY / "tests").iterdir() if any(path.glob("**/*.py"))}
    described = set(re.findall(r"`tests/(\w+)`", text_of(REPOSITORY / "CONTRIBUTING.md")))
    assert {name for name in folders if not name.startswith("__")} - {"data"} <= described


def test_decisions_are_numbered_without_gaps_and_have_their_parts() -> None:
    decisions = sorted((REPOSITORY / "docs" / "decisions").glob("*.md"))
    assert [int(page.name[:4]) for page in decisions] == list(range(1, len(decisions) + 1))
    for page in decisions:
        text = text_of(page)
        assert text.startswith(f"# {int(page.name[:4])}. "), page.name
        for part in ("**Context.**", "**Choice.**", "**What would change it.**"):
            assert part in text, page.name
        if is_superseded(page):
            assert re.search(r"\*\*Superseded by \[decision (\d+)\]\(0*\1-", text), page.name
