"""The file system that a folder lies on: SQLite and locks do not work well over a network."""

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

NETWORK = frozenset(
    {
        "nfs",
        "nfs4",
        "cifs",
        "smb2",
        "smb3",
        "smbfs",
        "9p",
        "afs",
        "ceph",
        "lustre",
        "gpfs",
        "beegfs",
    }
    | {
        "glusterfs",
        "davfs",
        "webdav",
        "afpfs",
        "ncpfs",
        "acfs",
        "panfs",
        "orangefs",
        "gfs2",
        "ocfs2",
    }
)
"""Types of file systems that several machines may share, as the system names them."""
NETWORK_FUSE = (
    "sshfs",
    "rclone",
    "s3fs",
    "glusterfs",
    "ceph",
    "davfs",
    "gvfsd",
    "smbnetfs",
    "curlftp",
)
"""What a `fuse.` type of them begins with; a local one, such as `fuse.ntfs-3g`, is none."""


class Mount(Protocol):
    """A mounted file system, as psutil lists them."""

    @property
    def mountpoint(self) -> str:
        """Where it is mounted."""

    @property
    def fstype(self) -> str:
        """Its type."""


def network_file_system(folder: Path) -> str | None:
    """Return the type of the network file system that a folder lies on; `None` if on none."""
    import psutil  # noqa: PLC0415 - a part of a server's start

    resolved = folder.resolve()
    if resolved.drive.startswith("\\\\"):
        return "smb"  # \\server\share of Windows
    try:
        mounts = psutil.disk_partitions(all=True)
    except (OSError, RuntimeError):
        return None
    found = type_at(resolved, mounts)
    return found if found is not None and is_network(found) else None


def type_at(folder: Path, mounts: Iterable[Mount]) -> str | None:
    """Return the type of the file system that a folder lies on.

    Args:
        folder: Absolute, without links.
        mounts: In the order they were mounted: a later one covers what was there.
    """
    best, depth = None, -1
    for mount in mounts:
        place = Path(mount.mountpoint)
        if folder.is_relative_to(place) and len(place.parts) >= depth:
            best, depth = mount.fstype, len(place.parts)
    return best


def is_network(fstype: str) -> bool:
    """Return whether several machines may share a file system of a type."""
    kind = fstype.lower()
    program = kind.removeprefix("fuse.")
    return kind in NETWORK or (program != kind and program.startswith(NETWORK_FUSE))
