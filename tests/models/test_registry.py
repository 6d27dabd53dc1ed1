import pytest

from flux_mcp.errors import InternalError, UnknownModelError
from flux_mcp.models.registry import KINDS, MODELS_TOML, load_registry

REGISTRY = load_registry()


def test_every_kind_has_a_real_model_and_the_demonstration_last():
    for kind in KINDS:
        families = [spec.family for spec in REGISTRY[kind].values()]
        assert families[0] == "flux1"
        assert families[-1] == "micro"


@pytest.mark.parametrize("spec", list(REGISTRY), ids=lambda spec: f"{spec.kind}-{spec.id}")
def test_every_row_is_coherent_and_cites_its_source(spec):
    assert spec.source
    assert spec.steps["low"] <= spec.steps["standard"] <= spec.steps["high"] <= spec.max_steps
    assert spec.default_pixels <= spec.max_pixels
    assert spec.min_side_px**2 <= spec.default_pixels
    assert spec.min_side_px % spec.size_multiple == spec.max_side_px % spec.size_multiple == 0
    assert spec.licence == "apache-2.0" or spec.gated


def test_an_unknown_model_is_refused_with_those_there_are():
    with pytest.raises(UnknownModelError) as refused:
        REGISTRY.find("fill", "flux1-dev")
    assert "flux1-fill-dev, micro" in refused.value.hint


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('kind = "text2img"', 'kind = "poem"', r"model 1 \(flux1-dev\)"),
        ('id = "flux1-krea-dev"', 'id = "flux1-dev"', "two rows for flux1-dev"),
        ('base = "flux1-dev"', 'base = "flux0"', "unknown base flux0"),
        ('structures = ["canny"]\n', "", "structures"),
        ("max_steps = 100\n", "", "max_steps"),
        ("max_steps = 100\n", "max_steps = 100\ncolour = 1\n", "colour"),
        ("low = 20, ", "", "low, standard and high"),
    ],
)
def test_a_broken_table_is_refused_by_row_and_field(tmp_path, old, new, says):
    text = MODELS_TOML.read_text(encoding="utf-8")
    assert old in text
    (tmp_path / "models.toml").write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(InternalError, match=says):
        load_registry(tmp_path / "models.toml")
