"""The rows of `pack.json` -> what a pack is made of, checked against the pack's texts."""

from collections.abc import Collection, Mapping

from flux_mcp.compose.audit import Forbidden, check_forbidden
from flux_mcp.compose.manifest import MANIFEST, Manifest
from flux_mcp.compose.packs import RESERVED, SUBJECT, Defaults, Lora, Variable
from flux_mcp.compose.positions import Path
from flux_mcp.compose.problems import nearest
from flux_mcp.compose.schema import PackFile, SubjectRow, VariableRow
from flux_mcp.compose.texts import NOTHING, Text
from flux_mcp.compose.wildcards import ANY, read_wildcard
from flux_mcp.errors import InvalidRequestError

Models = Mapping[str, Collection[str]]
"""Ids of the models there are, by kind."""


def subject_of(manifest: Manifest, choices: Mapping[str, Text]) -> Variable:
    """Return the subject as something to choose, with problems collected."""
    row = manifest.rows.subject
    if not choices and not row.free_text:
        message = "There is no subject to choose, and none may be written."
        mend = "Put a text file into subjects/, or set free_text to true."
        manifest.complain((SUBJECT, "free_text"), message, mend)
    return _argument(manifest, (SUBJECT,), row, choices)


def variable_of(
    manifest: Manifest, name: str, row: VariableRow, from_file: Mapping[str, Text] | None
) -> Variable:
    """Return a variable, with problems collected.

    Args:
        manifest: Where the row stands.
        name: The variable's name.
        row: What pack.json says about it.
        from_file: The choices of `variable_<name>.txt`; `None` if there is no such file.
    """
    path = ("variables", name)
    file = f"variable_{name}.txt"
    if name in RESERVED:
        manifest.complain(path, f"No variable can be called '{name}'.", "Rename it.")
    if row.choices is not None and from_file is not None:
        message = f"The choices of '{name}' stand here and in {file}."
        manifest.complain((*path, "choices"), message, "Take one of the two away.")
    if not row.choices and from_file is None and not row.free_text:
        mend = f"Write them into {file}, or here as choices; or set free_text to true."
        manifest.complain(path, f"The variable '{name}' has no choices.", mend)
    inline = {
        choice: _inline(manifest, name, choice, text)
        for choice, text in (row.choices or {}).items()
    }
    return _argument(manifest, path, row, inline if from_file is None else from_file)


def _inline(manifest: Manifest, name: str, choice: str, text: str) -> Text:
    path = ("variables", name, "choices", choice)
    text = text.strip()
    if not text:
        mend = f"Write one, or {NOTHING} alone for one that says nothing."
        manifest.complain(path, f"The choice '{choice}' has no text.", mend)
    line = manifest.positions.find(path).line
    return Text("" if text == NOTHING else text, MANIFEST, (line,), f"{name}: {choice}")


def _argument(
    manifest: Manifest,
    path: Path,
    row: SubjectRow | VariableRow,
    choices: Mapping[str, Text],
) -> Variable:
    name = str(path[-1])
    for choice in row.weights:
        if choice not in choices:
            message = f"There is a weight for '{choice}', which is no choice of '{name}'."
            mend = nearest(choice, choices, what="Choices")
            manifest.complain((*path, "weights", choice), message, mend)
    weights = {choice: row.weights.get(choice, 1) for choice in choices}
    if weights and not any(weights.values()):
        message = f"Every choice of '{name}' has the weight 0."
        manifest.complain((*path, "weights"), message, "Give one of them a weight above 0.")
    argument = Variable(name, row.description, choices, weights, row.default, row.free_text)
    _check_default(manifest, path, argument)
    return argument


def _check_default(manifest: Manifest, path: Path, argument: Variable) -> None:
    default, choices = argument.default, argument.choices
    if default is None or default in choices:
        return
    if default == ANY and not choices:
        message = f"There is nothing '{ANY}' could draw for '{argument.name}'."
        manifest.complain((*path, "default"), message, "Give it choices, or another default.")
        return
    try:
        is_drawn = read_wildcard(default, argument.weights) is not None
    except InvalidRequestError as error:
        if not argument.free_text:
            manifest.complain((*path, "default"), f"default: {error.message}", error.hint)
        return
    if not is_drawn and not argument.free_text:
        message = f"The default '{default}' is no choice of '{argument.name}'."
        manifest.complain((*path, "default"), message, nearest(default, choices, what="Choices"))


def check_model(manifest: Manifest, models: Models | None) -> None:
    """Collect a problem if the pack asks for a model that is not among those given."""
    model, kind = manifest.rows.model, manifest.rows.kind
    if models is None or model is None:
        return
    known = models.get(kind, ())
    if model not in known:
        mend = nearest(model, known, what=f"Models for {kind}")
        manifest.complain(("model",), f"There is no model '{model}' for {kind}.", mend)


def forbidden_of(manifest: Manifest) -> tuple[Forbidden, ...]:
    """Return what the pack forbids, with problems collected.

    The contexts that are allowed everywhere are in each.
    """
    rows = manifest.rows
    forbidden = tuple(
        Forbidden(
            pattern=row.pattern,
            kind=row.kind,
            severity=row.severity,
            reason=row.reason,
            instead=row.instead,
            related=row.related,
            allowed_in=(*row.allowed_in, *rows.allowed_contexts),
        )
        for row in rows.forbidden
    )
    for index, one in enumerate(forbidden):
        try:
            check_forbidden(one)
        except InvalidRequestError as error:
            manifest.complain(("forbidden", index, "pattern"), error.message, error.hint)
    return forbidden


def defaults_of(rows: PackFile) -> Defaults:
    """Return what the pack asks for where the caller says nothing."""
    return Defaults(
        kind=rows.kind,
        model=rows.model,
        quality=rows.quality,
        aspect_ratio=rows.aspect_ratio,
        width=rows.width,
        height=rows.height,
        loras=tuple(Lora(row.name, row.weight) for row in rows.loras),
    )
