"""The thread that reads ahead: what it brings, when it stops, and what it leaves."""

import os
import threading
import weakref
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from flux_mcp.models.user_rows import open_registry
from flux_mcp.pipelines.device import Device
from flux_mcp.pipelines.loading import progress
from flux_mcp.pipelines.loading.checkpoints import FileIdentity
from flux_mcp.pipelines.loading.fetching import RESERVE_BYTES
from flux_mcp.pipelines.loading.fingerprints import Fingerprints
from flux_mcp.pipelines.memory.prefetch import Fetcher, Prefetcher, spec_of
from flux_mcp.pipelines.memory.residency import Residency
from flux_mcp.worker_protocol.messages import Weights, weights_of
from tests.pipelines.harness import Studio
from tests.pipelines.rows import add_own_model, darker

pytestmark = pytest.mark.usefixtures("torch_here")
PLENTY = 2**40
DEADLINE_S = 60


def weights_named(model, kind="text2img", precision="fp32"):
    return Weights(kind=kind, model=model, revision=None, precision=precision, text_precision=None)


MICRO, MINE = weights_named("micro"), weights_named("mine")


def quietly(_message):
    """Report to nobody."""


@dataclass
class Bench:
    """What a worker holds, in this process; `available` is asked before each tensor is read."""

    settings: Any
    available: Any = lambda: PLENTY
    prefetcher: Prefetcher = field(default_factory=Prefetcher)
    fingerprints: Fingerprints = field(default_factory=Fingerprints)

    def __post_init__(self):
        self.registry = open_registry(self.settings)
        self.fetched = self.prefetcher.fetched
        known = (self.fingerprints, self.fetched)
        self.residency = Residency(self.registry, self.settings, Device("cpu"), None, *known)
        self.fetcher = Fetcher(
            self.registry, self.settings, Device("cpu"), self.residency, *known, self._free_bytes
        )
        self.prefetcher.start(self.fetcher)

    def _free_bytes(self):
        return self.available()

    def prefetch(self, weights):
        """Ask, and wait until it is read."""
        self.prefetcher.ask(weights)
        self.prefetcher.wait_for(weights, quietly)

    def load(self, weights, report=quietly):
        spec = spec_of(self.registry, weights)
        return self.residency.pipeline(spec, "resident", report).pipe.transformer.state_dict()


@pytest.fixture
def settings(settings, tmp_path):
    changed = settings.model_copy(update={"data_dir": tmp_path, "prefetch_min_mb": 0})
    changed.paths.models.parent.mkdir(parents=True, exist_ok=True)
    return changed


@pytest.fixture
def own_file(settings):
    return add_own_model(settings, "mine", darker)


@pytest.fixture
def bench(settings, own_file):
    return Bench(settings)


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one.keys() | other.keys())


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp8"])
def test_weights_are_the_same_read_ahead_or_not(bench, settings, own_file, precision):
    weights, said = weights_named("mine", precision=precision), []
    bench.prefetch(weights)
    assert bench.fetched.has(FileIdentity.of(own_file))
    held = bench.fetched.held_bytes
    ahead = bench.load(weights, said.append)
    assert said[-2:] == [
        "loading transformer, 5 of 5 MB, 100 %, 5 MB of it from memory",
        "loading vae",
    ]
    assert (bench.fetched.taken_bytes, bench.fetched.held_bytes) == (held, 0)
    assert same(ahead, Bench(settings).load(weights))


def test_what_is_read_is_hashed_on_the_way(bench, own_file):
    assert not bench.fingerprints.knows(own_file)
    bench.prefetch(MINE)
    folder = own_file.parent
    for path in folder.parent.rglob("*.safetensors"):
        assert bench.fingerprints.knows(path)
    found = bench.fingerprints.part(folder, None, quietly)
    assert found == Fingerprints().part(folder, None, quietly)


def test_a_transformer_is_read_once_to_be_fetched_and_hashed(bench, monkeypatch):
    monkeypatch.setattr(progress, "INTERVAL_S", 0.0)
    said = []
    bench.fetcher.fetch(MINE, said.append, lambda: None)
    parts = {line.split(",")[0] for line in said}
    assert "loading transformer" in parts
    assert "checking text_encoder" in parts
    assert "checking transformer" not in parts


def test_nothing_is_read_of_what_is_loaded(settings, own_file):
    add_own_model(settings, "twin")
    looks = []

    def available():
        looks.append(True)
        return PLENTY

    bench = Bench(settings, available)
    bench.load(MICRO)
    bench.prefetch(MICRO)
    # Redux draws with the transformer of text2img.
    bench.prefetch(weights_named("micro", kind="redux"))
    assert looks == []
    # The same bytes under another name show only when they are read.
    bench.prefetch(weights_named("twin"))
    assert (bool(looks), bench.fetched.held_bytes) == (True, 0)
    bench.prefetch(MINE)
    assert bench.fetched.held_bytes > 0


def test_small_transformers_are_not_read_ahead(settings, own_file):
    size_mb = own_file.stat().st_size / 1e6
    for least, reads in ((int(size_mb), True), (int(size_mb) + 1, False)):
        bench = Bench(settings.model_copy(update={"prefetch_min_mb": least}))
        bench.prefetch(MINE)
        assert bool(bench.fetched.held_bytes) is reads


def test_a_new_wish_stops_the_old_one_at_the_next_tensor(bench):
    looks, asked = [], threading.Event()

    def available():
        looks.append(True)
        if len(looks) == 3:
            bench.prefetcher.ask(MICRO)
            bench.prefetcher.ask(None)
            asked.set()
        return PLENTY

    bench.available = available
    bench.prefetcher.ask(MINE)
    assert asked.wait(DEADLINE_S)
    bench.prefetcher.forget()
    assert len(looks) == 3
    assert bench.fetched.held_bytes == 0


def test_another_wish_replaces_what_was_read(bench, own_file, settings):
    bench.prefetch(MINE)
    fill = weights_named("micro", kind="fill")
    bench.prefetch(fill)
    assert not bench.fetched.has(FileIdentity.of(own_file))
    assert bench.fetched.held_bytes > 0
    assert same(bench.load(fill), Bench(settings).load(fill))


def test_a_file_that_changed_is_read_again(bench, own_file, settings):
    bench.prefetch(MINE)
    from safetensors.torch import load_file, save_file

    tensors = load_file(own_file)
    darker(tensors)
    save_file(tensors, own_file)
    os.utime(own_file, ns=(1, 1))
    changed = bench.load(MINE)
    assert bench.fetched.taken_bytes == 0
    assert torch.equal(changed["proj_out.weight"], tensors["proj_out.weight"].float())
    assert same(changed, Bench(settings).load(MINE))


def test_as_much_is_read_as_memory_allows_and_the_rest_from_the_disk(bench, settings):
    looks = []

    def available():
        looks.append(True)
        return PLENTY if len(looks) <= 20 else RESERVE_BYTES - 1

    bench.available = available
    bench.prefetch(MINE)
    held, said = bench.fetched.held_bytes, []
    assert 0 < held < 4_000_000
    loaded = bench.load(MINE, said.append)
    assert bench.fetched.taken_bytes == held
    assert any(line.endswith(" MB of it from memory") for line in said)
    assert same(loaded, Bench(settings).load(MINE))


def test_a_job_waits_for_its_weights_and_is_told_how_far_they_are(bench):
    go, said = threading.Event(), []

    def available():
        assert go.wait(DEADLINE_S)
        return PLENTY

    def report(message):
        said.append(message)
        go.set()

    bench.available = available
    bench.prefetcher.ask(MINE)
    bench.prefetcher.wait_for(MICRO, said.append)
    assert said == []
    bench.prefetcher.wait_for(MINE, report)
    assert said
    assert bench.fetched.held_bytes > 0


def test_a_job_that_is_cancelled_does_not_wait(bench):
    go = threading.Event()

    def stop(_message):
        raise KeyboardInterrupt

    bench.available = lambda: PLENTY if go.wait(DEADLINE_S) else 0
    bench.prefetcher.ask(MINE)
    with pytest.raises(KeyboardInterrupt):
        bench.prefetcher.wait_for(MINE, stop)
    go.set()
    bench.prefetcher.wait_for(MINE, quietly)
    assert bench.fetched.held_bytes > 0


def test_nothing_is_left_behind(bench):
    bench.prefetch(MINE)
    file = next(iter(bench.fetched._files))
    tensor = weakref.ref(next(iter(bench.fetched._files[file].values())))
    assert tensor() is not None
    bench.prefetcher.forget()
    assert (bench.fetched.held_bytes, tensor()) == (0, None)
    # And a wish that was forgotten can be made again.
    bench.prefetch(MINE)
    assert bench.fetched.held_bytes > 0
    bench.prefetcher.done_with(MICRO)
    assert bench.fetched.held_bytes > 0
    bench.prefetcher.done_with(MINE)
    bench.prefetcher.forget()
    assert bench.fetched.held_bytes == 0


def test_the_engine_leaves_nothing_when_a_job_has_loaded_or_memory_ran_out(
    settings, own_file, task_for
):
    prefetcher = Prefetcher()
    registry = open_registry(settings)
    studio = Studio(settings, registry, prefetcher=prefetcher)
    task = task_for(registry.find("text2img", "mine"), steps=1)
    assert weights_of(task.plan) == MINE
    prefetcher.ask(MINE)
    prefetcher.wait_for(MINE, quietly)
    held = prefetcher.fetched.held_bytes
    assert held > 0
    # What was read is of no use any more: the job leaves it, and the engine lets it go.
    os.utime(own_file, ns=(1, 1))
    assert studio.draw(task).figures.prefetched_bytes == 0
    prefetcher.wait_for(None, quietly)
    assert prefetcher.fetched.held_bytes == 0
    fill = weights_named("micro", kind="fill")
    prefetcher.ask(fill)
    prefetcher.wait_for(fill, quietly)
    assert prefetcher.fetched.held_bytes > 0
    studio.engine.recover_memory()
    assert prefetcher.fetched.held_bytes == 0


@pytest.mark.parametrize("broken", ["gone", "no model", "another format", "damaged"])
def test_what_cannot_be_read_ahead_is_forgotten(bench, own_file, broken):
    wish = {
        "gone": MINE,
        "damaged": MINE,
        "no model": weights_named("nobody's"),
        "another format": weights_named("mine", precision="nf4"),
    }[broken]
    if broken == "gone":
        own_file.unlink()
    if broken == "damaged":
        own_file.write_bytes(b"\x00" * 100)
    bench.prefetch(wish)
    assert bench.fetched.held_bytes == 0
    bench.prefetch(MICRO)
    assert bench.fetched.held_bytes > 0
