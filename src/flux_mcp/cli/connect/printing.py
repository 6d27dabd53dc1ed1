"""What people and programs see of `flux-mcp connect`."""

import shlex
from typing import Any

from rich.console import Console
from rich.syntax import Syntax
from rich.text import Text

from flux_mcp.cli.common import console, plain, print_json, print_table
from flux_mcp.cli.connect.changes import snippet
from flux_mcp.cli.connect.connecting import ClientFinding, ConnectFlags, Outcome
from flux_mcp.cli.connect.entries import MASK, TOKEN_VARIABLE, is_http, own_command

_LEXERS = {"json": "json", "jsonc": "json", "toml": "toml"}
_STATUS = {
    "absent": "no entry",
    "current": "connected",
    "differs": "another or older flux-mcp",
    "foreign": "another server has our name",
    None: "cannot be read",
}
WAITING = (
    "An image tool answers after at most wait_s (by default 45 seconds, 3 for clients that are "
    "known to end calls soon); a job that is not finished continues, and flux_get_job returns its "
    "images."
)


def print_outcome(outcome: Outcome, flags: ConnectFlags, *, as_json: bool) -> None:
    """Print what was found and done."""
    if as_json:
        print_json(as_dict(outcome, flags))
    elif outcome.file is None:
        console().print(_document(outcome))
        for notice in (outcome.client.after, *_notices(outcome)):
            console(stderr=True).print(f"Note: {plain(notice)}")
    else:
        _OutcomePage(outcome, flags, console()).print()


def as_dict(outcome: Outcome, flags: ConnectFlags) -> dict[str, Any]:
    """Return what `--json` prints; the token is masked."""
    change = outcome.change
    return {
        "client": outcome.client.id,
        "scope": outcome.scope,
        "file": None if outcome.file is None else str(outcome.file),
        "key": outcome.client.key,
        "name": outcome.name,
        "entry": _masked(outcome.entry, outcome),
        "task": flags.task,
        "status": None if change is None else change.status,
        "changed": outcome.done,
        "would_change": change is not None and change.changes and not outcome.done,
        "backup": None if outcome.backup is None else str(outcome.backup),
        "diff": "" if change is None else outcome.masked(change.diff(str(outcome.file))),
        "document": _document(outcome),
        "after": outcome.client.after,
        "timeout": outcome.client.timeout,
    }


def _masked(value: Any, outcome: Outcome) -> Any:
    if isinstance(value, dict):
        return {key: _masked(one, outcome) for key, one in value.items()}
    return outcome.masked(value) if isinstance(value, str) else value


def _document(outcome: Outcome) -> str:
    return outcome.masked(snippet(outcome.client, outcome.name, outcome.entry))


def _notices(outcome: Outcome) -> list[str]:
    client = outcome.client
    notices = list(client.notes)
    if outcome.secret:
        notices.append(
            "The file holds the token: do not share it, nor its backups."
            if outcome.file is not None
            else f"The token is not shown: write it in the place of {MASK}."
        )
    elif is_http(outcome.entry):
        notices.append(f"Set {TOKEN_VARIABLE} where {client.title} is started.")
    if outcome.not_named:
        notices.append(
            f"Set in this shell, and not in the entry: {', '.join(outcome.not_named)}. A client "
            "that was not started from it does not hand them on: set them in config.toml in the "
            "data folder (docs/settings.md)."
        )
    words = own_command(client, outcome.scope or "user", outcome.name, outcome.launch)
    if words and not is_http(outcome.entry):
        notices.insert(0, f"The client has a command of its own: {shlex.join(words)}")
    return notices


class _OutcomePage:
    """What one client's file says, would say, or says now."""

    def __init__(self, outcome: Outcome, flags: ConnectFlags, out: Console) -> None:
        self._outcome = outcome
        self._flags = flags
        self._out = out

    def print(self) -> None:
        """Print it."""
        outcome, client = self._outcome, self._outcome.client
        self._out.print(client.title, style="bold")
        self._fact(
            "File", f"{outcome.file}{'' if outcome.scope is None else f' ({outcome.scope})'}"
        )
        if self._flags.task == "show":
            self._out.print(f"Entry '{outcome.name}' in '{client.key}':", style="bold")
            self._code(_document(outcome), _LEXERS[client.format])
        self._print_change()
        if self._flags.task != "remove":
            self._fact("Then", client.after)
            self._fact("Time-out", client.timeout)
            self._out.print(WAITING)
        for notice in () if self._flags.task == "remove" else _notices(outcome):
            console(stderr=True).print(f"Note: {plain(notice)}")

    def _print_change(self) -> None:
        outcome, change = self._outcome, self._outcome.change
        if change is None:
            return
        if not change.changes:
            what = "has no such entry" if self._flags.task == "remove" else "has this entry already"
            self._out.print(f"The file {what}: nothing to change.")
            return
        if self._flags.task == "show" and not change.before:
            self._out.print("There is no such file yet; it would hold exactly that.")
        else:
            if self._flags.task == "show":
                self._out.print("What would change:", style="bold")
            self._code(outcome.masked(change.diff(str(outcome.file))), "diff")
        if outcome.done:
            kept = "" if outcome.backup is None else f" As it was: {outcome.backup}"
            self._out.print(f"Written.{kept}", style="green")
        elif change.status in {"differs", "foreign"}:
            self._out.print("Nothing was written. --write --replace puts ours in its place.")
        else:
            self._out.print("Nothing was written. --write does it.")

    def _fact(self, name: str, text: str) -> None:
        self._out.print(Text.assemble((f"{name}: ", "bold"), plain(text)))

    def _code(self, text: str, lexer: str) -> None:
        """Colours for people; exactly the text for everybody else."""
        if self._out.is_terminal:
            theme, back = "ansi_dark", "default"
            self._out.print(Syntax(text, lexer, theme=theme, background_color=back, word_wrap=True))
        else:
            self._out.print(Text(text))


def print_survey(found: list[ClientFinding], *, as_json: bool) -> None:
    """Print which clients there are, which seem to be here, and which are connected."""
    if as_json:
        print_json({"clients": [_line(one) for one in found]})
        return
    out = console()
    print_table(
        ("client", "here", "entry", "file"),
        [
            (
                one.client.id,
                "yes" if one.installed else "-",
                _STATUS[one.status],
                "-" if one.file is None else str(one.file),
            )
            for one in found
        ],
        styles=["green" if one.status == "current" else "" for one in found],
    )
    for one in found:
        if one.problem:
            console(stderr=True).print(f"Note: {one.client.id}: {plain(one.problem)}")
    out.print(
        "'flux-mcp connect CLIENT' shows the entry, --write writes it; "
        "'flux-mcp connect generic' is for any other client."
    )


def _line(one: ClientFinding) -> dict[str, Any]:
    return {
        "client": one.client.id,
        "title": one.client.title,
        "scope": one.scope,
        "file": None if one.file is None else str(one.file),
        "installed": one.installed,
        "status": one.status,
        "problem": one.problem or None,
    }
