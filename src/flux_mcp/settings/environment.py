"""Environment variables: the only module that reads them, beside pydantic-settings.

The variables of settings are read by `Settings`; those of a process that we start are put together
in jobs/process_fleet.py and jobs/downloads.py.
"""

import os
from pathlib import Path
from typing import Literal


def all_variables() -> dict[str, str]:
    """Return every variable of this process, to look through or to hand on."""
    return dict(os.environ)


def wants_colour(is_terminal: bool) -> bool:  # noqa: FBT001 - its only argument
    """Whether to write colours: to a terminal, unless NO_COLOR is set (no-color.org)."""
    return is_terminal and not os.environ.get("NO_COLOR")


def has_width() -> bool:
    """Whether COLUMNS says how wide what is printed may be."""
    return "COLUMNS" in os.environ


def forget_unusable_width() -> None:
    """Take away a COLUMNS that is no number above 0: nothing would be printed in it."""
    width = os.environ.get("COLUMNS", "")
    if not (width.isascii() and width.isdecimal() and int(width) > 0):
        os.environ.pop("COLUMNS", None)


def look_for_no_plugins() -> None:
    """Have pydantic look for no plugins, unless a variable says which.

    It would read what every installed package says of itself, to find none.
    """
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")


def traces_are_asked_for() -> bool:
    """Whether OpenTelemetry's own variables ask for traces over OTLP.

    An exporter that is named decides, else an endpoint does. The names are those of the
    specification (opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables).
    `console`, also named there, would write into the protocol; only `otlp` is known here.
    """
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    exporters = os.environ.get("OTEL_TRACES_EXPORTER")
    if exporters:
        return "otlp" in {name.strip() for name in exporters.split(",")}
    return any(
        os.environ.get(name)
        for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    )


def client_variable(name: str) -> str | None:
    """Return an environment variable by which a client moves its file; None if unset or empty."""
    return os.environ.get(name) or None


def xdg_folder(name: str) -> Path | None:
    """Return the folder that a variable of the XDG base directories names; None if unusable."""
    value = os.environ.get(name)
    return Path(value) if value and Path(value).is_absolute() else None


def desktop() -> Literal["wayland", "x11"] | None:
    """Return which desktop's clipboard this process can ask, as Pillow decides; None if neither."""
    if os.environ.get("WAYLAND_DISPLAY"):
        return "wayland"
    return "x11" if os.environ.get("DISPLAY") else None


def visible_gpus() -> str | None:
    """Return which GPUs CUDA is told to use: CUDA_VISIBLE_DEVICES; None if it is not set."""
    return os.environ.get("CUDA_VISIBLE_DEVICES")
