"""`flux-mcp packs …`, and images drawn with packs, as processes."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from flux_mcp.compose.audit import audit_text
from flux_mcp.compose.library import PackLibrary
from flux_mcp.service.answers import AuditAnswer
from flux_mcp.service.service import Service
from flux_mcp.settings.settings import Settings
from tests.compose.packs_on_disk import MANIFEST, line_of, manifest, write_pack
from tests.server.images import keep_image, noise

from .processes import TIMEOUT_S, Cli, Ended

SHIPPED = ["blog-pin", "editorial-illustration", "micro-shapes", "product-shot"]
SHAPES = "micro-shapes"
DRAGON = {"pattern": "dragon", "reason": "No dragons here.", "instead": "a small lizard"}
MISSPELT = manifest(titel="Pets")


@pytest.fixture
def cli(tmp_path: Path, weights_dir: Path) -> Cli:
    return Cli(tmp_path / "data", weights_dir)


@pytest.fixture
def own(cli: Cli) -> Path:
    return cli.data_dir / "packs"


def clean(ended: Ended) -> Ended:
    assert (ended.code, ended.err) == (0, ""), ended
    return ended


def test_packs_need_no_torch_no_server_and_no_database(cli: Cli) -> None:
    heavy = {"torch", "diffusers", "transformers", "tokenizers", "mcp", "sqlite_utils", "numpy"}
    words = (["list"], ["compose", SHAPES], ["check"], ["audit", "--forbid", "a", "b"])
    assert not (heavy | {"PIL"}) & cli.imports(*(("packs", *one) for one in words))
    assert not cli.data_dir.exists(), "looking writes nothing"


# --- list and show -----------------------------------------------------------------------------


def test_the_shipped_packs_are_listed_and_where_own_ones_go(cli: Cli, own: Path) -> None:
    lines = clean(cli("packs", "list")).out.splitlines()
    assert [line.split()[:2] for line in lines[:4]] == [[name, "1.0.0"] for name in SHIPPED]
    assert lines[4] == f"Your own packs: {own}"
    assert lines[5].endswith("packs new my-style")


def test_own_packs_are_listed_wrong_ones_with_their_place_and_what_to_do(
    cli: Cli, own: Path
) -> None:
    write_pack(own / "pets")
    write_pack(own / "torn", {"pack.json": MISSPELT})
    write_pack(own / SHAPES)
    ended = cli("packs", "list")
    assert ended.err == f"Note: Your own pack '{SHAPES}' replaces the shipped one.\n"
    assert re.search(r"^pets +1\.0\.0 +Test$", ended.out, re.MULTILINE)
    assert re.search(r"^torn +cannot be used:$", ended.out, re.MULTILINE)
    line = line_of(MISSPELT, '"titel"')
    assert f"  torn/pack.json:{line}:3: There is no key 'titel'. Did you mean 'title'?" in ended.out
    found = clean(cli("packs", "list", "--json")).json
    usable = {one["name"]: one["usable"] for one in found["packs"]}
    assert usable == {**dict.fromkeys(SHIPPED, True), "pets": True, "torn": False}
    (torn,) = [one for one in found["packs"] if one["name"] == "torn"]
    assert torn["problems"][0]["file"] == "torn/pack.json"
    assert torn["problems"][0]["line"] == line
    assert len(found["notices"]) == 1


def test_a_pack_is_shown_with_its_choices_and_what_it_forbids(cli: Cli, own: Path) -> None:
    choices = {"none": "-", "lamp": "Under a lamp."}
    light = {"description": "The light.", "default": "none", "choices": choices}
    variables = {"light": light, "colour": MANIFEST["variables"]["colour"]}
    write_pack(
        own / "pets", {"variable_light.txt": None}, variables=variables, forbidden=[DRAGON]
    )  # fmt: skip
    shown = clean(cli("packs", "show", "pets")).out
    assert shown.startswith("Test (pets 1.0.0)\n")
    for part in (
        "Always said:\n  A photograph in {colour} tones.\n",
        "subject: What is shown. (left out: cat, or your own words)\n  cat  a tabby cat on a chair",
        "light: The light. (left out: none)\n  none  -\n  lamp  Under a lamp.\n",
        "Forbidden:\n  dragon: No dragons here.\n",
    ):
        assert part in shown
    settings = Settings(data_dir=cli.data_dir)
    described = PackLibrary(settings.packs_dir, own).find("pets").describe()
    assert clean(cli("packs", "show", "pets", "--json")).json == described


# --- compose -----------------------------------------------------------------------------------


def test_a_prompt_is_composed_with_choices_and_own_words(cli: Cli) -> None:
    ended = clean(
        cli(
            "packs", "compose", SHAPES, "--subject", "star", "--var", "colour=green",
            "--var", "background=white", "--extra", "like a sticker",
        )
    )  # fmt: skip
    assert ended.out == ("a large green star on a white background in the center, like a sticker\n")


def test_a_star_draws_by_the_seed_and_counts_up(cli: Cli) -> None:
    asked = ("packs", "compose", SHAPES, "--var", "colour=*", "--var", "size=small|medium:3")
    several = clean(cli(*asked, "--seed", "40", "--count", "4")).out.splitlines()
    assert len(set(several)) > 1
    assert not any("large" in line for line in several)
    for index, line in enumerate(several):
        assert clean(cli(*asked, "--seed", str(40 + index))).out == f"{line}\n"


def test_as_json_a_prompt_comes_with_audit_and_report(cli: Cli) -> None:
    asked = ("packs", "compose", SHAPES, "--var", "colour=*", "--seed", "3", "--json")
    (one,) = clean(cli(*asked)).json["prompts"]
    assert (one["verdict"], one["findings"], one["seed"]) == ("pass", [], 3)
    assert one["report"]["drawn"] == ["colour"]
    assert one["report"]["chosen"]["colour"] in one["prompt"]
    several = clean(cli("packs", "compose", SHAPES, "--count", "2", "--json")).json["prompts"]
    assert [document["seed"] for document in several] == [0, 1]


def test_a_refused_prompt_is_shown_with_the_reason_and_ends_with_2(cli: Cli) -> None:
    ended = cli("packs", "compose", SHAPES, "--extra", "with a crowd")
    assert (ended.code, ended.out) == (
        2,
        "a large red circle on a blue background in the center, with a crowd\n",
    )
    assert ended.err == (
        "refuse: 'crowd' (extra, 62 to 67): 'people' is forbidden: micro knows coloured shapes and "
        "nothing else. Say instead: a red heart on a white background.\n"
    )
    judged = cli("packs", "compose", SHAPES, "--extra", "with a crowd", "--json")
    assert judged.code == 2
    assert judged.json["prompts"][0]["verdict"] == "refuse"


def test_what_is_only_advised_ends_with_0(cli: Cli) -> None:
    ended = cli("packs", "compose", SHAPES, "--extra", "without people")
    assert ended.code == 0
    assert ended.err.startswith("advice: 'without people' (extra, ")
    assert "Say instead: Write" not in ended.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("compose", "micro-shape"), "[unknown_pack] There is no pack 'micro-shape'. Did you mean"),
        (("show", "micro-shape"), "Did you mean 'micro-shapes'? Packs: blog-pin, "),
        (("audit", "x", "--pack", "micro-shape"), "Did you mean 'micro-shapes'?"),
        (("compose", SHAPES, "--var", "color=red"), "Did you mean 'colour'?"),
        (("compose", SHAPES, "--var", "colour=rad"), "Did you mean 'red'?"),
        (("compose", SHAPES, "--var", "colour"), "--var colour: it is not name=value. Write it as"),
        (("compose", SHAPES, "--var", "=red"), "--var =red: it is not name=value."),
        (
            ("compose", SHAPES, "--var", "size=*", "--var", "size=small"),
            "--var size is there twice",
        ),
        (("compose", SHAPES, "--seed", "-1"), "--seed"),
        (("compose", SHAPES, "--extra", "x" * 2000), "[prompt_too_long]"),
        (("audit", "x", "--forbid-regex", "("), "[invalid_request]"),
        (("audit", "x", "--severity", "stop"), "Give one of: refuse, warn."),
        (("check", "micro-shape"), "nor a pack 'micro-shape'. Did you mean 'micro-shapes'?"),
        (("check", "no/where"), "[unknown_pack] There is no pack in no/where."),
        (("new", "My Brand"), "'My Brand' cannot be the name of a pack."),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, tuple) else "",
)
def test_a_mistake_is_told_on_stderr_and_ends_with_2(
    cli: Cli, arguments: tuple[str, ...], says: str
) -> None:
    ended = cli("packs", *arguments)
    assert (ended.code, ended.out) == (2, "")
    assert says in ended.err
    assert "Traceback" not in ended.err


# --- audit -------------------------------------------------------------------------------------


def test_a_text_is_judged_and_the_places_are_told(cli: Cli) -> None:
    text = "an empty street, no people, a crowd before signs with text"
    ended = clean(cli("packs", "audit", "--forbid", "signs", "--forbid", "text", text))
    verdict, *found = ended.out.splitlines()
    assert verdict == "refuse"
    assert [line.split("'")[1] for line in found if line.startswith("refuse")] == ["signs", "text"]


def test_as_json_verdict_and_findings_are_printed(cli: Cli) -> None:
    text = "a crowd of people, no text"
    ended = clean(cli("packs", "audit", "--forbid", "people", "--json", text))
    answer = AuditAnswer.model_validate(ended.json)
    assert answer.verdict == "refuse"
    assert {(one.verdict, one.text) for one in answer.findings} == {
        ("refuse", "people"),
        ("advice", "no text"),
    }
    assert all(text[one.start : one.end] == one.text for one in answer.findings)
    assert list(ended.json) == ["verdict", "findings"]


def test_a_text_may_come_from_standard_input(cli: Cli) -> None:
    ended = subprocess.run(
        cli.command("packs", "audit", "--forbid", "people", "--json", "-"),
        env=cli.environment(),
        input="a street\nfull of people\n",
        capture_output=True,
        encoding="utf-8",
        timeout=TIMEOUT_S,
        check=True,
    )
    (finding,) = json.loads(ended.stdout)["findings"]
    assert (finding["text"], finding["start"]) == ("people", 17)


def test_strict_ends_with_2_where_the_text_is_refused_and_only_there(cli: Cli) -> None:
    judging = ("packs", "audit", "--forbid", "people", "--strict")
    refused = cli(*judging, "many people")
    assert (refused.code, refused.err, refused.out.splitlines()[0]) == (2, "", "refuse")
    assert cli(*judging, "no people").code == 0
    assert cli("packs", "audit", "--forbid", "people", "many people").code == 0


def test_regular_expressions_and_a_packs_own_rows_judge_too(cli: Cli) -> None:
    by_regex = clean(cli("packs", "audit", "--forbid-regex", r"\d{4}", "--json", "in 1984")).json
    assert [one["text"] for one in by_regex["findings"]] == ["1984"]
    by_pack = clean(cli("packs", "audit", "--pack", SHAPES, "--json", "a crowd")).json
    assert by_pack["verdict"] == "refuse"
    assert clean(cli("packs", "audit", "a crowd")).out == "pass\n"


def test_the_flags_do_what_the_rows_of_a_pack_do(cli: Cli) -> None:
    def verdict(*flags: str) -> str:
        return clean(cli("packs", "audit", "--forbid", "people", *flags)).out.splitlines()[0]

    assert verdict("a crowd") == "pass"
    assert verdict("--related", "a crowd") == "refuse"
    assert verdict("--related", "--severity", "warn", "a crowd") == "warn"
    assert verdict("--allowed-in", "people mover", "a people mover") == "pass"
    assert verdict("--related", "a crowd of birds over crowded shelves") == "pass"


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (
            ("--related", "--forbid", "spaceship", "a crowd"),
            "No words related to 'spaceship' are known.",
        ),
        (("--related", "a crowd"), "--related has no effect without --forbid."),
        (("--forbid", "people", "eine Straße ohne Menschen"), "This seems to be German"),
    ],
    ids=("unknown idea", "no pattern", "not English"),
)
def test_what_an_audit_cannot_do_is_noted(cli: Cli, flags: tuple[str, ...], says: str) -> None:
    ended = cli("packs", "audit", "--json", *flags)
    assert (ended.code, ended.json["verdict"]) == (0, "pass")
    assert ended.err.startswith("Note: ")
    assert says in ended.err


def test_the_verdict_is_the_one_the_library_gives(cli: Cli) -> None:
    text = "no people in one place, people in another"
    printed = clean(cli("packs", "audit", "--json", text)).json
    judged = audit_text(text, [])
    assert printed["verdict"] == judged.verdict
    assert [one["start"] for one in printed["findings"]] == [one.start for one in judged.findings]


# --- check and new -----------------------------------------------------------------------------


def test_packs_that_are_right_end_with_0(cli: Cli, own: Path) -> None:
    assert clean(cli("packs", "check")).out == "4 packs checked, 0 cannot be used, 0 problems.\n"
    write_pack(own / "pets")
    (own / ".git").mkdir()
    assert clean(cli("packs", "check")).out.startswith("5 packs checked, 0 cannot")
    assert clean(cli("packs", "check", str(own))).out.startswith("1 pack checked, 0 cannot be used")
    assert clean(cli("packs", "check", str(own / "pets"))).out.startswith("1 pack checked")


def test_packs_that_are_wrong_end_with_1_and_every_place(cli: Cli, own: Path) -> None:
    write_pack(own / "pets")
    write_pack(own / "torn", {"pack.json": MISSPELT, "fixed_block.txt": "Two\n{colur} lines."})
    write_pack(own / "lost", {"fixed_block.txt": "Two\nlines of {colur}."})
    ended = cli("packs", "check", str(own))
    assert (ended.code, ended.err) == (1, "")
    lines = ended.out.splitlines()
    assert any(line.startswith("lost/fixed_block.txt:2: Nothing fills {colur}.") for line in lines)
    at = line_of(MISSPELT, '"titel"')
    assert any(
        line.startswith(f"torn/pack.json:{at}:3: There is no key 'titel'.") for line in lines
    )
    assert re.fullmatch(r"3 packs checked, 2 cannot be used, \d+ problems\.", lines[-1])
    found = cli("packs", "check", str(own), "--json")
    assert found.code == 1
    assert {one["name"]: one["usable"] for one in found.json["packs"]} == {
        "lost": False,
        "pets": True,
        "torn": False,
    }


def test_a_warning_alone_ends_with_0(cli: Cli, own: Path) -> None:
    write_pack(own / "long", {"subjects/herd.txt": "cat " * 499})
    ended = clean(cli("packs", "check", str(own)))
    assert "warning: With the longest choice of each" in ended.out
    assert "1 pack checked, 0 cannot be used, 1 problem." in ended.out


def test_a_folder_without_packs_ends_with_2(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder in ("empty", "none"):
        assert cli("packs", "check", str(tmp_path / folder)).code == 2


def test_a_new_pack_is_right_and_composes(cli: Cli, own: Path) -> None:
    made = clean(cli("packs", "new", "my-brand")).out.splitlines()
    assert made[0] == str(own / "my-brand")
    assert any(line.endswith(f"packs check {own / 'my-brand'}") for line in made)
    assert any(line.endswith("packs compose my-brand") for line in made)
    for name in ("my-brand", str(own / "my-brand")):
        assert clean(cli("packs", "check", name)).out.startswith("1 pack checked, 0 cannot be used")
    assert clean(cli("packs", "compose", "my-brand")).out == (
        "A photograph of a white lighthouse on a rocky shore in spring, taken with a 35 mm lens in "
        "natural colours. Low morning sun comes in from the left and throws long, soft shadows.\n"
    )
    again = cli("packs", "new", "my-brand")
    assert (again.code, again.out) == (2, "")
    assert "nothing is overwritten" in again.err


def test_a_new_pack_may_lie_elsewhere(cli: Cli, tmp_path: Path, own: Path) -> None:
    made = clean(cli("packs", "new", "my-brand", "--folder", str(tmp_path / "repository")))
    assert (tmp_path / "repository" / "my-brand" / "pack.json").is_file()
    assert f"It is used once it lies in {own}." in made.out
    assert cli("packs", "compose", "my-brand").code == 2


# --- images ----------------------------------------------------------------------------------


def test_an_image_without_a_pack_has_no_such_part(cli: Cli) -> None:
    async def keep(service: Service) -> str:
        kept = await keep_image(service, noise(16, 16), 16, 16, prompt="a red circle")
        return kept.id

    shown = clean(cli("gallery", "show", cli.prepare(keep)))
    assert "a red circle" in shown.out
    assert "ompos" not in shown.out


def test_a_dry_run_prints_the_prompt_and_what_the_audit_found(cli: Cli) -> None:
    ended = cli("generate", "--pack", SHAPES, "--var", "colour=green", "--dry-run")
    assert ended.code == 0, ended.err
    words = "a large green circle on a blue background in the center"
    assert f"\nPrompt: {words}\n" in ended.out
    plain = cli("generate", "a street, no people", "--dry-run")
    assert plain.code == 0, plain.err
    assert "\nPrompt: a street, no people\nadvice: 'no people' (prompt, 10 to 19): " in plain.out


def test_a_dry_run_of_a_refused_prompt_ends_with_2_as_drawing_it_does(cli: Cli) -> None:
    asked = ("generate", "--pack", SHAPES, "--extra", "with a crowd")
    dry = cli(*asked, "--dry-run")
    assert dry.code == 2
    assert all(line.startswith("Note: ") for line in dry.err.splitlines())
    assert "\nrefuse: 'crowd' (extra, 62 to 67): 'people' is forbidden: " in dry.out
    wet = cli(*asked)
    assert (wet.code, wet.out) == (2, "")
    assert wet.err.startswith("[prompt_refused] The pack 'micro-shapes' refuses 'crowd' in extra")
    assert cli("jobs", "list", "--all", "--json").json["jobs"] == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "Give either a prompt or --pack."),
        (
            ("a star", "--pack", SHAPES),
            "Give either a prompt or --pack. With a pack, words of your",
        ),
        (("a star", "--subject", "star"), "--subject, --var and --extra choose in a pack, and no"),
        (("--var", "colour=red"), "no --pack is given. 'flux-mcp packs list' shows the packs"),
        (("--pack", SHAPES, "--var", "colour"), "--var colour: it is not name=value."),
        (("--pack", "micro-shape"), "Did you mean 'micro-shapes'?"),
        (("--pack", ""), "There is neither prompt nor pack."),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_prompt_or_a_pack_is_needed_and_not_both(
    cli: Cli, arguments: tuple[str, ...], says: str
) -> None:
    ended = cli("generate", *arguments)
    assert (ended.code, ended.out) == (2, "")
    assert says in ended.err
    assert "Traceback" not in ended.err
