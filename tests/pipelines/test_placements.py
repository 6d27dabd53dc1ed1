"""Placements followed: the same pixels wherever weights wait, and no byte more than is needed.

The GPU is the CPU: what is on it are other bytes than those in host memory.
"""

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as sampling
from hypothesis import strategies as st

from flux_mcp.errors import JobCancelledError
from flux_mcp.models.parts import PLACEMENTS
from flux_mcp.models.registry import KINDS
from flux_mcp.pipelines.memory.residency import room_for
from flux_mcp.requests.plan import load_of_plan
from tests.pipelines.harness import AMPLE_BYTES, Studio, make_task

pytestmark = pytest.mark.usefixtures("torch_here")

SMALL = {"width": 64, "height": 64, "steps": 2}
every_kind = pytest.mark.parametrize("kind", KINDS)
every_placement = pytest.mark.parametrize("placement", PLACEMENTS)
away = pytest.mark.parametrize("placement", PLACEMENTS[1:])


@pytest.fixture
def on_gpu(settings):
    return Studio(settings, gpu_bytes=AMPLE_BYTES)


@pytest.fixture(scope="module")
def without_gpu(studio, registry):
    """What is drawn where nothing moves, by kind."""
    return {kind: studio.pixels(make_task(registry.find(kind, "micro"), **SMALL)) for kind in KINDS}


@every_placement
@every_kind
def test_every_kind_draws_the_same_pixels_in_every_placement(
    on_gpu, registry, task_for, without_gpu, kind, placement
):
    spec = registry.find(kind, "micro")
    task = task_for(spec, **SMALL)
    for _ in range(2):
        assert on_gpu.pixels(task, placement=placement) == without_gpu[kind]
    assert on_gpu.traffic[1] == 0


@away
def test_after_a_job_nothing_is_on_the_gpu(on_gpu, registry, task_for, placement):
    spec = registry.find("redux", "micro")
    on_gpu.pixels(task_for(spec, **SMALL), placement=placement)
    assert on_gpu.store.gpu_bytes == 0
    assert on_gpu.residency.loaded == ("redux/micro",)


def test_one_part_at_a_time_is_on_the_gpu(on_gpu, registry, task_for):
    spec = registry.find("redux", "micro")
    on_gpu.pixels(task_for(spec, **SMALL), placement="model_offload")
    sizes = [part.nbytes for part in on_gpu.store._parts.values()]
    assert on_gpu.most_gpu_bytes == max(sizes)


def test_streamed_blocks_take_less_of_the_gpu_than_the_transformer(on_gpu, registry, task_for):
    spec = registry.find("text2img", "micro")
    on_gpu.pixels(task_for(spec, **SMALL), placement="block_stream")
    transformer = on_gpu.store._parts[on_gpu.load(spec, "block_stream").transformer_key]
    assert on_gpu.most_gpu_bytes == transformer.gpu_bytes_at(0.0) < 0.6 * transformer.nbytes


@every_placement
def test_a_job_that_was_stopped_leaves_the_next_one_as_it_was(
    on_gpu, registry, task_for, without_gpu, placement
):
    spec = registry.find("fill", "micro")
    task = task_for(spec, **SMALL)
    with pytest.raises(JobCancelledError):
        on_gpu.draw(task, placement=placement, stop_after=1)
    assert placement == "resident" or on_gpu.store.gpu_bytes == 0
    assert on_gpu.pixels(task, placement=placement) == without_gpu["fill"]


# --- LoRAs ----------------------------------------------------------------------------------------


@pytest.fixture
def striped(put):
    return put("striped")


@every_placement
def test_a_lora_draws_the_same_in_every_placement_and_leaves_nothing_behind(
    on_gpu, studio, registry, task_for, without_gpu, striped, placement
):
    spec = registry.find("text2img", "micro")
    task = task_for(spec, **SMALL)
    expected = studio.pixels(task, loras=(striped,))
    assert expected != without_gpu["text2img"]
    for _ in range(2):
        assert on_gpu.pixels(task, placement=placement, loras=(striped,)) == expected
        assert on_gpu.pixels(task, placement=placement) == without_gpu["text2img"]
    other = PLACEMENTS[PLACEMENTS.index(placement) - 1]
    assert on_gpu.pixels(task, placement=other, loras=(striped,)) == expected
    assert on_gpu.pixels(task, placement=other) == without_gpu["text2img"]


# --- what a switch costs --------------------------------------------------------------------------


def nbytes_of(on_gpu, key):
    return on_gpu.store._parts[key].nbytes


def test_a_switch_between_two_kinds_on_the_gpu_copies_nothing(on_gpu, registry, task_for):
    specs = [registry.find(kind, "micro") for kind in ("text2img", "kontext", "fill")]
    first = [on_gpu.pixels(task_for(spec, **SMALL), placement="resident") for spec in specs]
    before = on_gpu.traffic
    assert [on_gpu.pixels(task_for(spec, **SMALL), placement="resident") for spec in specs] == first
    assert on_gpu.traffic == before == (0, 0)


def needed(spec, task, placement="resident"):
    return room_for(spec, load_of_plan(task.plan, spec), None).gpu_bytes(placement)


def test_a_switch_from_host_memory_copies_the_transformer_and_nothing_back(
    registry, settings, task_for
):
    specs = [registry.find(kind, "micro") for kind in ("text2img", "fill")]
    tasks = [task_for(spec, **SMALL) for spec in specs]
    on_gpu = Studio(settings, gpu_bytes=AMPLE_BYTES)
    residents = [on_gpu.load(spec, "resident") for spec in specs]
    # Room for one of them beside the other's need, but not for both.
    spare = nbytes_of(on_gpu, residents[0].transformer_key) // 2
    gpu_bytes = needed(specs[1], tasks[1]) + spare
    on_gpu = Studio(settings, gpu_bytes=gpu_bytes)
    first = on_gpu.pixels(tasks[0].changed(width=64), placement="resident")
    for task in tasks:
        on_gpu.pixels(task, placement="resident")
    # Both have left the GPU once: their copies in host memory are made.
    on_gpu.pixels(tasks[0], placement="resident")
    on_gpu.pixels(tasks[1], placement="resident")
    assert on_gpu.residency.waiting == ("text2img/micro",)
    assert on_gpu.residency.loaded == ("fill/micro",)
    before = on_gpu.traffic
    held = on_gpu.store._parts
    on_gpu = {key for key, part in held.items() if part.is_on_gpu}
    assert on_gpu.pixels(tasks[0], placement="resident") == first
    came = {key for key, part in held.items() if part.is_on_gpu} - on_gpu
    assert residents[0].transformer_key in came
    assert on_gpu.traffic == (before[0] + sum(held[key].nbytes for key in came), before[1])


def test_a_switch_from_host_memory_alone_copies_exactly_the_transformer(on_gpu, registry):
    """Where nothing but the other transformer has left the GPU."""
    text2img, fill = (registry.find(kind, "micro") for kind in ("text2img", "fill"))
    resident = on_gpu.load(text2img, "resident")
    on_gpu.load(fill, "resident")
    part = on_gpu.store._parts[resident.transformer_key]
    part.to_host()
    assert on_gpu.traffic == (0, part.nbytes)  # made once
    assert on_gpu.residency.waiting == ("text2img/micro",)
    for _ in range(2):
        on_gpu.load(text2img, "resident")
        part.to_host()
    assert on_gpu.traffic == (2 * part.nbytes, part.nbytes)


def test_parts_that_kinds_share_stay_one_wherever_they_are(on_gpu, registry):
    text2img, fill = (registry.find(kind, "micro") for kind in ("text2img", "fill"))
    one, other = on_gpu.load(text2img, "resident"), on_gpu.load(fill, "resident")
    vae = on_gpu.store._parts[one.vae_key]
    for move in (vae.to_host, vae.to_gpu, vae.to_host):
        move()
        pointers = [
            [p.data_ptr() for p in resident.pipe.vae.parameters()] for resident in (one, other)
        ]
        assert pointers[0] == pointers[1]
    assert on_gpu.traffic == (vae.nbytes, vae.nbytes)


def test_a_cached_prompt_leaves_the_text_encoders_where_they_are(registry, settings, task_for):
    caching = {"embedding_cache_mb": 8, "embedding_cache_disk_mb": 0}
    on_gpu = Studio(settings.model_copy(update=caching), gpu_bytes=AMPLE_BYTES, caches_texts=True)
    spec = registry.find("text2img", "micro")
    task = task_for(spec, **SMALL)
    expected = on_gpu.pixels(task, placement="model_offload")
    before = on_gpu.traffic
    assert on_gpu.pixels(task, placement="model_offload") == expected
    resident = on_gpu.load(spec, "model_offload")
    moved = nbytes_of(on_gpu, resident.transformer_key) + nbytes_of(on_gpu, resident.vae_key)
    assert on_gpu.traffic == (before[0] + moved, before[1])


# --- too little room ------------------------------------------------------------------------------


def test_a_leaner_placement_is_taken_and_said_where_the_gpu_has_less_room(
    registry, settings, task_for, without_gpu
):
    spec = registry.find("text2img", "micro")
    task = task_for(spec, **SMALL)
    on_gpu = Studio(settings, gpu_bytes=needed(spec, task, "model_offload"))
    assert on_gpu.pixels(task, placement="resident") == without_gpu["text2img"]
    said = [line for line in on_gpu.said if "less room" in line]
    assert said == ["the GPU has less room than was planned: model_offload instead of resident"]
    assert on_gpu.store.gpu_bytes == 0


def test_the_leanest_placement_is_tried_where_no_room_is_known_to_be_enough(
    registry, settings, task_for, without_gpu
):
    spec = registry.find("text2img", "micro")
    task = task_for(spec, **SMALL)
    on_gpu = Studio(settings, gpu_bytes=0)
    assert on_gpu.pixels(task, placement="resident") == without_gpu["text2img"]
    assert any("block_stream instead of resident" in line for line in on_gpu.said)


def test_host_memory_keeps_what_was_used_last_and_the_rest_is_read_again(
    registry, settings, task_for, without_gpu
):
    """With room for nothing but what draws: the others are back on the disk."""
    limited = settings.model_copy(update={"host_memory_gib": 0.0})
    on_gpu = Studio(limited, gpu_bytes=AMPLE_BYTES)
    for kind in ("text2img", "fill", "text2img"):
        spec = registry.find(kind, "micro")
        assert (
            on_gpu.pixels(task_for(spec, **SMALL), placement="model_offload") == without_gpu[kind]
        )
        assert on_gpu.residency.loaded == (f"{kind}/micro",)
        assert on_gpu.residency.waiting == ()
    assert [line for line in on_gpu.said if line == "loading transformer"] == [
        "loading transformer"
    ] * 3


ROWS = ("fp32", "bf16", "fp8")
JOBS = st.lists(
    st.tuples(st.sampled_from(ROWS), st.sampled_from(PLACEMENTS), st.booleans()),
    min_size=3,
    max_size=6,
)


@sampling(
    max_examples=6,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    # Each example draws images: looking for a smaller one that fails would take minutes.
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
@given(jobs=JOBS, share=st.floats(0.3, 2.5), host_mb=st.sampled_from([0, 8, 20, 60]))
def test_mixed_jobs_draw_the_same_and_keep_within_both_memories(
    registry, settings, task_for, jobs, share, host_mb
):
    micro = registry.find("text2img", "micro")
    rows = {p: micro.model_copy(update={"id": f"micro-{p}", "precision": p}) for p in ROWS}
    tasks = {name: task_for(row, width=64, height=64, steps=1) for name, row in rows.items()}
    limited = settings.model_copy(update={"host_memory_gib": host_mb / 1024})
    gpu_bytes = int(share * needed(micro, task_for(micro, width=64, height=64, steps=1)))
    on_gpu = Studio(limited, rows.values(), gpu_bytes=gpu_bytes)
    plain = Studio(settings, rows.values())
    for name, placement, is_stopped in jobs:
        spec, named = rows[name], tasks[name]
        if is_stopped:
            with pytest.raises(JobCancelledError):
                on_gpu.draw(named, placement=placement, stop_after=0)
        on_gpu.most_gpu_bytes = 0
        assert on_gpu.pixels(named, placement=placement) == plain.pixels(named)
        leanest = needed(spec, named, "block_stream")
        assert on_gpu.most_gpu_bytes <= max(gpu_bytes, leanest)
        drawing = on_gpu.store._drawing
        kept = on_gpu.store.host_bytes - on_gpu.store.host_bytes_of(drawing)
        assert kept == 0 or on_gpu.store.host_bytes <= host_mb * 2**20
        known = {*on_gpu.residency.loaded, *on_gpu.residency.waiting}
        assert f"text2img/{spec.id}" in known
        assert all(part.is_on_gpu or part.in_host for part in on_gpu.store._parts.values())


# --- tiles ----------------------------------------------------------------------------------------


def tiled(studio, registry, tile_px, **size):
    task = make_task(registry.find("text2img", "micro"), **SMALL | size, vae_tile_px=tile_px)
    return studio.draw(task).images[0].astype(int)


def test_an_image_no_larger_than_a_tile_is_decoded_as_without(studio, registry):
    size = {"width": 128, "height": 64}
    whole = tiled(studio, registry, None, **size)
    assert (tiled(studio, registry, 128, **size) == whole).all()


def test_a_larger_image_is_decoded_in_tiles_that_are_blended(studio, registry):
    size = {"width": 192, "height": 128}
    whole = tiled(studio, registry, None, **size)
    cut = tiled(studio, registry, 64, **size)
    assert 0 < np.abs(cut - whole).mean() < 16
    assert (tiled(studio, registry, None, **size) == whole).all()


def test_a_vae_that_failed_in_tiles_is_as_it_was(studio, registry):
    from flux_mcp.pipelines import engine as tiles

    vae = studio.load(registry.find("text2img", "micro"), "resident").pipe.vae
    before = [vae.use_tiling, vae.tile_sample_min_size, vae.tile_latent_min_size]

    def fail_in_tiles():
        with tiles.tiled(vae, 512):
            state = [vae.use_tiling, vae.tile_sample_min_size, vae.tile_latent_min_size]
            assert state == [True, 512, 64]
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_in_tiles()
    assert [vae.use_tiling, vae.tile_sample_min_size, vae.tile_latent_min_size] == before


# --- the engine ----------------------------------------------------------------------------------


def test_the_engine_follows_the_placement_and_the_tiles_of_a_plan(on_gpu, registry, task_for):
    size = {"width": 128, "height": 64, "steps": 2}
    task = task_for(registry.find("text2img", "micro"), **size)
    pixels, moved = {}, {}
    ways = [("resident", None), ("block_stream", None), ("model_offload", None), ("resident", 64)]
    for placement, tile_px in ways:
        before = on_gpu.traffic[0]
        pixels[placement, tile_px] = on_gpu.pixels(task, placement=placement, vae_tile_px=tile_px)
        moved[placement, tile_px] = on_gpu.traffic[0] - before
        state = on_gpu.engine.state
        assert (state["loaded"], state["waiting"]) == (("text2img/micro",), ())
    assert moved["resident", None] == 0
    assert moved["block_stream", None] > moved["model_offload", None] > 0
    whole = pixels["resident", None]
    assert pixels["block_stream", None] == pixels["model_offload", None] == whole
    assert pixels["resident", 64] != whole
