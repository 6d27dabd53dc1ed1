"""What is done to a client's file: the text before, the text after, and why; pure."""

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from flux_mcp.cli.connect.clients import Client, Format
from flux_mcp.cli.connect.entries import is_ours
from flux_mcp.cli.connect.json_text import JsonText
from flux_mcp.cli.connect.toml_text import TomlText
from flux_mcp.cli.connect.yaml_text import yaml_text
from flux_mcp.errors import EntryConflictError, InternalError

Status = Literal["absent", "current", "differs", "foreign"]
"""How the file's entry of our name stands to the one we would write.

absent: there is none; current: it is the same; differs: it starts or calls a flux-mcp, but not
like ours; foreign: it is something else.
"""


@dataclass(frozen=True)
class Change:
    """What would become of a file.

    Attributes:
        before: Its text; empty if there is no file.
        after: Its text then.
        status: How its entry of our name stands to ours, before.
        found: That entry; None if there is none.
    """

    before: str
    after: str
    status: Status
    found: Any = None

    @property
    def changes(self) -> bool:
        """Whether there is anything to write."""
        return self.before != self.after

    def diff(self, name: str) -> str:
        """Return the unified diff for people; empty if nothing changes."""
        lines = difflib.unified_diff(
            self.before.splitlines(), self.after.splitlines(), name, name, n=2, lineterm=""
        )
        return "\n".join(lines)


def read_document(text: str, key: str, format_: Format) -> JsonText | TomlText:
    """Read a client's document.

    Raises:
        InvalidClientFileError: it cannot be read.
    """
    if format_ == "toml":
        return TomlText(text, key)
    return JsonText(text, key, comments=format_ == "jsonc")


def adding(client: Client, before: str, name: str, entry: Mapping[str, Any]) -> Change:
    """Return the document with our entry; another one of that name is replaced.

    Raises:
        InvalidClientFileError: the document cannot be read or added to.
    """
    document = read_document(before, client.key, client.format)
    found = document.entries.get(name)
    if found == entry:
        return Change(before, before, "current", found)
    after = document.with_entry(name, entry)
    wanted = {**document.data, client.key: {**document.entries, name: dict(entry)}}
    _check(client, after, wanted)
    if name not in document.entries:
        return Change(before, after, "absent")
    return Change(before, after, "differs" if is_ours(found) else "foreign", found)


def removing(client: Client, before: str, name: str, entry: Mapping[str, Any]) -> Change:
    """Return the document without our entry; one that is not ours is left.

    Args:
        client: Whose document it is.
        before: The document.
        name: Of the entry.
        entry: As we would write it: then it is ours, whatever it looks like.

    Raises:
        InvalidClientFileError: the document cannot be read.
        EntryConflictError: the entry of that name is not ours.
    """
    document = read_document(before, client.key, client.format)
    if name not in document.entries:
        return Change(before, before, "absent")
    found = document.entries[name]
    if found != entry and not is_ours(found):
        raise EntryConflictError(
            f"The entry '{name}' is not one of flux-mcp, so it is left as it is.",
            "Name ours with --name, or take it out by hand.",
        )
    after = document.without_entry(name)
    left = {key: value for key, value in document.entries.items() if key != name}
    wanted = {**document.data, client.key: left}
    _check(client, after, wanted)
    return Change(before, after, "current" if found == entry else "differs", found)


def status_of(found: Any, entry: Mapping[str, Any]) -> Status:
    """Say how an entry that was found stands to the one we would write."""
    if found == entry:
        return "current"
    return "differs" if is_ours(found) else "foreign"


def _check(client: Client, after: str, wanted: Mapping[str, Any]) -> None:
    """Read the new document again: nothing is written that says anything else than it should.

    Raises:
        InternalError: it does not; an empty table of servers may be there or not.
    """
    data = read_document(after, client.key, client.format).data
    if {**wanted, client.key: wanted[client.key]} != {client.key: {}, **data}:
        raise InternalError(
            "The changed document would not say what it should, so the file is left as it is.",
            "Add or remove the entry by hand, and please report the file's layout.",
        )


def snippet(client: Client, name: str, entry: Mapping[str, Any]) -> str:
    """Return a document that holds nothing but the entry, to show or to paste."""
    if client.format == "yaml":
        return yaml_text({client.key: {name: entry}})
    if client.format == "json-list":
        return json.dumps([entry], indent=2, ensure_ascii=False)
    return read_document("", client.key, client.format).with_entry(name, entry).rstrip("\n")
