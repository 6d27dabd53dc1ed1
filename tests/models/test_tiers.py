import pytest

from flux_mcp.models.registry import load_registry
from flux_mcp.models.tiers import choose_model

REGISTRY = load_registry()


@pytest.mark.parametrize(
    ("kind", "quality", "installed", "chosen", "notices"),
    [
        ("text2img", "standard", {"flux1-dev", "flux1-schnell", "micro"}, "flux1-dev", 0),
        ("text2img", "low", {"flux1-dev", "flux1-schnell", "micro"}, "flux1-schnell", 0),
        ("text2img", "high", {"flux1-schnell", "micro"}, "flux1-schnell", 1),
        ("text2img", "high", {"micro"}, "micro", 0),
        ("fill", "low", {"flux1-dev", "micro"}, "micro", 0),
        ("fill", "low", {"flux1-fill-dev", "micro"}, "flux1-fill-dev", 0),
    ],
)
def test_quality_chooses_the_first_fitting_row_that_is_installed(
    kind, quality, installed, chosen, notices
):
    choice = choose_model(REGISTRY, kind, quality, lambda spec: spec.id in installed)
    assert choice.spec.id == chosen
    assert len(choice.notices) == notices


def test_a_lesser_model_is_named_in_the_notice():
    choice = choose_model(REGISTRY, "text2img", "high", lambda spec: spec.id == "flux1-schnell")
    assert "'high'" in choice.notices[0]
    assert "flux1-schnell" in choice.notices[0]


@pytest.mark.parametrize(
    ("structure", "chosen"), [("canny", "flux1-canny-dev"), ("depth", "flux1-depth-dev")]
)
def test_a_structure_keeps_only_the_models_that_follow_it(structure, chosen):
    choice = choose_model(REGISTRY, "control", "high", lambda _: True, structure)
    assert choice.spec.id == chosen


def test_nothing_installed_is_no_choice():
    assert choose_model(REGISTRY, "fill", "low", lambda _: False) is None
