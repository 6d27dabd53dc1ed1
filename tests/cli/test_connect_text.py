"""An entry in a client's document: nothing else in it changes, whatever it looks like."""

import json
import re
import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux_mcp.cli.connect.changes import adding, read_document, removing
from flux_mcp.cli.connect.clients import Client, find_client, load_clients
from flux_mcp.cli.connect.json_text import JsonText
from flux_mcp.cli.connect.toml_text import TomlText
from flux_mcp.errors import EntryConflictError, InternalError, InvalidClientFileError

ENTRY = {"command": "/bin/flux-mcp", "args": ["serve"], "env": {"FLUX_MCP_DATA_DIR": "/d"}}


def client(name: str) -> Client:
    return find_client(name, load_clients())


JSON, JSONC, TOML = client("claude-desktop"), client("cursor"), client("codex")


def there_and_back(one: Client, text: str) -> tuple[str, str]:
    added = adding(one, text, "flux", ENTRY).after
    assert read_document(added, one.key, one.format).entries["flux"] == ENTRY
    assert adding(one, added, "flux", ENTRY).status == "current"
    return added, removing(one, added, "flux", ENTRY).after


ADDED = """{
  "mcpServers": {
    "flux": {
      "command": "/bin/flux-mcp",
      "args": ["serve"],
      "env": {
        "FLUX_MCP_DATA_DIR": "/d"
      }
    }
  }
}
"""


def test_an_empty_file_gets_a_document_in_the_usual_layout() -> None:
    assert there_and_back(JSON, "") == (ADDED, '{\n  "mcpServers": {}\n}\n')
    assert there_and_back(TOML, "")[1] == ""


CONVENTIONAL = {
    "servers": '{\n  "mcpServers": {\n    "a": {\n      "command": "x"\n    }\n  }\n}\n',
    "no end of line": '{\n  "mcpServers": {\n    "a": {}\n  }\n}',
    "tabs": '{\n\t"mcpServers": {\n\t\t"a": {\n\t\t\t"command": "x"\n\t\t}\n\t},\n\t"z": 1\n}\n',
    "four spaces": '{\n    "z": [1],\n    "mcpServers": {\n        "a": {"b": "x"}\n    }\n}',
    "Windows lines": '{\r\n  "mcpServers": {\r\n    "a": {}\r\n  },\r\n  "z": 1\r\n}\r\n',
    "no table": '{\n  "z": {\n    "secret": "ä\\u00e4"\n  }\n}\n',
    "empty table": '{\n  "mcpServers": {}\n}\n',
    "empty table among others": '{\n  "mcpServers": {},\n  "z": 1\n}\n',
    "one line": '{"mcpServers": {"a": {"command": "x"}}, "z": 1}',
    "one line, no table": '{"z": 1}',
    "one line, empty table": '{"mcpServers": {}, "z": 1}',
    "table on one line": '{\n  "mcpServers": {"a": {"command": "x"}},\n  "z": 1\n}\n',
}


@pytest.mark.parametrize("layout", CONVENTIONAL)
def test_json_is_byte_for_byte_the_same_after_write_and_remove(layout: str) -> None:
    text = CONVENTIONAL[layout]
    added, back = there_and_back(JSON, text)
    assert back == text
    if "\r\n" in text:
        assert "\n" not in added.replace("\r\n", "")
    if "\n" not in text:
        assert "\n" not in added, "one line stays one line"


def test_a_new_entry_stands_last_and_is_indented_as_the_others() -> None:
    added, _ = there_and_back(JSON, CONVENTIONAL["tabs"])
    assert '\t\t"a": {\n\t\t\t"command": "x"\n\t\t},\n\t\t"flux": {\n\t\t\t"command"' in added
    assert list(json.loads(added)["mcpServers"]) == ["a", "flux"]
    assert added.endswith('\n\t},\n\t"z": 1\n}\n')


COMMENTED = {
    "everywhere": """// top
{
  // before
  "mcpServers": { // behind the brace
    /* of a */
    "a": {
      "url": "https://x//y", // not a comment: "//"
    }, // behind a
    // at the end
  }, /* behind */
  "z": [1, 2,], // last
}
// bottom
""",
    "no trailing comma": '{\n  "mcpServers": {\n    "a": {} // behind a\n    // end\n  }\n}\n',
    "comments in an empty table": '{\n  "mcpServers": {\n    // none yet\n  },\n  "z": 1\n}\n',
    "no table": '{\n  "z": 1, // one\n}\n',
    "on one line": '{"mcpServers": {"a": {} /* a */}, "z": 1}\n',
    "ends the line": '{"z": 1 // one\n}\n',
}


@pytest.mark.parametrize("layout", COMMENTED)
def test_comments_and_trailing_commas_stay_where_they_are(layout: str) -> None:
    text = COMMENTED[layout]
    added, back = there_and_back(JSONC, text)
    assert back == text
    for comment in re.findall(r"//.*|/\*.*?\*/", text):
        assert comment in added


def test_a_file_with_nothing_but_comments_keeps_them() -> None:
    added, back = there_and_back(JSONC, "// my servers\n")
    assert added == f"// my servers\n{ADDED}"
    assert back.startswith("// my servers\n{")


REFUSED = {
    "comment in strict JSON": (JSON, '{\n  // no\n  "a": 1\n}', "Line 2, column 3"),
    "trailing comma in strict JSON": (JSON, '{"a": 1,}', "Line 1, column"),
    "missing comma": (JSONC, '{\n  /* a\n  b */ "a": 1\n  "b": 2\n}', "Line 4, column 3"),
    "two commas": (JSONC, '{"a": [1,,]}', "Line 1, column 10"),
    "nothing but a comma": (JSONC, "{,}", "Line 1, column 2"),
    "open string": (JSONC, '{"a": "x // y\n}', "Line 1, column"),
    "open comment": (JSONC, '{} /* "a"', "Line 1, column 4"),
    "two documents": (JSONC, "{} {}", "Line 1, column 4"),
    "no object": (JSON, "[]", "not an object"),
    "table is a list": (JSON, '{"mcpServers": []}', "'mcpServers' is not an object"),
    "table is null": (JSON, '{"mcpServers": null}', "'mcpServers' is not an object"),
    "no number": (JSON, '{"a": NaN}', "NaN is no value"),
    "table twice": (JSON, '{"mcpServers": {}, "mcpServers": {}}', "'mcpServers' twice"),
    "entry twice": (JSON, '{"mcpServers": {"flux": 1, "flux": 2}}', "'flux' twice"),
    "very deep": (JSON, '{"a": ' + "[" * 200_000, "not JSON"),
    "broken TOML": (TOML, "a = 1\nb = = 2\n", "Line 2, column 4: Unexpected character: '='"),
    "table is a number": (TOML, "mcp_servers = 1\n", "'mcp_servers' is not a table"),
    "table in one line": (TOML, "mcp_servers = {a = {command = 'x'}}\n", "in one line"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_read_is_refused_with_its_place(case: str) -> None:
    one, text, message = REFUSED[case]
    with pytest.raises(InvalidClientFileError) as refused:
        adding(one, text, "flux", ENTRY)
    assert message in refused.value.message
    assert refused.value.hint


TOML_TEXT = """# my settings
model = "gpt-5"  # the model

[mcp_servers.a]   # first
command = 'x'
args = [
  "y", # why
]

[tui]
theme = "dark"
"""


@pytest.mark.parametrize(
    "text",
    [
        TOML_TEXT,
        TOML_TEXT.replace("\n", "\r\n"),
        'model = "gpt-5"\n',
        "[mcp_servers]\n[mcp_servers.a]\ncommand = 'x'\n",
        "[mcp_servers.a]\ncommand = 'x'\n[tui]\nx = 1\n[mcp_servers.b]\ncommand = 'y'\n",
        'text = """\n[mcp_servers.flux]\n"""\n',
    ],
)
def test_toml_is_byte_for_byte_the_same_after_write_and_remove(text: str) -> None:
    added, back = there_and_back(TOML, text)
    assert added.startswith(text), "everything before the new table is as it was"
    assert back == text


def test_a_toml_table_in_the_middle_goes_alone() -> None:
    own = '[mcp_servers.flux]\ncommand = "/bin/flux-mcp"\n[mcp_servers.flux.env]\nA = "1"\n\n'
    text = TOML_TEXT.replace("[tui]", f"{own}[tui]")
    assert removing(TOML, text, "flux", ENTRY).after == TOML_TEXT


@pytest.mark.parametrize("behind", ["", "[mcp_servers.flow]\nx = 1\n", "[tui]\nx = 1\n"])
@pytest.mark.parametrize("comments", ["", "# about\n\n  # what follows\n"])
def test_toml_comments_around_the_entry_stay(comments: str, behind: str) -> None:
    before = "# first\n[mcp_servers.a]\nx = 1 # one\n\n# about ours\n"
    own = '[mcp_servers.flux]  # ours\ncommand = "/bin/flux-mcp"\n# inside\nargs = []\n\n'
    text = before + own + comments + behind
    after = removing(TOML, text, "flux", ENTRY).after
    assert after == before + comments + behind
    replaced = adding(TOML, text, "flux", ENTRY).after
    assert replaced.startswith((before + comments + behind).rstrip())


@pytest.mark.parametrize(
    "text",
    [
        '[mcp_servers.flux]\ncommand = "/x/flux-mcp"\n[z]\n[mcp_servers.flux.env]\nA = "1"\n',
        'mcp_servers = {flux = {command = "/x/flux-mcp"}, other = {command = "x"}}\n',
        '[mcp_servers]\nflux.command = "/x/flux-mcp"\nz = 1\nflux.args = []\n',
    ],
)
def test_a_toml_entry_in_pieces_is_left(text: str) -> None:
    with pytest.raises(InvalidClientFileError, match="tables of its own"):
        removing(TOML, text, "flux", ENTRY)


@pytest.mark.parametrize(("text", "gap"), [("x = 1", "\n\n"), ("x = 1\n", "\n"), ("x = 1\n\n", "")])
def test_a_new_toml_table_stands_behind_one_empty_line(text: str, gap: str) -> None:
    added = adding(TOML, text, "flux", ENTRY).after
    assert added.startswith(f"{text}{gap}[mcp_servers.flux]\ncommand = ")


@pytest.mark.parametrize("one", [JSON, JSONC, TOML], ids=lambda one: one.format)
def test_another_entry_of_our_name_is_told_apart_and_replaced_in_whole(one: Client) -> None:
    older = {"command": "/old/bin/flux-mcp", "args": ["serve"]}
    foreign = {"command": "npx", "args": ["-y", "flux-by-somebody"], "env": {"KEY": "x"}}
    for found, status in ((older, "differs"), (foreign, "foreign")):
        text = adding(one, "", "flux", found).after
        text = adding(one, text, "behind", {"command": "x"}).after
        change = adding(one, text, "flux", ENTRY)
        assert change.status == status
        entries = read_document(change.after, one.key, one.format).entries
        assert entries == {"flux": ENTRY, "behind": {"command": "x"}}
    with pytest.raises(EntryConflictError, match="not one of flux-mcp"):
        removing(one, text, "flux", ENTRY)
    assert removing(one, "", "flux", ENTRY).status == "absent"


def test_a_replaced_json_entry_keeps_its_place() -> None:
    text = '{\n  "mcpServers": {\n    "flux": {"command": "/old/flux-mcp"},\n    "b": {}\n  }\n}\n'
    after = adding(JSON, text, "flux", ENTRY).after
    assert list(json.loads(after)["mcpServers"]) == ["flux", "b"]
    assert after.endswith('    },\n    "b": {}\n  }\n}\n')


@pytest.mark.parametrize("one", [JSON, TOML], ids=lambda one: one.format)
def test_a_document_that_would_lose_something_is_never_handed_on(
    one: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The guard behind everything above: break the edit, and nothing comes out."""
    text = adding(one, adding(one, "", "a", {"command": "x"}).after, "flux", ENTRY).after
    lost = adding(one, "", "flux", ENTRY).after
    for document in (JsonText, TomlText):
        monkeypatch.setattr(document, "with_entry", lambda *_: lost)
        monkeypatch.setattr(document, "without_entry", lambda *_: lost)
    with pytest.raises(InternalError):
        adding(one, text, "b", ENTRY)
    with pytest.raises(InternalError):
        removing(one, text, "flux", ENTRY)


# --- any document ------------------------------------------------------------------------------

words = st.text(st.sampled_from([*string.ascii_letters, *' "\\/*,{}[]:#äå💡\n\t']), max_size=8)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=8,
)
others = st.dictionaries(words.filter(lambda name: name != "flux"), values, max_size=3)
documents = st.builds(
    lambda before, servers, behind: {**before, "mcpServers": servers, **behind},
    st.dictionaries(words, values, max_size=2),
    others,
    st.dictionaries(words, values, max_size=2),
) | st.dictionaries(words, values, max_size=3)
layouts = st.sampled_from([None, 1, 2, 4, "\t"])


def without_empty_table(data: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in data.items() if name != "mcpServers" or value}


@given(data=documents, layout=layouts, plain=st.booleans())
def test_no_json_document_changes_but_by_the_entry(data: Any, layout: Any, *, plain: bool) -> None:
    text = json.dumps(data, indent=layout, ensure_ascii=plain)
    for one in (JSON, JSONC):
        added, back = there_and_back(one, text)
        table = data.get("mcpServers", {})
        assert json.loads(added) == {**data, "mcpServers": {**table, "flux": ENTRY}}
        assert list(json.loads(added)) == list(dict.fromkeys([*data, "mcpServers"]))
        assert without_empty_table(json.loads(back)) == without_empty_table(data)
        if table or (data and "mcpServers" not in data):
            assert back == text


comments = st.sampled_from(["", " ", "\n", " // x, } ]\n", "/* , } */", " /* \n { */ "])


@given(
    servers=others,
    gaps=st.lists(comments, min_size=24, max_size=24),
    comma=st.booleans(),
)
def test_no_comment_is_lost_or_moved(servers: Any, gaps: list[str], *, comma: bool) -> None:
    gap = iter(gaps)
    members = []
    for name, value in servers.items():
        shown = f"{json.dumps(name)}{next(gap)}:{next(gap)}{json.dumps(value)}"
        members.append(f"{next(gap)}{shown}{next(gap)}")
    inside = ",".join(members) + ("," if comma and members else "")
    text = f'{next(gap)}{{{next(gap)}"mcpServers"{next(gap)}:{{{inside}{next(gap)}}},"z":1}}'
    added, back = there_and_back(JSONC, text)
    data = JsonText(added, "mcpServers", comments=True).data
    assert data == {"mcpServers": {**servers, "flux": ENTRY}, "z": 1}
    assert added.count("//") >= text.count("//")
    assert added.count("/*") == text.count("/*")
    again = JsonText(back, "mcpServers", comments=True).data
    assert without_empty_table(again) == without_empty_table({"mcpServers": servers, "z": 1})
    if servers or any(mark in inside for mark in ("//", "/*")):
        assert back.count("/*") == text.count("/*")


toml_values = st.booleans() | st.integers(-9, 9) | words.filter(lambda word: "\n" not in word)
toml_keys = st.text(string.ascii_lowercase, min_size=1, max_size=5).filter(
    lambda key: key != "flux"
)


def dumped(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


@given(
    st.dictionaries(toml_keys, toml_values, max_size=3),
    st.dictionaries(toml_keys, st.dictionaries(toml_keys, toml_values, max_size=2), max_size=3),
)
def test_no_toml_document_changes_but_by_the_entry(root: Any, servers: Any) -> None:
    lines = ["# top", *(f"{key} = {dumped(value)} # it" for key, value in root.items())]
    for name, server in servers.items():
        lines += ["", f"[mcp_servers.{name}]"]
        lines += [f"{key} = {dumped(value)}" for key, value in server.items()]
    text = "\n".join(lines) + "\n"
    added, back = there_and_back(TOML, text)
    assert added.startswith(text)
    assert TomlText(added, "mcp_servers").entries == {**servers, "flux": ENTRY}
    assert back == text
