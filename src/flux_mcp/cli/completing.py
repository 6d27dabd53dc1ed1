"""What a shell offers for a value: the ids and names there are, read as the commands read them.

Nothing is written, not even a data folder, and where nothing can be read nothing is offered: a
prompt is no place for errors. What a flag needs is imported when that flag is completed.
"""
# ruff: noqa: PLC0415 - said above

from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING

import typer

from flux_mcp.errors import FluxMcpError

if TYPE_CHECKING:
    from flux_mcp.service.service import Service
    from flux_mcp.settings.settings import Settings

MOST_OFFERED = 50
"""Of jobs and images, the newest."""
Complete = Callable[[typer.Context, str], list[str]]


def offering(read: Callable[["Settings"], Iterable[str]]) -> Complete:
    """Return what typer calls, of a function that returns every value there is."""

    def complete(ctx: typer.Context, incomplete: str) -> list[str]:
        from pydantic import ValidationError
        from pydantic_settings import SettingsError

        from flux_mcp.settings.settings import Settings

        given = {name: ctx.params.get(name) for name in ("data_dir", "config")}
        try:
            values = list(read(Settings(**{name: one for name, one in given.items() if one})))
        except (FluxMcpError, ValidationError, SettingsError, OSError):
            return []
        return [one for one in dict.fromkeys(values) if one.startswith(incomplete)]

    return complete


def _models(settings: "Settings") -> Iterable[str]:
    from flux_mcp.models.user_rows import open_registry

    return [row.id for row in open_registry(settings)]


def _clients(settings: "Settings") -> Iterable[str]:  # noqa: ARG001 - read as the others are
    from flux_mcp.cli.connect.clients import load_clients

    return [client.id for client in load_clients()]


def _severities(settings: "Settings") -> Iterable[str]:  # noqa: ARG001 - read as the others are
    from typing import get_args

    from flux_mcp.compose.audit import Severity

    return get_args(Severity)


def _packs(settings: "Settings") -> Iterable[str]:
    from flux_mcp.compose.library import open_library
    from flux_mcp.models.user_rows import open_registry

    return [pack.name for pack in open_library(settings, open_registry(settings))]


def _loras(settings: "Settings") -> Iterable[str]:
    from flux_mcp.models.loras.library import open_loras
    from flux_mcp.models.user_rows import open_registry

    return open_loras(settings, open_registry(settings)).names()


def _upscalers(settings: "Settings") -> Iterable[str]:
    from flux_mcp.models.registry import LANCZOS
    from flux_mcp.models.upscalers import own_files
    from flux_mcp.models.user_rows import open_registry

    rows = open_registry(settings).helpers.values()
    ids = (row.id for row in rows if row.role == "upscaling")
    return [*ids, *own_files(settings), LANCZOS]


def _qualities(_: "Settings") -> Iterable[str]:
    from flux_mcp.models.registry import QUALITIES

    return QUALITIES


def _kinds(_: "Settings") -> Iterable[str]:
    from flux_mcp.models.registry import KIND_NAMES

    return KIND_NAMES.values()


def _jobs(settings: "Settings") -> Iterable[str]:
    async def ids(service: "Service") -> list[str]:
        return [job.id for job in await service.recent_jobs(MOST_OFFERED)]

    return _stored(settings, ids)


def _images(settings: "Settings") -> Iterable[str]:
    from flux_mcp.requests.lookups import SearchRequest

    async def ids(service: "Service") -> list[str]:
        page = await service.gallery.search(SearchRequest(limit=MOST_OFFERED))
        return [image.id for image in page.images]

    return _stored(settings, ids)


def _stored(settings: "Settings", ask: Callable[["Service"], Awaitable[list[str]]]) -> list[str]:
    import asyncio

    from flux_mcp.cli.common import opened

    async def asked() -> list[str]:
        async with opened(settings, executes=False) as service:
            return await ask(service)

    return asyncio.run(asked()) if settings.paths.database.is_file() else []


complete_clients = offering(_clients)
complete_images = offering(_images)
complete_jobs = offering(_jobs)
complete_kinds = offering(_kinds)
complete_loras = offering(_loras)
complete_models = offering(_models)
complete_packs = offering(_packs)
complete_qualities = offering(_qualities)
complete_severities = offering(_severities)
complete_upscalers = offering(_upscalers)
