"""Which file systems are shared between machines, and which one a folder lies on."""

from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from flux_mcp.settings.file_systems import is_network, network_file_system, type_at


class Mounted(NamedTuple):
    mountpoint: str
    fstype: str


MOUNTS = [
    Mounted("/", "ext4"),
    Mounted("/home", "nfs4"),
    Mounted("/home/ada/local", "ext4"),
    Mounted("/mnt/with space", "cifs"),
    Mounted("/srv", "nfs"),
    Mounted("/srv", "xfs"),
]


@pytest.mark.parametrize(
    ("folder", "fstype"),
    [
        ("/var/data", "ext4"),
        ("/home/ada/flux", "nfs4"),
        ("/home/ada/local/flux", "ext4"),
        ("/home2/flux", "ext4"),
        ("/mnt/with space/flux", "cifs"),
        ("/srv/flux", "xfs"),
    ],
)
def test_a_folder_lies_on_the_innermost_mount_and_on_the_latest_there(folder, fstype):
    assert type_at(Path(folder), MOUNTS) == fstype


@pytest.mark.parametrize("fstype", ["nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "CIFS"])
def test_what_machines_share_is_a_network_file_system(fstype):
    assert is_network(fstype)


@pytest.mark.parametrize("fstype", ["ext4", "xfs", "apfs", "NTFS", "tmpfs", "fuse.ntfs-3g", ""])
def test_a_local_disk_is_none(fstype):
    assert not is_network(fstype)


def test_a_folder_is_looked_up_where_its_links_lead(monkeypatch, tmp_path):
    (tmp_path / "shared").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "shared")
    mounts = [Mounted("/", "ext4"), Mounted(str(tmp_path.resolve() / "shared"), "nfs4")]
    monkeypatch.setattr(psutil, "disk_partitions", lambda **_: mounts)
    assert network_file_system(tmp_path / "link" / "data") == "nfs4"
    assert network_file_system(tmp_path) is None
