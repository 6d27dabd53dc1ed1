"""Reading packs: every mistake is found at once, with file, line and how to fix it."""

import json
import os
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from flux_mcp.compose.files import MAX_FILE_BYTES, MAX_FILES
from flux_mcp.compose.manifest import KeyPositions
from flux_mcp.compose.reader import read_pack

from .packs_on_disk import FILES, line_of, manifest, write_pack

VARIABLES: dict[str, Any] = json.loads(manifest())["variables"]


def problems_of(folder: Path, **options: Any) -> list[str]:
    return [str(problem) for problem in read_pack(folder, **options).problems]


def test_a_pack_that_is_right_is_read(tmp_path: Path) -> None:
    reading = read_pack(write_pack(tmp_path / "good"))
    assert reading.problems == ()
    pack = reading.pack
    assert pack is not None
    assert (pack.name, pack.title, pack.version) == ("good", "Test", "1.0.0")
    assert pack.fixed.text == "A photograph in {colour} tones."
    assert list(pack.subject.choices) == ["cat", "dog"]
    assert pack.variables["light"].choices["hard"].text == "The light is hard."
    assert pack.variables["light"].choices["hard"].source == "variable_light.txt (hard)"
    assert pack.woven == {"colour"}
    assert [argument.name for argument in pack.arguments] == ["subject", "light", "colour"]
    assert pack.defaults.kind == "text2img"
    assert pack.describe()["arguments"][1]["choices"]["soft"] == "The light is soft."
    json.dumps(pack.describe())


def test_comments_and_blank_lines_are_left_out_and_lines_still_counted(tmp_path: Path) -> None:
    text = "# A comment.\n\nA photograph in {colour} tones\n#\n#ff8800 is the accent.\n"
    folder = write_pack(tmp_path / "good", {"fixed_block.txt": text})
    pack = read_pack(folder).pack
    assert pack is not None
    assert pack.fixed.text == "A photograph in {colour} tones\n#ff8800 is the accent."
    assert pack.fixed.lines == (3, 5)
    assert pack.fixed.line_of(pack.fixed.text.index("accent")) == 5


def test_windows_line_endings_are_read(tmp_path: Path) -> None:
    text = "[soft]\r\nThe light is soft.\r\n[hard]\r\nHard\r\nlight.\r\n"
    pack = read_pack(write_pack(tmp_path / "good", {"variable_light.txt": text})).pack
    assert pack is not None
    assert pack.variables["light"].choices["hard"].text == "Hard\nlight."


def test_a_hyphen_alone_adds_nothing(tmp_path: Path) -> None:
    files: dict[str, str | bytes | None] = {"variable_light.txt": "[soft]\n-\n[hard]\nHard.\n"}
    pack = read_pack(write_pack(tmp_path / "good", files)).pack
    assert pack is not None
    assert pack.variables["light"].choices["soft"].text == ""


def test_notes_hidden_files_and_editors_copies_are_no_part_of_a_pack(tmp_path: Path) -> None:
    extra = {".git/config": "", "README.md": "", "fixed_block.txt~": "x", "subjects/.cat.txt": "x"}
    assert problems_of(write_pack(tmp_path / "good", {**extra, "subjects/notes.md": ""})) == []


Files = dict[str, str | bytes | None]

PROBLEMS_OF_FILES: list[tuple[Files, str]] = [
    (
        {"pack.json": None},
        (
            "bad/pack.json: The file is missing. "
            "Write it, with title, description and version at least."
        ),
    ),
    (
        {"fixed_block.txt": None},
        (
            "bad/fixed_block.txt: The file is missing. "
            "Write the text of every prompt of the pack into it."
        ),
    ),
    (
        {"fixed_block.txt": "# only a comment\n"},
        "bad/fixed_block.txt: It has no text. Write one, or remove the file.",
    ),
    (
        {"subjects/cat.txt": " \n"},
        "bad/subjects/cat.txt: It has no text. Write one, or remove the file.",
    ),
    (
        {"fixed_block.txt": b"one\ntwo \xe9\n"},
        ("bad/fixed_block.txt:2: It is not UTF-8: byte 0xE9 is invalid there. Save it as UTF-8."),
    ),
    (
        {"fixed_block.txt": b"\xef\xbb\xbfone"},
        "bad/fixed_block.txt:1: It begins with a byte order mark. Save it as UTF-8 without BOM.",
    ),
    (
        {"fixed_block.txt": "one".encode("utf-16")},
        "bad/fixed_block.txt:1: It is UTF-16, not UTF-8. Save it as UTF-8.",
    ),
    (
        {"fixed_block.txt": "one\nt\x07wo"},
        (
            "bad/fixed_block.txt:2:2: It has the control character U+0007. "
            "Remove it; line breaks and tabs may stay."
        ),
    ),
    (
        {"fixed_block.txt": "x" * (MAX_FILE_BYTES + 1)},
        (
            "bad/fixed_block.txt: It has 65537 bytes and may have at most 65536. "
            "Remove what no prompt needs."
        ),
    ),
    (
        {"fixed_block.txt": "first\n" + "x" * 2001},
        (
            "bad/fixed_block.txt:1: The text has 2007 characters; a whole prompt may have 2000. "
            "Shorten it."
        ),
    ),
    (
        {"subjects/Cat.txt": "a cat"},
        (
            "bad/subjects/Cat.txt: 'Cat' cannot be the name of a subject. "
            "Use lower-case letters, digits, - and _, at most 64, a letter or digit first."
        ),
    ),
    (
        {"subjects/cow.text": "a cow"},
        "bad/subjects/cow.text: It is not a .txt file. Rename it to .txt, or remove it.",
    ),
    (
        {"subjects/wild.txt/lion.txt": "a lion"},
        "bad/subjects/wild.txt: It is not a file. Replace it by a text file, or remove it.",
    ),
    (
        {"fixed_blok.txt": "x"},
        (
            "bad/fixed_blok.txt: No text file of a pack has that name. "
            "Did you mean 'fixed_block.txt'? "
            "Text files of a pack: fixed_block.txt, variable_<name>.txt, subjects/<name>.txt."
        ),
    ),
    (
        {"variable_Mood.txt": "[a]\nb\n"},
        (
            "bad/variable_Mood.txt: 'Mood' cannot be the name of a variable. "
            "Use lower-case letters, digits, - and _, at most 64, a letter or digit first."
        ),
    ),
    (
        {"variable_lihgt.txt": "[a]\nb\n"},
        (
            "bad/variable_lihgt.txt: pack.json has no variable 'lihgt': this file is not used. "
            "Add it there, or rename the file. Did you mean 'light'? Variables: light, colour."
        ),
    ),
    (
        {"variable_light.txt": "soft\n[soft]\nSoft.\n"},
        (
            "bad/variable_light.txt:1: There is text before the first choice. "
            "Put a heading such as [plain] above it."
        ),
    ),
    (
        {"variable_light.txt": "# nothing\n"},
        "bad/variable_light.txt: It has no choices. Write [name], and below it the choice's text.",
    ),
    (
        {"variable_light.txt": "[soft]\nSoft.\n[Hard one]\nHard.\n"},
        (
            "bad/variable_light.txt:3: 'Hard one' cannot be the name of a choice. "
            "Use lower-case letters, digits, - and _, at most 64, a letter or digit first."
        ),
    ),
    (
        {"variable_light.txt": "[soft]\nSoft.\n[soft]\nSofter.\n"},
        (
            "bad/variable_light.txt:3: The choice 'soft' exists already: its text is on line 2. "
            "Rename or remove one of the two."
        ),
    ),
    (
        {"variable_light.txt": "[soft]\nSoft.\n[hard]\n\n# later\n"},
        (
            "bad/variable_light.txt:3: The choice 'hard' has no text. "
            "Write one, or - alone for a choice that adds nothing."
        ),
    ),
    (
        {"subjects/cat.txt": "a cat\nin {ligth}\n"},
        (
            "bad/subjects/cat.txt:2: Nothing fills {ligth}. Did you mean 'light'? "
            "Placeholders: subject, light, colour. {{ligth}} stands for the braces themselves."
        ),
    ),
    (
        {"subjects/cat.txt": "a cat in {light}\n", "variable_light.txt": "[soft]\n{subject}\n"},
        (
            "bad/variable_light.txt:2: The placeholders form a circle: "
            "subject -> light -> subject. Remove one of them."
        ),
    ),
    (
        {"fixed_block.txt": "word " * 300, "subjects/cat.txt": "word " * 200},
        (
            "bad/fixed_block.txt: The prompt has 2524 characters and may have 2000 at most: "
            "fixed 1499, subject 999, variable:light 18, variable:colour 3. "
            "Shorten fixed (fixed_block.txt)."
        ),
    ),
]


def test_what_is_wrong_with_a_file_is_said(tmp_path: Path) -> None:
    wrong = []
    for number, (files, expected) in enumerate(PROBLEMS_OF_FILES):
        reading = read_pack(write_pack(tmp_path / str(number) / "bad", files))
        said = [str(problem) for problem in reading.problems]
        if expected not in said or reading.pack is not None:
            wrong.append((files.keys(), expected, said))
    assert wrong == []


PROBLEMS_OF_MANIFESTS: list[tuple[dict[str, Any], str, str, str]] = [
    ({"title": None}, "{", "The key 'title' is missing.", "Add it. A short name for people."),
    ({"titel": "x"}, '"titel"', "There is no key 'titel'.", "Did you mean 'title'? Keys: $schema,"),
    ({"version": "1.0"}, '"version"', "version: '1.0' is not of the right form.", "such as 1.0.0"),
    ({"kind": "photo"}, '"kind"', "kind: it should be 'text2img', 'kontext',", "The kind of"),
    ({"quality": "best"}, '"quality"', "quality: it should be 'low', 'standard' or", "low,"),
    ({"aspect_ratio": "7:5"}, '"aspect_ratio"', "aspect_ratio: it should be '1:1'", "Shape of"),
    ({"width": 512}, '"width"', "width is given alone.", "Give width and height."),
    ({"height": 512}, '"height"', "height is given alone.", "Give width and height."),
    (
        {"aspect_ratio": "1:1", "width": 512, "height": 512},
        '"aspect_ratio"',
        "aspect_ratio and width are both given.",
        "Give aspect_ratio, or width and height, not both.",
    ),
    (
        {"loras": [{"name": "ink", "weight": True}]},
        '"weight"',
        "loras.0.weight: it should be a valid number.",
        "How strongly it counts.",
    ),
    ({"loras": [{"weigth": 1}]}, '"weigth"', "There is no key 'weigth'.", "Did you mean 'weight'?"),
    ({"forbidden": ["people"]}, '"people"', "forbidden.0: it should be an object.", "What no"),
    (
        {"forbidden": [{"pattern": "people"}, {"pattern": "(", "kind": "regex"}]},
        '"pattern": "("',
        "The forbidden pattern '(' is no valid regular expression",
        "",
    ),
    ({"model": "flux9"}, '"model"', "There is no model 'flux9' for text2img.", "flux1-dev, micro."),
    (
        {"variables": {"Light": VARIABLES["light"]}},
        '"Light"',
        "'Light' cannot be a name.",
        "Use lower-case letters",
    ),
    (
        {"variables": {**VARIABLES, "extra": VARIABLES["colour"]}},
        '"extra"',
        "No variable can be called 'extra'.",
        "Rename it.",
    ),
    (
        {"variables": {**VARIABLES, "mood": {"description": "The mood."}}},
        '"mood"',
        "The variable 'mood' has no choices.",
        "Write them into variable_mood.txt, or here as choices; or set free_text to true.",
    ),
    (
        {"variables": {**VARIABLES, "light": {**VARIABLES["light"], "choices": {"a": "b"}}}},
        '"choices"',
        "The choices of 'light' are here and in variable_light.txt.",
        "Remove one of the two.",
    ),
    (
        {"variables": {**VARIABLES, "light": {**VARIABLES["light"], "default": "sofd"}}},
        '"default": "sofd"',
        "The default 'sofd' is no choice of 'light'.",
        "Did you mean 'soft'? Choices: soft, hard.",
    ),
    (
        {"variables": {**VARIABLES, "light": {**VARIABLES["light"], "default": "soft|hrad"}}},
        '"default": "soft|hrad"',
        "default: 'hrad' in 'soft|hrad' is no choice.",
        "Did you mean 'hard'?",
    ),
    (
        {"variables": {**VARIABLES, "light": {**VARIABLES["light"], "weights": {"sfot": 1}}}},
        '"sfot"',
        "There is a weight for 'sfot', which is no choice of 'light'.",
        "Did you mean 'soft'?",
    ),
    (
        {"variables": {**VARIABLES, "light": {**VARIABLES["light"], "weights": {"soft": 1.5}}}},
        '"soft": 1.5',
        "variables.light.weights.soft: it should be a valid integer",
        "How often * picks each choice",
    ),
    (
        {
            "variables": {
                **VARIABLES,
                "light": {**VARIABLES["light"], "weights": {"soft": 0, "hard": 0}},
            }
        },
        '"weights"',
        "Every choice of 'light' has the weight 0.",
        "Give one of them a weight above 0.",
    ),
    (
        {
            "variables": {
                **VARIABLES,
                "colour": {**VARIABLES["colour"], "choices": {"red": "", "blue": "blue"}},
            }
        },
        '"red": ""',
        "The choice 'red' has no text.",
        "Write one, or - alone for a choice that adds nothing.",
    ),
    (
        {
            "variables": {
                **VARIABLES,
                "word": {"description": "W.", "default": "*", "free_text": True},
            }
        },
        '"default": "*"',
        "The default '*' picks one of the choices, and 'word' has none.",
        "Give it choices, or another default.",
    ),
    (
        {"subject": {"default": "cow", "free_text": False}},
        '"default": "cow"',
        "The default 'cow' is no choice of 'subject'.",
        "Choices: cat, dog.",
    ),
]


def test_what_is_wrong_in_pack_json_is_said_at_its_line_and_column(tmp_path: Path) -> None:
    wrong = []
    for number, (changes, key, message, fix) in enumerate(PROBLEMS_OF_MANIFESTS):
        lines = manifest(**changes).splitlines()
        folder = write_pack(tmp_path / str(number) / "bad", **changes)
        reading = read_pack(folder, {"text2img": ["flux1-dev", "micro"]})
        right = [
            one
            for one in reading.problems
            if one.message.startswith(message)
            and fix in one.fix
            and one.file == "bad/pack.json"
            and one.line == line_of("\n".join(lines), key)
            and lines[one.line - 1][one.column - 1 :].startswith(key.split(":", maxsplit=1)[0])
        ]
        if not right or reading.pack is not None:
            wrong.append((changes, message, [str(problem) for problem in reading.problems]))
    assert wrong == []


def test_no_subject_to_choose_and_none_to_write_is_a_problem(tmp_path: Path) -> None:
    subject = {"free_text": False}
    files: Files = {"subjects/cat.txt": None, "subjects/dog.txt": None}
    found = problems_of(write_pack(tmp_path / "bad", files, subject=subject))
    assert found == [
        (
            "bad/pack.json:6:5: There is no subject to choose, and free text is not allowed. "
            "Put a text file into subjects/, or set free_text to true."
        )
    ]


def test_broken_json_is_named_with_line_and_column(tmp_path: Path) -> None:
    for text, place, message in (
        ('{\n  "title": "x",\n}', "bad/pack.json:3:1", "It is not JSON: "),
        ('{\n  "title" "x"\n}', "bad/pack.json:2:11", "It is not JSON: expecting ':' delimiter."),
        ("", "bad/pack.json:1:1", "It is not JSON: expecting value."),
        ("[]", "bad/pack.json:1:1", "pack.json: it should be an object."),
        ("[" * 50_000, "bad/pack.json", "It is nested too deeply."),
        (
            '{"title": "a",\n "title": "b"}',
            "bad/pack.json:2:2",
            "The key 'title' is there twice.",
        ),
    ):
        found = problems_of(write_pack(tmp_path / "bad", {"pack.json": text}))
        assert any(one.startswith(f"{place}: {message}") for one in found), found


def test_all_problems_are_said_at_once(tmp_path: Path) -> None:
    files: Files = {
        "fixed_block.txt": None,
        "variable_light.txt": "[Soft]\nx\n",
        "subjects/Cat.txt": "a cat",
        "subjects/dog.txt": b"\xff",
    }
    found = problems_of(write_pack(tmp_path / "bad", files, titel="x", version="1"))
    assert [one.split(": ")[0] for one in found] == [
        "bad/fixed_block.txt",
        "bad/pack.json:4:3",
        "bad/pack.json:23:3",
        "bad/subjects/Cat.txt",
        "bad/subjects/dog.txt:1",
        "bad/variable_light.txt:1",
    ]


def test_a_pack_of_a_bad_name_is_refused(tmp_path: Path) -> None:
    found = problems_of(write_pack(tmp_path / "My Pack"))
    assert found[0].startswith("My Pack: 'My Pack' cannot be the name of a pack. Use lower-case")


def test_a_link_out_of_the_pack_is_not_read(tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    folder = write_pack(tmp_path / "bad", {"subjects/cat.txt": None})
    (folder / "subjects" / "cat.txt").symlink_to(secret)
    (folder / "subjects" / "loop.txt").symlink_to("loop.txt")
    found = problems_of(folder)
    assert (
        "bad/subjects/cat.txt: It is a link that leads out of the pack's folder. "
        "Put the file itself into the pack." in found
    )
    assert any(one.startswith("bad/subjects/loop.txt: It cannot be read: ") for one in found)
    assert not any("secret" in one for one in found)


def test_a_link_inside_the_pack_and_a_pack_that_is_a_link_are_read(tmp_path: Path) -> None:
    folder = write_pack(tmp_path / "elsewhere" / "good")
    (folder / "subjects" / "lynx.txt").symlink_to("cat.txt")
    (tmp_path / "linked").symlink_to(folder, target_is_directory=True)
    pack = read_pack(tmp_path / "linked").pack
    assert pack is not None
    assert pack.name == "linked"
    assert pack.subject.choices["lynx"].text == "a tabby cat on a chair"


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    folder = write_pack(tmp_path / "bad", {"fixed_block.txt": None})
    os.mkfifo(folder / "fixed_block.txt")
    assert problems_of(folder)[0].startswith("bad/fixed_block.txt: It is not a file.")


def test_a_folder_that_is_not_there_is_a_problem(tmp_path: Path) -> None:
    assert problems_of(tmp_path / "none") == [
        (
            "none: The folder cannot be read: No such file or directory. "
            "Make it a folder that can be read."
        )
    ]


def test_too_many_files_are_not_read(tmp_path: Path) -> None:
    folder = write_pack(tmp_path / "bad")
    for number in range(MAX_FILES):
        (folder / "subjects" / f"s{number}.txt").write_text("x")
    (found,) = problems_of(folder)
    many = f"bad: It has {MAX_FILES + 5} files and may have at most {MAX_FILES}. "
    assert found == f"{many}Split it into two packs."


def test_long_choices_that_never_meet_are_a_warning_only(tmp_path: Path) -> None:
    files: Files = {
        "subjects/dog.txt": "word " * 240,
        "variable_light.txt": "[soft]\nSoft.\n[hard]\n" + "word " * 240,
    }
    reading = read_pack(write_pack(tmp_path / "good", files))
    assert reading.pack is not None
    assert [str(problem) for problem in reading.problems] == [
        (
            "good/fixed_block.txt: warning: With the longest choice of each: The prompt has 2428 "
            "characters and may have 2000 at most: fixed 27, subject 1199, variable:light 1199. "
            "Shorten one of them."
        )
    ]


def test_any_change_of_a_file_changes_the_digest(tmp_path: Path) -> None:
    first = read_pack(write_pack(tmp_path / "good")).pack
    for name, text in FILES.items():
        changed = read_pack(write_pack(tmp_path / "good", {name: f"{text!s}#\n"})).pack
        assert first is not None
        assert changed is not None
        assert changed.digest != first.digest
    again = read_pack(write_pack(tmp_path / "copy" / "good")).pack
    assert again is not None
    assert first is not None
    assert again.digest == first.digest


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
        max_leaves=20,
    ),
    st.sampled_from([None, 0, 2]),
)
def test_every_key_and_item_of_any_json_is_found_where_it_stands(value: Any, indent: Any) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    positions = KeyPositions(text)
    lines = text.split("\n")

    def check(path: tuple[str | int, ...], inner: Any) -> None:
        members = inner.items() if isinstance(inner, dict) else enumerate(inner)
        for key, below in members:
            at = positions.find((*path, key))
            shown = key if isinstance(inner, dict) else below
            start = json.dumps(shown, ensure_ascii=False)[:1]
            assert lines[at.line - 1][at.column - 1 :].startswith(start)
            if isinstance(below, dict | list):
                check((*path, key), below)

    if isinstance(value, dict | list):
        check((), value)
    assert positions.repeated == []
