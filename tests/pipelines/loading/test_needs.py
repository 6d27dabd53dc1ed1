"""What a device or an installation cannot do is refused before a file is opened."""

from dataclasses import dataclass
from importlib import metadata

import pytest
from packaging.version import Version

from flux_mcp.errors import ExtraMissingError, FormatUnsupportedError
from flux_mcp.models import formats
from flux_mcp.models.formats import load_formats
from flux_mcp.pipelines.device import Device
from flux_mcp.pipelines.loading.quantisers import require_classes, require_formats
from flux_mcp.settings.installation import install_command

CPU = Device("cpu")
ALL = load_formats().format
HERE = {name: row for name, row in ALL.items() if "cpu" in row.devices and not row.blocked}


def installed(package):
    try:
        return Version(metadata.version(package))
    except metadata.PackageNotFoundError:
        return None


@dataclass(frozen=True)
class Gpu(Device):
    """A CUDA GPU whose capability is told, where there is none to ask."""

    name: str = "cuda:0"
    capability: float = 8.6

    @property
    def compute_capability(self) -> float:
        return self.capability


@pytest.mark.parametrize("precision", HERE)
def test_what_a_cpu_can_hold_is_let_in_if_its_packages_are_there(micro, precision):
    require_formats(micro.model_copy(update={"precision": precision}), CPU)


@pytest.mark.parametrize("precision", sorted(set(ALL) - set(HERE)))
def test_what_a_cpu_cannot_hold_is_refused_with_what_it_can(micro, precision):
    with pytest.raises(FormatUnsupportedError) as caught:
        require_formats(micro.model_copy(update={"precision": precision}), CPU)
    assert precision in caught.value.message
    assert caught.value.hint == "Use one of: fp32, bf16, fp16, fp8, fp8wo, int8."


@pytest.mark.parametrize(
    ("precision", "capability", "least"),
    [("fp8dq", 8.6, "8.9"), ("int4", 7.5, "8.0"), ("nf4", 7.0, "7.5")],
)
def test_an_old_gpu_is_refused_with_what_it_lacks(micro, precision, capability, least):
    spec = micro.model_copy(update={"precision": precision})
    with pytest.raises(FormatUnsupportedError, match=f"capability {least}; .*{capability}"):
        require_formats(spec, Gpu(capability=capability))


def test_fp8_arithmetic_is_let_in_on_a_gpu_that_has_it(micro):
    require_formats(micro.model_copy(update={"precision": "fp8dq"}), Gpu(capability=8.9))


def test_svdquant_is_refused_with_the_reason_on_any_gpu(micro):
    spec = micro.model_copy(update={"precision": "svdq_int4"})
    with pytest.raises(FormatUnsupportedError, match="kernels that are code from the hub"):
        require_formats(spec, Gpu(capability=12.0))


def test_a_text_encoder_that_cannot_be_held_so_is_refused(micro):
    spec = micro.model_copy(update={"precision": "bf16", "text_precision": "nf4"})
    with pytest.raises(FormatUnsupportedError, match="nf4 need a device of type cuda"):
        require_formats(spec, CPU)


@pytest.mark.skipif(installed("bitsandbytes") is not None, reason="bitsandbytes is installed")
def test_a_missing_extra_is_named_with_the_line_for_pip(micro):
    spec = micro.model_copy(update={"precision": "nf4"})
    with pytest.raises(ExtraMissingError) as caught:
        require_formats(spec, Gpu())
    assert str(caught.value) == (
        "[extra_missing] Weights in nf4 cannot be used without the package bitsandbytes. "
        f"Run: {install_command('bitsandbytes>=0.46.1')}."
    )


@pytest.mark.skipif(installed("torchvision") is not None, reason="torchvision is installed")
def test_a_class_that_wants_another_package_is_refused_with_the_line_for_pip():
    with pytest.raises(ExtraMissingError, match=r"install 'torchvision>=0\.24\.0'"):
        require_classes(["AutoencoderKLFlux2", "PixtralProcessor"])
    require_classes(["AutoencoderKLFlux2", "Qwen2Tokenizer"])


def test_a_package_that_is_too_old_is_refused_with_both_versions(monkeypatch):
    extra = load_formats().extra["gguf"].model_copy(update={"packages": {"gguf": "999.0"}})
    newer = load_formats().model_copy(update={"extra": {"gguf": extra}})
    monkeypatch.setattr(formats, "load_formats", lambda: newer)
    with pytest.raises(ExtraMissingError, match=r"gguf [\d.]+; 999\.0 is the least"):
        formats.require_extra("gguf", "It")
    assert not formats.has_extra("gguf")


def test_nothing_is_loaded_or_evicted_before_the_refusal(fresh, micro):
    fresh.load(micro)
    with pytest.raises(FormatUnsupportedError):
        fresh.load(micro.model_copy(update={"precision": "nf4", "id": "micro"}))
    assert not any("nf4" in line for line in fresh.said)
    assert len([line for line in fresh.said if line == "checking weights"]) == 1
