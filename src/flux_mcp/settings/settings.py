"""Settings: everything that can be set, from flags, environment variables, configuration files.

The command line reads them once and hands them on. files.py reads the files; jobs/process_fleet.py
gives a worker what `WORKER_SETTINGS` names.
"""

import ipaddress
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from flux_mcp.errors import nearest_name
from flux_mcp.settings.environment import all_variables
from flux_mcp.settings.files import config_files, user_config_file, whole_path
from flux_mcp.settings.installation import (
    PACKAGE_DIR,
    default_data_dir,
    default_packs_dir,
    user_pictures_dirs,
)
from flux_mcp.settings.paths import MODELS_FILE, Paths

Licence = Literal["apache-2.0", "mit", "flux-non-commercial", "other"]
"""Licence classes of weights; the first two allow any use."""
AttentionBackend = Literal["native", "native_cudnn", "native_flash", "flash", "sage", "xformers"]
"""Rows of models/switches.toml."""
EditFit = Literal["pad", "crop", "scale"]
AttentionSetting = Literal["auto", AttentionBackend]
CompileSetting = Literal["auto", "on", "off"]
ToolName = Literal[
    "flux_generate",
    "flux_edit",
    "flux_fill",
    "flux_variation",
    "flux_structural",
    "flux_search_gallery",
    "flux_get_job",
    "flux_cancel_job",
]
HostName = Annotated[
    # A name or an address; no port: any port of such a name is ours.
    str, Field(pattern=r"^([A-Za-z0-9._-]+|[0-9A-Fa-f.]*:[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*)$")
]
Origin = Annotated[str, Field(pattern=r"^[a-z][a-z0-9+.-]*://[^/?#\s]+$")]
PublicUrl = Annotated[str, Field(pattern=r"^https?://[^?#\s]+$")]

WORKER_SETTINGS = (
    "data_dir",
    "weights_dir",
    "models_file",
    "device",
    "torch_threads",
    "host_memory_gib",
    "embedding_cache_mb",
    "embedding_cache_disk_mb",
    "prefetch_min_mb",
    "log_level",
)
"""The settings a worker is given; it has the defaults of the others. A test reads its code."""


def default_models_file(given: Mapping[str, Any]) -> Path:
    """`models.toml` beside the user's configuration file; none where a file was named instead."""
    users = user_config_file() if given.get("config") is None else None
    return Path(os.devnull) if users is None else users.with_name(MODELS_FILE)


class Settings(BaseSettings):
    """Everything that can be set.

    Each field is also an environment variable, `FLUX_MCP_<NAME>`, and a key of config.toml. What
    the constructor is given, the flags of a command, wins over the environment, that over the
    files, they over the defaults.

    Raises:
        ValidationError: an unknown name, or a value that cannot be used.
        SettingsError: a list in the environment is not JSON.
        SettingsFileError: a configuration file cannot be used.
    """

    model_config = SettingsConfigDict(env_prefix="FLUX_MCP_", frozen=True, extra="forbid")

    config: Annotated[Path, AfterValidator(whole_path)] | None = Field(
        None,
        description="The configuration file: instead of those in their usual places, no other is "
        "read. The null device (/dev/null) reads none.",
    )
    data_dir: Path = Field(
        default_factory=default_data_dir,
        description="Gallery, queue, images, weights.",
    )
    weights_dir: Path = Field(
        default=PACKAGE_DIR / "weights",
        description="Folder of the weights that come with the package (micro).",
    )
    models_file: Path = Field(
        default_factory=default_models_file,
        description="Your own models, beside those of `models.toml` in the data folder, which win. "
        "The null device (/dev/null) names none.",
    )
    licences: tuple[Licence, ...] | None = Field(
        None,
        description="Licences of models that may be chosen where a call names none; unset: all. "
        "In the environment: a JSON list.",
    )
    packs_dir: Path = Field(
        default_factory=default_packs_dir,
        description="Folder of the prompt packs that come with the package.",
    )
    allowed_dirs: tuple[Path, ...] = Field(
        default_factory=user_pictures_dirs,
        description="Folders images may be read from, besides the data folder's own. "
        "In the environment: a JSON list.",
    )
    clipboard: bool = Field(
        default=False,
        description="Let a call name the image in the clipboard of this machine: `clipboard` "
        "wherever an image is asked for. Only over stdio and by commands, never over HTTP.",
    )
    ask_page: Literal["off", "link", "open"] = Field(
        "off",
        description="Let a call ask the user for an image: `ask` wherever an image is asked for. "
        "It opens a page on 127.0.0.1 for one image; `link` answers with its address, `open` also "
        "shows it in the browser and waits. Only over stdio, never over HTTP.",
    )
    disk_reserve_gib: float = Field(
        2.0, ge=0, description="Free disk space that a download of weights leaves, in GiB."
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        "auto", description="Device to generate on."
    )
    torch_threads: int | None = Field(
        None, ge=1, description="CPU threads of the worker; unset: torch's own choice."
    )
    host_memory_gib: float | None = Field(
        None,
        ge=0,
        description="RAM for weights that wait there for the GPU, in GiB; unset: half of "
        "the machine's is kept for later jobs, and one job may take more.",
    )
    attention: AttentionSetting = Field(
        "auto",
        description="What computes attention; auto lets torch choose. flash, sage and xformers "
        "are packages of their own. Where it cannot be used, it is not, with a notice.",
    )
    compile: CompileSetting = Field(
        "auto",
        description="Whether torch compiles a transformer's blocks: faster steps, after a first "
        "image that takes up to a minute longer. auto compiles on CUDA GPUs of compute "
        "capability 8.0 and more, for models that stay on the GPU whole.",
    )
    channels_last: bool = Field(
        default=False,
        description="Keep the VAE's weights with their channels last, which GPUs decode faster "
        "with; a grey level may round otherwise.",
    )
    embedding_cache_mb: int = Field(
        256,
        ge=0,
        description="RAM of the worker for encoded prompts, in MB; 0 keeps none there. "
        "A prompt of FLUX.1 takes 4.2.",
    )
    embedding_cache_disk_mb: int = Field(
        2000,
        ge=0,
        description="Disk space for encoded prompts, below `cache/embeddings/` in the data folder, "
        "in MB; 0 writes none. They can reveal prompts.",
    )
    prefetch: bool = Field(
        default=True,
        description="Read the weights of the next job into RAM while the current one is "
        "generated, as far as memory is free.",
    )
    prefetch_min_mb: int = Field(
        100,
        ge=0,
        description="Transformers smaller than this, in MB on the disk, are not read ahead: "
        "loading them takes a fraction of a second.",
    )
    preload: bool = Field(
        default=False, description="Start the worker at once instead of at the first job."
    )
    idle_unload_s: float = Field(
        600.0, gt=0, description="An idle worker exits after this long and frees the GPU."
    )
    queue_limit: int = Field(100, ge=1, description="Jobs that may wait at the same time.")
    cancel_grace_s: float = Field(
        20.0, gt=0, description="A worker that has not stopped this long after a cancel is ended."
    )
    stall_timeout_s: float = Field(
        1800.0, gt=0, description="A worker that reports nothing for this long is ended."
    )
    max_overtakes: int = Field(
        4, ge=0, description="How many later jobs may overtake one, to load models less often."
    )
    preview_every_steps: int = Field(
        2, ge=0, description="A small preview after each so many steps; 0 makes none."
    )
    preview_interval_s: float = Field(
        1.25,
        ge=0,
        description="At least this long between two previews of a job. At 1.25 s they take at most "
        "1 % of the time at 1024x1024.",
    )
    max_image_bytes: int = Field(
        32 * 1024 * 1024, ge=1024, description="Largest image file that may come in."
    )
    max_image_pixels: int = Field(
        50_000_000, ge=4096, description="Most pixels of an image that comes in."
    )
    edit_fit: EditFit = Field(
        "pad",
        description="How flux_edit draws a whole image whose sides are no multiples of 16 or whose "
        "shape the model does not draw: pad adds mirrored edges and cuts them off again, crop "
        "draws the middle and keeps the edges' pixels, scale stretches it a little and back. The "
        "answer has the image's own size.",
    )
    upscaler: str | None = Field(
        None,
        max_length=100,
        description="What makes images larger: the id of a model for it ('models list'), the name "
        "of a file in `upscalers/` of the data folder without .safetensors, or lanczos, which only "
        "interpolates. Unset: the best model that is installed.",
    )
    on_disconnect: Literal["cancel", "keep"] = Field(
        "cancel",
        description="What a cancelled or vanished call does to a job whose id it does not have. A "
        "cancellation that says it is the client's time-out always keeps the job.",
    )
    links: Literal["auto", "on", "off"] = Field(
        "auto",
        description="Links to the full PNGs in results; auto: as the client takes them "
        "(docs/clients/content.md).",
    )
    structured: Literal["auto", "on", "off"] = Field(
        "auto",
        description="Structured content in results; auto: off for clients that would show their "
        "model nothing else.",
    )
    preview: Literal["auto", "none", "small", "normal"] = Field(
        "auto",
        description="Image in results whose call has no argument `preview`: none, 512 px or "
        "1024 px; auto: small, and none for clients that would show their model its bytes as text.",
    )
    preview_bytes: int | None = Field(
        None,
        ge=4096,
        le=600_000,
        description="Bytes of all previews of one result together, before base64 makes a third "
        "more of them. Unset: 600000, which keeps a result below 1 MB. Lower it for a client that "
        "cuts results earlier.",
    )
    preview_pixels: int | None = Field(
        None,
        ge=4096,
        description="Pixels of all previews of one result together: they are made smaller to fit. "
        "Unset: as many as the size asked for has. For models whose images are charged by their "
        "pixels.",
    )
    default_wait_s: float | None = Field(
        None,
        ge=0,
        le=230,
        description="Seconds that a call which generates images waits for them where it says "
        "nothing (`wait_s`); then it is answered with the job's id. Unset: 45, and fewer for "
        "clients that are known to end calls sooner.",
    )
    tools: tuple[ToolName, ...] | None = Field(
        None,
        min_length=1,
        description="Tools that clients are shown and may call; unset: all. Without `flux_get_job` "
        "an image that takes longer than `wait_s` is found in the gallery only. In the "
        "environment: a JSON list.",
    )
    compact_schemas: bool = Field(
        default=False,
        description="List the tools in fewer tokens: without output schemas, and descriptions that "
        "several tools have only at the first. Not for clients that show their model one tool at "
        "a time.",
    )
    transport: Literal["stdio", "http", "sse"] = Field(
        "stdio", description="How clients reach this server; `flux-mcp serve --transport`."
    )
    host: str = Field(
        "127.0.0.1", min_length=1, description="Address to listen on, for http and sse."
    )
    port: int = Field(8421, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    sse: bool = Field(
        default=False,
        description="With http: serve the older SSE transport as well, at `/sse`.",
    )
    token: SecretStr | None = Field(
        None,
        min_length=16,
        description="The token that callers over HTTP send; else those of `token_file`.",
    )
    token_file: Path | None = Field(
        None,
        description="File of tokens, one a line, a name before it or none. Unset: `tokens` in the "
        "data folder, made at the first start.",
    )
    loopback_without_token: bool = Field(
        default=False,
        description="Admit callers of this machine over HTTP without a token. Every program and "
        "every user of this machine can then generate, search and cancel.",
    )
    allowed_hosts: tuple[HostName, ...] = Field(
        (),
        description="Names, besides this machine's own, under which clients may reach the server. "
        "In the environment: a JSON list.",
    )
    public_url: PublicUrl | None = Field(
        None,
        description="What links to images over HTTP begin with, as `https://studio.example.org`. "
        "Unset: the name that the caller used; set it where a proxy changes that or the path.",
    )
    allowed_origins: tuple[Origin, ...] = Field(
        (),
        description="Web pages that may call the server, as `https://example.org`. In the "
        "environment: a JSON list.",
    )
    max_body_bytes: int = Field(
        96 * 1024 * 1024,
        ge=4096,
        description="Largest request, over HTTP or as a line of stdio: two images of the largest "
        "size as base64, and words.",
    )
    max_bodies_bytes: int = Field(
        256 * 1024 * 1024,
        ge=4096,
        description="Bodies of all open HTTP requests together; one caller with a named token may "
        "have half of it. At least `max_body_bytes`.",
    )
    body_timeout_s: float = Field(
        120.0, gt=0, description="The body of an HTTP request must have come by then."
    )
    max_connections: int = Field(
        1000,
        ge=1,
        description="Open connections over HTTP; fewer where the system allows few open files.",
    )
    max_sessions: int = Field(
        100,
        ge=1,
        description="Sessions (protocol 2025-11-25 over HTTP) of one caller with a named token; "
        "its oldest one that is idle makes room for the next.",
    )
    requests_per_s: float = Field(
        50.0, gt=0, description="HTTP requests of one caller, over the last minute on average."
    )
    max_requests: int = Field(
        64, ge=1, description="HTTP requests of one caller at the same time, open streams too."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="What the server writes to stderr."
    )
    log_format: Literal["human", "json"] = Field(
        "human", description="How a line of the log looks: for people, or a JSON object."
    )
    otlp_endpoint: str | None = Field(
        None,
        pattern=r"^https?://[^\s/?#]+[^\s?#]*$",
        description="Collector that traces are sent to over OTLP/HTTP, as "
        "`http://127.0.0.1:4318`. Unset: OpenTelemetry's own variables decide, without which "
        "nothing is traced. Needs the extra `otel`.",
    )

    @field_validator(
        "data_dir", "weights_dir", "models_file", "packs_dir", "token_file", mode="after"
    )
    @classmethod
    def _whole_path(cls, path: Path | None) -> Path | None:
        """Clients pass variables without a shell: nobody else would expand `~`."""
        return None if path is None else whole_path(path)

    @field_validator("allowed_dirs", mode="after")
    @classmethod
    def _whole_paths(cls, paths: tuple[Path, ...]) -> tuple[Path, ...]:
        return tuple(whole_path(path) for path in paths)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - pydantic-settings names them
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the same
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return where values come from; the first source wins."""
        files = config_files(settings_cls, init_settings, env_settings)
        return (init_settings, env_settings, *files)

    @model_validator(mode="after")
    def _without_token_listens_on_loopback_only(self) -> "Settings":
        if self.loopback_without_token and not _is_loopback(self.host):
            raise ValueError(
                f"loopback_without_token is for 127.0.0.1, ::1 and localhost; {self.host} can be "
                "reached from elsewhere. Let callers send a token."
            )
        return self

    @model_validator(mode="after")
    def _refuse_unknown_variables(self) -> "Settings":
        """Refuse a misspelt variable: silently ignored, it would look as if it were set."""
        prefix = self.model_config["env_prefix"]
        known = {name.upper() for name in type(self).model_fields}
        for variable in all_variables():
            name = variable.removeprefix(prefix)
            if name != variable and name not in known:
                close = nearest_name(name, known)
                meant = f" Did you mean {prefix}{close}?" if close else ""
                raise ValueError(f"There is no setting {variable}.{meant}")
        return self

    @property
    def paths(self) -> Paths:
        """Every path below the data folder."""
        return Paths(self.data_dir)

    @property
    def readable_dirs(self) -> tuple[Path, ...]:
        """Every folder an image may be read from."""
        return (self.paths.uploads, self.paths.images, *self.allowed_dirs)


def _is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
