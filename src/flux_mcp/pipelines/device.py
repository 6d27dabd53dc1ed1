"""The device that draws: its choice, its memory, its errors."""

import ctypes
import errno
import gc
import json
import sys
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

from flux_mcp.errors import EngineUnavailableError
from flux_mcp.settings.installation import platform_name
from flux_mcp.settings.settings import Settings
from flux_mcp.worker_protocol.messages import Environment, Memory

GIB = 2**30
_OUT_OF_MEMORY_WORDS = (
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "out of memory",
    "failed to map segment",
    "unable to mmap",
    "bad_alloc",
    "can't start new thread",
    "could not create a primitive",  # oneDNN
    "could not create a memory",
)
"""How torch 2.13, its libraries, the loader of shared libraries and Python word it where they raise
a plain RuntimeError, OSError or ImportError."""


@dataclass(frozen=True)
class Device:
    """A torch device: `cpu`, `cuda:0` or `mps`."""

    name: str

    @property
    def kind(self) -> Literal["cpu", "cuda", "mps"]:
        """The name without its number."""
        if self.name.startswith("cuda"):
            return "cuda"
        return "mps" if self.name == "mps" else "cpu"

    @property
    def compute_capability(self) -> float:
        """Of a CUDA GPU, such as 8.9; 0 for other devices."""
        import torch

        if self.kind != "cuda":
            return 0.0
        major, minor = torch.cuda.get_device_capability(self.name)
        return float(f"{major}.{minor}")


def choose_device(setting: Literal["auto", "cpu", "cuda", "mps"]) -> Device:
    """Return the device that a setting names; `auto` takes the best there is.

    Raises:
        EngineUnavailableError: the device that was named is not in this machine.
    """
    import torch

    has = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    best = next(name for name, there in has.items() if there)
    kind = best if setting == "auto" else str(setting)
    if not has[kind]:
        raise EngineUnavailableError(
            f"The device '{kind}' was asked for, but torch finds none.",
            "Set FLUX_MCP_DEVICE to 'auto', or install a torch built for the device.",
        )
    return Device("cuda:0" if kind == "cuda" else kind)


def configure_threads(settings: Settings) -> None:
    """Set torch's CPU threads from the settings; the pixels of some kinds depend on the number."""
    import torch

    if settings.torch_threads is not None:
        torch.set_num_threads(settings.torch_threads)


def describe(device: Device) -> Environment:
    """Return what an image's provenance keeps about this process."""
    import diffusers
    import torch
    import transformers

    device_name: str = device.kind
    memory_gib: float | None = None
    if device.kind == "cuda":
        properties = torch.cuda.get_device_properties(device.name)
        device_name, memory_gib = properties.name, properties.total_memory / GIB
    return Environment(
        torch=torch.__version__,
        diffusers=diffusers.__version__,
        transformers=transformers.__version__,
        device=device.name,
        device_name=device_name,
        memory_total_gib=memory_gib,
        threads=torch.get_num_threads(),
        platform=platform_name(),
    )


def arithmetic(device: Device) -> str:
    """Return what, besides weights and input, can change the last bits of a result.

    Libraries, device, threads, the instructions torch uses of a CPU, how it multiplies fp32, and
    what it multiplies in fp32 because it is slow in it.
    """
    import torch

    told = describe(device).model_dump(exclude={"device", "memory_total_gib", "platform"})
    told["cpu"] = torch.backends.cpu.get_cpu_capability()
    told["fp32"] = torch.get_float32_matmul_precision()
    told["in_fp32"] = [str(dtype) for dtype in _in_fp32(device)]
    return json.dumps(told, sort_keys=True)


def wide_products(device: Device, computed: Collection[Any]) -> AbstractContextManager[Any]:
    """Return what makes a CPU multiply in fp32 what it has no arithmetic for (products.py).

    Args:
        device: What draws.
        computed: Torch's dtypes that the models compute in; where none is slow, nothing is watched.
    """
    dtypes = [dtype for dtype in _in_fp32(device) if dtype in computed]
    if not dtypes:
        return nullcontext()
    from flux_mcp.pipelines.products import WideProducts

    return WideProducts(dtypes)


def _in_fp32(device: Device) -> tuple[Any, ...]:
    if device.kind != "cpu":
        return ()
    from flux_mcp.pipelines.products import slow_dtypes

    return slow_dtypes()


def free_memory_gib(device: Device) -> float | None:
    """Return the GiB a new model may take, or `None` where torch cannot tell (CPU, MPS).

    Memory that torch has reserved but does not use counts as free.
    """
    import torch

    if device.kind != "cuda":
        return None
    free, _total = torch.cuda.mem_get_info(device.name)
    idle = torch.cuda.memory_reserved(device.name) - torch.cuda.memory_allocated(device.name)
    return (free + idle) / GIB


def memory_of(device: Device) -> Memory | None:
    """Return what this process takes of the device's memory; `None` on a CPU.

    These are counters of torch: no call waits for the device. On MPS, which shares the
    machine's memory, the total is what Metal recommends to stay below
    (pytorch.org/docs/stable/mps).
    """
    import torch

    if device.kind == "cuda":
        return Memory(
            allocated_bytes=torch.cuda.memory_allocated(device.name),
            reserved_bytes=torch.cuda.memory_reserved(device.name),
            total_bytes=torch.cuda.get_device_properties(device.name).total_memory,
        )
    if device.kind == "mps":
        return Memory(
            allocated_bytes=torch.mps.current_allocated_memory(),
            reserved_bytes=torch.mps.driver_allocated_memory(),
            total_bytes=torch.mps.recommended_max_memory(),
        )
    return None


def tensors_of(part: Any) -> list[Any]:
    """Return the tensors of a model; none of a tokenizer, or of `None`."""
    return [*part.parameters(), *part.buffers()] if hasattr(part, "parameters") else []


def give_back_memory() -> None:
    """Return freed memory to the system where the C library keeps it: glibc, on Linux.

    It keeps what was freed between tensors that stay: 0.16 GiB after ten layers of Qwen3 4B were
    quantised to int8 (glibc 2.36). Source: man7.org, malloc_trim(3).
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def free_caches(device: Device) -> None:
    """Collect unreachable objects and free the memory that torch and the C library keep."""
    import torch

    gc.collect()
    give_back_memory()
    if device.kind == "cuda":
        torch.cuda.empty_cache()
    elif device.kind == "mps":
        torch.mps.empty_cache()


def begin_peak(device: Device) -> None:
    """Reset the peak of memory: the next `peak_gib` counts from here."""
    import torch

    if device.kind == "cuda":
        torch.cuda.reset_peak_memory_stats(device.name)


def peak_gib(device: Device) -> float | None:
    """Return the most that was taken from the driver since `begin_peak`, without the context.

    `None` where torch does not count (CPU, MPS).
    """
    import torch

    if device.kind != "cuda":
        return None
    return float(torch.cuda.max_memory_reserved(device.name)) / GIB


def is_device_fault(error: BaseException) -> bool:
    """Whether the device's context is lost: every later call in this process would fail too."""
    import torch

    return isinstance(error, torch.AcceleratorError)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception, or what caused it, says that no memory is left: device's or host's."""
    import torch

    return any(
        isinstance(one, MemoryError | torch.OutOfMemoryError) or _words_it(one)
        for one in _with_causes(error)
    )


def is_out_of_host_memory(error: BaseException) -> bool:
    """Whether no memory of the host is left, of which there is one beside the device's.

    Also where torch could not be imported for that reason.
    """
    return any(
        isinstance(one, MemoryError) or (_words_it(one) and not _names_a_device(one))
        for one in _with_causes(error)
    )


def _words_it(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    # Errors of safetensors, which is written in Rust, are plain exceptions.
    is_of_a_library = isinstance(error, RuntimeError | OSError | ImportError) or (
        type(error).__module__.startswith("safetensors")
    )
    text = str(error).lower()
    return is_of_a_library and any(words in text for words in _OUT_OF_MEMORY_WORDS)


def _names_a_device(error: BaseException) -> bool:
    return any(name in str(error) for name in ("CUDA", "MPS", "HIP"))


def _with_causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and what it was raised from or for, each once."""
    seen: list[BaseException] = []
    following: BaseException | None = error
    while following is not None and following not in seen:
        seen.append(following)
        yield following
        following = following.__cause__ or following.__context__
