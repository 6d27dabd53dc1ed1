"""Main colours in words."""

from pathlib import Path

import pytest
from PIL import Image

from flux_mcp.errors import StorageError
from flux_mcp.gallery.colours import main_colours


def test_colours_are_named_with_what_they_cover_the_largest_first(tmp_path: Path) -> None:
    image = Image.new("RGB", (320, 320), (250, 252, 250))
    image.paste((220, 15, 20), (0, 0, 320, 80))
    image.paste((20, 20, 160), (0, 80, 100, 90))  # a hundredth
    image.save(tmp_path / "a.png")
    assert main_colours(tmp_path / "a.png") == (("white", 74), ("red", 25))


@pytest.mark.parametrize(
    ("colour", "name"),
    [
        ((10, 10, 10), "black"),
        ((120, 125, 122), "grey"),
        ((100, 60, 20), "brown"),
        ((240, 150, 20), "orange"),
        ((30, 110, 40), "green"),
        ((40, 60, 230), "blue"),
        ((250, 235, 30), "yellow"),
    ],
)
def test_a_shade_has_the_name_that_people_give_it(
    tmp_path: Path, colour: tuple[int, int, int], name: str
) -> None:
    Image.new("RGB", (64, 64), colour).save(tmp_path / "a.png")
    assert main_colours(tmp_path / "a.png") == ((name, 100),)


def test_a_file_that_is_no_image_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.webp").write_bytes(b"no image")
    with pytest.raises(StorageError):
        main_colours(tmp_path / "a.webp")
