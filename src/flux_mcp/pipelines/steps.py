"""The per-step callback of a pipeline: progress, time left, previews, cancellation.

`StepWatch` counts the steps of one job and reports them to a `Reporter`.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from flux_mcp.errors import JobCancelledError
from flux_mcp.pipelines import previews
from flux_mcp.pipelines.previews import LatentColours
from flux_mcp.requests.render_plan import RenderPlan
from flux_mcp.worker_protocol.messages import Phase

logger = logging.getLogger(__name__)


class Reporter(Protocol):
    """Receives the events of one job."""

    def progress(
        self,
        phase: Phase,
        step: int,
        *,
        eta_s: float | None = None,
        message: str = "",
        loaded: tuple[str, ...] | None = None,
    ) -> None:
        """Say how far the job is.

        Args:
            phase: What is being done.
            step: Finished steps of the whole job.
            eta_s: Seconds left, where known.
            message: What is being loaded.
            loaded: `kind/model` of every loaded pipeline, where that has just changed.
        """
        ...

    def preview(self, index: int, step: int, webp: bytes, size: tuple[int, int]) -> None:
        """Show the image `index` as it stands; `size` is the preview's own, width first."""
        ...

    def image(self, index: int, seed: int, seconds: float, pixels: NDArray[np.uint8]) -> None:
        """Hand over a finished image, (height, width, 3), and the seconds of its pass."""
        ...


@dataclass(frozen=True)
class PreviewSettings:
    """How often previews are reported."""

    every_steps: int
    """One after each so many steps of a pass."""
    interval_s: float = 0.0
    """None sooner than this after the last one."""


class StepClock:
    """Estimates the seconds left from the steps and decodings measured so far.

    Times are arguments: it reads no clock.
    """

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
        plan: What is drawn.
        reporter: Receives progress and previews.
        is_cancelled: Asked before each pass, at each step and after decoding.
        previews: How often to report a preview; `None` for never.
        colours: How previews are coloured; `None` for no previews.
        clock: Seconds; only differences count.
    """

    def __init__(
        self,
        plan: RenderPlan,
        reporter: Reporter,
        is_cancelled: Callable[[], bool],
        previews: PreviewSettings | None = None,
        colours: LatentColours | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._plan = plan
        self._reporter = reporter
        self._is_cancelled = is_cancelled
        self._previews = previews
        self._next_preview_s = float("-inf")
        self._colours = colours
        self._now = clock
        self._clock = StepClock(plan.steps_drawn, plan.passes)
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
        self._reporter.progress("encoding", self._step)

    def start_pass(self, index: int) -> None:
        """Begin a pass; `index` counts from 0."""
        self.check()
        self._pass = index
        self._step = index * self._plan.steps_drawn
        self._latents = None
        self._clock.start_pass(self._now())
        eta_s = self._clock.seconds_left(self._step)
        self._reporter.progress("denoising", self._step, eta_s=eta_s)

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
        self._step = self._pass * self._plan.steps_drawn + step_in_pass + 1
        eta_s = self._clock.seconds_left(self._step)
        self._reporter.progress("denoising", self._step, eta_s=eta_s)
        self.check()
        latents = tensors["latents"]
        if self._previews is not None and self._wants_preview(step_in_pass, self._previews):
            self._preview(pipe, step_in_pass, latents)
            self._next_preview_s = self._now() + self._previews.interval_s
        self._latents = latents
        if step_in_pass + 1 == self._plan.steps_drawn:
            self._reporter.progress("decoding", self._step, eta_s=eta_s)
        return {}

    def _wants_preview(self, step_in_pass: int, wanted: PreviewSettings) -> bool:
        if (step_in_pass + 1) % wanted.every_steps:
            return False
        return self._now() >= self._next_preview_s

    def _preview(self, pipe: Any, step_in_pass: int, latents: Any) -> None:
        """Send the image as it will be if the direction of this step is kept to the end."""
        if self._colours is None:
            return
        try:
            plan = self._plan
            # Image to image leaves out the first steps of the scheduler.
            step = len(pipe.scheduler.sigmas) - 1 - plan.steps_drawn + step_in_pass
            expected = _expected_latents(pipe, step, self._latents, latents)
            small = self._colours.image(pipe, expected, plan.width, plan.height)
            webp, size = previews.encode_webp(small, plan.width, plan.height)
        except Exception:
            # Without a preview the image is still drawn.
            logger.exception("making a preview failed; no more previews for this job")
            self._colours = None
            return
        self._reporter.preview(self._pass, self._step, webp, size)


def _expected_latents(pipe: Any, step: int, before: Any, after: Any) -> Any:
    """Estimate the finished latents from two successive ones; exact after the last step.

    A flow-matching Euler step moves along v = (after - before) / (sigma' - sigma), and the clean
    latents lie at after - sigma' * v. After the first step `before` is not known: the noisy latents
    themselves are shown.
    """
    if before is None:
        return after
    sigma, next_sigma = (float(value) for value in pipe.scheduler.sigmas[step:][:2])
    velocity = (after[:1] - before[:1]) / (next_sigma - sigma)
    return after[:1] - next_sigma * velocity
