"""The per-step callback: progress, time left, preview, cancellation.

Owns the counting of one job. Knows neither how images are drawn nor how events travel.
"""

import logging
import time
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from flux_mcp.errors import JobCancelledError
from flux_mcp.pipelines import previews
from flux_mcp.pipelines.previews import LatentColours
from flux_mcp.requests.plan import RenderPlan
from flux_mcp.worker_protocol.messages import Phase

logger = logging.getLogger(__name__)


class Reports(Protocol):
    """Where the events of one job go."""

    def progress(
        self, phase: Phase, step: int, *, eta_s: float | None = None, message: str = ""
    ) -> None:
        """Say how far the job is; `step` counts finished steps of the whole job."""
        ...

    def preview(self, index: int, step: int, webp: bytes, size: tuple[int, int]) -> None:
        """Show the image `index` as it stands; `size` is the preview's own, width first."""
        ...

    def image(self, index: int, seed: int, seconds: float, pixels: NDArray[np.uint8]) -> None:
        """Hand over a finished image, (height, width, 3)."""
        ...


class StepClock:
    """Seconds left, from the steps and decodings measured so far. Pure: times are handed in."""

    def __init__(self, steps_per_pass: int, passes: int) -> None:
        self._steps_per_pass = steps_per_pass
        self._passes = passes
        self._mark: float | None = None
        self._step_s: list[float] = []
        self._first_step_s: float | None = None
        self._decode_s = 0.0
        self._decoded = 0

    def start_pass(self, now: float) -> None:
        """Note when a pass began."""
        self._mark = now
        self._first_step_s = None

    def end_step(self, now: float) -> None:
        """Note when a step ended. A pass's first step also holds its preparation."""
        if self._mark is None:
            raise ValueError("a step ended before any pass began")
        if self._first_step_s is None:
            self._first_step_s = now - self._mark
        else:
            self._step_s.append(now - self._mark)
        self._mark = now

    def end_pass(self, now: float) -> None:
        """Note when a pass's images were decoded."""
        if self._mark is None:
            raise ValueError("a pass ended before any pass began")
        self._decode_s = now - self._mark
        self._decoded += 1

    def seconds_left(self, steps_done: int) -> float | None:
        """Return the estimate after `steps_done` steps of the job, `None` before the first."""
        step_s = sum(self._step_s) / len(self._step_s) if self._step_s else self._first_step_s
        if step_s is None:
            return None
        steps_left = self._passes * self._steps_per_pass - steps_done
        return steps_left * step_s + (self._passes - self._decoded) * self._decode_s


class StepWatch:
    """Counts one job's steps; an instance is the pipeline's `callback_on_step_end`.

    Args:
        is_cancelled: Asked before each pass, at each step and after decoding.
        preview_every: A preview after each so many steps of a pass; 0 sends none.
        preview_interval_s: None sooner than this after the last one: nobody sees more.
        colours: How previews are coloured; `None` sends none.
    """

    def __init__(
        self,
        plan: RenderPlan,
        reports: Reports,
        is_cancelled: Callable[[], bool],
        *,
        preview_every: int = 0,
        preview_interval_s: float = 0.0,
        colours: LatentColours | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._plan = plan
        self._reports = reports
        self._is_cancelled = is_cancelled
        self._preview_every = preview_every
        self._preview_interval_s = preview_interval_s
        self._next_preview_s = float("-inf")
        self._colours = colours
        self._now = clock
        self._clock = StepClock(plan.steps, plan.passes)
        self._pass = 0
        self._step = 0
        self._latents: Any = None

    def check(self) -> None:
        """Stop here if the job was cancelled.

        Raises:
            JobCancelledError: it was.
        """
        if self._is_cancelled():
            raise JobCancelledError("The job was cancelled.")

    def encoding(self) -> None:
        """Say that prompts and images are being encoded."""
        self.check()
        self._reports.progress("encoding", self._step)

    def start_pass(self, index: int) -> None:
        """Begin a pass; `index` counts from 0."""
        self.check()
        self._pass = index
        self._step = index * self._plan.steps
        self._latents = None
        self._clock.start_pass(self._now())
        eta_s = self._clock.seconds_left(self._step)
        self._reports.progress("denoising", self._step, eta_s=eta_s)

    def end_pass(self) -> None:
        """Note that a pass's images are decoded; the last chance to stop."""
        self._latents = None
        self._clock.end_pass(self._now())
        self.check()

    def __call__(
        self, pipe: Any, step_in_pass: int, _timestep: Any, tensors: dict[str, Any]
    ) -> dict[str, Any]:
        """Report the step that just ended. `tensors["latents"]`: (n, tokens, 64), packed.

        Raises:
            JobCancelledError: the job was cancelled. Raising is the only way to leave diffusers'
                loop at once: its own `_interrupt` still decodes a half-drawn image.
        """
        self._clock.end_step(self._now())
        self._step = self._pass * self._plan.steps + step_in_pass + 1
        eta_s = self._clock.seconds_left(self._step)
        self._reports.progress("denoising", self._step, eta_s=eta_s)
        self.check()
        latents = tensors["latents"]
        if self._wants_preview(step_in_pass):
            self._preview(pipe, step_in_pass, latents)
            self._next_preview_s = self._now() + self._preview_interval_s
        self._latents = latents
        if step_in_pass + 1 == self._plan.steps:
            self._reports.progress("decoding", self._step, eta_s=eta_s)
        return {}

    def _wants_preview(self, step_in_pass: int) -> bool:
        if not self._preview_every or (step_in_pass + 1) % self._preview_every:
            return False
        return self._now() >= self._next_preview_s

    def _preview(self, pipe: Any, step_in_pass: int, latents: Any) -> None:
        """Send the image as it will be if the direction of this step is kept to the end."""
        if self._colours is None:
            return
        try:
            expected = _expected_latents(pipe, step_in_pass, self._latents, latents)
            plan = self._plan
            small = self._colours.image(pipe, expected, plan.width, plan.height)
            webp, size = previews.encode_webp(small, plan.width, plan.height)
        except Exception:
            # A preview is a courtesy: without it the image is still drawn.
            logger.exception("the preview failed; none will follow for this job")
            self._colours = None
            return
        self._reports.preview(self._pass, self._step, webp, size)


def _expected_latents(pipe: Any, step_in_pass: int, before: Any, after: Any) -> Any:
    """Estimate the finished latents from two successive ones; exact after the last step.

    A flow-matching Euler step moves along v = (after - before) / (sigma' - sigma), and the clean
    latents lie at after - sigma' * v. After the first step `before` is not known: the noisy latents
    themselves are shown.
    """
    if before is None:
        return after
    sigma, next_sigma = (float(value) for value in pipe.scheduler.sigmas[step_in_pass:][:2])
    velocity = (after[:1] - before[:1]) / (next_sigma - sigma)
    return after[:1] - next_sigma * velocity
