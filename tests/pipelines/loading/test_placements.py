"""Wherever weights wait, the pixels are the same, and no byte more than is needed is copied.

One parametrised test draws every kind, format and family in every placement; the others are about
what moves and how much memory it takes. A CPU plays the GPU: weights on it are other bytes than
those in host memory.
"""

import gc

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as sampling
from hypothesis import strategies as st

from flux_mcp.errors import JobCancelledError
from flux_mcp.models.formats import format_of
from flux_mcp.models.memory import LoadedAs
from flux_mcp.models.parts import PLACEMENTS
from flux_mcp.models.planning.support import full_load_support
from flux_mcp.models.registry import KINDS
from flux_mcp.pipelines.memory.residency import leaner, room_for
from flux_mcp.requests.plan import load_of_plan
from tests.models.lora_files import lokr_of
from tests.pipelines.harness import AMPLE_BYTES, TINY, Studio, Task, image, make_task
from tests.pipelines.loading.tiny_flux2 import klein_row

pytestmark = pytest.mark.usefixtures("torch_here")

FORMATS = ("bf16", "fp8", "fp8wo", "int8", "q8_0")
"""One for each way to store weights: all kinds have fp32, and GGUF's block types are alike."""
CASES = (
    *KINDS, *FORMATS, "flux2 klein, kontext", "flux2 klein, img2img", "flux2 dev, text2img",
    "control LoRA",
)  # fmt: skip
ALIKE = {
    "text2img": "redux", "kontext": "redux", "control": "redux", "fill": "redux",
    "img2img": "redux", "bf16": "redux", "fp8wo": "int8",
    "flux2 dev, text2img": "flux2 klein, kontext", "flux2 klein, img2img": "flux2 klein, kontext",
}  # fmt: skip
"""Cases of the same parts, or stored in the same way, as another: the long run has them too."""
KEY = "text2img/micro"


@pytest.fixture
def on_gpu(settings):
    return Studio(settings, gpu_bytes=AMPLE_BYTES)


@pytest.fixture
def striped(put):
    return put("striped")


@pytest.fixture
def lokr(put):
    layer = "lora_unet_single_blocks_0_linear1"
    return put("lokr", lokr_of(layer, 128, 7 * 128), {f"{layer}.diff_b": np.ones(7 * 128, "f4")})


@pytest.fixture(scope="module")
def without_gpu(studio, registry):
    """What is drawn where nothing moves, by kind."""
    return {kind: studio.pixels(make_task(registry.find(kind, "micro"), **TINY)) for kind in KINDS}


@pytest.fixture(scope="module")
def task_of(registry, micro, micro_gguf, edges, klein_dir):
    """Return the task of a case."""

    def task(case: str) -> Task:
        if case in KINDS:
            return make_task(registry.find(case, "micro"), **TINY)
        if case in FORMATS:
            changes = {"id": f"micro-{case}", "precision": case, "text_precision": case}
            if format_of(case).method == "gguf":
                changes |= {"text_precision": "bf16", "gguf": micro_gguf(case.upper())}
            return make_task(micro.model_copy(update=changes), **TINY)
        if case == "control LoRA":
            return make_task(edges, **TINY)
        if case == "flux2 klein, kontext":
            row = klein_row("kontext", klein_dir / "klein")
            return make_task(row, [("reference", image())], **TINY)
        if case == "flux2 klein, img2img":
            row = klein_row("text2img", klein_dir / "klein")
            return make_task(row.model_copy(update={"kind": "img2img"}), **TINY)
        dev = {"pipeline": "Flux2Pipeline", "id": "tiny-dev", "takes_guidance": True}
        return make_task(klein_row("text2img", klein_dir / "dev", **dev), **TINY)

    return task


@pytest.mark.parametrize(
    "case", [pytest.param(c, marks=pytest.mark.torture if c in ALIKE else ()) for c in CASES]
)
def test_pixels_are_the_same_in_every_placement(on_gpu, studio, task_of, striped, lokr, case):
    """Also after a job that was stopped, and with a LoRA and a LoKr that come and go."""
    task = task_of(case)
    takes_lora = format_of(task.spec.precision).takes_loras and task.spec.family == "micro"
    loras = (striped, lokr) if takes_lora else ()
    bare, with_lora = studio.pixels(task), studio.pixels(task, loras=loras)
    assert (bare != with_lora) == takes_lora
    # The one that copies nothing back comes last.
    for placement in reversed(PLACEMENTS):
        assert on_gpu.pixels(task, placement=placement, loras=loras) == with_lora, placement
        with pytest.raises(JobCancelledError):
            on_gpu.draw(task, placement=placement, loras=loras, stop_after=1)
        assert placement == "resident" or on_gpu.store.gpu_bytes == 0
        assert on_gpu.residency.loaded == (f"{task.spec.kind}/{task.spec.id}",)
        assert on_gpu.pixels(task, placement=placement) == bare, placement
    # LoRAs that were attached on the GPU are copied once, weights never.
    assert on_gpu.traffic[1] <= on_gpu.store.gpu_bytes // 10


@pytest.mark.torture
def test_placements_may_differ_between_jobs(on_gpu, without_gpu, task_of, studio, striped):
    """Of a base and a control LoRA merged onto it, whose weights are the same."""
    base, over = task_of("text2img"), task_of("control LoRA")
    expected = {"base": without_gpu["text2img"], "over": studio.pixels(over)}
    with_lora = studio.pixels(base, loras=(striped,))
    for first, second in zip(PLACEMENTS, (*PLACEMENTS[1:], PLACEMENTS[0]), strict=True):
        assert on_gpu.pixels(over, placement=first) == expected["over"]
        assert on_gpu.pixels(base, placement=second) == expected["base"]
        assert on_gpu.pixels(base, placement=first, loras=(striped,)) == with_lora
        assert on_gpu.pixels(over, placement=second) == expected["over"]


def test_a_format_that_cannot_stream_is_not_planned_to(micro):
    support = full_load_support()
    for name in ("svdq_int4", "bf16"):
        ways = {one: LoadedAs(name, "bf16", one) for one in PLACEMENTS}
        can = [one for one, way in ways.items() if support.can_load_as(micro, way)]
        assert can == list(PLACEMENTS if format_of(name).streams else PLACEMENTS[:2])
        row = micro.model_copy(update={"precision": name})
        assert list(leaner("resident", row)) == can


# --- what is on the GPU --------------------------------------------------------------------------


def test_one_part_at_a_time_is_on_the_gpu(on_gpu, task_of):
    on_gpu.pixels(task_of("redux"), placement="model_offload")
    sizes = [part.nbytes for part in on_gpu.store._parts.values()]
    assert on_gpu.most_gpu_bytes == max(sizes)


def test_streamed_blocks_take_less_of_the_gpu_than_the_transformer(on_gpu, micro, task_of):
    on_gpu.pixels(task_of("text2img"), placement="block_stream")
    transformer = on_gpu.store._parts[on_gpu.load(micro, "block_stream").transformer_key]
    assert on_gpu.most_gpu_bytes == transformer.gpu_bytes_at(0.0) < 0.6 * transformer.nbytes


# --- what a model swap copies --------------------------------------------------------------------


def nbytes_of(on_gpu, key):
    return on_gpu.store._parts[key].nbytes


def needed(task, placement="resident"):
    load = load_of_plan(task.plan, task.spec)
    return room_for(task.spec, load, None).gpu_bytes(placement)


def test_a_swap_between_kinds_that_are_on_the_gpu_copies_nothing(on_gpu, task_of):
    tasks = [task_of(kind) for kind in ("text2img", "kontext", "fill")]
    first = [on_gpu.pixels(task) for task in tasks]
    before = on_gpu.traffic
    assert [on_gpu.pixels(task) for task in tasks] == first
    assert on_gpu.traffic == before == (0, 0)


def test_a_swap_from_host_memory_copies_what_comes_and_nothing_back(on_gpu, settings, task_of):
    tasks = [task_of(kind) for kind in ("text2img", "fill")]
    transformer = on_gpu.load(tasks[0].spec).transformer_key
    # Room for one of them beside the other's need, but not for both.
    spare = nbytes_of(on_gpu, transformer) // 2
    limited = Studio(settings, gpu_bytes=needed(tasks[1]) + spare)
    first = limited.pixels(tasks[0])
    # Until both have left the GPU once: their copies in host memory are made.
    for task in (*tasks, *tasks):
        limited.pixels(task)
    assert limited.residency.waiting == (KEY,)
    assert limited.residency.loaded == ("fill/micro",)
    before, parts = limited.traffic, limited.store._parts
    there = {key for key, part in parts.items() if part.is_on_gpu}
    assert limited.pixels(tasks[0]) == first
    came = {key for key, part in parts.items() if part.is_on_gpu} - there
    assert transformer in came
    assert limited.traffic == (before[0] + sum(parts[key].nbytes for key in came), before[1])


def test_a_transformer_that_left_the_gpu_alone_is_all_that_is_copied(on_gpu, registry, micro):
    resident = on_gpu.load(micro)
    on_gpu.load(registry.find("fill", "micro"))
    part = on_gpu.store._parts[resident.transformer_key]
    part.to_host()
    assert on_gpu.traffic == (0, part.nbytes)  # made once
    assert on_gpu.residency.waiting == (KEY,)
    for _ in range(2):
        on_gpu.load(micro)
        part.to_host()
    assert on_gpu.traffic == (2 * part.nbytes, part.nbytes)


def test_parts_that_kinds_share_stay_one_wherever_they_are(on_gpu, registry, micro):
    one, other = on_gpu.load(micro), on_gpu.load(registry.find("fill", "micro"))
    vae = on_gpu.store._parts[one.vae_key]
    for move in (vae.to_host, vae.to_gpu, vae.to_host):
        move()
        pointers = [
            [p.data_ptr() for p in resident.pipe.vae.parameters()] for resident in (one, other)
        ]
        assert pointers[0] == pointers[1]
    assert on_gpu.traffic == (vae.nbytes, vae.nbytes)


def test_a_base_and_its_control_lora_share_what_is_on_the_gpu(on_gpu, micro, edges):
    base = on_gpu.load(micro).pipe.transformer
    over = on_gpu.load(edges).pipe.transformer
    before = on_gpu.traffic
    for row in (micro, edges):
        on_gpu.load(row)
    assert on_gpu.traffic == before
    layer = "transformer_blocks.0.attn.to_q"

    def weights():
        return (
            base.get_submodule(layer).weight,
            over.get_submodule(f"{layer}.base_layer").weight,
        )

    on_the_gpu = weights()
    on_gpu.load(edges, "model_offload").release()
    in_host = weights()
    assert on_the_gpu[0] is on_the_gpu[1]
    assert in_host[0] is in_host[1]
    assert on_the_gpu[0].data_ptr() != in_host[0].data_ptr()


def test_a_control_lora_that_is_dropped_leaves_its_base_alone(
    on_gpu, studio, without_gpu, task_of, micro, edges
):
    over = task_of("control LoRA")
    expected = on_gpu.pixels(over, placement="group_offload")
    key = on_gpu.load(edges, "group_offload").transformer_key
    on_gpu.load(micro, "group_offload")
    part = on_gpu.store._parts[key]
    slots = len(part._own)
    on_gpu.residency._drop(["control/edges"])
    gc.collect()
    assert len(part._own) < slots
    assert all(len(modules) == 1 for modules, _ in part._blocks)
    base = on_gpu.pixels(task_of("text2img"), placement="group_offload")
    assert base == without_gpu["text2img"]
    assert on_gpu.pixels(over, placement="group_offload") == expected == studio.pixels(over)


def test_a_cached_prompt_leaves_the_text_encoders_where_they_are(settings, micro, task_of):
    caching = {"embedding_cache_mb": 8, "embedding_cache_disk_mb": 0}
    on_gpu = Studio(settings.model_copy(update=caching), gpu_bytes=AMPLE_BYTES, caches_texts=True)
    task = task_of("text2img")
    expected = on_gpu.pixels(task, placement="model_offload")
    before = on_gpu.traffic
    assert on_gpu.pixels(task, placement="model_offload") == expected
    resident = on_gpu.load(micro, "model_offload")
    moved = nbytes_of(on_gpu, resident.transformer_key) + nbytes_of(on_gpu, resident.vae_key)
    assert on_gpu.traffic == (before[0] + moved, before[1])


# --- too little room -----------------------------------------------------------------------------


@pytest.mark.parametrize("placement", ["model_offload", "block_stream"])
def test_a_leaner_placement_is_taken_and_said_where_the_gpu_has_less_room(
    settings, task_of, without_gpu, placement
):
    """The leanest one is tried even where no room is known to be enough."""
    task = task_of("text2img")
    room = needed(task, placement) if placement == "model_offload" else 0
    on_gpu = Studio(settings, gpu_bytes=room)
    assert on_gpu.pixels(task) == without_gpu["text2img"]
    said = [line for line in on_gpu.said if "less room" in line]
    assert said == [f"the GPU has less room than was planned: {placement} instead of resident"]
    assert on_gpu.store.gpu_bytes == 0


def test_host_memory_keeps_what_was_used_last_and_the_rest_is_read_again(
    settings, task_of, without_gpu
):
    """With room for nothing but what draws: the others are back on the disk."""
    on_gpu = Studio(settings.model_copy(update={"host_memory_gib": 0.0}), gpu_bytes=AMPLE_BYTES)
    for kind in ("text2img", "fill", "text2img"):
        assert on_gpu.pixels(task_of(kind), placement="model_offload") == without_gpu[kind]
        assert on_gpu.residency.loaded == (f"{kind}/micro",)
        assert on_gpu.residency.waiting == ()
    assert on_gpu.said.count("loading transformer") == 3


ROWS = ("fp32", "bf16", "fp8")
JOBS = st.lists(
    st.tuples(st.sampled_from(ROWS), st.sampled_from(PLACEMENTS), st.booleans()),
    min_size=3,
    max_size=6,
)


@pytest.mark.torture
@sampling(
    max_examples=2,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    # Each example draws images: looking for a smaller one that fails would take minutes.
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
@given(jobs=JOBS, share=st.floats(0.3, 2.5), host_mb=st.sampled_from([0, 8, 20, 60]))
def test_mixed_jobs_draw_the_same_and_keep_within_both_memories(
    studio, settings, micro, jobs, share, host_mb
):
    rows = {p: micro.model_copy(update={"id": f"micro-{p}", "precision": p}) for p in ROWS}
    # No smaller than the row allows: what room a plan is given is reckoned for such sizes.
    tasks = {name: make_task(row, width=64, height=64, steps=1) for name, row in rows.items()}
    limited = settings.model_copy(update={"host_memory_gib": host_mb / 1024})
    gpu_bytes = int(share * needed(make_task(micro, width=64, height=64, steps=1)))
    on_gpu = Studio(limited, rows.values(), gpu_bytes=gpu_bytes)
    for name, placement, is_stopped in jobs:
        task = tasks[name]
        if is_stopped:
            with pytest.raises(JobCancelledError):
                on_gpu.draw(task, placement=placement, stop_after=0)
        on_gpu.most_gpu_bytes = 0
        assert on_gpu.pixels(task, placement=placement) == studio.pixels(task)
        assert on_gpu.most_gpu_bytes <= max(gpu_bytes, needed(task, "block_stream"))
        kept = on_gpu.store.host_bytes - on_gpu.store.host_bytes_of(on_gpu.store._drawing)
        assert kept == 0 or on_gpu.store.host_bytes <= host_mb * 2**20
        known = {*on_gpu.residency.loaded, *on_gpu.residency.waiting}
        assert f"text2img/{task.spec.id}" in known
        assert all(part.is_on_gpu or part.in_host for part in on_gpu.store._parts.values())


# --- tiles ---------------------------------------------------------------------------------------


def drawn(studio, task, tile_px):
    return studio.draw(task, vae_tile_px=tile_px).images[0].astype(int)


def test_an_image_no_larger_than_a_tile_is_decoded_as_without(studio, micro, task_of):
    for task, tile_px in (
        (make_task(micro, width=128, height=64, steps=2), 128),
        (task_of("flux2 dev, text2img"), 32),
    ):
        assert (drawn(studio, task, tile_px) == drawn(studio, task, None)).all()


def test_a_larger_image_is_decoded_in_tiles_that_are_blended(studio, micro, task_of):
    task = make_task(micro, width=192, height=128, steps=2)
    whole = drawn(studio, task, None)
    assert 0 < np.abs(drawn(studio, task, 64) - whole).mean() < 16
    assert (drawn(studio, task, None) == whole).all()
    flux2 = task_of("flux2 dev, text2img").changed(width=64, height=64)
    assert not (drawn(studio, flux2, 32) == drawn(studio, flux2, None)).all()


def test_a_vae_that_failed_in_tiles_is_as_it_was(studio, micro):
    from flux_mcp.pipelines.engine import tiled

    vae = studio.load(micro).pipe.vae
    before = [vae.use_tiling, vae.tile_sample_min_size, vae.tile_latent_min_size]

    def fail_in_tiles():
        with tiled(vae, 512):
            state = [vae.use_tiling, vae.tile_sample_min_size, vae.tile_latent_min_size]
            assert state == [True, 512, 64]
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_in_tiles()
    assert [vae.use_tiling, vae.tile_sample_min_size, vae.tile_latent_min_size] == before


# --- the engine ----------------------------------------------------------------------------------


def test_the_engine_follows_the_placement_and_the_tiles_of_a_plan(on_gpu, micro):
    task = make_task(micro, width=128, height=64, steps=2)
    pixels, moved = {}, {}
    ways = [("resident", None), ("block_stream", None), ("model_offload", None), ("resident", 64)]
    for placement, tile_px in ways:
        before = on_gpu.traffic[0]
        pixels[placement, tile_px] = on_gpu.pixels(task, placement=placement, vae_tile_px=tile_px)
        moved[placement, tile_px] = on_gpu.traffic[0] - before
        state = on_gpu.engine.state
        assert (state["loaded"], state["waiting"]) == ((KEY,), ())
    assert moved["resident", None] == 0
    assert moved["block_stream", None] > moved["model_offload", None] > 0
    whole = pixels["resident", None]
    assert pixels["block_stream", None] == pixels["model_offload", None] == whole
    assert pixels["resident", 64] != whole
