"""What stays loaded, what is shared, and what goes."""

import gc

import pytest

from flux_mcp.errors import JobCancelledError, WeightsMissingError
from flux_mcp.models.registry import KINDS
from flux_mcp.pipelines.device import Device
from flux_mcp.pipelines.memory.residency import Residency

pytestmark = pytest.mark.usefixtures("torch_here")


def quietly(_message):
    """Report to nobody."""


@pytest.fixture
def residency(registry, settings):
    return Residency(registry, settings, Device("cpu"))


def load(residency, registry, kind):
    return residency.pipeline(registry.find(kind, "micro"), "resident", quietly)


def storages(module):
    return [parameter.data_ptr() for parameter in module.parameters()]


def test_parts_that_kinds_share_are_loaded_once(residency, registry):
    resident = {
        kind: residency.pipeline(registry.find(kind, "micro"), "resident", quietly)
        for kind in KINDS
    }
    encoders = {kind: residency.text_encoder(resident[kind], quietly) for kind in KINDS}
    first = encoders["text2img"]
    for kind in KINDS:
        encoder = encoders[kind]
        assert storages(resident[kind].pipe.vae) == storages(resident["text2img"].pipe.vae)
        for part in ("text_encoder", "text_encoder_2"):
            assert storages(getattr(encoder, part)) == storages(getattr(first, part)), (kind, part)
        assert encoder.tokenizer is first.tokenizer
        assert encoder.tokenizer_2 is first.tokenizer_2
    transformers = {kind: tuple(storages(resident[kind].pipe.transformer)) for kind in KINDS}
    assert transformers["redux"] == transformers["text2img"]
    assert len(set(transformers.values())) == 4


def test_every_pipeline_has_a_scheduler_of_its_own(residency, registry):
    pipes = [
        residency.pipeline(registry.find(kind, "micro"), "resident", quietly).pipe for kind in KINDS
    ]
    assert len({id(pipe.scheduler) for pipe in pipes}) == len(KINDS)


def test_a_loaded_pipeline_is_handed_out_again_without_loading(residency, registry):
    spec = registry.find("fill", "micro")
    first = residency.pipeline(spec, "resident", quietly)
    said = []
    assert residency.pipeline(spec, "resident", said.append) is first
    assert said == []
    assert residency.loaded == ("fill/micro",)


def test_what_is_being_loaded_is_told(residency, registry):
    said = []
    residency.pipeline(registry.find("text2img", "micro"), "resident", said.append)
    assert "loading transformer" in said
    assert "loading text_encoder_2" not in said
    said.clear()
    residency.pipeline(registry.find("control", "micro"), "resident", said.append)
    loading = [line for line in said if line.startswith("loading")]
    assert {line.split(",")[0] for line in loading} == {"loading transformer"}
    assert loading[-1] == "loading transformer, 5 of 5 MB, 100 %"


def test_loading_that_is_stopped_half_way_leaves_nothing_behind(residency, registry):
    def stop(message):
        if message == "loading vae":
            raise JobCancelledError("stop")

    spec = registry.find("text2img", "micro")
    with pytest.raises(JobCancelledError):
        residency.pipeline(spec, "resident", stop)
    assert residency.loaded == ()
    assert len(residency.store) == 0
    assert residency.pipeline(spec, "resident", quietly).pipe.transformer is not None


def test_another_precision_is_another_pipeline(residency, registry):
    import torch

    spec = registry.find("text2img", "micro")
    residency.pipeline(spec, "resident", quietly)
    half = residency.pipeline(spec.model_copy(update={"precision": "bf16"}), "resident", quietly)
    assert half.pipe.transformer.dtype == torch.bfloat16
    assert residency.text_encoder(half, quietly).text_encoder.dtype == torch.bfloat16
    assert residency.loaded == ("text2img/micro",)


def test_a_revision_that_is_not_on_this_disk_is_missing(residency, registry):
    spec = registry.find("text2img", "flux1-dev").model_copy(update={"revision": "0" * 40})
    with pytest.raises(WeightsMissingError):
        residency.pipeline(spec, "resident", quietly)


@pytest.mark.torture
def test_loading_and_clearing_over_and_over_does_not_grow(residency, registry):
    import torch

    def tensors_alive():
        gc.collect()
        # type(), because isinstance asks lazy objects for their class, which may warn.
        return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())

    def load_all():
        for kind in KINDS:
            resident = residency.pipeline(registry.find(kind, "micro"), "resident", quietly)
            residency.colours(resident)
            residency.text_encoder(resident, quietly)
        residency.clear()
        return tensors_alive()

    load_all()  # the first time, libraries make tensors of their own
    alive = load_all()
    assert [load_all() for _ in range(2)] == [alive] * 2
    assert residency._colours == residency._encoders == residency._pipelines == {}
    assert len(residency.store) == 0
