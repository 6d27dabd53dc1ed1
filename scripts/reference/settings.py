"""docs/settings.md: every setting, from the fields of `Settings` and the flags of the commands."""

from collections.abc import Mapping
from typing import Any

from flux_mcp.cli import common
from flux_mcp.cli.app import command_tree
from flux_mcp.cli.settings import SECTIONS, Entry, Section, entries, example_config
from flux_mcp.settings.files import NEVER_IN_A_FILE
from flux_mcp.settings.settings import Settings
from flux_mcp.settings.sources import variable_of
from reference.markdown import NOTE, page, table


def settings_page() -> str:
    """Return every setting with its key, its variable and its flag, and how a file looks."""
    flags = flags_of_settings()
    lines = [
        NOTE,
        "# Settings",
        (
            "Each setting is a key of `config.toml`, an environment variable, and in some commands "
            "a flag. A flag wins over the environment, the environment over the files, a file over "
            "the default. An MCP client sets variables in the `env` of its entry for this server."
        ),
        (
            "`flux-mcp doctor --settings` shows every value with the place it comes from, and "
            "what is wrong; with `--json` for programs. Secrets are shown as set or unset."
        ),
        "## Configuration files",
        (
            "`flux-mcp doctor --example-config` prints a file to begin with; "
            "[it stands below](#an-example). It is looked for in two places, and the first wins, "
            "setting by setting:"
        ),
        (
            "1. `config.toml` in the data folder, for everybody who draws with it: servers on one "
            "data folder share one queue, so they had better agree. It cannot set `data_dir`, "
            "because it is found through it.\n"
            "2. `config.toml` in your own folder for configuration: `~/.config/flux-mcp` on Linux, "
            "`~/Library/Application Support/flux-mcp` on macOS, `%LOCALAPPDATA%\\flux-mcp` on "
            "Windows. It can say where the data folder is."
        ),
        (
            "`--config FILE` or `FLUX_MCP_CONFIG` names one file, which must exist, and no other "
            "is read. `FLUX_MCP_CONFIG=/dev/null` reads none."
        ),
        (
            "- Every key is the name of a setting; there are no tables. Unknown keys are errors.\n"
            "- Paths: `~` is your home. A relative path in a file is relative to that file's "
            "folder, one in a flag or a variable to the working directory.\n"
            "- A file that holds a secret must not be readable by other users of the machine: "
            "`chmod 600 config.toml`. (Not checked on Windows.)\n"
            "- Changes count from the next start of a command or server."
        ),
        (
            f"Settings that cannot be used end a command with exit code {common.EXIT_REQUEST} "
            "and a line that names the flag, the variable, or the file and its line."
        ),
        *(_section(section, flags) for section in SECTIONS),
        "## An example",
        "Everything there is, with its default, and all of it commented out:",
        f"```toml\n{example_config()}```",
    ]
    return page(lines)


def _section(section: Section, flags: Mapping[str, str]) -> str:
    names = ("key", "variable", "flag", "default", "allowed", "meaning")
    rows = (_setting(entry, flags) for entry in entries(section))
    return f"## {section.title}\n\n{table(*names, rows=rows)}"


def _setting(entry: Entry, flags: Mapping[str, str]) -> tuple[str, ...]:
    default = entry.default.strip('"')
    return (
        "" if entry.name in NEVER_IN_A_FILE else f"`{entry.name}`",
        f"`{variable_of(entry.name)}`",
        f"`{flags[entry.name]}`" if entry.name in flags else "",
        entry.default_in_words or (f"`{default}`" if default else ""),
        entry.allowed,
        entry.about,
    )


def flags_of_settings() -> dict[str, str]:
    """Return the flag of every setting that a command has one for."""
    found: dict[str, str] = {}
    waiting: list[Any] = [command_tree()]
    for command in waiting:
        waiting.extend(getattr(command, "commands", {}).values())
        found |= {one.name: one.opts[0] for one in command.params if one.opts[0].startswith("--")}
    return {name: flag for name, flag in found.items() if name in Settings.model_fields}
