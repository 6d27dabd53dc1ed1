import io
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from flux_mcp.errors import InvalidImageError
from flux_mcp.gallery.provenance import ImageProvenance, from_png, to_metadata
from flux_mcp.gallery.store import ImageRecord, record_of
from flux_mcp.requests.render_plan import RenderPlan


def provenance_of(record) -> ImageProvenance:
    """The metadata of an image whose row a test made."""
    shared = ImageProvenance.model_fields.keys() & type(record).model_fields.keys()
    return ImageProvenance.model_validate(record.model_dump(include=shared))


def png(metadata: dict[str, str]) -> bytes:
    chunks = PngInfo()
    for key, value in metadata.items():
        chunks.add_itxt(key, value)
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG", pnginfo=chunks)
    return buffer.getvalue()


def test_a_file_alone_is_enough_to_rebuild_the_plan(record, files, paths):
    known = provenance_of(record(prompt="a blue circle", negative_prompt="red", parents=("img_a",)))
    saved = files.save(known.id, known.created_at, Image.new("RGB", (16, 8)), to_metadata(known))
    read = from_png(paths.root / saved.file)
    assert read == known
    plan = read.render_plan()
    assert isinstance(plan, RenderPlan)
    assert plan.prompt == "a blue circle"
    assert plan.model_dump(mode="json") == known.plan


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=1))
def test_every_prompt_survives_the_file(record, prompt):
    known = provenance_of(record(prompt=prompt))
    assert from_png(png(to_metadata(known))) == known


@pytest.mark.parametrize(
    "prompt", ["line\nline", "nul \0 inside", "Seed: 5, Steps: 3", "猫 🦊 ünï"]
)
def test_odd_prompts_survive_the_file(record, prompt):
    known = provenance_of(record(prompt=prompt))
    assert from_png(png(to_metadata(known))).prompt == prompt


def test_the_parameters_line_reads_as_other_tools_write_it(record):
    text = to_metadata(provenance_of(record(prompt="a cat", negative_prompt="dogs")))["parameters"]
    prompt, negative, settings_line = text.split("\n")
    assert prompt == "a cat"
    assert negative == "Negative prompt: dogs"
    assert settings_line.startswith("Steps: 8, CFG scale: ")
    assert "Seed: 7, Size: 128x128, Model: micro" in settings_line


def _document(record) -> dict:
    return json.loads(to_metadata(provenance_of(record()))["flux-mcp"])


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"parameters": "a cat\nSteps: 20"},
        {"flux-mcp": "not JSON"},
        {"flux-mcp": "[]"},
        {"flux-mcp": "[" * 100_000},
        {"flux-mcp": "{}"},
        {"flux-mcp": '{"version": 1}'},
    ],
)
def test_a_png_that_is_not_ours_is_refused(metadata):
    with pytest.raises(InvalidImageError) as refused:
        from_png(png(metadata))
    assert refused.value.hint


def newer(document: dict, **changes) -> bytes:
    """A PNG as a version to come may write it."""
    newer = {**document, "version": 2, "software": "flux-mcp 9.9.9", **changes}
    return png({"flux-mcp": json.dumps(newer)})


def test_of_a_file_of_a_newer_version_what_is_known_is_read_and_its_version_told(record, caplog):
    document = _document(record)
    environment = {**document["environment"], "driver": "600.1"}
    read = from_png(newer(document, upscaler={"name": "x4"}, environment=environment))
    assert (read.prompt, read.seed) == ("a red square", 7)
    assert read.environment["driver"] == "600.1"
    assert (read.version, read.software) == (2, "flux-mcp 9.9.9")
    assert "written by flux-mcp 9.9.9 (version 2)" in read.newer_notice
    assert read.newer_notice in caplog.text
    assert read.render_plan().prompt == "a red square"


def test_a_new_key_alone_is_no_new_version_and_nothing_is_told(record, caplog):
    document = {**_document(record), "upscaler": None}
    read = from_png(png({"flux-mcp": json.dumps(document)}))
    assert read.newer_notice is None
    assert not caplog.records


def test_a_newer_file_whose_known_facts_changed_is_refused_with_its_version(record):
    with pytest.raises(
        InvalidImageError, match=r"version 2 .* flux-mcp 9\.9\.9.* cannot read: seed"
    ):
        from_png(newer(_document(record), seed=[7, 8]))


def test_a_plan_that_a_newer_version_changed_names_the_version_to_use(record):
    document = _document(record)
    read = from_png(newer(document, plan={**document["plan"], "version": 99}))
    with pytest.raises(InvalidImageError, match=r"flux-mcp 9\.9\.9"):
        read.render_plan()


@pytest.mark.parametrize("version", [None, "2", 0, True])
def test_a_version_that_is_none_is_refused(record, version):
    with pytest.raises(InvalidImageError, match="no version"):
        from_png(png({"flux-mcp": json.dumps({**_document(record), "version": version})}))


def test_row_and_file_are_two_models_and_the_row_holds_every_fact_of_the_file(record, files):
    known = provenance_of(record(parents=("img_a",), session="s", stage="draft"))
    saved = files.save(known.id, known.created_at, Image.new("RGB", (16, 8)), to_metadata(known))
    row = record_of(known, saved, "ada")
    assert not issubclass(ImageRecord, ImageProvenance)
    of_the_format = {"version", "software"}
    facts = known.model_dump(exclude=of_the_format)
    assert row.model_dump(include=set(facts)) == facts
    assert (row.principal, row.file, row.sha256) == ("ada", saved.file, saved.sha256)


def test_a_plan_of_another_version_is_refused_only_when_it_is_wanted(record):
    document = _document(record)
    document["plan"]["version"] = 99
    read = from_png(png({"flux-mcp": json.dumps(document)}))
    assert read.prompt == "a red square"
    with pytest.raises(InvalidImageError, match="plan"):
        read.render_plan()


@pytest.mark.parametrize("data", [b"", b"GIF89a", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_png_is_refused(data):
    with pytest.raises(InvalidImageError):
        from_png(data)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InvalidImageError):
        from_png(tmp_path / "nothing.png")
