"""Applies the speed switches of a plan to a loaded pipeline, and undoes them for the next plan.

`SwitchBoard` keeps the compiled forms of transformers: each is compiled once, set aside for a plan
without compilation, and used again. Attention and memory layout are set for every job, so no state
of them is kept. A step cache is enabled for one job only.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any
from weakref import WeakKeyDictionary

from flux_mcp.errors import UnsupportedOptionError
from flux_mcp.models.planning.machine import target_device
from flux_mcp.models.planning.switches import why_not
from flux_mcp.models.switches import Switches, load_switches
from flux_mcp.pipelines.device import Device
from flux_mcp.pipelines.loaded import Resident
from flux_mcp.pipelines.loading.pipeline_files import Report
from flux_mcp.requests.plan import drawing_of
from flux_mcp.requests.render_plan import RenderPlan

RECOMPILE_LIMIT = 64
"""Forms of one block that torch keeps before it gives up and runs it as it is; its own 8 are soon
used up by kinds, precisions, batches and LoRAs, which all share one class (torch 2.13, _dynamo)."""
CONVOLUTION_DIMENSIONS = 4
"""Channels out and in, height, width: what a memory layout can order otherwise."""

Backend = str | Callable[..., Any]
"""A compiler of `torch.compile`: a name, or a function that is called with each graph."""


class SwitchBoard:
    """Applies the switches of plans.

    Args:
        device: Where pipelines draw.
        backend: The compiler of `torch.compile`.
    """

    def __init__(self, device: Device, backend: Backend = "inductor") -> None:
        self._device = device
        self._backend = backend
        self._compiled: WeakKeyDictionary[Any, dict[Any, Any]] = WeakKeyDictionary()
        """Transformer -> its blocks -> the compiled form of each."""

    def apply(self, plan: RenderPlan, resident: Resident, report: Report) -> bool:
        """Set attention, compilation and the VAE's layout to what a plan says.

        Returns:
            Whether the transformer draws in its compiled form: as the plan says, unless the GPU
            had less room than was planned and its blocks come and go now.

        Args:
            plan: What will be drawn.
            resident: The pipeline that draws it.
            report: Called before a transformer is compiled; may raise to stop.

        Raises:
            UnsupportedOptionError: this machine cannot: the plan was made for another.
        """
        switches = plan.switches
        self._require(plan, resident)
        transformer = resident.pipe.transformer
        set_attention(transformer, load_switches().attention[switches.attention].backend)
        _set_layout(resident.pipe.vae, channels_last=switches.channels_last)
        compiled = switches.compiled and resident.placement == "resident"
        if compiled and transformer not in self._compiled:
            report("compiling transformer, its first step takes up to a minute")
            self._compiled[transformer] = _compile(transformer, self._backend)
        for block, form in self._compiled.get(transformer, {}).items():
            # What torch.nn.Module calls instead of its own forward, if it is set.
            block._compiled_call_impl = form if compiled else None  # noqa: SLF001
        return compiled

    @contextmanager
    def active(self, plan: RenderPlan, resident: Resident) -> Iterator[None]:
        """Draw with the step cache of a plan; disabled again however the block ends.

        Disabling it drops everything it kept: what a cancelled job left would show in the next
        image.
        """
        transformer = resident.pipe.transformer
        if plan.switches.step_cache == "none":
            yield
            return
        transformer.enable_cache(_step_cache(plan.switches))
        try:
            yield
        finally:
            transformer.disable_cache()

    def _require(self, plan: RenderPlan, resident: Resident) -> None:
        if plan.switches == Switches():
            return
        device = self._device
        target = target_device(device.kind, device.compute_capability or None)
        reason = why_not(plan.switches, drawing_of(plan, resident.spec), target)
        if reason is not None:
            raise UnsupportedOptionError(
                f"This job was planned with a speed switch that cannot be used here: {reason}.",
                "Ask again, and it is planned for this machine. If that does not help, set "
                "attention, compile and channels_last back to their defaults.",
            )


def denoising(pipe: Any) -> AbstractContextManager[None]:
    """Return the context in which a pipeline is called.

    A step cache needs to know which of the two passes of true CFG is running. FluxPipeline and
    Flux2KleinPipeline set that themselves; for the others (diffusers 0.42.1) it is set here.
    """
    transformer = pipe.transformer
    context: AbstractContextManager[None] = (
        transformer.cache_context("cond") if transformer.is_cache_enabled else nullcontext()
    )
    return context


def set_attention(transformer: Any, backend: str) -> None:
    """Set what computes a transformer's attention, by diffusers' name.

    Module by module: `ModelMixin.set_attention_backend` would also make it the default of all
    other models, which nothing takes back (diffusers 0.42.1).
    """
    from diffusers.models.attention import AttentionModuleMixin

    for module in transformer.modules():
        if isinstance(module, AttentionModuleMixin):
            module.set_attention_backend(backend)


def _set_layout(vae: Any, *, channels_last: bool) -> None:
    """Set the memory layout of a VAE's weights; nothing is touched where all have it already."""
    import torch

    wanted = torch.channels_last if channels_last else torch.contiguous_format
    weights = (weight for weight in vae.parameters() if weight.ndim == CONVOLUTION_DIMENSIONS)
    if not all(weight.is_contiguous(memory_format=wanted) for weight in weights):
        vae.to(memory_format=wanted)


def _compile(transformer: Any, backend: Backend) -> dict[Any, Any]:
    """Compile the repeated blocks of a transformer; torch does so when they are first called.

    With dynamic shapes: one form for all sizes of images. Without `fullgraph`, and with errors of
    the compiler only logged: a block that cannot be compiled, or a machine where compiling fails
    (without Python's headers, say), draws more slowly instead of failing the job.
    """
    import torch._dynamo

    torch._dynamo.config.suppress_errors = True  # noqa: SLF001 - torch's own switch for it
    limit = max(torch._dynamo.config.recompile_limit, RECOMPILE_LIMIT)  # noqa: SLF001
    torch._dynamo.config.recompile_limit = limit  # noqa: SLF001
    transformer.compile_repeated_blocks(backend=backend, dynamic=True)
    return {
        module: module._compiled_call_impl  # noqa: SLF001
        for module in transformer.modules()
        if module._compiled_call_impl is not None  # noqa: SLF001
    }


def _step_cache(switches: Switches) -> Any:
    """Return diffusers' configuration of a plan's step cache."""
    from diffusers import hooks
    from diffusers.hooks import mag_cache

    row = load_switches().step_cache[switches.step_cache]
    options: dict[str, Any] = dict(switches.step_cache_options)
    if row.ratios is not None:
        options["mag_ratios"] = getattr(mag_cache, row.ratios)
    return getattr(hooks, row.config)(**options)
