"""Where to draw, and what counts as out of memory."""

import errno
import platform
import sys

import pytest

from flux_mcp.errors import EngineUnavailableError, OutOfMemoryError
from flux_mcp.pipelines import worker
from flux_mcp.pipelines.device import (
    Device,
    choose_device,
    describe,
    free_caches,
    free_memory_gib,
    is_device_fault,
    is_out_of_host_memory,
    is_out_of_memory,
)
from flux_mcp.pipelines.memory.prefetch import Prefetcher
from flux_mcp.settings.settings import Settings

pytestmark = pytest.mark.usefixtures("torch_here")


def test_the_device_that_is_asked_for_is_taken_or_refused():
    import torch

    assert choose_device("cpu") == Device("cpu")
    assert choose_device("auto").kind in ("cpu", "cuda", "mps")
    if not torch.cuda.is_available():
        with pytest.raises(EngineUnavailableError, match="cuda"):
            choose_device("cuda")


def test_the_environment_says_what_pixels_depend_on():
    import torch

    environment = describe(Device("cpu"))
    assert (environment.torch, environment.threads) == (torch.__version__, 1)
    assert environment.device == "cpu"


def test_free_memory_is_not_known_on_a_cpu():
    assert free_memory_gib(Device("cpu")) is None


@pytest.mark.skipif(
    sys.platform != "linux" or platform.libc_ver()[0] != "glibc", reason="the heap of glibc"
)
def test_memory_that_was_freed_between_tensors_that_stay_goes_back_to_the_system():
    import psutil
    import torch

    process, size = psutil.Process(), 2**19
    # glibc has a size in its heap once a larger one was freed (mallopt(3), M_MMAP_THRESHOLD).
    larger = torch.ones(2**24, dtype=torch.uint8)
    del larger
    tensors = [torch.ones(size, dtype=torch.uint8) for _ in range(200)]
    before = process.memory_info().rss
    stays = tensors[::2]
    tensors.clear()
    free_caches(Device("cpu"))
    assert before - process.memory_info().rss > 80 * size
    assert len(stays) == 100


def test_every_way_of_running_out_of_memory_is_recognised():
    import torch

    of_the_gpu = torch.cuda.OutOfMemoryError("CUDA out of memory")
    assert is_out_of_memory(of_the_gpu)
    assert not is_out_of_host_memory(of_the_gpu)
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    for of_the_host in (
        caught.value,
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        RuntimeError("could not create a primitive"),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
    ):
        assert is_out_of_memory(of_the_host)
        assert is_out_of_host_memory(of_the_host)
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 must have the same dtype"))
    assert not is_out_of_memory(ValueError("not enough memory"))


def test_what_was_caused_by_too_little_memory_is_that_as_well(monkeypatch):
    """transformers imports its parts late, and puts what they raise into its own error."""

    def import_what_does_not_fit() -> None:
        raise RuntimeError("Failed to import diffusers.pipelines") from MemoryError()

    monkeypatch.setattr(worker, "import_pipelines", import_what_does_not_fit)
    error = worker.start_engine(Settings(), Prefetcher())
    assert isinstance(error, OutOfMemoryError)
    assert "RAM" in error.message
    assert isinstance(worker._explain(MemoryError()), OutOfMemoryError)


def test_a_fault_of_the_gpu_is_told_from_an_ordinary_error():
    import torch

    assert is_device_fault(torch.AcceleratorError("CUDA error: device-side assert triggered"))
    assert not is_device_fault(torch.OutOfMemoryError("CUDA out of memory"))
    assert not is_device_fault(RuntimeError("shape"))
