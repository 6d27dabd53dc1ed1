"""Read and write a client's file: a backup first, then one rename; nothing half-written."""

import errno
import os
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from flux_mcp.errors import InvalidClientFileError, StorageError

_BOM = "\ufeff"
_OWNER_ONLY = 0o600
"""A new file may come to hold a token, and its backups will: its owner reads it, nobody else."""


@dataclass(frozen=True)
class ClientFile:
    """A client's file as it was read.

    Attributes:
        path: As the person named it.
        target: What it is a link to, or itself; this is written, so a link stays one.
        raw: Its bytes; None if there is no file.
        text: Its text, without a byte order mark.
    """

    path: Path
    target: Path
    raw: bytes | None
    text: str

    @classmethod
    def read(cls, path: Path) -> "ClientFile":
        """Read a file; one that is not there has an empty text.

        Raises:
            StorageError: it cannot be read.
            InvalidClientFileError: it is not UTF-8.
        """
        try:
            target = path.resolve()
            raw = target.read_bytes()
        except FileNotFoundError:
            return cls(path, target, None, "")
        except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle, Python < 3.13
            raise StorageError(f"{path} cannot be read: {_reason(error)}.") from error
        try:
            text = raw.decode("utf-8").removeprefix(_BOM)
        except UnicodeDecodeError as error:
            raise InvalidClientFileError(
                f"{path}: byte {error.start} is not UTF-8.", "Save it as UTF-8, then retry."
            ) from error
        return cls(path, target, raw, text)

    def write(self, text: str, now: datetime | None = None) -> Path | None:
        """Put a new text into the file; return the backup of the old one, if there was one.

        Owner and mode stay; a new file can be read by its owner only.

        Raises:
            StorageError: the disk refused, or somebody else has written since; nothing is changed.
        """
        mark = _BOM if (self.raw or b"").startswith(_BOM.encode()) else ""
        try:
            self.target.parent.mkdir(parents=True, exist_ok=True)
            backup = None if self.raw is None else self._back_up(now or datetime.now(UTC))
            self._replace(f"{mark}{text}".encode())
        except OSError as error:
            raise StorageError(
                f"{self.path} cannot be written: {_reason(error)}.",
                "Nothing was changed. Add the entry by hand, or name another file with --file.",
            ) from error
        return backup

    def _back_up(self, now: datetime) -> Path:
        stem = f"{self.target.name}.{now:%Y%m%d-%H%M%S}"
        for number in range(1, 1000):
            backup = self.target.with_name(f"{stem}{f'-{number}' if number > 1 else ''}.bak")
            try:
                with open(backup, "xb", opener=_private) as file:
                    file.write(self.raw or b"")
            except FileExistsError:
                continue
            self._like_the_old(backup)
            return backup
        raise FileExistsError(errno.EEXIST, "there are too many backups of this second")

    def _replace(self, content: bytes) -> None:
        handle, name = tempfile.mkstemp(dir=self.target.parent, prefix=".flux-mcp-")
        aside = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            self._like_the_old(aside)
            if (self.target.read_bytes() if self.target.exists() else None) != self.raw:
                raise StorageError(
                    f"{self.path} was changed by another program in the meantime.",
                    "Nothing was changed. Close the client, then retry.",
                )
            aside.replace(self.target)
        finally:
            aside.unlink(missing_ok=True)

    def _like_the_old(self, new: Path) -> None:
        """Give a file the owner and mode of the one that is there; a new one stays private."""
        if self.raw is None:
            return
        old = self.target.stat()
        made = new.stat()
        if os.name == "posix" and (old.st_uid, old.st_gid) != (made.st_uid, made.st_gid):
            os.chown(new, old.st_uid, old.st_gid)
        new.chmod(old.st_mode & 0o7777)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, _OWNER_ONLY)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
