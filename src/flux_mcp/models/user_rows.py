"""A user's own models: rows of their models.toml, checked, and merged onto the shipped ones.

A table `[[model]]` holds columns of `ModelSpec`. With `extends = "flux1-dev"` everything else is
taken from that model's row, or from each of its rows where no `kind` is given. The weights are one
of `repository`, `folder`, `file` (safetensors) and `gguf`; beside `file` or `gguf`, `folder` may
describe the parts. `text_file`, `text_gguf`, `clip_file` and `vae_file` name files of other parts.
Paths are relative to the file of rows. A row
that is a LoRA (`lora = true`, or one that extends such a row) has it in `repository` or `file`.

A row that has the id of a shipped one replaces it. A file with a mistake in it is not used at all,
and the server goes on without it: half of a file would give other models than it says.
"""

import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from flux_mcp.errors import nearest_name
from flux_mcp.models.families import FileColumn
from flux_mcp.models.registry import ROW_KINDS, Kind, ModelSpec, Registry, load_registry
from flux_mcp.settings.files import is_toml, sets_key
from flux_mcp.settings.settings import Settings

_WEIGHTS = (("repository", "folder"), ("file", "gguf"))
"""Columns of which a table gives one: where all parts are, and the transformer's own file."""
_FILES: Mapping[str, tuple[str, ...]] = {
    column: (".gguf",) if column.endswith("gguf") else (".safetensors", ".sft")
    for column in get_args(FileColumn)
}
"""Column -> how the name of its file ends, in small letters or capitals."""


@dataclass(frozen=True)
class RowProblem:
    """One mistake in a file of own models."""

    path: Path
    line: int | None
    row: str
    """Id of the row, or its number; empty where the mistake is the file's."""
    field: str
    message: str
    hint: str

    def __str__(self) -> str:
        """`FILE line 3: my-model: licence: what is wrong. what to do.`."""
        place = str(self.path) if self.line is None else f"{self.path} line {self.line}"
        about = "".join(f"{name}: " for name in (self.row, self.field) if name)
        return f"{place}: {about}{self.message} {self.hint}".rstrip()


@dataclass(frozen=True)
class OwnRows:
    """What one file has: rows, or what is wrong with it."""

    path: Path
    rows: tuple[ModelSpec, ...] = ()
    problems: tuple[RowProblem, ...] = ()


def open_registry(settings: Settings) -> Registry:
    """Return the shipped rows with the user's own, and notices about those.

    The data folder's file takes precedence over the user's. Neither makes this fail.
    """
    shipped = load_registry()
    files = [read_own_rows(path, shipped) for path in own_files(settings)]
    notices = [f"Not used: {problem}" for file in files for problem in file.problems]
    taken: dict[tuple[Kind, str], ModelSpec] = {}
    for file in files:
        for row in file.rows:
            taken.setdefault((row.kind, row.id), row)
    for (kind, key), row in taken.items():
        if key in shipped[kind]:
            notices.append(f"{key} ({kind}) is the row of {row.origin}, not the shipped one.")
    rows = tuple(_merged_onto(shipped, taken))
    return Registry(rows, tuple(shipped.helpers.values()), tuple(notices))


def own_files(settings: Settings) -> tuple[Path, ...]:
    """Return the files of own models; the first takes precedence."""
    return (settings.paths.models, settings.models_file)


def read_own_rows(path: Path, shipped: Registry) -> OwnRows:
    """Read and check one file; one that does not exist, or is no file, has no rows."""
    if not path.is_file():
        return OwnRows(path)
    try:
        text = path.read_text(encoding="utf-8")
        document = tomllib.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        return _broken(path, f"It cannot be read: {error}.", "Save it as UTF-8, readable by you.")
    except tomllib.TOMLDecodeError as error:
        return _broken(path, f"It is not TOML: {error}.", "Fix that line.")
    tables = document.pop("model", [])
    if document or not isinstance(tables, list) or not all(isinstance(t, dict) for t in tables):
        return _broken(path, "It has something else than [[model]] tables.", "Leave it out.")
    reader = _RowReader(path, text, shipped)
    rows = tuple(row for number, table in enumerate(tables) for row in reader.read(number, table))
    rows_of = reader.check_together(rows)
    return OwnRows(path, () if reader.problems else rows_of, tuple(reader.problems))


def _broken(path: Path, message: str, hint: str) -> OwnRows:
    return OwnRows(path, problems=(RowProblem(path, None, "", "", message, hint),))


def _merged_onto(
    shipped: Registry, own: Mapping[tuple[Kind, str], ModelSpec]
) -> Iterator[ModelSpec]:
    """Yield replaced rows in their place, new ones before the demonstration."""
    left = dict(own)
    for kind in ROW_KINDS:
        rows = [left.pop((kind, key), row) for key, row in shipped[kind].items()]
        new = [row for (row_kind, _), row in left.items() if row_kind == kind]
        yield from (row for row in rows if not row.is_demonstration)
        yield from new
        yield from (row for row in rows if row.is_demonstration)


class _RowReader:
    """Reads the tables of one file and collects what is wrong with them."""

    def __init__(self, path: Path, text: str, shipped: Registry) -> None:
        self.problems: list[RowProblem] = []
        self._path = path
        self._lines = text.split("\n")
        self._headers = [
            index
            for index, line in enumerate(self._lines)
            if line.strip().replace(" ", "").startswith("[[model]]")
            # What comes before is valid TOML only where no longer value is open.
            and is_toml("\n".join(self._lines[:index]))
        ]
        self._shipped = shipped

    def read(self, number: int, table: dict[str, Any]) -> list[ModelSpec]:
        """Return the rows of a table, none of them if something is wrong with it."""
        before = len(self.problems)
        self._check_weights(number, table)
        bases = self._bases(number, table)
        if len(self.problems) > before:
            return []
        rows = [self._row(number, table, base) for base in bases]
        return [row for row in rows if row is not None]

    def check_together(self, rows: Iterable[ModelSpec]) -> tuple[ModelSpec, ...]:
        """Return the rows; reports two for one model and kind, and bases that do not exist."""
        seen: dict[tuple[Kind, str], ModelSpec] = {}
        for row in rows:
            if (row.kind, row.id) in seen:
                self._report(
                    None, row.id, "id", f"It is there twice for {row.kind}.", "Rename one."
                )
            seen[row.kind, row.id] = row
        texts = {*self._shipped["text2img"], *(key for kind, key in seen if kind == "text2img")}
        for row in seen.values():
            if row.base is not None and row.base not in texts:
                known = ", ".join(sorted(texts))
                hint = f"Models that draw from words: {known}."
                self._report(None, row.id, "base", f"There is no model '{row.base}'.", hint)
        return tuple(seen.values())

    def _check_weights(self, number: int, table: Mapping[str, Any]) -> None:
        for one, other in _WEIGHTS:
            if one in table and other in table:
                message = f"The weights are named by {one} already."
                self._at(number, table, other, message, f"Give one of {one} and {other}.")
        for name in [name for name in ("repository", "folder", *_FILES) if name in table]:
            suffixes, value = _FILES.get(name, ("",)), table[name]
            if not isinstance(value, str):
                self._at(number, table, name, "It is not text.", 'Write it in quotes: "...".')
            elif not value.lower().endswith(suffixes):
                message = f"'{value}' does not end in {' or '.join(suffixes)}."
                hint = "Pickled weights (.ckpt, .pt, .bin) can run code and are never loaded."
                self._at(number, table, name, message, hint)
        for name, column in (("gguf", "precision"), ("text_gguf", "text_precision")):
            if name in table and column not in table:
                hint = f'Say it as the file has it: {column} = "q4_k", or q8_0, q6_k, q5_k, q4_0.'
                self._at(number, table, name, "Its precision is not said.", hint)

    def _bases(self, number: int, table: Mapping[str, Any]) -> list[ModelSpec | None]:
        """Return the rows a table extends; `None` stands for no row at all."""
        if "extends" not in table:
            return [None]
        extends, kind = table["extends"], table.get("kind")
        found = [
            row for row in self._shipped if row.id == extends and kind in (None, row.kind)
        ]  # fmt: skip
        if not found:
            known = sorted({row.id for row in self._shipped if kind in (None, row.kind)})
            close = get_close_matches(str(extends), known, n=1)
            meant = f"Did you mean '{close[0]}'? " if close else ""
            for_kind = "" if kind is None else f" for {kind}"
            message = f"There is no shipped model '{extends}'{for_kind}."
            self._at(number, table, "extends", message, f"{meant}There are {', '.join(known)}.")
        return list(found)

    def _row(
        self, number: int, table: Mapping[str, Any], base: ModelSpec | None
    ) -> ModelSpec | None:
        columns = {} if base is None else _inherited(base, table)
        columns |= {name: value for name, value in table.items() if name != "extends"}
        columns |= {name: self._path.parent / Path(columns[name]).expanduser()
                    for name in ("folder", "parts_folder", *_FILES) if name in table}  # fmt: skip
        columns |= {n: str(columns[n]) for n in ("folder", "parts_folder") if n in table}
        columns.setdefault("title", str(table.get("id", "")))
        columns.setdefault("source", str(self._path))
        columns["origin"] = self._path
        try:
            return ModelSpec.model_validate(columns)
        except ValidationError as error:
            problems = error.errors()
            missing = [str(one["loc"][0]) for one in problems if one["type"] == "missing"]
            if missing:
                hint = 'Give them, or take them from a row with extends = "...".'
                self._at(number, table, "", f"It lacks {', '.join(missing)}.", hint)
            for problem in problems:
                if problem["type"] != "missing":
                    self._report_invalid(number, table, problem)
            return None

    def _report_invalid(self, number: int, table: Mapping[str, Any], problem: Any) -> None:
        field = ".".join(str(part) for part in problem["loc"])
        top = str(problem["loc"][0]) if problem["loc"] else ""
        message = problem["msg"].removeprefix("Value error, ").rstrip(".")
        hint = "docs/models/README.md says what columns take."
        if problem["type"] == "extra_forbidden":
            columns = [name for name in ModelSpec.model_fields if name != "origin"]
            close = nearest_name(top, columns)
            message = "There is no such column"
            hint = f"Did you mean '{close}'?" if close else "Leave it out."
        self._at(number, table, top, f"{message}.", hint, shown=field)

    def _at(
        self,
        number: int,
        table: Mapping[str, Any],
        field: str,
        message: str,
        hint: str,
        shown: str | None = None,
    ) -> None:
        name = table.get("id")
        row = name if isinstance(name, str) else f"model {number + 1}"
        self._report(
            self._line_of(number, field), row, field if shown is None else shown, message, hint
        )

    def _report(self, line: int | None, row: str, field: str, message: str, hint: str) -> None:
        self.problems.append(RowProblem(self._path, line, row, field, message, hint))

    def _line_of(self, number: int, field: str) -> int | None:
        """Return the line, from 1 on, on which a field is set, else the one its table begins on."""
        if number >= len(self._headers):
            return None
        start = self._headers[number]
        end = (*self._headers, len(self._lines))[number + 1]
        for index in range(start + 1, end):
            before = "\n".join(self._lines[start:index])
            if field and sets_key(self._lines[index], field) and is_toml(before):
                return index + 1
        return start + 1


def _inherited(base: ModelSpec, table: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns a table takes over; those that name weights only if it names none."""
    columns = base.model_dump(exclude={"origin"}, exclude_none=True)
    is_lora_file = "file" in table and table.get("lora", base.lora)
    if "repository" in table or "folder" in table or is_lora_file:
        for name in ("repository", "revision", "folder", "parts_folder", "gated"):
            columns.pop(name, None)
    for name in ("id", "title", "source"):
        columns.pop(name)
    return columns
