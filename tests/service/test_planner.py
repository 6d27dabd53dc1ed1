"""Which model answers a request on this machine, and what the caller is told about it."""

import asyncio
import base64
import io
import json
import sys
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from flux_mcp.compose.library import PackLibrary
from flux_mcp.errors import (
    InvalidImageError,
    TooLittleMemoryError,
    UnknownModelError,
    UnsupportedOptionError,
    WeightsInvalidError,
    WeightsMissingError,
)
from flux_mcp.gallery.files import ImageFiles
from flux_mcp.images.colours import NO_PROFILE
from flux_mcp.images.references import GalleryReference, StoredReference
from flux_mcp.models.planning.candidates import Gpu, Machine
from flux_mcp.models.planning.speed import Figure
from flux_mcp.models.registry import Registry, Structure, load_registry
from flux_mcp.requests.geometry import Size
from flux_mcp.requests.plan import as_asked
from flux_mcp.requests.schemas import (
    DrawRequest,
    EditRequest,
    FillRequest,
    GenerateRequest,
    StructuralRequest,
    VariationRequest,
)
from flux_mcp.service.image_models import ImageModels
from flux_mcp.service.inputs import InputReader, stored_references
from flux_mcp.service.planner import Decision, Planner, ReadStored, StoredFacts
from flux_mcp.service.resolving import StoredImage
from flux_mcp.settings.settings import Settings
from tests.models.control_lora_files import bfl
from tests.models.hub import COMMIT, put_in_hub_cache
from tests.models.lora_files import flux1, write

from .test_refining import draft

pytestmark = pytest.mark.anyio

REGISTRY = load_registry()


def data_uri(width_px: int, height_px: int, **more: Any) -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (width_px, height_px), "red").save(buffer, "PNG", **more)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


IMAGE = data_uri(64, 64)


def found(wanted: Collection[StoredReference]) -> dict[StoredReference, StoredImage]:
    """Return an image of the gallery for each id."""
    images: dict[StoredReference, StoredImage] = {}
    for one in wanted:
        assert isinstance(one, GalleryReference)
        row = draft(id=one.image_id, file=f"images/{one.image_id}.png")
        images[one] = StoredImage(row.id, row.file, row)
    return images


def planner_for(
    settings: Settings,
    machine: Machine | None = None,
    registry: Registry = REGISTRY,
    read_stored: ReadStored | None = None,
) -> Planner:
    packs = PackLibrary(settings.packs_dir, settings.paths.packs)
    inputs = InputReader(settings, ImageFiles(settings.paths), ImageModels(settings, registry))
    return Planner(settings, registry, inputs, packs, lambda: machine, read_stored)


async def decide(
    settings: Settings,
    request: DrawRequest,
    machine: Machine | None = None,
    registry: Registry = REGISTRY,
) -> Decision:
    return await planner_for(settings, machine, registry).decide(request)


def install(settings: Settings, kind: str, model: str) -> None:
    repository = REGISTRY[kind][model].repository
    assert repository is not None
    put_in_hub_cache(settings, repository)


async def test_micro_answers_when_nothing_real_is_here_and_says_what_to_install(
    settings: Settings,
) -> None:
    decision = await decide(settings, GenerateRequest(prompt="a star"))
    assert decision.plan.model == "micro"
    (notice,) = decision.notices
    assert "coloured shapes" in notice
    assert "models pull flux2-klein-4b" in notice
    assert "accept the licence" not in notice, "what is named first asks for no account"


async def test_a_real_model_answers_as_soon_as_it_is_here(settings: Settings) -> None:
    install(settings, "text2img", "flux1-dev")
    decision = await decide(settings, GenerateRequest(prompt="a star"))
    assert (decision.plan.model, decision.plan.revision) == ("flux1-dev", COMMIT)
    assert (decision.plan.width, decision.plan.steps, decision.plan.precision) == (1024, 28, "bf16")
    (notice,) = decision.notices
    assert "licence" in notice
    assert (decision.plan.placement, decision.plan.text_precision) == ("resident", None)


@pytest.mark.parametrize(
    ("model", "prompt", "is_told"),
    [
        ("flux1-dev", "eine leere Straße ohne Menschen", True),
        ("flux1-dev", "чёрная кошка на окне", True),
        ("flux1-dev", 'a sign with the words "eine Straße ohne Menschen"', False),
        ("flux2-klein-4b", "eine leere Straße ohne Menschen", False),
    ],
)
async def test_a_prompt_that_its_model_reads_badly_is_drawn_with_a_notice(
    settings: Settings, model: str, prompt: str, *, is_told: bool
) -> None:
    install(settings, "text2img", model)
    decision = await decide(settings, GenerateRequest(prompt=prompt, model=model))
    assert decision.plan.texts == (prompt,)
    assert any("reads English best" in notice for notice in decision.notices) is is_told


async def test_own_words_in_a_pack_count_by_themselves(settings: Settings) -> None:
    asked = {"name": "product-shot", "extra": "mit einer Katze auf dem Dach"}
    for refuse in (True, False):
        request = GenerateRequest.model_validate({"pack": asked, "model": "micro"})
        decision = await planner_for(settings).decide(request, refuse=refuse)
        assert any("micro reads English best" in notice for notice in decision.notices)
        assert any("The audit reads English." in notice for notice in decision.notices)


async def test_quality_chooses_among_the_models_that_are_here(settings: Settings) -> None:
    install(settings, "text2img", "flux1-dev")
    install(settings, "text2img", "flux1-schnell")
    chosen = {
        quality: (await decide(settings, GenerateRequest(prompt="x", quality=quality))).plan
        for quality in ("low", "standard", "high")
    }
    assert {quality: plan.model for quality, plan in chosen.items()} == {
        "low": "flux1-schnell",
        "standard": "flux1-dev",
        "high": "flux1-dev",
    }
    assert chosen["high"].steps == 50


async def test_a_quality_nothing_here_is_made_for_is_drawn_with_a_notice(
    settings: Settings,
) -> None:
    install(settings, "text2img", "flux1-schnell")
    decision = await decide(settings, GenerateRequest(prompt="x", quality="high"))
    assert decision.plan.model == "flux1-schnell"
    assert "Quality 'high'" in decision.notices[0]


def gpu(free_gib: float) -> Machine:
    return Machine(Gpu(total_gib=free_gib, free_gib=free_gib), ram_gib=64)


async def test_a_known_gpu_decides_how_the_model_is_held(settings: Settings) -> None:
    install(settings, "text2img", "flux1-dev")
    request = GenerateRequest(prompt="a star", quality="high")
    whole = (await decide(settings, request, gpu(48))).plan
    parts = (await decide(settings, request, gpu(24))).plan
    assert (whole.precision, whole.text_precision, whole.placement) == ("bf16", "bf16", "resident")
    assert parts.placement == "model_offload"
    assert whole.vae_tile_px is None
    expected_s = (await decide(settings, request, gpu(48))).expected_s
    assert expected_s is not None
    assert expected_s > 1
    assert (await decide(settings, request)).expected_s is None


async def test_a_model_that_does_not_fit_is_refused_before_it_is_queued(settings: Settings) -> None:
    install(settings, "text2img", "flux1-dev")
    with pytest.raises(TooLittleMemoryError, match=r"flux1-dev: takes [\d.]+ GiB") as refused:
        await decide(settings, GenerateRequest(prompt="a star"), gpu(4))
    assert "GiB free would do" in refused.value.hint
    micro = await decide(settings, GenerateRequest(prompt="a star", model="micro"), gpu(4))
    assert (micro.plan.model, micro.plan.precision) == ("micro", "fp32")


async def test_a_gpu_alone_does_not_keep_micro_from_answering(settings: Settings) -> None:
    assert (await decide(settings, GenerateRequest(prompt="a star"), gpu(24))).plan.model == "micro"


async def test_the_setting_licences_keeps_models_from_being_chosen(settings: Settings) -> None:
    install(settings, "text2img", "flux1-dev")
    free = settings.model_copy(update={"licences": ("apache-2.0",)})
    decision = await decide(free, GenerateRequest(prompt="a star"))
    assert decision.plan.model == "micro"
    assert "'licences'" in decision.notices[0]
    named = await decide(free, GenerateRequest(prompt="a star", model="flux1-dev"))
    assert named.plan.model == "flux1-dev"
    install(settings, "text2img", "flux1-schnell")
    assert (await decide(free, GenerateRequest(prompt="a star"))).plan.model == "flux1-schnell"


async def test_a_model_this_version_cannot_load_is_refused_by_name(settings: Settings) -> None:
    blocked = {"id": "packed", "repository": "me/packed", "precision": "svdq_int4"}
    row = REGISTRY.find("control", "flux1-canny-dev").model_copy(update=blocked)
    registry = Registry((*REGISTRY, row))
    put_in_hub_cache(settings, "me/packed")
    request = StructuralRequest(prompt="x", image=IMAGE)
    assert (await decide(settings, request, registry=registry)).plan.model == "micro"
    named = request.model_copy(update={"model": "packed"})
    with pytest.raises(UnsupportedOptionError, match="cannot draw with it") as refused:
        await decide(settings, named, registry=registry)
    assert "flux1-canny-dev" in refused.value.hint


def install_control_lora(settings: Settings, structure: str, in_channels: int) -> None:
    """Put FLUX.1 dev here, as far as a plan looks, and a control LoRA for some of its layers."""
    base = put_in_hub_cache(settings, "black-forest-labs/FLUX.1-dev")
    config = {
        "num_layers": 19,
        "num_single_layers": 38,
        "out_channels": 64,
        "num_attention_heads": 24,
        "attention_head_dim": 128,
        "guidance_embeds": True,
        "joint_attention_dim": 4096,
        "pooled_projection_dim": 768,
        "_class_name": "FluxTransformer2DModel",
    }
    described = base / "transformer" / "config.json"
    described.unlink()
    described.write_text(json.dumps(config), encoding="utf-8")
    repository = f"black-forest-labs/FLUX.1-{structure.capitalize()}-dev-lora"
    folder = put_in_hub_cache(settings, repository, ["lora.safetensors"])
    (folder / "model_index.json").unlink()
    (folder / "lora.safetensors").unlink()
    some = {**config, "num_layers": 1, "num_single_layers": 1}
    write(folder / "lora.safetensors", bfl(some, in_channels, rank=1))


@pytest.mark.parametrize("structure", ["canny", "depth"])
async def test_a_control_lora_answers_where_it_and_its_base_are_all_there_is(
    settings: Settings, structure: Structure
) -> None:
    install_control_lora(settings, structure, 128)
    request = StructuralRequest(prompt="x", control_image=IMAGE, structure=structure)
    plan = (await decide(settings, request)).plan
    assert (plan.model, plan.revision) == (f"flux1-{structure}-dev-lora", COMMIT)
    install(settings, "control", f"flux1-{structure}-dev")
    assert (await decide(settings, request)).plan.model == f"flux1-{structure}-dev"


async def test_a_control_lora_of_another_width_is_refused_before_it_is_queued(
    settings: Settings,
) -> None:
    install_control_lora(settings, "canny", 64)
    with pytest.raises(WeightsInvalidError, match="'img_in' is 64 to 3072, that of flux1-dev 128"):
        await decide(settings, StructuralRequest(prompt="x", image=IMAGE))


async def test_klein_answers_where_it_is_installed_and_edits_with_several_images(
    settings: Settings,
) -> None:
    install(settings, "text2img", "flux2-klein-4b")
    drawn = await decide(settings, GenerateRequest(prompt="a star"))
    assert drawn.plan.model == "flux2-klein-4b"
    edited = await decide(settings, EditRequest(prompt="both", images=[IMAGE, IMAGE]))
    assert edited.plan.model == "flux2-klein-4b"
    assert [item.role for item in edited.plan.inputs] == ["reference", "reference"]


async def test_several_images_are_joined_only_where_no_model_reads_them_all(
    settings: Settings,
) -> None:
    several = EditRequest(prompt="put the hat on the cat", images=[IMAGE, data_uri(96, 64)])
    install(settings, "kontext", "flux1-kontext-dev")
    joined = await decide(settings, several)
    assert joined.plan.model == "flux1-kontext-dev"
    assert any("joined side by side" in notice for notice in joined.notices)
    install(settings, "kontext", "flux2-klein-4b")
    read = await decide(settings, several)
    assert read.plan.model == "flux2-klein-4b"
    assert not any("joined" in notice for notice in read.notices)


async def test_a_gpu_that_16_bit_does_not_fit_gets_8_with_the_extra_for_it(
    settings: Settings,
) -> None:
    install(settings, "text2img", "flux1-dev")
    plan = (await decide(settings, GenerateRequest(prompt="a star"), gpu(16))).plan
    assert (plan.precision, plan.text_precision) == ("int8", "int8")


async def test_asking_for_micro_beside_real_weights_does_not_tell_to_install(
    settings: Settings,
) -> None:
    install(settings, "text2img", "flux1-dev")
    decision = await decide(settings, GenerateRequest(prompt="x", model="micro"))
    (notice,) = decision.notices
    assert "micro" in notice
    assert "download" not in notice


async def test_the_structure_decides_which_control_model_answers_and_is_recommended(
    settings: Settings,
) -> None:
    install(settings, "control", "flux1-canny-dev")
    canny = await decide(settings, StructuralRequest(prompt="x", image=IMAGE))
    assert canny.plan.model == "flux1-canny-dev"
    depth = StructuralRequest(prompt="x", control_image=IMAGE, structure="depth")
    decision = await decide(settings, depth)
    assert decision.plan.model == "micro"
    assert "models pull flux1-depth-dev" in decision.notices[0]
    install(settings, "control", "flux1-depth-dev")
    assert (await decide(settings, depth)).plan.model == "flux1-depth-dev"


async def test_image_to_image_is_drawn_with_what_draws_from_words(settings: Settings) -> None:
    asked = VariationRequest(images=[{"image": IMAGE}], prompt="a star", strength=0.5)
    decision = await decide(settings, asked)
    assert (decision.plan.kind, decision.plan.model) == ("img2img", "micro")
    assert [item.role for item in decision.plan.inputs] == ["image"]
    assert "models pull flux2-klein-4b" in decision.notices[0]
    install(settings, "text2img", "flux1-dev")
    decision = await decide(settings, asked)
    assert (decision.plan.model, decision.plan.steps_drawn) == ("flux1-dev", 14)
    with pytest.raises(UnsupportedOptionError, match="its ratios were measured"):
        await decide(settings, asked.model_copy(update={"step_cache": "magcache"}))
    short = asked.model_copy(update={"step_cache": "taylorseer", "strength": 0.2})
    with pytest.raises(UnsupportedOptionError, match="6 steps are too few"):
        await decide(settings, short)


async def test_redux_needs_its_base_and_the_hint_names_both(settings: Settings) -> None:
    request = VariationRequest(images=[IMAGE], model="flux1-redux-dev")
    with pytest.raises(WeightsMissingError) as missing:
        await decide(settings, request)
    install(settings, "redux", "flux1-redux-dev")
    with pytest.raises(WeightsMissingError, match=r"FLUX\.1-dev"):
        await decide(settings, request)
    install(settings, "text2img", "flux1-dev")
    assert (await decide(settings, request)).plan.model == "flux1-redux-dev"
    assert missing.value.code == "weights_missing"


async def test_no_model_at_all_is_refused_with_the_command_that_installs_one(
    settings: Settings, tmp_path: Path
) -> None:
    bare = settings.model_copy(update={"weights_dir": tmp_path / "none"})
    with pytest.raises(WeightsMissingError, match="models pull"):
        await decide(bare, GenerateRequest(prompt="x"))
    with pytest.raises(UnknownModelError, match="Did you mean 'flux1-dev'"):
        await decide(bare, GenerateRequest(prompt="x", model="flux1-dex"))


async def test_what_was_done_to_the_colours_of_an_image_is_said(settings: Settings) -> None:
    buffer = io.BytesIO()
    Image.new("CMYK", (64, 64)).save(buffer, "JPEG")
    image = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
    decision = await decide(settings, EditRequest(images=[image], prompt="make it red"))
    assert NO_PROFILE in decision.notices


async def test_images_beyond_what_a_model_takes_are_not_even_decoded(settings: Settings) -> None:
    broken = "data:image/png;base64,AAAA"
    request = EditRequest(images=[broken] * 8, prompt="make it red", model="micro")
    with pytest.raises(UnsupportedOptionError, match="not 8"):
        await decide(settings, request)


async def test_deciding_writes_nothing(settings: Settings) -> None:
    await decide(settings, EditRequest(prompt="x", images=[IMAGE]))
    assert not settings.data_dir.exists()


def test_a_request_is_kept_without_how_it_is_waited_for_and_without_bytes() -> None:
    request = EditRequest(prompt="x", images=[IMAGE], wait_s=3, preview="none")
    asked = as_asked(request)
    assert asked["images"][0].startswith("data:sha256:")
    assert not {"wait_s", "preview", "dry_run", "idempotency_key"} & set(asked)
    patient = request.model_copy(update={"wait_s": 99, "idempotency_key": "k"})
    assert as_asked(patient) == asked


async def test_settings_and_gpu_decide_which_switches_a_plan_gets(settings: Settings) -> None:
    install(settings, "text2img", "flux1-dev")
    request = GenerateRequest(prompt="a star", quality="high", step_cache="first_block")
    where = Machine(Gpu(48, 48, "NVIDIA H200", 9.0), ram_gib=64)
    draft = await decide(settings, request, where)
    assert draft.plan.switches.step_cache == "first_block"
    assert draft.plan.switches.step_cache_options == {"threshold": 0.08}
    assert any("approximate" in notice for notice in draft.notices)

    wishing = settings.model_copy(update={"attention": "sage", "channels_last": True})
    final = await decide(wishing, GenerateRequest(prompt="a star", quality="high"), where)
    assert final.plan.switches.channels_last
    assert final.plan.switches.attention == "native"
    assert any("sageattention>=2.1.1 is not installed" in notice for notice in final.notices)


async def test_a_step_cache_is_refused_where_a_model_takes_few_steps(settings: Settings) -> None:
    install(settings, "text2img", "flux1-schnell")
    request = GenerateRequest(prompt="a star", step_cache="first_block")
    with pytest.raises(UnsupportedOptionError, match="4 steps are too few"):
        await decide(settings, request)


# --- one visit to a thread, one look at the disk -------------------------------------------------


class CountingExecutor(ThreadPoolExecutor):
    """The event loop's own kind of executor, with a count of what it was given."""

    visits = 0

    def submit(self, *args: Any, **kwargs: Any) -> Any:
        self.visits += 1
        return super().submit(*args, **kwargs)


class Looks:
    """What this process opens and lists while it counts; Python has no way to stop an audit."""

    def __init__(self) -> None:
        self.seen: list[str] | None = None
        sys.addaudithook(self._note)

    def _note(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.seen is not None and event in ("open", "os.listdir", "os.scandir"):
            self.seen.append(str(arguments[0]))

    @contextmanager
    def counted(self, folders: Sequence[Path]) -> Iterator[Counter[str]]:
        """Count how often each file and folder below these is opened or listed."""
        counts, self.seen = Counter[str](), []
        try:
            yield counts
            counts.update(p for p in self.seen if any(Path(p).is_relative_to(f) for f in folders))
        finally:
            self.seen = None


@pytest.fixture(scope="session")
def looks() -> Looks:
    return Looks()


REQUESTS: dict[str, DrawRequest] = {
    "plain": GenerateRequest(prompt="a star"),
    "pack": GenerateRequest.model_validate({"pack": "micro-shapes", "count": 3}),
    "LoRA": GenerateRequest.model_validate({"prompt": "a star", "loras": ["ink", "paint"]}),
    "named": GenerateRequest(prompt="a star", model="flux1-dev", step_cache="first_block"),
    "images": EditRequest(prompt="both", images=[IMAGE, IMAGE]),
    "mask": FillRequest.model_validate(
        {"prompt": "x", "image": IMAGE, "mask": {"image": IMAGE}, "invert": True}
    ),
    "control": StructuralRequest(prompt="x", image=IMAGE, model="flux1-canny-dev-lora"),
    "variation": VariationRequest.model_validate({"images": [IMAGE]}),
}


@pytest.mark.parametrize("machine", [None, gpu(48)], ids=["cpu", "gpu"])
@pytest.mark.parametrize("name", REQUESTS)
async def test_a_decision_visits_a_thread_once_and_looks_at_each_file_once(
    settings: Settings, looks: Looks, name: str, machine: Machine | None
) -> None:
    install_control_lora(settings, "canny", 128)
    install(settings, "kontext", "flux2-klein-4b")
    for number, lora in enumerate(("ink", "paint")):
        layer = f"transformer.transformer_blocks.{number}.ff.net.2"
        write(settings.paths.loras / f"{lora}.safetensors", flux1(layer))
    planner, executor = planner_for(settings, machine), CountingExecutor()
    asyncio.get_running_loop().set_default_executor(executor)
    # Tokenizers, packs and the hashes of LoRAs are read by the first and kept.
    first = await planner.decide(REQUESTS[name])
    assert executor.visits == 1
    folders = [settings.data_dir, settings.weights_dir, settings.packs_dir]
    with looks.counted(folders) as counts:
        second = await planner.decide(REQUESTS[name])
    assert executor.visits == 2
    assert (second.plan.model, second.notices) == (first.plan.model, first.notices)
    assert counts, "nothing was counted"
    assert {path: count for path, count in counts.items() if count > 1} == {}


async def test_an_image_of_the_gallery_may_be_larger_than_one_that_comes_in(
    settings: Settings,
) -> None:
    """What was made from a photograph in JPEG is a PNG several times as large."""
    settings = settings.model_copy(update={"max_image_bytes": 1024})
    noise = io.BytesIO()
    Image.effect_noise((64, 64), 90).convert("RGB").save(noise, "PNG")
    assert len(noise.getvalue()) > 1024
    path = ImageFiles(settings.paths).path_of("images/img_a.png")
    path.parent.mkdir(parents=True)
    path.write_bytes(noise.getvalue())

    async def read_stored(wanted: Collection[StoredReference], _: DrawRequest) -> StoredFacts:
        return StoredFacts(images=found(wanted))

    planner = planner_for(settings, read_stored=read_stored)
    decision = await planner.decide(EditRequest(prompt="x", images=["img_a"]))
    assert decision.plan.image_size == Size(64, 64)
    uri = f"data:image/png;base64,{base64.b64encode(noise.getvalue()).decode()}"
    with pytest.raises(InvalidImageError, match="larger than 1,024 bytes"):
        await planner.decide(EditRequest(prompt="x", images=[uri]))


async def test_a_request_names_its_gallery_images_and_the_database_is_asked_once(
    settings: Settings,
) -> None:
    asked: list[Sequence[StoredReference]] = []

    async def read_stored(wanted: Collection[StoredReference], _: DrawRequest) -> StoredFacts:
        asked.append(tuple(wanted))
        return StoredFacts(images=found(wanted))

    files, planner = ImageFiles(settings.paths), planner_for(settings, read_stored=read_stored)
    png = base64.b64decode(IMAGE.partition(",")[2])
    for one in ("img_a", "img_b"):
        path = files.path_of(f"images/{one}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png)
    images = ["img_a", "flux://images/img_b", {"image": "img_a", "weight": 2}, IMAGE]
    request = VariationRequest.model_validate({"images": images})
    decision = await planner.decide(request)
    assert asked == [(GalleryReference("img_a"), GalleryReference("img_b"))]
    assert [item.image_id for item in decision.plan.inputs] == ["img_a", "img_b", "img_a", None]


@pytest.mark.parametrize("reference", ["nonsense", "https://example.org/a.png", "data:,x", "/a"])
def test_a_reference_that_names_no_gallery_image_is_left_for_later(reference: str) -> None:
    assert stored_references(EditRequest(prompt="x", images=[reference])) == ()


async def test_what_the_database_holds_decides_the_expected_seconds(settings: Settings) -> None:
    install(settings, "text2img", "flux1-dev")
    machine = Machine(Gpu(48, 48, "NVIDIA H200", 9.0), ram_gib=64)
    request = GenerateRequest(prompt="a star", quality="high")
    plan = (await decide(settings, request, machine)).plan

    async def expected_s(gpu_name: str) -> float | None:
        figure = Figure(plan.model, plan.kind, plan.precision, plan.placement, 1.05, 100.0, None)

        async def read_stored(*_: object) -> StoredFacts:
            return StoredFacts(figures={gpu_name: (figure,)})

        planner = planner_for(settings, machine, read_stored=read_stored)
        return (await planner.decide(request)).expected_s

    learned, unknown = await expected_s("NVIDIA H200"), await expected_s("another")
    assert learned is not None
    assert unknown is not None
    assert learned > 10 * unknown
