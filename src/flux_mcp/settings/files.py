"""Configuration files: where they are looked for, what they may hold, on which line a key stands.

They are flat TOML: a key is the name of a setting. They are read when `Settings` is made, and again
when a command shows where each value comes from.

A file that was named is the only one. Else there are two places, and the first wins:

1. `config.toml` in the data folder. Every server on that folder reads it, whoever starts it, and
   they share one queue, so it comes first.
2. `config.toml` in the platform's folder for a user's configuration: one person's habits, and the
   place to say where the data folder is.
"""

import os
import stat
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    TomlConfigSettingsSource,
)

from flux_mcp.errors import SettingsFileError
from flux_mcp.settings.installation import user_config_dir

FILE_NAME = "config.toml"
NEVER_IN_A_FILE: Mapping[str, str] = {
    "config": "Name the file with --config or FLUX_MCP_CONFIG.",
}
"""Settings that only flags and the environment can hold, with what to do instead."""


class ConfigFile(TomlConfigSettingsSource):
    """One configuration file, as a source of settings; empty if it is not there.

    Unknown keys and wrong values are left to the model: it finds all of them at once.

    Args:
        settings_cls: Whose settings it holds.
        path: Where it is.
        refused: Keys it must not hold, with what to do instead.

    Raises:
        SettingsFileError: it cannot be read, is not TOML, holds a key it must not hold, or holds a
            secret that other users of the machine can read.
    """

    def __init__(
        self, settings_cls: type[BaseSettings], path: Path, refused: Mapping[str, str]
    ) -> None:
        self.path = path
        self.values: dict[str, Any] = {}
        """What it holds, by key; paths are whole."""
        try:
            self.is_there = path.exists()
            if self.is_there and not path.is_file():
                raise SettingsFileError(f"{path} is not a file.", "Put a TOML file there.")
            super().__init__(settings_cls, toml_file=path)
            self._refuse_keys(refused)
            self._refuse_open_secrets()
        except tomllib.TOMLDecodeError as error:
            raise SettingsFileError(
                f"{path} is not TOML: {error}.", "Write one setting a line, name = value."
            ) from error
        except UnicodeDecodeError as error:
            raise SettingsFileError(
                f"{path} is not UTF-8: byte {error.start + 1} cannot be read.", "Save it as UTF-8."
            ) from error
        except OSError as error:
            raise SettingsFileError(
                f"{path} cannot be read: {error.strerror}.", "Fix its permissions, or move it."
            ) from error
        self.values = {key: self._located(key, value) for key, value in self.toml_data.items()}

    def __call__(self) -> dict[str, Any]:
        """Return what the file says, under the very keys it uses: `Device` is not `device`."""
        return self.values

    def line_of(self, key: str) -> int | None:
        """Return the line on which a key is set, from 1 on; `None` where it cannot be told."""
        lines = self.path.read_text(encoding="utf-8").split("\n")
        for index, line in enumerate(lines):
            # What comes before is whole TOML only if we are not inside a longer value.
            if sets_key(line, key) and is_toml("\n".join(lines[:index])):
                return index + 1
        return None

    def place_of(self, key: str) -> str:
        """Say where a key is set: the file, and the line if it can be told."""
        line = self.line_of(key)
        return str(self.path) if line is None else f"{self.path} line {line}"

    def _refuse_keys(self, refused: Mapping[str, str]) -> None:
        for key, hint in refused.items():
            if key in self.toml_data:
                raise SettingsFileError(f"{self.place_of(key)}: {key} cannot be set here.", hint)

    def _refuse_open_secrets(self) -> None:
        secrets = [key for key in self.toml_data if self._holds(key, SecretStr)]
        # Windows keeps no such bits; its user folders are private.
        if not secrets or os.name != "posix":
            return
        if self.path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
            raise SettingsFileError(
                f"{self.place_of(secrets[0])}: {secrets[0]} is a secret, and other users of this "
                "machine can read the file.",
                f"Run: chmod 600 {self.path}",
            )

    def _located(self, key: str, value: Any) -> Any:
        """Make paths whole: relative ones are relative to the file, wherever it is read from."""
        if not self._holds(key, Path):
            return value
        if isinstance(value, list):
            return [_whole_or_same(one, self.path.parent) for one in value]
        return _whole_or_same(value, self.path.parent)

    def _holds(self, key: str, kind: type) -> bool:
        field = self.settings_cls.model_fields.get(key)
        return field is not None and holds(field, kind)


def config_files(
    settings_cls: type[BaseSettings],
    flags: PydanticBaseSettingsSource,
    environment: PydanticBaseSettingsSource,
) -> tuple[ConfigFile, ...]:
    """Return the files that count, the first wins; also those that are not there.

    Args:
        settings_cls: Whose settings they hold; it has the fields `config` and `data_dir`.
        flags: What the caller gave; it may name the file and the data folder.
        environment: The same from the environment; flags win.

    Raises:
        SettingsFileError: as `ConfigFile`; or a file was named that does not exist.
    """

    def given(name: str) -> Any:
        field = settings_cls.model_fields[name]
        from_flag = flags().get(name)
        return environment.get_field_value(field, name)[0] if from_flag is None else from_flag

    named = given("config")
    if named is not None:
        return _named_file(settings_cls, Path(named))
    users_place = user_config_file()
    user = None if users_place is None else ConfigFile(settings_cls, users_place, NEVER_IN_A_FILE)
    default = settings_cls.model_fields["data_dir"].get_default(call_default_factory=True)
    asked = given("data_dir")
    found = () if user is None else (user,)
    if asked is None:
        asked = default if user is None else user.values.get("data_dir", default)
    folder = _whole_or_same(asked)
    if not isinstance(folder, Path) or not folder.is_absolute():
        return found  # No path that can be used: the model will say so.
    path = folder / FILE_NAME
    if user is not None and path.resolve() == user.path.resolve():
        return found
    place = "" if user is None else f"in {user.path}, "
    hint = f"Set it {place}in a file named with --config, or as FLUX_MCP_DATA_DIR."
    refused = {**NEVER_IN_A_FILE, "data_dir": f"This file is found through it. {hint}"}
    return ConfigFile(settings_cls, path, refused), *found


def files_beside(
    settings_cls: type[BaseSettings], given: Mapping[str, Any]
) -> tuple[ConfigFile, ...]:
    """Return the files that count when these flags are given in this environment.

    Raises:
        SettingsFileError: as `config_files`.
    """
    flags = InitSettingsSource(settings_cls, init_kwargs=dict(given))
    return config_files(settings_cls, flags, EnvSettingsSource(settings_cls))


def values_in_environment(settings_cls: type[BaseSettings]) -> dict[str, str]:
    """Return the text of every variable that is set, by the name of its setting."""
    source = EnvSettingsSource(settings_cls)
    fields = settings_cls.model_fields.items()
    texts = {name: source.get_field_value(field, name)[0] for name, field in fields}
    return {name: text for name, text in texts.items() if text is not None}


def user_config_file() -> Path | None:
    """Return the file in the platform's folder for a user's configuration; `None` without one."""
    folder = user_config_dir()
    return None if folder is None else folder / FILE_NAME


def _named_file(settings_cls: type[BaseSettings], named: Path) -> tuple[ConfigFile, ...]:
    if str(named) == os.devnull:
        return ()
    file = ConfigFile(settings_cls, _whole_or_same(named), NEVER_IN_A_FILE)
    if not file.is_there:
        raise SettingsFileError(
            f"There is no configuration file {file.path}.",
            "Name one that exists with --config or FLUX_MCP_CONFIG, or leave both out.",
        )
    return (file,)


def whole_path(path: Path, folder: Path | None = None) -> Path:
    """Return a path with `~` expanded, from the root on.

    Args:
        path: As it was written.
        folder: What a relative one is relative to; the working directory if left out.

    Raises:
        ValueError: it begins with the `~` of somebody who has no home here, or was given in
            another encoding than the locale's.
    """
    if any("\ud800" <= character <= "\udfff" for character in str(path)):
        encoding = sys.getfilesystemencoding()
        raise ValueError(
            f"{str(path)!a} is not written in the encoding of this locale, {encoding}. Set "
            "PYTHONUTF8=1, use a UTF-8 locale, or name a folder without such characters."
        )
    try:
        expanded = path.expanduser()
    except RuntimeError as error:
        raise ValueError(f"{path}: there is no home folder. Name a whole path.") from error
    return expanded.absolute() if folder is None else folder / expanded


def holds(field: FieldInfo, kind: type) -> bool:
    """Return whether a field's values are of a kind, or lists of it, or may be."""

    def found(annotation: Any) -> bool:
        is_kind = isinstance(annotation, type) and issubclass(annotation, kind)
        return is_kind or any(found(inner) for inner in get_args(annotation))

    return found(field.annotation)


def _whole_or_same(value: Any, folder: Path | None = None) -> Any:
    """Return the whole path; anything that is none is left to the model, which names it."""
    if not isinstance(value, str | Path):
        return value
    try:
        return whole_path(Path(value), folder)
    except ValueError:
        return value


def sets_key(line: str, key: str) -> bool:
    """Return whether a line begins to set a key: `key = `, `"key" = `, `[key]`, `key.more = `."""
    first = line.strip().lstrip("[").lstrip()
    for quoted in (key, f'"{key}"', f"'{key}'"):
        rest = first.removeprefix(quoted).lstrip()
        if first.startswith(quoted) and rest[:1] in ("=", ".", "]"):
            return True
    return False


def is_toml(text: str) -> bool:
    """Return whether a text is TOML."""
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return False
    return True
