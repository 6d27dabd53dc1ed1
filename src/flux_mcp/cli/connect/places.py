"""Which file is a client's: looks at the disk, changes nothing."""

import sys
from collections.abc import Mapping
from pathlib import Path

import platformdirs

from flux_mcp.cli.connect.clients import Client, Scope
from flux_mcp.errors import InvalidRequestError, UnsupportedOptionError
from flux_mcp.settings.environment import client_variable


def client_folders() -> dict[str, Path]:
    """Return the folders below which MCP clients keep their files.

    `home`; `config`: APPDATA, Application Support or XDG_CONFIG_HOME; `local`: LOCALAPPDATA on
    Windows; `project`: the working folder.

    Raises:
        InvalidRequestError: this user has no home, or the working folder was removed.
    """
    try:
        home, project = Path.home(), Path.cwd()
    except (RuntimeError, OSError) as error:
        raise InvalidRequestError(
            "There is no home folder, or the working folder was removed, so clients' files cannot "
            "be found.",
            "Set HOME, and start this in a folder that exists.",
        ) from error
    return {
        "home": home,
        "config": platformdirs.user_config_path(roaming=True),
        "local": platformdirs.user_data_path(),
        "project": project,
    }


def config_file(
    client: Client,
    scope: Scope,
    *,
    folders: Mapping[str, Path] | None = None,
    platform: str = sys.platform,
) -> Path:
    """Return the client's configuration file, whether it is there or not.

    Args:
        client: Whose file.
        scope: One the client has.
        folders: As `client_folders` gives them.
        platform: As `sys.platform` names it.

    Raises:
        UnsupportedOptionError: we know of no file on this platform.
        InvalidRequestError: several files could be meant.
    """
    if scope == "user" and client.variable is not None:
        value = client_variable(client.variable.name)
        if value is not None:
            return Path(client.variable.file.format(value=value)).expanduser().absolute()
    rows = (client.user if scope == "user" else client.project) or {}
    candidates = rows.get(platform, rows.get("any", ()))  # type: ignore[call-overload]
    known = client_folders() if folders is None else folders
    for candidate in candidates:
        files = _on_disk(Path(candidate.format(**known)))
        if len(files) > 1:
            shown = ", ".join(str(file) for file in files)
            raise InvalidRequestError(
                f"{client.title} could mean any of these: {shown}.", "Name one with --file."
            )
        if files and files[0].parent.is_dir():
            return files[0]
    plain = [candidate for candidate in candidates if "*" not in candidate]
    if not plain:
        raise UnsupportedOptionError(
            f"We know of no configuration file of {client.title} on this platform.",
            "Name it with --file.",
        )
    return Path(plain[-1].format(**known))


def _on_disk(path: Path) -> list[Path]:
    """Return the path, or those that a * in one of its folders stands for."""
    parts = path.parts
    star = next((place for place, part in enumerate(parts) if "*" in part), None)
    if star is None:
        return [path]
    return [
        found.joinpath(*parts[star + 1 :])
        for found in sorted(Path(*parts[:star]).glob(parts[star]))
        if found.joinpath(*parts[star + 1 : -1]).is_dir()
    ]


def seems_installed(file: Path, folders: Mapping[str, Path]) -> bool:
    """Tell whether the client was here: its file is there, or a folder of its own for it."""
    return file.exists() or (file.parent.is_dir() and file.parent not in folders.values())
