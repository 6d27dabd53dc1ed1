"""`flux-mcp import`, by real processes: ids, names, files that cannot be used, exit codes."""

import subprocess
from pathlib import Path

import pytest
from PIL import Image

from tests.cli.processes import TIMEOUT_S, Cli
from tests.service.test_intake import drawing, encoded


@pytest.fixture
def cli(tmp_path: Path, weights_dir: Path) -> Cli:
    return Cli(tmp_path / "data", weights_dir)


def stored(cli: Cli) -> list[str]:
    return sorted(path.name for path in (cli.data_dir / "uploads").iterdir())


def test_files_from_anywhere_get_ids_and_the_same_image_has_the_same(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "some where"
    folder.mkdir()
    image = drawing(1)
    image.save(folder / "car.png")
    image.save(folder / "the same.webp", lossless=True)
    turned = Image.Exif()
    turned[0x0112] = 3
    drawing(2).save(folder / "photo.jpg", exif=turned)
    (folder / "link.png").symlink_to(folder / "car.png")
    monkeypatch.chdir(folder)
    ended = cli.process("import", "car.png", str(folder / "the same.webp"), "photo.jpg", "link.png")
    assert ended.code == 0, ended.err
    lines = [line.split("  ", 1) for line in ended.out.splitlines()]
    assert [name for _, name in lines] == ["car.png", "the same.webp", "photo.jpg", "link.png"]
    ids = [image_id for image_id, _ in lines]
    assert ids[0] == ids[1] == ids[3] != ids[2]
    assert len(stored(cli)) == 2
    assert "turned as its EXIF data say" in ended.err
    planned = cli("edit", "paint it", "--image", ids[0], "--dry-run", "--json")
    assert planned.json["plan"]["inputs"][0]["image_id"] == ids[0]


def test_all_are_tried_and_failures_are_told(cli: Cli, tmp_path: Path) -> None:
    drawing(1).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_text("no image")
    names = ("bad.png", ".", "missing.png", "good.png")
    paths = [str(tmp_path / name) for name in names]
    ended = cli("import", *paths)
    assert ended.code == 1
    assert [line.split("  ")[1] for line in ended.out.splitlines()] == ["good.png"]
    for path, words in zip(
        paths, ("[invalid_image]", "is a folder. Name its files", "There is no file"), strict=False
    ):
        assert path in ended.err
        assert words in " ".join(ended.err.split())
    told = cli("import", *paths, "--json")
    assert told.code == 1
    assert [one["name"] for one in told.json["images"]] == ["good.png"]
    assert [one["file"] for one in told.json["failed"]] == paths[:3]
    codes = [one["error"]["code"] for one in told.json["failed"]]
    assert codes == ["invalid_image", "invalid_request", "invalid_request"]
    assert len(stored(cli)) == 1


def test_one_is_read_from_stdin_and_too_large_ones_are_refused(cli: Cli) -> None:
    data = encoded(drawing(3))
    for limit, code in ((len(data), 0), (len(data) - 1, 1)):
        ended = subprocess.run(
            cli.command("import", "-"),
            env=cli.environment(FLUX_MCP_MAX_IMAGE_BYTES=str(limit)),
            input=data,
            capture_output=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        assert ended.returncode == code, ended.stderr
    assert b"larger than" in ended.stderr
    assert len(stored(cli)) == 1
