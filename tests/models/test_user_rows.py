"""A user's own models: merged onto the shipped ones, or refused with the line and the fix."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from flux_mcp.errors import UnknownModelError
from flux_mcp.jobs.process_fleet import worker_environment
from flux_mcp.models.hub.cache import find_snapshot
from flux_mcp.models.planning.support import load_support_with
from flux_mcp.models.registry import ModelSpec, load_registry
from flux_mcp.models.user_rows import open_registry, read_own_rows
from flux_mcp.settings.settings import Settings
from tests.models.weight_files import empty_file, empty_gguf

from .hub import put_in_hub_cache

SHIPPED = load_registry()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data", models_file=tmp_path / "user" / "models.toml")


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_without_files_the_registry_is_the_shipped_one(settings):
    registry = open_registry(settings)
    assert list(registry) == list(SHIPPED)
    assert registry.notices == ()


def test_a_row_takes_what_it_does_not_say_from_the_row_it_extends(settings):
    path = write(
        settings.paths.models,
        '[[model]]\nid = "my-dev"\nextends = "flux1-dev"\nrepository = "me/my-dev"\n',
    )
    mine = open_registry(settings).find("text2img", "my-dev")
    dev = SHIPPED.find("text2img", "flux1-dev")
    assert (mine.repository, mine.revision, mine.gated) == ("me/my-dev", None, False)
    assert (mine.steps, mine.licence, mine.pieces) == (dev.steps, dev.licence, dev.pieces)
    assert (mine.title, mine.source, mine.origin) == ("my-dev", str(path), path)
    assert list(open_registry(settings)["text2img"])[-2:] == ["my-dev", "micro"]


def test_a_model_that_draws_from_words_draws_image_to_image_too(settings):
    write(
        settings.paths.models,
        '[[model]]\nid = "my-dev"\nextends = "flux1-dev"\nfolder = "mine"\nmax_steps = 9\n',
    )
    mine = open_registry(settings).find("img2img", "my-dev")
    assert (mine.drawing_pipeline, mine.max_steps) == ("FluxImg2ImgPipeline", 9)
    klein = SHIPPED.find("img2img", "flux2-klein-4b")
    assert klein.drawing_pipeline == klein.pipeline == "Flux2KleinPipeline"
    assert "img2img" not in {row.kind for row in SHIPPED}
    own = '[[model]]\nid = "mine"\nextends = "flux1-fill-dev"\nkind = "{}"\n'
    write(settings.paths.models, own.format("img2img"))
    assert open_registry(settings).notices
    dev = SHIPPED.find("text2img", "flux1-dev").model_dump(exclude_none=True)
    with pytest.raises(ValidationError, match="drawn with the row for text2img"):
        ModelSpec.model_validate({**dev, "kind": "img2img"})


def test_a_model_of_several_kinds_is_extended_in_each_or_in_the_one_named(settings):
    both = '[[model]]\nid = "mine"\nextends = "flux2-klein-4b"\nfolder = "weights/klein"\n'
    write(settings.paths.models, both)
    kinds = [row.kind for row in open_registry(settings) if row.id == "mine"]
    assert kinds == ["text2img", "kontext"]
    write(settings.paths.models, both + 'kind = "kontext"\n')
    (row,) = (row for row in open_registry(settings) if row.id == "mine")
    assert row.kind == "kontext"
    assert row.folder == str(settings.data_dir / "weights" / "klein")


def test_a_row_with_a_shipped_id_replaces_it_in_its_place_and_says_so(settings):
    write(
        settings.paths.models,
        '[[model]]\nid = "flux1-dev"\nextends = "flux1-dev"\nrepository = "me/other"\n',
    )
    registry = open_registry(settings)
    assert list(registry["text2img"]) == list(SHIPPED["text2img"])
    assert registry.find("text2img", "flux1-dev").repository == "me/other"
    (notice,) = registry.notices
    assert str(settings.paths.models) in notice
    assert "flux1-dev (text2img)" in notice


def test_the_data_folders_row_wins_over_the_users(settings):
    row = '[[model]]\nid = "mine"\nextends = "flux1-dev"\nrepository = "me/{}"\n'
    write(settings.models_file, row.format("users") + row.replace("mine", "other").format("too"))
    write(settings.paths.models, row.format("folders"))
    registry = open_registry(settings)
    assert registry.find("text2img", "mine").repository == "me/folders"
    assert registry.find("text2img", "other").repository == "me/too"


@pytest.mark.parametrize(
    ("line", "form"),
    [
        ('file = "one.safetensors"', "file"),
        ('file = "one.SFT"', "file"),
        ('gguf = "one.gguf"\nprecision = "q4_k"', "gguf"),
    ],
)
def test_a_single_file_is_installed_with_the_parts_it_lacks(settings, line, form):
    write(settings.paths.models, f'[[model]]\nid = "mine"\nextends = "flux1-dev"\n{line}\n')
    row = open_registry(settings).find("text2img", "mine")
    assert row.form == form
    put_in_hub_cache(settings, row.repository)
    assert find_snapshot(row, settings) is None
    if row.gguf:
        empty_gguf(row.gguf, "Q4_K")
    else:
        empty_file(row.file)
    assert find_snapshot(row, settings) is not None
    assert load_support_with(["gguf"]).can_load(row)
    assert load_support_with([]).can_load(row) is (form == "file")


def test_a_text_encoders_file_is_found_beside_the_file_of_rows(settings):
    text = 'text_gguf = "t5.gguf"\ntext_precision = "q8_0"'
    write(settings.paths.models, f'[[model]]\nid = "mine"\nextends = "flux1-dev"\n{text}\n')
    row = open_registry(settings).find("text2img", "mine")
    assert row.text_gguf == settings.paths.models.parent / "t5.gguf"
    assert (row.precision, row.text_precision) == ("bf16", "q8_0")


EXTENDS = 'id = "a"\nextends = "flux1-dev"\n'


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        (
            'id = "a"\nextends = "flux1-dex"',
            3,
            "There is no shipped model 'flux1-dex'. Did",
        ),
        (EXTENDS + 'kind = "fill"', 3, "'flux1-dev' for fill"),
        (EXTENDS + 'file = "a.ckpt"', 4, "does not end in .safetensors"),
        (EXTENDS + 'gguf = "a.gguf"', 4, "precision is not said"),
        (EXTENDS + 'gguf = 3\nprecision = "q4_k"', 4, "It is not text"),
        (EXTENDS + 'text_gguf = "a.gguf"', 4, "precision is not said"),
        (EXTENDS + 'vae_file = "ae.pt"', 4, "does not end in .safetensors or .sft"),
        (
            EXTENDS + 'text_file = "a.sft"\ntext_gguf = "b.gguf"\ntext_precision = "q8_0"',
            1,
            "text_file and text_gguf both name",
        ),
        (EXTENDS + 'parts_folder = "x"', 1, "parts_folder goes with folder"),
        (
            'id = "a"\nextends = "flux2-klein-4b"\nkind = "text2img"\nclip_file = "a.sft"',
            1,
            "FLUX.2 has no part for clip_file",
        ),
        (
            'id = "a"\nextends = "flux1-redux-dev"\nfile = "a.sft"',
            1,
            "file is not used by this row: its base's row",
        ),
        (
            'id = "a"\nextends = "flux1-canny-dev-lora"\nfile = "a.sft"\nvae_file = "b.sft"',
            1,
            "vae_file is not used by this row: its base's row",
        ),
        (EXTENDS + 'folder = "x"\nrepository = "a/b"', 4, "named by repository already"),
        (EXTENDS + 'licens = "mit"', 4, "Did you mean 'licence'?"),
        (EXTENDS + 'max_steps = "many"', 4, "max_steps"),
        (EXTENDS + 'vae = "flux9"', 4, "there is no vae 'flux9'"),
        (EXTENDS + "steps = { low = 2 }", 1, "low, standard and high"),
        ('id = "a"\nextends = "flux1-canny-dev-lora"\nbase = "flux0"', None, "no model 'flux0'"),
        ('id = "a"\nkind = "text2img"', 1, "It lacks family, pipeline"),
        ('extends = "flux1-dev"', 1, "model 1: It lacks id"),
        ('id = "A b"\nextends = "flux1-dev"', 2, "id: String should match"),
    ],
)
def test_a_mistake_is_told_with_its_line_and_field(tmp_path, text, line, says):
    path = write(tmp_path / "models.toml", f"[[model]]\n{text}\n")
    found = read_own_rows(path, SHIPPED)
    assert found.rows == ()
    (problem,) = found.problems
    assert says in str(problem)
    assert problem.line == line
    assert problem.hint


def test_lines_are_counted_to_the_right_table_past_longer_values(tmp_path):
    path = write(
        tmp_path / "models.toml",
        '[[model]]\nid = "a"\nextends = "flux1-dev"\nsource = """\n[[model]]\nlicens = 1\n"""\n\n'
        '[[ model ]]\nid = "b"\nextends = "flux1-dev"\nlicens = 1\n',
    )
    (problem,) = read_own_rows(path, SHIPPED).problems
    assert (problem.row, problem.field, problem.line) == ("b", "licens", 12)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"[[model]\n", "line 1"),
        (b"\xff\xfe", "cannot be read"),
        (b'device = "cpu"\n', "[[model]]"),
        (b"model = 3\n", "[[model]]"),
    ],
)
def test_a_file_that_is_none_of_ours_is_told_of(tmp_path, content, says):
    path = tmp_path / "models.toml"
    path.write_bytes(content)
    (problem,) = read_own_rows(path, SHIPPED).problems
    assert says in str(problem)


def test_a_file_with_a_mistake_is_out_of_use_as_a_whole_and_the_rest_goes_on(settings):
    good = '[[model]]\nid = "good"\nextends = "flux1-dev"\n'
    write(settings.paths.models, good + '[[model]]\nid = "bad"\nextends = "flux0"\n')
    write(settings.models_file, good.replace("good", "users"))
    registry = open_registry(settings)
    assert registry.find("text2img", "users")
    with pytest.raises(UnknownModelError):
        registry.find("text2img", "good")
    (notice,) = registry.notices
    assert notice.startswith(f"Not used: {settings.paths.models} line 6: bad: extends: ")


def test_two_rows_for_one_model_are_refused(tmp_path):
    row = '[[model]]\nid = "a"\nextends = "flux1-dev"\n'
    (problem,) = read_own_rows(write(tmp_path / "m.toml", row + row), SHIPPED).problems
    assert "twice for text2img" in str(problem)


def test_a_worker_reads_the_same_files_as_its_server(settings):
    assert worker_environment(settings)["FLUX_MCP_MODELS_FILE"] == str(settings.models_file)


def test_where_a_configuration_file_is_named_the_users_models_do_not_count(tmp_path, monkeypatch):
    assert str(Settings(data_dir=tmp_path).models_file) == "/dev/null"
    monkeypatch.delenv("FLUX_MCP_CONFIG")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert Settings(data_dir=tmp_path).models_file == tmp_path / "flux-mcp" / "models.toml"
