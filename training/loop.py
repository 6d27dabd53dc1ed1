"""What every training here shares: a schedule, a running average of the weights, a bar."""

import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from copy import deepcopy
from typing import Any, Generic, TypeVar

import torch
from torch import nn
from tqdm import tqdm

_M = TypeVar("_M", bound=nn.Module)


def rate(step: int, steps: int, warm_up: int = 50) -> float:
    """Return the learning rate's factor: up in a straight line, then a cosine down to 2 %."""
    up = min(1.0, (step + 1) / warm_up)
    return up * (0.02 + 0.98 * (0.5 + 0.5 * math.cos(math.pi * step / steps)))


def set_rate(optimizers: Iterable[torch.optim.Optimizer], factor: float) -> None:
    """Multiply every group's own rate (`base_lr`, noted at the first call) by the factor."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group.setdefault("base_lr", group["lr"]) * factor


def descend(
    loss: torch.Tensor,
    optimizers: Sequence[torch.optim.Optimizer],
    weights: Iterable[nn.Parameter],
    factor: float,
) -> None:
    """Take one step down the loss, gradients clipped to a norm of 1, at `factor` of the rates."""
    set_rate(optimizers, factor)
    for optimizer in optimizers:
        optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(weights, 1.0)
    for optimizer in optimizers:
        optimizer.step()


def quick_half(device: torch.device) -> AbstractContextManager[None]:
    """Compute in bf16 where that is quicker; on a CPU without instructions for it, in fp32.

    There bf16 takes five times as long.
    """
    able = device.type != "cpu" or torch.cpu._is_avx512_bf16_supported()
    half: AbstractContextManager[None] = torch.autocast(device.type, torch.bfloat16, enabled=able)
    return half


class Average(Generic[_M]):
    """An exponential running average of a module's weights; its first steps count less.

    Keeps the averaged copy.
    """

    def __init__(self, module: _M, decay: float) -> None:
        self.module = deepcopy(module).eval().requires_grad_(requires_grad=False)
        self._decay = decay
        self._updates = 0

    @torch.no_grad()
    def update(self, module: _M) -> None:
        """Take in the module's weights as they are now."""
        self._updates += 1
        decay = min(self._decay, (1 + self._updates) / (20 + self._updates))
        averaged, current = list(self.module.parameters()), list(module.parameters())
        torch._foreach_lerp_(averaged, current, 1 - decay)


class Bar:
    """A progress bar with the running means of what a step measures.

    Without a terminal, prints a line for each fiftieth of the steps.
    """

    def __init__(self, name: str, steps: int, *, shown: bool = True) -> None:
        self._watched = shown and sys.stderr.isatty()
        self._told = shown and not self._watched
        self._name, self._steps = name, steps
        self._bar = tqdm(total=steps, desc=name, unit="step", disable=not self._watched)
        self._means: dict[str, float] = {}

    def steps(self) -> Iterator[int]:
        """Yield the step numbers."""
        for step in range(self._steps):
            yield step
            self._bar.update()
            if self._told and (step + 1) % max(1, self._steps // 50) == 0:
                print(f"{self._name} {step + 1}/{self._steps} {self._shown()}", flush=True)
        self._bar.close()

    def show(self, measures: Mapping[str, Any]) -> None:
        """Take in what this step measured: numbers, or tensors of one."""
        for key, value in measures.items():
            old = self._means.get(key, float(value))
            self._means[key] = old + 0.02 * (float(value) - old)
        if self._watched:
            self._bar.set_postfix_str(self._shown(), refresh=False)

    def means(self) -> dict[str, float]:
        """Return the running means."""
        return dict(self._means)

    def _shown(self) -> str:
        return " ".join(f"{key} {value:.4f}" for key, value in self._means.items())
