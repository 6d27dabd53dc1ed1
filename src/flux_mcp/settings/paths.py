"""The files and folders below one data folder."""

from dataclasses import dataclass
from pathlib import Path

from flux_mcp.errors import StorageError

MODELS_FILE = "models.toml"
"""A user's own models, in the data folder and in the folder for a user's configuration."""


@dataclass(frozen=True)
class Paths:
    """The files and folders below one data folder."""

    root: Path

    @property
    def database(self) -> Path:
        """The gallery and the queue."""
        return self.root / "gallery.sqlite"

    @property
    def tokens(self) -> Path:
        """The tokens of callers over HTTP, readable by its owner only."""
        return self.root / "tokens"

    @property
    def gpu_lock(self) -> Path:
        """Held by the one server process that runs jobs."""
        return self.root / "gpu.lock"

    @property
    def images(self) -> Path:
        """Finished PNG files with their thumbnails beside them."""
        return self.root / "images"

    @property
    def set_aside(self) -> Path:
        """Finished PNG files that have no place in the gallery: damaged, or drawn twice."""
        return self.root / "set-aside"

    @property
    def previews(self) -> Path:
        """One small WebP for each running job."""
        return self.root / "previews"

    @property
    def uploads(self) -> Path:
        """Images that came in, named by the SHA-256 of their bytes."""
        return self.root / "uploads"

    @property
    def loras(self) -> Path:
        """LoRA files."""
        return self.root / "loras"

    @property
    def upscalers(self) -> Path:
        """The user's own upscalers."""
        return self.root / "upscalers"

    @property
    def packs(self) -> Path:
        """The user's own prompt packs."""
        return self.root / "packs"

    @property
    def models(self) -> Path:
        """The rows of this data folder's own models."""
        return self.root / MODELS_FILE

    @property
    def embeddings(self) -> Path:
        """Encoded prompts, kept so that the text encoders need not run again."""
        return self.root / "cache" / "embeddings"

    @property
    def compiled(self) -> Path:
        """What torch compiled of transformers: kept by torch, and made again when it is removed."""
        return self.root / "cache" / "compiled"

    @property
    def hf_cache(self) -> Path:
        """HF_HOME: the only durable store of downloaded weights."""
        return self.root / "hf-cache"

    @property
    def hub(self) -> Path:
        """The hub's own cache, `models--<org>--<name>` below it."""
        return self.hf_cache / "hub"

    @property
    def manifests(self) -> Path:
        """What was pulled: file sizes and hashes, to be checked without the hub."""
        return self.hf_cache / "flux-mcp"

    @property
    def download_lock(self) -> Path:
        """Held by the one process that downloads or removes weights."""
        return self.root / "download.lock"

    @property
    def download_log(self) -> Path:
        """What the last downloading process and its libraries wrote to stderr."""
        return self.root / "logs" / "download.log"

    @property
    def demo_sheet(self) -> Path:
        """The images of the last demonstration, side by side."""
        return self.root / "demo.png"

    @property
    def worker_log(self) -> Path:
        """What the worker process and its libraries wrote to stderr."""
        return self.root / "logs" / "worker.log"


def ensure_dirs(paths: Paths) -> None:
    """Make every folder of the data directory.

    Raises:
        StorageError: a folder cannot be made.
    """
    try:
        for folder in (
            paths.images,
            paths.previews,
            paths.uploads,
            paths.loras,
            paths.upscalers,
            paths.packs,
            paths.hf_cache,
            paths.worker_log.parent,
        ):
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"The data folder {paths.root} cannot be used: {error.strerror}.",
            "Choose another with --data-dir or FLUX_MCP_DATA_DIR.",
        ) from error
