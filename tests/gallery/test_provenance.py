import io
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from flux_mcp.errors import InvalidImageError
from flux_mcp.gallery.provenance import ImageProvenance, from_png, to_metadata
from flux_mcp.requests.plan import RenderPlan


def provenance_of(record) -> ImageProvenance:
    return ImageProvenance.model_validate(
        record.model_dump(include=set(ImageProvenance.model_fields))
    )


def png(metadata: dict[str, str]) -> bytes:
    chunks = PngInfo()
    for key, value in metadata.items():
        chunks.add_itxt(key, value)
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG", pnginfo=chunks)
    return buffer.getvalue()


def test_a_file_alone_is_enough_to_rebuild_the_plan(record, files, paths):
    known = provenance_of(record(prompt="a blue circle", negative_prompt="red", parents=("img_a",)))
    saved = files.save(known.id, known.created_at, bytes(3 * 16 * 8), 16, 8, to_metadata(known))
    read = from_png(paths.root / saved.file)
    assert read == known
    plan = read.render_plan()
    assert isinstance(plan, RenderPlan)
    assert plan.prompt == "a blue circle"
    assert plan.model_dump(mode="json") == known.plan


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
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


def test_metadata_of_a_newer_version_is_refused_by_name(record):
    document = {**_document(record), "version": 2}
    with pytest.raises(InvalidImageError, match="version 2"):
        from_png(png({"flux-mcp": json.dumps(document)}))


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
