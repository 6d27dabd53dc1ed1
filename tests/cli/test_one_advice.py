"""`doctor`, `models plan`, `models pull --for` and a call say the same of every GPU."""

from pathlib import Path
from typing import Any

import pytest

from flux_mcp.cli.models_plan import print_qualities
from flux_mcp.doctor.stock import fit_of, fits_of
from flux_mcp.models.hub.cache import Snapshot
from flux_mcp.models.hub.selection import download_gib
from flux_mcp.models.planning.candidates import Gpu, Machine
from flux_mcp.models.planning.machine import choices_here, target_device
from flux_mcp.models.planning.recommending import usual
from flux_mcp.models.registry import QUALITIES, ROW_KINDS, load_registry
from flux_mcp.requests.schemas import GenerateRequest
from flux_mcp.service.planner import Installed, _choose
from flux_mcp.settings.settings import Settings

from .processes import Cli

REGISTRY = load_registry()
SIZES_GIB = (6, 8, 10, 12, 16, 24, 32, 80, None)
"""`None`: no GPU."""
TOLERABLE_S = 90


def machine_of(gib: float | None) -> Machine | None:
    return None if gib is None else Machine(Gpu(gib, gib), 64.0)


def called(settings: Settings, gib: float | None, quality: str) -> tuple[Any, ...]:
    """Return what a call gets on such a machine where every model is installed."""
    snapshot = Snapshot(Path("/weights"), Path("/weights"), None)
    installed = Installed(
        registry=REGISTRY,
        settings=settings,
        support=choices_here(REGISTRY, settings, lambda _: True).support,
        snapshots={(row.kind, row.id): snapshot for row in REGISTRY},
        machine=machine_of(gib),
        target=target_device("cpu" if gib is None else "cuda", None),
        figures=(),
    )
    request = GenerateRequest(prompt="a circle", quality=quality)
    chosen = _choose(request, installed, (), None)
    way, seconds = chosen.loaded_as, chosen.expected_s
    if way is None:
        return chosen.spec.id, None, None, None
    return chosen.spec.id, way.precision, way.placement, round(seconds or 0)


@pytest.mark.parametrize("gib", SIZES_GIB)
def test_a_call_and_doctor_and_plan_and_pull_agree_on_every_quality(
    gib: float | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = Settings(data_dir=tmp_path)
    choices = choices_here(REGISTRY, settings, lambda _: True)
    fits = fits_of(machine_of(gib), choices)
    # `models plan` and `models pull --for` print the same table.
    print_qualities(usual("text2img", "standard"), machine_of(gib), choices)
    _, *lines = capsys.readouterr().out.splitlines()
    for quality, line in zip(QUALITIES, lines, strict=True):
        fit = next(r for r in fits.rows if (r.kind, r.quality) == ("text2img", quality)).pulled
        seconds = None if fit.seconds is None else round(fit.seconds)
        told = (fit.model, fit.precision, fit.placement, seconds)
        assert told == called(settings, gib, quality)
        shown = [quality, fit.model]
        if gib is not None:
            shown += [fit.precision, fit.placement, f"{fit.peak_gib:.1f}", f"{seconds}", "s"]
        else:
            shown += ["as", "the", "worker", "can"]
        assert line.split() == shown


@pytest.mark.parametrize("kind", ["text2img", "kontext"])
@pytest.mark.parametrize("gib", [gib for gib in SIZES_GIB if gib])
def test_the_default_quality_takes_a_tolerable_time_on_every_gpu(kind, gib, tmp_path: Path):
    choices = choices_here(REGISTRY, Settings(data_dir=tmp_path), lambda _: True)
    fit = fit_of(usual(kind, "standard"), machine_of(gib), choices)
    assert fit.seconds is not None
    assert fit.seconds <= TOLERABLE_S
    if gib < 24:
        assert str(fit.model).startswith("flux2-klein")
        assert any("takes about" in notice for notice in fit.notices), "it is said why"


def test_the_commands_are_wired_to_it(tmp_path: Path, weights_dir: Path) -> None:
    cli = Cli(tmp_path / "data", weights_dir)
    doctor = {
        row["quality"]: row["pulled"]
        for row in cli("doctor", "--vram", "12", "--json").json["fits"]["rows"]
        if row["kind"] == "text2img"
    }
    pull = cli("models", "pull", "--for", "12GB").err
    keys = ("model", "precision", "placement", "peak_gib", "seconds")
    for quality, fit in doctor.items():
        planned = cli("models", "plan", "--vram", "12", "--quality", quality, "--json").json
        assert {key: planned[key] for key in keys} == {key: fit[key] for key in keys}
        (line,) = [one for one in pull.splitlines() if one.startswith(f"{quality} ")]
        assert line.split()[1:4] == [fit["model"], fit["precision"], fit["placement"]]


@pytest.mark.parametrize(
    "words",
    ["plan --gpu banana --vram 8", "plan --vram nan", "pull --for banana"],
)
def test_what_is_no_gpu_is_refused_with_a_hint(
    words: str, tmp_path: Path, weights_dir: Path
) -> None:
    ended = Cli(tmp_path / "data", weights_dir)("models", *words.split())
    assert (ended.code, ended.out) == (2, "")
    assert "16" in ended.err, "the hint shows a right one"


def test_downloads_are_summed_without_what_models_share() -> None:
    rows = [REGISTRY.find("text2img", one) for one in ("flux1-dev", "flux1-schnell")]
    fill = REGISTRY.find("fill", "flux1-fill-dev")
    alone = rows[0].disk_gib
    # T5 and CLIP are 9.1 GiB in bf16, and the VAE is 0.2.
    assert download_gib(rows) == pytest.approx(2 * alone - 9.3, abs=0.2)
    assert download_gib([fill], here=rows) == pytest.approx(fill.disk_gib - 9.3, abs=0.2)
    klein = REGISTRY.find("text2img", "flux2-klein-4b")
    assert download_gib([klein], here=rows) == klein.disk_gib, "another family shares nothing"
    assert {row.kind for row in REGISTRY} == set(ROW_KINDS)
