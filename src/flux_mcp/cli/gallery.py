"""`flux-mcp gallery`: find finished images, and show everything known about one."""

from datetime import datetime
from typing import Any

from rich.console import Console

from flux_mcp.cli.common import (
    console,
    cut_to,
    one_given_or_read,
    opened,
    plain,
    print_facts,
    print_json,
    read_kind,
)
from flux_mcp.cli.terminal_images import terminal_images
from flux_mcp.gallery.store import ImageRecord
from flux_mcp.models.registry import KIND_NAMES
from flux_mcp.requests.lookups import SearchRequest
from flux_mcp.requests.validation import parse_request
from flux_mcp.service.answers import ImageAnswer
from flux_mcp.settings.settings import Settings

# --- search ------------------------------------------------------------------------------------


async def print_hits(settings: Settings, asked: dict[str, Any], *, as_json: bool) -> None:
    """Print a page of finished images.

    Raises:
        RequestError: the search cannot be read.
    """
    if "kind" in asked:
        asked = {**asked, "kind": read_kind("--kind", asked["kind"])}
    request = parse_request(SearchRequest, asked)
    async with opened(settings, executes=False) as service:
        answer = await service.gallery.search(request)
    if as_json:
        print_json(answer)
        return
    out = console()
    for image in answer.images:
        _print_hit(out, image)
    if not answer.images:
        searched = set(asked) - {"limit"}
        out.print(
            "No image fits. Every word must occur in the prompt; try fewer."
            if searched
            else "The gallery is empty. 'flux-mcp generate \"a red circle\"' makes an image."
        )
    if answer.next_cursor:
        out.print(f"More with the same search and --cursor {answer.next_cursor}")


def _print_hit(out: Console, image: ImageAnswer) -> None:
    out.print(
        f"{image.id}  {image.width}x{image.height}  {image.model}  seed {image.seed}  "
        f"{_local_time(image.created_at)}"
    )
    out.print(f"  {cut_to(out.width - 2, plain(image.prompt))}", style="dim")


def _local_time(created_at: str) -> str:
    return f"{datetime.fromisoformat(created_at).astimezone():%Y-%m-%d %H:%M}"


# --- show --------------------------------------------------------------------------------------


async def print_image(
    settings: Settings, image_id: str, *, in_terminal: bool | None, as_json: bool
) -> None:
    """Print everything known about one image.

    Args:
        settings: Of this command.
        image_id: Its id; `-` reads it.
        in_terminal: Whether the terminal shows it; `None`: where it is known to have pixels.
        as_json: Whether for programs.

    Raises:
        UnknownImageError: there is none with that id.
    """
    image_id = one_given_or_read(image_id, "the id of an image")
    async with opened(settings, executes=False) as service:
        record = await service.gallery.find_image(image_id)
        path = await service.gallery.image_path(image_id)
    if as_json:
        print_json({**record.model_dump(mode="json"), "path": str(path)})
        return
    console().print(str(path), style="bold green")
    print_facts(_facts(record))
    if record.composed is not None:
        _print_composed(record.composed)
    shown = terminal_images(in_terminal)
    if shown is not None:
        shown.show([path])


def _facts(record: ImageRecord) -> dict[str, Any]:
    """Return what a person wants to know first; nested values as `name value, name value`."""
    facts = record.model_dump(
        mode="json", exclude={"file", "thumbnail", "width", "height", "composed"}
    )
    plan = {name: facts["plan"].get(name) for name in ("steps", "guidance", "strength")}
    facts["kind"] = KIND_NAMES[record.kind]
    facts["plan"] = plan | {"size": f"{record.width}x{record.height}"}
    facts["created_at"] = f"{_local_time(record.created_at)} ({record.created_at})"
    facts["seconds"] = f"{record.seconds:.2f}"
    return facts


def _print_composed(report: dict[str, Any]) -> None:
    """Print what a pack made the prompt of: its blocks, and what was filled into them."""
    out = console()
    out.print(f"\nComposed by the pack {report['pack']} {report['version']}:", style="bold")
    rows: list[tuple[str, str, str]] = []
    for block in report["blocks"]:
        rows.append((block["name"], block["source"], block["text"]))
        rows += [
            (f"  {{{fill['placeholder']}}}", fill["source"], fill["text"])
            for fill in block["filled"]
        ]
    names, sources = max(len(row[0]) for row in rows), max(len(row[1]) for row in rows)
    for name, source, text in rows:
        out.print(f"  {name:<{names}}  {plain(source):<{sources}}  {plain(text)}")
    if report["drawn"]:
        out.print(f"  drawn by the seed: {', '.join(report['drawn'])}")
