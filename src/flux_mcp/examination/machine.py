"""What this machine is: its cards, who is on them, its memory, its disk, and what would draw."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass

import psutil

from flux_mcp.config import Settings
from flux_mcp.environment import visible_cards
from flux_mcp.examination import devices
from flux_mcp.examination.facts import Card, Device, Disk, Memory, Program, Torch
from flux_mcp.examination.packages import installed_torch, is_apple_silicon
from flux_mcp.models.candidates import Machine
from flux_mcp.models.cards import CardReader
from flux_mcp.models.driver import DriverCard
from flux_mcp.models.memory import GIB
from flux_mcp.requests.messages import Environment


@dataclass(frozen=True)
class Found:
    """What this machine is."""

    torch: Torch
    device: Device
    cards: tuple[Card, ...]
    driver_problem: str | None
    planned: Machine | None
    """What plans count with; `None` where no card draws, or its memory is not known."""


def look(settings: Settings, reader: CardReader, said: Environment | None) -> Found:
    """Return what this machine is; may take some seconds where there is a card.

    Args:
        settings: The device that was asked for.
        reader: Asks the driver.
        said: What a worker draws on, if one was asked.
    """
    driver, torch = reader.ask(), installed_torch()
    device = devices.choose(
        devices.Surroundings(
            setting=settings.device,
            torch=torch,
            driver=driver,
            visible=visible_cards(),
            is_apple_silicon=is_apple_silicon(),
        )
    )
    if said is not None:
        device = devices.as_said(device, said)
    planned = reader.read(device.card) if device.kind == "cuda" else None
    cards = tuple(_card(card, settings) for card in driver.cards)
    return Found(torch, device, cards, driver.problem, planned)


def main_memory() -> Memory:
    """Return the main memory now."""
    memory = psutil.virtual_memory()
    return Memory(total_gib=_gib(memory.total), available_gib=_gib(memory.available))


def disk_of(settings: Settings) -> Disk:
    """Return the disk of the data folder, which exists."""
    usage = shutil.disk_usage(settings.data_dir)
    return Disk(
        data_dir=str(settings.data_dir),
        total_gib=_gib(usage.total),
        free_gib=_gib(usage.free),
        reserve_gib=settings.disk_reserve_gib,
    )


def _card(card: DriverCard, settings: Settings) -> Card:
    programs = tuple(
        Program(
            pid=one.pid,
            name=one.name,
            used_gib=_rounded(one.used_gib),
            data_dir=None if one.data_dir is None else str(one.data_dir),
            is_ours=one.data_dir == settings.data_dir,
        )
        for one in card.programs
    )
    return Card(
        name=card.name,
        uuid=card.uuid,
        driver=card.driver,
        compute=card.compute,
        total_gib=_rounded(card.total_gib),
        free_gib=_rounded(card.free_gib),
        is_split=card.is_split,
        programs=programs,
        untold_gib=_rounded(card.untold_gib),
        notes=tuple(_notes(card)),
    )


def _notes(card: DriverCard) -> Iterator[str]:
    """Yield what cannot be known."""
    if card.is_split:
        yield (
            "It is split into instances (MIG): a worker gets one of them, and these numbers are "
            "of the whole card. Plans are made without knowing its memory."
        )
    if card.total_gib is None or card.free_gib is None:
        yield (
            "The driver tells no memory of its own: it shares the machine's, or the account may "
            "not see it. Plans are made without."
        )
    if any(one.used_gib is None for one in card.programs):
        yield "The driver does not tell what each program holds: on Windows it never does."


def _gib(size_bytes: float) -> float:
    return round(size_bytes / GIB, 1)


def _rounded(gib: float | None) -> float | None:
    return None if gib is None else round(gib, 2)
