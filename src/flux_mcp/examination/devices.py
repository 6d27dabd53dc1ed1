"""Which device would draw, and why, as far as can be told without torch. Pure.

pipelines/device.py decides it in the worker; `doctor --worker` asks that.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from flux_mcp.examination.facts import Device, DeviceKind, Obstacle, Torch
from flux_mcp.models.driver import DriverAnswer, DriverCard
from flux_mcp.requests.messages import Environment


@dataclass(frozen=True)
class Surroundings:
    """What decides the device."""

    setting: str
    torch: Torch
    driver: DriverAnswer
    visible: str | None
    """CUDA_VISIBLE_DEVICES; `None` where it is not set."""
    is_apple_silicon: bool

    @property
    def hides_cards(self) -> bool:
        """Whether no card is to be used: CUDA reads the list up to the first that is none."""
        return self.visible is not None and self.visible.partition(",")[0].strip() in ("", "-1")


def choose(there: Surroundings) -> Device:
    """Return what would draw."""
    obstacle = next(_obstacles(there), None)
    kind, reason = _kind(there, obstacle)
    card = None
    if kind == "cuda" and there.driver.cards:
        card = there.driver.cards[0].name
        reason = f"{reason}{_which(there.driver.cards)}"
    return Device(
        setting=there.setting,
        kind=kind,
        card=card,
        obstacle=None if obstacle is None else obstacle[0],
        reason=reason,
    )


def driver_series(card: DriverCard) -> int | None:
    """Return the series of a card's driver: 580 of `580.95.05`."""
    series = card.driver.partition(".")[0]
    return int(series) if series.isdigit() else None


def is_too_old(card: DriverCard, torch: Torch) -> bool:
    """Whether a card's driver is older than torch's CUDA needs; unknown versions are not."""
    series = driver_series(card)
    return series is not None and torch.least_driver is not None and series < torch.least_driver


def _kind(there: Surroundings, obstacle: tuple[Obstacle, str] | None) -> tuple[DeviceKind, str]:
    if there.setting == "cpu":
        return "cpu", "the setting 'device' says cpu."
    if there.setting == "mps":
        wrong = "" if there.is_apple_silicon else ", which is not here: the worker would refuse"
        return "mps", f"the setting 'device' says mps{wrong}."
    if there.setting == "cuda":
        wrong = "." if obstacle is None else f", but {obstacle[1]} The worker would refuse."
        return "cuda", f"the setting 'device' says cuda{wrong}"
    if obstacle is None:
        return "cuda", _why_a_card(there)
    if there.is_apple_silicon and there.torch.version is not None:
        return "mps", "this is a Mac with Apple's own processor."
    return "cpu", obstacle[1]


def _why_a_card(there: Surroundings) -> str:
    if there.torch.build == "rocm":
        return "torch is a build for AMD cards; whether there is one only a worker can say."
    return "the driver tells of a card, and torch is a build for it."


def _obstacles(there: Surroundings) -> Iterator[tuple[Obstacle, str]]:
    """Yield what keeps a card from drawing, the first cause first."""
    torch, cards = there.torch, there.driver.cards
    if torch.version is None:
        yield "no_torch", "torch is not installed."
    if torch.build == "rocm":
        return  # an AMD card: nvidia-smi knows nothing of it, and torch calls it cuda
    if there.driver.problem is not None:
        yield "driver_fails", f"no card is known: {there.driver.problem}"
    if not cards:
        yield "no_card", "no NVIDIA card was found: there is no nvidia-smi."
        return
    if torch.build == "cpu":
        yield "cpu_build", f"torch {torch.version} is a CPU build and does not use the card."
    if is_too_old(cards[0], torch):
        needed = f"CUDA {torch.cuda}, which takes {torch.least_driver} or newer"
        yield "old_driver", f"driver {cards[0].driver} is too old for {needed}."
    if there.hides_cards:
        yield "hidden", f"CUDA_VISIBLE_DEVICES is '{there.visible}' and hides every card."


def _which(cards: Sequence[DriverCard]) -> str:
    if len(cards) == 1:
        return ""
    return (
        f" Of {len(cards)} cards, plans count with the first of this list until a worker has said "
        "which one it draws on."
    )


def as_said(device: Device, said: Environment) -> Device:
    """Return what draws once a worker has said so: that counts more than what could be told."""
    kind: DeviceKind = "cuda" if said.device.startswith("cuda") else "cpu"
    if said.device == "mps":
        kind = "mps"
    card = said.device_name if kind == "cuda" else None
    reason = f"a worker said {said.device}."
    return device.model_copy(update={"kind": kind, "card": card, "reason": reason})
