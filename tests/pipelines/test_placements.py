"""Placements followed: the same pixels wherever weights wait, and no byte more than is needed.

The GPU is the CPU: what is on it are other bytes than those in host memory.
"""

import io
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as sampling
from hypothesis import strategies as st

from flux_mcp.errors import JobCancelledError
from flux_mcp.models.loras.library import open_loras
from flux_mcp.models.parts import PLACEMENTS
from flux_mcp.models.registry import KINDS
from flux_mcp.pipelines.device import Device
from flux_mcp.pipelines.engine import Engine
from flux_mcp.pipelines.memory.residency import room_for
from flux_mcp.pipelines.pipe import JobEvents, Pipe, WorkerJob
from flux_mcp.pipelines.texts import MB, EmbeddingCache, EmbeddingFiles
from flux_mcp.requests.plan import PlanLora, load_of_plan
from flux_mcp.worker_protocol.messages import RunMessage
from tests.models.lora_files import put_striped

from .desk import AMPLE_BYTES, Desk

pytestmark = pytest.mark.usefixtures("torch_here")

SMALL = {"width": 64, "height": 64, "steps": 2}
every_kind = pytest.mark.parametrize("kind", KINDS)
every_placement = pytest.mark.parametrize("placement", PLACEMENTS)
away = pytest.mark.parametrize("placement", PLACEMENTS[1:])


@pytest.fixture
def desk(registry, settings):
    return Desk(settings, tuple(registry))


@pytest.fixture(scope="module")
def without_gpu(registry, settings, torch_here):
    """What is drawn where nothing moves, by kind."""
    from .conftest import make_task

    desk = Desk(settings, tuple(registry))
    from flux_mcp.pipelines.memory.residency import Residency

    desk.residency = Residency(registry, settings, Device("cpu"))
    drawn = {}
    for kind in KINDS:
        spec = registry.find(kind, "micro")
        drawn[kind] = desk.draw(spec, make_task(spec, **SMALL), "resident")
    return drawn


@every_placement
@every_kind
def test_every_kind_draws_the_same_pixels_in_every_placement(
    desk, registry, task_for, without_gpu, kind, placement
):
    spec = registry.find(kind, "micro")
    task = task_for(spec, **SMALL)
    for _ in range(2):
        assert desk.draw(spec, task, placement) == without_gpu[kind]
    assert desk.traffic[1] == 0


@away
def test_after_a_job_nothing_is_on_the_gpu(desk, registry, task_for, placement):
    spec = registry.find("redux", "micro")
    desk.draw(spec, task_for(spec, **SMALL), placement)
    assert desk.store.gpu_bytes == 0
    assert desk.residency.loaded == ("redux/micro",)


def test_one_part_at_a_time_is_on_the_gpu(desk, registry, task_for):
    spec = registry.find("redux", "micro")
    desk.draw(spec, task_for(spec, **SMALL), "model_offload")
    sizes = [part.nbytes for part in desk.store._parts.values()]
    assert desk.most_gpu_bytes == max(sizes)


def test_streamed_blocks_take_less_of_the_gpu_than_the_transformer(desk, registry, task_for):
    spec = registry.find("text2img", "micro")
    desk.draw(spec, task_for(spec, **SMALL), "block_stream")
    transformer = desk.store._parts[desk.load(spec, "block_stream").transformer_key]
    assert desk.most_gpu_bytes == transformer.gpu_bytes_at(0.0) < 0.6 * transformer.nbytes


@every_placement
def test_a_job_that_was_stopped_leaves_the_next_one_as_it_was(
    desk, registry, task_for, without_gpu, placement
):
    spec = registry.find("fill", "micro")
    task = task_for(spec, **SMALL)
    with pytest.raises(JobCancelledError):
        desk.draw(spec, task, placement, stop_after=1)
    assert placement == "resident" or desk.store.gpu_bytes == 0
    assert desk.draw(spec, task, placement) == without_gpu["fill"]


# --- LoRAs ----------------------------------------------------------------------------------------


@pytest.fixture
def striped(settings, registry):
    folder = settings.paths.loras
    folder.mkdir(parents=True, exist_ok=True)
    put_striped(folder, "striped")
    sha256 = open_loras(settings, registry).find("striped").sha256
    return PlanLora(name="striped", sha256=sha256, weight=1.0)


@every_placement
def test_a_lora_draws_the_same_in_every_placement_and_leaves_nothing_behind(
    desk, registry, settings, task_for, without_gpu, striped, placement
):
    spec = registry.find("text2img", "micro")
    task = task_for(spec, **SMALL)
    expected = Desk(settings, tuple(registry)).draw(spec, task, "resident", striped)
    assert expected != without_gpu["text2img"]
    for _ in range(2):
        assert desk.draw(spec, task, placement, striped) == expected
        assert desk.draw(spec, task, placement) == without_gpu["text2img"]
    other = PLACEMENTS[PLACEMENTS.index(placement) - 1]
    assert desk.draw(spec, task, other, striped) == expected
    assert desk.draw(spec, task, other) == without_gpu["text2img"]


# --- what a switch costs --------------------------------------------------------------------------


def nbytes_of(desk, key):
    return desk.store._parts[key].nbytes


def test_a_switch_between_two_kinds_on_the_gpu_copies_nothing(desk, registry, task_for):
    specs = [registry.find(kind, "micro") for kind in ("text2img", "kontext", "fill")]
    first = [desk.draw(spec, task_for(spec, **SMALL), "resident") for spec in specs]
    before = desk.traffic
    assert [desk.draw(spec, task_for(spec, **SMALL), "resident") for spec in specs] == first
    assert desk.traffic == before == (0, 0)


def needed(spec, task, placement="resident"):
    return room_for(spec, load_of_plan(task.plan, spec), None).gpu_bytes(placement)


def test_a_switch_from_host_memory_copies_the_transformer_and_nothing_back(
    registry, settings, task_for
):
    specs = [registry.find(kind, "micro") for kind in ("text2img", "fill")]
    tasks = [task_for(spec, **SMALL) for spec in specs]
    desk = Desk(settings, tuple(registry))
    residents = [desk.load(spec, "resident") for spec in specs]
    # Room for one of them beside the other's need, but not for both.
    spare = nbytes_of(desk, residents[0].transformer_key) // 2
    gpu_bytes = needed(specs[1], tasks[1]) + spare
    desk = Desk(settings, tuple(registry), gpu_bytes)
    first = desk.draw(specs[0], tasks[0].changed(width=64), "resident")
    for spec, task in zip(specs, tasks, strict=True):
        desk.draw(spec, task, "resident")
    # Both have left the GPU once: their copies in host memory are made.
    desk.draw(specs[0], tasks[0], "resident")
    desk.draw(specs[1], tasks[1], "resident")
    assert desk.residency.waiting == ("text2img/micro",)
    assert desk.residency.loaded == ("fill/micro",)
    before = desk.traffic
    held = desk.store._parts
    on_gpu = {key for key, part in held.items() if part.is_on_gpu}
    assert desk.draw(specs[0], tasks[0], "resident") == first
    came = {key for key, part in held.items() if part.is_on_gpu} - on_gpu
    assert residents[0].transformer_key in came
    assert desk.traffic == (before[0] + sum(held[key].nbytes for key in came), before[1])


def test_a_switch_from_host_memory_alone_copies_exactly_the_transformer(desk, registry):
    """Where nothing but the other transformer has left the GPU."""
    text2img, fill = (registry.find(kind, "micro") for kind in ("text2img", "fill"))
    resident = desk.load(text2img, "resident")
    desk.load(fill, "resident")
    part = desk.store._parts[resident.transformer_key]
    part.leave()
    assert desk.traffic == (0, part.nbytes)  # made once
    assert desk.residency.waiting == ("text2img/micro",)
    for _ in range(2):
        desk.load(text2img, "resident")
        part.leave()
    assert desk.traffic == (2 * part.nbytes, part.nbytes)


def test_parts_that_kinds_share_stay_one_wherever_they_are(desk, registry):
    text2img, fill = (registry.find(kind, "micro") for kind in ("text2img", "fill"))
    one, other = desk.load(text2img, "resident"), desk.load(fill, "resident")
    vae = desk.store._parts[one.vae_key]
    for move in (vae.leave, vae.enter, vae.leave):
        move()
        pointers = [
            [p.data_ptr() for p in resident.pipe.vae.parameters()] for resident in (one, other)
        ]
        assert pointers[0] == pointers[1]
    assert desk.traffic == (vae.nbytes, vae.nbytes)


def test_a_cached_prompt_leaves_the_text_encoders_where_they_are(
    registry, settings, task_for, tmp_path
):
    cache = EmbeddingCache("here", 8 * MB, EmbeddingFiles(Path(tmp_path), 0))
    desk = Desk(settings, tuple(registry), cache=cache)
    spec = registry.find("text2img", "micro")
    task = task_for(spec, **SMALL)
    expected = desk.draw(spec, task, "model_offload")
    before = desk.traffic
    assert desk.draw(spec, task, "model_offload") == expected
    resident = desk.load(spec, "model_offload")
    moved = nbytes_of(desk, resident.transformer_key) + nbytes_of(desk, resident.vae_key)
    assert desk.traffic == (before[0] + moved, before[1])


# --- too little room ------------------------------------------------------------------------------


def test_a_leaner_placement_is_taken_and_said_where_the_gpu_has_less_room(
    registry, settings, task_for, without_gpu
):
    spec = registry.find("text2img", "micro")
    task = task_for(spec, **SMALL)
    desk = Desk(settings, tuple(registry), needed(spec, task, "model_offload"))
    assert desk.draw(spec, task, "resident") == without_gpu["text2img"]
    said = [line for line in desk.said if "less room" in line]
    assert said == ["the GPU has less room than was planned: model_offload instead of resident"]
    assert desk.store.gpu_bytes == 0


def test_the_leanest_placement_is_tried_where_no_room_is_known_to_be_enough(
    registry, settings, task_for, without_gpu
):
    spec = registry.find("text2img", "micro")
    task = task_for(spec, **SMALL)
    desk = Desk(settings, tuple(registry), 0)
    assert desk.draw(spec, task, "resident") == without_gpu["text2img"]
    assert any("block_stream instead of resident" in line for line in desk.said)


def test_host_memory_keeps_what_was_used_last_and_the_rest_is_read_again(
    registry, settings, task_for, without_gpu
):
    """With room for nothing but what draws: the others are back on the disk."""
    desk = Desk(settings.model_copy(update={"host_memory_gib": 0.0}), tuple(registry))
    for kind in ("text2img", "fill", "text2img"):
        spec = registry.find(kind, "micro")
        assert desk.draw(spec, task_for(spec, **SMALL), "model_offload") == without_gpu[kind]
        assert desk.residency.loaded == (f"{kind}/micro",)
        assert desk.residency.waiting == ()
    assert [line for line in desk.said if line == "loading transformer"] == [
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
    task = task_for(micro, width=64, height=64, steps=1)
    limited = settings.model_copy(update={"host_memory_gib": host_mb / 1024})
    gpu_bytes = int(share * needed(micro, task))
    desk = Desk(limited, tuple(rows.values()), gpu_bytes)
    plain = Desk(settings, tuple(rows.values()), AMPLE_BYTES)
    for name, placement, is_stopped in jobs:
        spec = rows[name]
        named = task.changed(model=spec.id)
        if is_stopped:
            with pytest.raises(JobCancelledError):
                desk.draw(spec, named, placement, stop_after=0)
        desk.most_gpu_bytes = 0
        assert desk.draw(spec, named, placement) == plain.draw(spec, named, "resident")
        leanest = needed(spec, named, "block_stream")
        assert desk.most_gpu_bytes <= max(gpu_bytes, leanest)
        drawing = desk.store._drawing
        kept = desk.store.host_bytes - desk.store.host_bytes_of(drawing)
        assert kept == 0 or desk.store.host_bytes <= host_mb * 2**20
        known = {*desk.residency.loaded, *desk.residency.waiting}
        assert f"text2img/{spec.id}" in known
        assert all(part.is_on_gpu or part.in_host for part in desk.store._parts.values())


# --- tiles ----------------------------------------------------------------------------------------


def tiled(desk, registry, task_for, tile_px, **size):
    spec = registry.find("text2img", "micro")
    task = task_for(spec, **SMALL | size, vae_tile_px=tile_px)
    pixels = desk.draw(spec, task, "resident")
    shape = (task.plan.height, task.plan.width, 3)
    return np.frombuffer(pixels, np.uint8).reshape(shape).astype(int)


def test_an_image_no_larger_than_a_tile_is_decoded_as_without(desk, registry, task_for):
    size = {"width": 128, "height": 64}
    whole = tiled(desk, registry, task_for, None, **size)
    assert (tiled(desk, registry, task_for, 128, **size) == whole).all()


def test_a_larger_image_is_decoded_in_tiles_that_are_blended(desk, registry, task_for):
    size = {"width": 192, "height": 128}
    whole = tiled(desk, registry, task_for, None, **size)
    cut = tiled(desk, registry, task_for, 64, **size)
    assert 0 < np.abs(cut - whole).mean() < 16
    assert (tiled(desk, registry, task_for, None, **size) == whole).all()


def test_a_vae_that_failed_in_tiles_is_as_it_was(desk, registry):
    from flux_mcp.pipelines import engine as tiles

    vae = desk.load(registry.find("text2img", "micro"), "resident").pipe.vae
    before = [vae.use_tiling, vae.tile_sample_min_size, vae.tile_latent_min_size]

    def fail_in_tiles():
        with tiles.tiled(vae, 512):
            state = [vae.use_tiling, vae.tile_sample_min_size, vae.tile_latent_min_size]
            assert state == [True, 512, 64]
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_in_tiles()
    assert [vae.use_tiling, vae.tile_sample_min_size, vae.tile_latent_min_size] == before


# --- the worker -----------------------------------------------------------------------------------


def test_the_worker_follows_the_placement_and_the_tiles_of_a_plan(
    registry, settings, task_for, tmp_path
):
    """An engine as the worker has it, on a GPU that is the CPU."""
    engine = Engine(settings.model_copy(update={"data_dir": tmp_path}), Device("cpu"))
    desk = Desk(settings, tuple(registry))
    engine._residency = desk.residency
    pixels, moved = {}, {}
    ways = [("resident", None), ("block_stream", None), ("model_offload", None), ("resident", 64)]
    for placement, tile_px in ways:
        task = task_for(
            registry.find("text2img", "micro"),
            width=128,
            height=64,
            steps=2,
            placement=placement,
            vae_tile_px=tile_px,
        )
        before = desk.traffic[0]
        message = RunMessage(job_id="job", attempt=1, plan=task.plan, preview_every_steps=1)
        job, wire = WorkerJob(message, task.blobs), Pipe(io.BytesIO())
        events = JobEvents(message, wire)
        drawn: list[np.ndarray] = []
        events.image = partial(_keep, drawn)
        done = engine.draw(job, events)
        assert (done.loaded, done.waiting) == (("text2img/micro",), ())
        pixels[placement, tile_px] = drawn[0].tobytes()
        moved[placement, tile_px] = desk.traffic[0] - before
    assert moved["resident", None] == 0
    assert moved["block_stream", None] > moved["model_offload", None] > 0
    whole = pixels["resident", None]
    assert pixels["block_stream", None] == pixels["model_offload", None] == whole
    assert pixels["resident", 64] != whole


def _keep(drawn, _index, _seed, _seconds, pixels):
    drawn.append(pixels)
