"""What an examination finds: the one structure that `doctor` prints, and `doctor --json` writes.

Every field's description is its line in docs/doctor.md; a test keeps them the same. Keys
are stable: they are added, and not renamed.
"""

from pydantic import BaseModel, ConfigDict, Field

from flux_mcp.models.hub.cache import State
from flux_mcp.models.parts import Placement, Precision
from flux_mcp.models.planning.device import DeviceFact, Torch
from flux_mcp.models.registry import DrawnKind, Quality
from flux_mcp.settings.settings import Licence
from flux_mcp.worker_protocol.messages import Environment


class _Fact(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class ProgramFact(_Fact):
    """A program on a GPU."""

    pid: int = Field(description="Its process id.")
    name: str | None = Field(description="Its name, where the system or the driver tells it.")
    used_gib: float | None = Field(description="Memory of the GPU that it uses, where told.")
    data_dir: str | None = Field(description="The data folder it works for: a worker of flux-mcp.")
    is_ours: bool = Field(description="Whether that is this data folder.")


class GpuFact(_Fact):
    """A GPU, as its driver tells of it."""

    name: str = Field(description="Its name.")
    uuid: str = Field(description="Its id, as CUDA_VISIBLE_DEVICES takes it.")
    driver: str = Field(description="Version of the driver.")
    compute: float | None = Field(description="CUDA compute capability.")
    total_gib: float | None = Field(description="Its memory; null where it has none of its own.")
    free_gib: float | None = Field(description="What is free of it now.")
    is_split: bool = Field(description="Whether it is split into instances (MIG).")
    programs: tuple[ProgramFact, ...] = Field(description="Programs that compute on it.")
    other_gib: float | None = Field(
        description="Memory that no listed program uses: the driver's own, that of programs that "
        "only draw on the screen, and of those the driver does not list."
    )
    notes: tuple[str, ...] = Field(description="What cannot be known about it, and why.")


class MemoryFact(_Fact):
    """Host memory."""

    total_gib: float = Field(description="Of the machine.")
    available_gib: float = Field(description="What programs can take now.")


class Disk(_Fact):
    """The disk of the data folder."""

    data_dir: str = Field(description="The data folder.")
    total_gib: float = Field(description="Size of its disk.")
    free_gib: float = Field(description="What is free there.")
    reserve_gib: float = Field(description="What downloads leave free: `disk_reserve_gib`.")
    network: str | None = Field(
        description="Type of its file system, such as nfs4, where that is one of a network."
    )


class Fit(_Fact):
    """The model that a request would use, and how it would be loaded."""

    model: str | None = Field(description="Model id; null where the request would be refused.")
    is_demonstration: bool = Field(description="Whether that is micro, the demonstration.")
    precision: Precision | None = Field(description="Of the transformer; null without a GPU.")
    text_precision: Precision | None = Field(description="Of the large text encoder.")
    placement: Placement | None = Field(description="Where its weights are kept between steps.")
    vae_tile_px: int | None = Field(description="Side of the tiles it decodes in; null: whole.")
    peak_gib: float | None = Field(description="Most of the GPU's memory it would take.")
    ram_gib: float | None = Field(description="RAM it would take.")
    seconds: float | None = Field(description="Seconds of one image, its weights loaded.")
    is_measured: bool = Field(description="Whether these were measured here, not computed.")
    licence: Licence | None = Field(description="Its licence class.")
    notices: tuple[str, ...] = Field(description="What an answer would say beside the image.")
    refusal: str | None = Field(description="The error and its hint, where it would be refused.")


class KindFits(_Fact):
    """The models that a kind in a quality would use."""

    kind: DrawnKind = Field(description="The kind.")
    quality: Quality = Field(description="The quality word.")
    now: Fit | None = Field(description="With what is installed; null with `--vram`.")
    pulled: Fit = Field(description="As if every model that may be chosen were installed.")


class Fits(_Fact):
    """The models that requests would use, on which GPU."""

    vram_gib: float | None = Field(description="Free memory of the GPU; null where none is known.")
    ram_gib: float | None = Field(description="RAM that plans count with; null: enough.")
    is_this_machine: bool = Field(description="Whether that is this machine, not `--vram`.")
    rows: tuple[KindFits, ...] = Field(description="Each kind in each quality.")


class GpuSize(_Fact):
    """What a GPU of a size would allow."""

    vram_gib: float = Field(description="Memory of the GPU.")
    fit: Fit = Field(description="`text2img` in the quality `standard`, with every model pulled.")


class Model(_Fact):
    """A model, and whether it is here."""

    id: str = Field(description="Its id.")
    title: str = Field(description="Its name.")
    kinds: tuple[DrawnKind, ...] = Field(description="Kinds of request it is for.")
    state: State = Field(
        description="Whether its weights are on this disk; `partial`: begun; `invalid`: a file is "
        "no weight file, or another model's."
    )
    problem: str | None = Field(default=None, description="What is wrong with an invalid file.")
    used_gib: float = Field(description="What they take of the disk now.")
    disk_gib: float = Field(description="What they take in the end.")
    precision: Precision = Field(description="How its transformer is stored.")
    licence: Licence = Field(description="Its licence class.")
    is_allowed: bool = Field(description="Whether `licences` lets it be chosen unasked.")
    gated: bool = Field(description="Whether its download asks for an account.")
    licence_page: str | None = Field(description="Where its licence is read and accepted.")
    is_drawable: bool = Field(description="Whether this version, as installed, can load it.")
    missing_extras: tuple[str, ...] = Field(description="Extras without which it cannot.")
    folder: str | None = Field(description="Where its weights lie.")
    command: str | None = Field(description="What downloads it, where that is to be done.")


class PullFact(_Fact):
    """A download that is recommended."""

    model: str = Field(description="Model id.")
    kinds: tuple[DrawnKind, ...] = Field(
        description="Kinds that have no model yet and would have this one."
    )
    licence: Licence = Field(description="Its licence class.")
    licence_pages: tuple[str, ...] = Field(
        description="Pages on which a licence is to be accepted first: its own, its base's."
    )
    disk_gib: float = Field(
        description="What it adds to the disk, its base too, without the parts it shares with "
        "models that are here or stand before it."
    )
    why: str | None = Field(description="How it would be loaded on this GPU, in words.")
    command: str = Field(description="What to run.")


class LicenceFact(_Fact):
    """A licence class of models that are here."""

    licence: Licence = Field(description="The class.")
    about: str = Field(description="What it means, in a line.")
    is_allowed: bool = Field(description="Whether `licences` lets its models be chosen unasked.")
    models: tuple[str, ...] = Field(description="Installed models that have it.")


class Extra(_Fact):
    """An extra of this package that is not installed."""

    name: str = Field(description="Its name.")
    gives: str = Field(description="What it would give.")
    helps: str | None = Field(description="What it would change on this machine, if anything.")
    command: str = Field(description="What to run.")


class Step(_Fact):
    """Something to do next."""

    text: str = Field(description="What and why, in a sentence.")
    command: str | None = Field(description="What to run, if there is a command for it.")


class WorkerFact(_Fact):
    """What a worker said that was started for this."""

    environment: Environment | None = Field(description="Its libraries and its device.")
    error: str | None = Field(description="Why it cannot generate.")
    log: str | None = Field(description="The end of its log, where it cannot.")


class QueueFact(_Fact):
    """The jobs of the data folder, and whether anything runs them."""

    waiting: int = Field(description="Jobs that wait.")
    running: int = Field(description="Jobs that run, those that stop too.")
    has_executor: bool = Field(description="Whether a process runs them, or would.")


class Examination(_Fact):
    """Everything that was found."""

    version: str = Field(description="Of flux-mcp.")
    python: str = Field(description="Version of Python.")
    platform: str = Field(description="The operating system.")
    packages: dict[str, str | None] = Field(
        description="Versions of the packages that generate and serve; null where one is missing."
    )
    torch: Torch = Field(description="The installed torch.")
    device: DeviceFact = Field(description="The device that would be used, and why.")
    gpus: tuple[GpuFact, ...] = Field(description="Every NVIDIA GPU the driver lists.")
    driver_problem: str | None = Field(description="Why the driver's tool lists none.")
    memory: MemoryFact = Field(description="Memory of the machine.")
    disk: Disk = Field(description="The data folder and its disk.")
    fits: Fits = Field(description="The model that each kind in each quality would use.")
    with_a_gpu: tuple[GpuSize, ...] = Field(
        description="What common GPUs would allow, where this machine has none."
    )
    models: tuple[Model, ...] = Field(description="Every model of the registry but micro.")
    pulls: tuple[PullFact, ...] = Field(description="What to download, the first one first.")
    allowed_licences: tuple[Licence, ...] | None = Field(
        description="The setting `licences`: what may be chosen unasked; null for all."
    )
    licences: tuple[LicenceFact, ...] = Field(description="Licences of what is installed.")
    extras: tuple[Extra, ...] = Field(description="Extras that are not installed.")
    notices: tuple[str, ...] = Field(
        description="What is wrong with a models.toml of your own, or with the database."
    )
    queue: QueueFact | None = Field(
        description="The queue; null where there is no database, or it cannot be read."
    )
    worker: WorkerFact | None = Field(description="With `--worker`: what it said.")
    next: tuple[Step, ...] = Field(description="What to do next, the most useful first.")
