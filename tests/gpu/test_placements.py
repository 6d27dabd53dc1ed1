"""Wherever weights wait while they do not work, the pixels are those of weights that stay."""

import psutil
import pytest

from flux_mcp.models.parts import PLACEMENTS
from flux_mcp.models.planning.candidates import Choices, Gpu, Machine, Wanted
from flux_mcp.models.planning.machine import this_load_support
from flux_mcp.models.planning.tiers import choose_tier
from flux_mcp.models.registry import KINDS, QUALITIES
from flux_mcp.pipelines.device import GIB, describe

HERE = [name for name in PLACEMENTS if name in this_load_support().placements]
AWAY = [name for name in HERE if name != "resident"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("placement", AWAY)
def test_a_placement_draws_the_pixels_of_resident(micro_studio, task_of, placement, kind):
    task = task_of(kind)
    resident = micro_studio.draw(task).pixels
    assert micro_studio.draw(task.changed(placement=placement)).pixels == resident
    assert micro_studio.draw(task).pixels == resident


@pytest.mark.parametrize("placement", AWAY)
def test_between_jobs_it_holds_less_of_the_gpu(gpu, studio, tiny_task, placement):
    def held_bytes(name):
        studio.engine.recover_memory()
        studio.draw(tiny_task, placement=name)
        return studio.engine.memory.allocated_bytes

    assert held_bytes(placement) < held_bytes("resident")


def test_a_tile_as_large_as_the_image_changes_nothing(studio, tiny_task):
    task = tiny_task
    whole = studio.draw(task).pixels
    assert studio.draw(task.changed(vae_tile_px=1024)).pixels == whole


@pytest.mark.parametrize("quality", QUALITIES)
@pytest.mark.parametrize("total_gib", [8, 12, 15, 24, 48, 141])
def test_what_is_planned_for_a_gpu_of_any_size_draws(
    bench, device, studio, tiny_task, total_gib, quality
):
    """The plans are those of full-size models, the models are tiny, the room is the GPU's."""
    from gpu_checks.studio import ballast

    from flux_mcp.errors import TooLittleMemoryError

    is_gpu = device.kind == "cuda"
    gpu = Gpu(
        total_gib=total_gib,
        free_gib=total_gib,
        name=describe(device).device_name if is_gpu else None,
        compute=device.compute_capability if is_gpu else None,
    )
    task = tiny_task
    wanted = Wanted("text2img", quality, model=task.plan.model, width_px=256, height_px=256)
    choices = Choices(studio.rows, lambda _row: True, this_load_support())
    try:
        tier = choose_tier(wanted, Machine(gpu, psutil.virtual_memory().total / GIB), choices)
    except TooLittleMemoryError:
        pytest.skip("nothing that is installed fits such a GPU")
    held = tier.chosen.loaded_as
    plan = {
        "precision": held.precision,
        "text_precision": held.text_precision,
        "placement": held.placement,
        "vae_tile_px": held.tile_px,
    }
    with ballast(bench, float(total_gib)):
        first = studio.draw(task.changed(**plan))
        assert studio.draw(task.changed(**plan)).pixels == first.pixels
