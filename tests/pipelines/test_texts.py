"""Drawing with cached embeddings: the same pixels, and no text encoder."""

import contextlib
import shutil
from itertools import product

import numpy as np
import pytest

from flux_mcp.errors import WeightsInvalidError
from flux_mcp.models.families import MICRO
from flux_mcp.models.registry import KINDS, load_registry
from flux_mcp.pipelines.device import Device, arithmetic
from flux_mcp.pipelines.families.adapter import open_images
from flux_mcp.pipelines.families.family import adapter_for
from flux_mcp.pipelines.texts import MB, EmbeddingCache, EmbeddingFiles, PlanTexts
from tests.pipelines.harness import TINY, Studio

NEGATIVE_KINDS = [
    row.kind for row in load_registry() if row.is_demonstration and row.takes_negative_prompt
]
SMALL = {"width": 64, "height": 64, "steps": 1}


class Room:
    """Draws in this process with an engine and a cache, and says what was loaded for it."""

    def __init__(self, settings, cache=None):
        self.studio = Studio(settings)
        if cache is not None:
            self.studio.engine.embeddings = cache
        self.residency, self.cache = self.studio.residency, cache

    def resident(self, task):
        spec = task.spec.model_copy(update={"precision": task.plan.precision})
        return self.studio.load(spec)

    def draw(self, task):
        return np.stack(self.studio.draw(task).images)

    @property
    def loaded_encoders(self):
        """What was loaded to encode, for the last task."""
        encoders = {f"loading {name}" for name in MICRO.text_parts}
        return [line for line in self.studio.last.messages if line in encoders]


@pytest.fixture
def room(settings, torch_here):
    """A room of its own: nothing is loaded yet."""
    return lambda cache=None: Room(settings, cache)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "embeddings"


def cache_of(folder, memory_mb=64, disk_mb=64):
    return EmbeddingCache(
        arithmetic(Device("cpu")), memory_mb * MB, EmbeddingFiles(folder, disk_mb * MB)
    )


def entries(folder):
    return sorted(path.stem for path in folder.rglob("*.safetensors"))


@contextlib.contextmanager
def encoders_that_must_not_run():
    from transformers import CLIPTextModel, T5EncoderModel

    def refuse(*_args, **_kwargs):
        raise AssertionError("a text encoder ran")

    with pytest.MonkeyPatch.context() as patch:
        for encoder in (CLIPTextModel, T5EncoderModel):
            patch.setattr(encoder, "forward", refuse)
        yield


# --- the same pixels -------------------------------------------------------------------------

# The cache keeps what it is given. Kinds differ in whether an image stands beside the text or in
# its place; the others, and 16 bit, ten times slower on a CPU, are asked by `make torture`.
USUAL = {("text2img", "fp32")}
DRAWN = [
    pytest.param(*case, marks=[] if case in USUAL else [pytest.mark.torture])
    for case in product(KINDS, ("fp32", "bf16"))
]


@pytest.mark.parametrize(("kind", "precision"), DRAWN)
def test_pixels_are_the_same_without_a_cache_from_memory_and_from_disk(
    room, folder, task_for, registry, kind, precision
):
    spec = registry.find(kind, "micro")
    texts = ("a red circle", "a blue square", "a red circle")
    size = SMALL if precision == "fp32" else {**TINY, "steps": 1}
    task = task_for(
        spec, precision=precision, seeds=(1, 2, 3), prompt=texts[0], prompts=texts, **size
    )
    without_cache = room()
    without = without_cache.draw(task)
    assert len({image.tobytes() for image in without}) == 3

    filling = room(cache_of(folder))
    assert (filling.draw(task) == without).all()
    assert filling.loaded_encoders == [f"loading {name}" for name in MICRO.text_parts]
    assert len(entries(folder)) == 2
    with encoders_that_must_not_run():
        assert (filling.draw(task) == without).all()  # from memory
        from_disk = room(cache_of(folder))
        assert (from_disk.draw(task) == without).all()
        assert from_disk.loaded_encoders == []
        batched = from_disk.draw(task.changed(batched=True))
    assert (batched == without_cache.draw(task.changed(batched=True))).all()

    # No text encoder is loaded until a text is missing.
    resident = from_disk.resident(task)
    assert all(getattr(resident.pipe, name) is None for name in MICRO.text_parts)
    assert not set(resident.text_parts.values()) & set(from_disk.residency.store)
    green = task_for(spec, precision=precision, seeds=(1,), prompt="a green star", **size)
    other = from_disk.draw(green)
    assert from_disk.loaded_encoders == [f"loading {name}" for name in MICRO.text_parts]
    assert (other != without[:1]).any()
    assert (from_disk.draw(task) == without).all()


@pytest.mark.parametrize("kind", NEGATIVE_KINDS)
def test_a_negative_prompt_is_an_entry_of_its_own(room, folder, task_for, registry, kind):
    task = task_for(
        registry.find(kind, "micro"), negative_prompt="a star", true_cfg_scale=4.0, **SMALL
    )
    without = room().draw(task)
    drawing = room(cache_of(folder))
    assert (drawing.draw(task) == without).all()
    assert len(entries(folder)) == 2
    with encoders_that_must_not_run():
        assert (room(cache_of(folder)).draw(task) == without).all()
        # The words of a negative prompt are those of a prompt.
        drawing.draw(task_for(registry.find(kind, "micro"), prompt="a star"))
    drawing.draw(task.changed(prompt="a cat"))
    assert len(entries(folder)) == 3


# --- what is another entry -------------------------------------------------------------------


def test_another_length_of_text_is_another_entry(room, folder, task_for, registry):
    task = task_for(registry.find("text2img", "micro"), **SMALL)
    shorter = task.changed(max_sequence_length=task.plan.max_sequence_length // 2)
    drawing = room(cache_of(folder))
    images = [drawing.draw(each) for each in (task, shorter)]
    assert len(entries(folder)) == 2
    assert (images[1] == room().draw(shorter)).all()
    assert (images[0] != images[1]).any()


def copy_of_micro(settings, tmp_path):
    weights_dir = tmp_path / "weights"
    shutil.copytree(settings.weights_dir, weights_dir)
    return settings.model_copy(update={"weights_dir": weights_dir}), weights_dir / "micro"


def change_a_weight(encoder_folder):
    """Flip the sign of the last number in the file."""
    (path,) = encoder_folder.glob("*.safetensors")
    data = bytearray(path.read_bytes())
    data[-1] ^= 0x80
    path.write_bytes(data)


def test_another_byte_in_an_encoder_or_tokenizer_is_another_entry(
    room, settings, registry, tmp_path, folder, task_for
):
    task = task_for(registry.find("text2img", "micro"), **SMALL)
    room(cache_of(folder)).draw(task)
    theirs, micro = copy_of_micro(settings, tmp_path)
    copied = Room(theirs, cache_of(folder))
    copied.draw(task)
    assert len(entries(folder)) == 1  # the same files elsewhere are the same encoders

    for changes, part in enumerate(MICRO.text_parts, 1):
        part_folder = micro / "text2img" / part
        if "tokenizer" in part:
            path = part_folder / "tokenizer.json"
            path.write_text(path.read_text(encoding="utf-8") + "\n", encoding="utf-8")
        else:
            change_a_weight(part_folder)
        drawn = Room(theirs, cache_of(folder)).draw(task)
        assert len(entries(folder)) == 1 + changes, part
        assert (drawn == Room(theirs).draw(task)).all(), part


def test_encoders_that_changed_since_the_pipeline_was_loaded_encode_nothing(
    settings, registry, tmp_path, folder, task_for, torch_here
):
    theirs, micro = copy_of_micro(settings, tmp_path)
    task = task_for(registry.find("text2img", "micro"), **SMALL)
    drawing = Room(theirs, cache_of(folder))
    drawing.resident(task)
    change_a_weight(micro / "text2img" / "text_encoder_2")
    with pytest.raises(WeightsInvalidError, match="have changed"):
        drawing.draw(task)
    assert entries(folder) == []
    # Asked again, the model is loaded again.
    drawn = drawing.draw(task)
    assert (drawn == Room(theirs).draw(task)).all()
    assert len(entries(folder)) == 1


def test_what_computes_is_part_of_the_key(torch_here):
    import torch

    here = arithmetic(Device("cpu"))
    assert here == arithmetic(Device("cpu"))
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        assert arithmetic(Device("cpu")) != here
    finally:
        torch.set_num_threads(threads)
    assert torch.__version__ in here


# --- no text encoder -------------------------------------------------------------------------


def test_a_text_that_is_known_is_not_encoded_because_another_is_not(
    room, folder, task_for, registry
):
    from transformers import T5EncoderModel

    drawing = room(cache_of(folder))
    spec = registry.find("text2img", "micro")
    drawing.draw(task_for(spec, prompt="a cat", **SMALL))
    lengths = []
    encode = T5EncoderModel.forward
    with pytest.MonkeyPatch.context() as patch:

        def counted(self, *args, **kwargs):
            lengths.append(len(args[0]))
            return encode(self, *args, **kwargs)

        patch.setattr(T5EncoderModel, "forward", counted)
        texts = ("a cat", "a dog", "a cat", "a fox")
        drawing.draw(task_for(spec, prompt=texts[0], prompts=texts, seeds=(1, 2, 3, 4), **SMALL))
    assert lengths == [1, 1]  # the dog, then the fox


def test_what_a_pipeline_does_to_its_embeddings_does_not_reach_the_cache(
    room, folder, task_for, registry
):
    drawing = room(cache_of(folder))
    task = task_for(registry.find("text2img", "micro"), **SMALL)
    before = drawing.draw(task)
    resident = drawing.resident(task)
    texts = PlanTexts(task.plan, resident, drawing.cache, lambda: None)
    adapter = adapter_for(resident.spec)(task.plan, open_images(task.plan, {}), resident, texts)
    for tensor in adapter.embeddings(task.plan.prompt).values():
        tensor.fill_(0)
    assert (drawing.draw(task) == before).all()


def test_a_cancelled_job_keeps_what_was_encoded_and_encodes_no_more(
    room, folder, task_for, registry
):
    drawing = room(cache_of(folder))
    texts = ("a cat", "a dog", "a fox")
    task = task_for(
        registry.find("text2img", "micro"), prompt=texts[0], prompts=texts, seeds=(1, 2, 3)
    )
    resident = drawing.resident(task)
    encoder = drawing.studio.encoder(resident)
    pending = PlanTexts(task.plan, resident, drawing.cache, lambda: encoder)
    checks = []

    def stop_at_the_second():
        checks.append(None)
        if len(checks) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pending.encode(stop_at_the_second)
    assert len(entries(folder)) == 1


# --- when the GPU is too small --------------------------------------------------------------


def test_a_worker_short_of_memory_lets_go_of_what_it_holds_in_memory(
    settings, tmp_path, torch_here
):
    import torch

    own = settings.model_copy(update={"data_dir": tmp_path})
    engine = Studio(own, caches_texts=True).engine
    embeddings = {"prompt_embeds": torch.ones(1, 4), "pooled_prompt_embeds": torch.ones(1, 4)}
    engine.embeddings.put("ab" * 32, embeddings)
    assert engine.embeddings.memory_bytes > 0
    engine.recover_memory()
    assert engine.embeddings.memory_bytes == 0
    assert engine.embeddings.get("ab" * 32) is not None  # from disk


# --- when the disk refuses -------------------------------------------------------------------


def test_drawing_goes_on_when_the_cache_cannot_be_written(
    room, tmp_path, task_for, registry, caplog
):
    in_the_way = tmp_path / "cache"
    in_the_way.write_text("a file")
    task = task_for(registry.find("text2img", "micro"), **SMALL)
    drawn = room(cache_of(in_the_way / "embeddings")).draw(task)
    assert (drawn == room().draw(task)).all()
    assert "drawing goes on" in caplog.text
