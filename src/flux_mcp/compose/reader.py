"""Reads a folder as a pack, or reports everything that is wrong with it at once."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from flux_mcp.compose.assemble import names_in
from flux_mcp.compose.checks import check_texts
from flux_mcp.compose.files import (
    MAX_FILES,
    NAME,
    NAME_RULE,
    PackFiles,
    Text,
    read_choices,
    read_text,
)
from flux_mcp.compose.manifest import (
    MANIFEST,
    LocatedManifest,
    Models,
    check_model,
    defaults_of,
    forbidden_of,
    read_manifest,
    subject_of,
    variable_of,
)
from flux_mcp.compose.packs import Pack, Variable
from flux_mcp.compose.problems import PackProblem, has_errors, nearest

FIXED_FILE = "fixed_block.txt"
SUBJECTS = "subjects"

_VARIABLE_FILE = re.compile(r"variable_(?P<name>.*)\.txt")


@dataclass(frozen=True)
class PackReading:
    """The result of reading a pack's folder."""

    name: str
    pack: Pack | None
    """`None` if it cannot be used."""
    problems: tuple[PackProblem, ...]
    """By file and line. A pack with warnings only can be used."""


def read_pack(folder: Path, models: Models | None = None) -> PackReading:
    """Read and check a pack's folder; every error in it becomes a problem of the result.

    Args:
        folder: The pack's folder; its name is the pack's.
        models: Ids of the known models, by kind; `None` allows any id.
    """
    files = PackFiles(folder)
    pack = _read(files, models)
    if pack is not None:
        check_texts(pack, files)
    problems = tuple(sorted(set(files.problems)))
    return PackReading(folder.name, None if has_errors(problems) else pack, problems)


def _read(files: PackFiles, models: Models | None) -> Pack | None:
    if not NAME.fullmatch(files.folder.name):
        message = f"'{files.folder.name}' cannot be the name of a pack."
        files.add_error("", message, NAME_RULE)
    names = _file_names(files)
    if names is None:
        return None
    for name in names:
        _check_name(files, name)
    for name, fix in (
        (MANIFEST, "Write it, with title, description and version at least."),
        (FIXED_FILE, "Write the text of every prompt of the pack into it."),
    ):
        if name not in names:
            files.add_error(name, "The file is missing.", fix)
    manifest = read_manifest(files) if MANIFEST in names else None
    fixed = _read_one(files, FIXED_FILE) if FIXED_FILE in names else None
    subjects = _subjects(files, names)
    choices = _choices(files, names)
    if manifest is None:
        return None
    check_model(manifest, models)
    _check_files_are_used(manifest, choices)
    subject = subject_of(manifest, subjects)
    variables = {
        name: variable_of(manifest, name, row, choices.get(name))
        for name, row in manifest.rows.variables.items()
    }
    return _pack(manifest, fixed, subject, variables) if fixed is not None else None


def _pack(
    manifest: LocatedManifest, fixed: Text, subject: Variable, variables: dict[str, Variable]
) -> Pack:
    rows, files = manifest.rows, manifest.files
    texts = [fixed, *(text for one in (subject, *variables.values()) for text in one.texts)]
    named = frozenset(name for text in texts for name in names_in(text.text))
    return Pack(
        name=files.folder.name,
        title=rows.title,
        description=rows.description,
        version=rows.version,
        digest=files.digest,
        folder=files.folder,
        fixed=fixed,
        subject=subject,
        variables=variables,
        woven=named & variables.keys(),
        forbidden=forbidden_of(manifest),
        defaults=defaults_of(rows),
    )


def _file_names(files: PackFiles) -> list[str] | None:
    """Return every file of the pack except notes, hidden files and editors' copies."""
    try:
        names = sorted(entry.name for entry in files.folder.iterdir())
        if SUBJECTS in names:
            below = sorted(entry.name for entry in (files.folder / SUBJECTS).iterdir())
            names = [name for name in names if name != SUBJECTS]
            names += [f"{SUBJECTS}/{name}" for name in below]
    except OSError as error:
        message = f"The folder cannot be read: {error.strerror}."
        files.add_error("", message, "Make it a folder that can be read.")
        return None
    names = [name for name in names if "/." not in f"/{name}" and not name.endswith(("~", ".md"))]
    if len(names) > MAX_FILES:
        message = f"It has {len(names)} files and may have at most {MAX_FILES}."
        files.add_error("", message, "Split it into two packs.")
        return None
    return names


def _check_name(files: PackFiles, name: str) -> None:
    stem = _subject_name(name)
    if stem is not None and not name.endswith(".txt"):
        fix = "Rename it to .txt, or remove it."
        files.add_error(name, "It is not a .txt file.", fix)
    elif stem is not None and not NAME.fullmatch(stem):
        files.add_error(name, f"'{stem}' cannot be the name of a subject.", NAME_RULE)
    elif stem is None and name.endswith(".txt"):
        variable = _VARIABLE_FILE.fullmatch(name)
        if variable is not None and not NAME.fullmatch(variable["name"]):
            message = f"'{variable['name']}' cannot be the name of a variable."
            files.add_error(name, message, NAME_RULE)
        elif variable is None and name != FIXED_FILE:
            known = (FIXED_FILE, "variable_<name>.txt", f"{SUBJECTS}/<name>.txt")
            fix = nearest(name, known, what="Text files of a pack")
            files.add_error(name, "No text file of a pack has that name.", fix)


def _subject_name(name: str) -> str | None:
    folder, _, last = name.rpartition("/")
    return last.removesuffix(".txt") if folder == SUBJECTS else None


def _subjects(files: PackFiles, names: Iterable[str]) -> dict[str, Text]:
    subjects = {}
    for name in names:
        stem = _subject_name(name)
        if stem is not None and name.endswith(".txt") and NAME.fullmatch(stem):
            text = _read_one(files, name)
            if text is not None:
                subjects[stem] = text
    return subjects


def _choices(files: PackFiles, names: Iterable[str]) -> dict[str, dict[str, Text]]:
    """Return the choices of every `variable_*.txt` by the variable's name."""
    choices = {}
    for name in names:
        found = _VARIABLE_FILE.fullmatch(name)
        if found is not None and NAME.fullmatch(found["name"]):
            file = files.read(name)
            choices[found["name"]] = {} if file is None else read_choices(file, files)
    return choices


def _check_files_are_used(manifest: LocatedManifest, choices: Iterable[str]) -> None:
    known = manifest.rows.variables
    for name in choices:
        if name not in known:
            message = f"{MANIFEST} has no variable '{name}': this file is not used."
            fix = f"Add it there, or rename the file. {nearest(name, known, what='Variables')}"
            manifest.files.add_error(f"variable_{name}.txt", message, fix)


def _read_one(files: PackFiles, name: str) -> Text | None:
    file = files.read(name)
    return read_text(file, files) if file is not None else None
