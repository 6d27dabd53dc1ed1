import pytest
from PIL import Image

from flux_mcp.gallery.previews import GAP_PX, Cell, draw_sheet, strip_png

from .images import as_png

CELL_PX = 100


def sheet_of(words, lines_of_words, image=None):
    return draw_sheet(
        [Cell(image, "head", words)],
        columns=1,
        cell_px=CELL_PX,
        font_px=12,
        lines_of_words=lines_of_words,
    )


def caption_rows(sheet):
    """How many rows of pixels below the image carry ink."""
    below = sheet.convert("L").crop((0, GAP_PX + CELL_PX, sheet.width, sheet.height))
    return sum(
        max(below.crop((0, y, below.width, y + 1)).tobytes()) > 100 for y in range(below.height)
    )


@pytest.mark.parametrize(("count", "columns", "rows"), [(1, 1, 1), (5, 5, 1), (5, 3, 2), (4, 2, 2)])
def test_cells_stand_in_rows_and_the_sheet_is_as_large_as_they_are(count, columns, rows):
    cells = [Cell(Image.new("RGB", (CELL_PX, 40), "red"), str(n), "words") for n in range(count)]
    sheet = draw_sheet(cells, columns=columns, cell_px=CELL_PX, font_px=12)
    assert sheet.width == columns * (CELL_PX + GAP_PX) + GAP_PX
    assert (sheet.height - GAP_PX) % rows == 0
    for number in range(count):
        row, column = divmod(number, columns)
        left = GAP_PX + column * (CELL_PX + GAP_PX)
        top = GAP_PX + row * (sheet.height - GAP_PX) // rows
        # Centred: the middle of the cell is the image's, its upper edge is not.
        assert sheet.getpixel((left + CELL_PX // 2, top + CELL_PX // 2)) == (255, 0, 0)
        assert max(sheet.getpixel((left + CELL_PX // 2, top + 5))) < 60


def test_words_are_wrapped_below_the_head_and_no_further_than_allowed():
    long = "a pink circle on a black background beside everything else there is " * 20
    none, one, two = (caption_rows(sheet_of(long, lines)) for lines in (0, 1, 2))
    assert none < one < two
    assert caption_rows(sheet_of("short", 2)) == caption_rows(sheet_of("short", 1))


@pytest.mark.parametrize("words", ["", "word" * 500, "青い丸 🦊\n\x1b[31m", " "])
@pytest.mark.parametrize("lines", [0, 2])
def test_any_words_leave_the_sheet_as_large_as_it_was(words, lines):
    assert sheet_of(words, lines).size == sheet_of("usual", lines).size


def test_a_strip_enlarges_small_images_and_keeps_their_shape(tmp_path):
    paths = [tmp_path / "wide.png", tmp_path / "square.png"]
    paths[0].write_bytes(as_png(Image.new("RGB", (64, 32), "white")))
    paths[1].write_bytes(as_png(Image.new("RGB", (32, 32), "white")))
    (tmp_path / "strip.png").write_bytes(strip_png(paths, [("one", "a"), ("two", "b")], 128))
    with Image.open(tmp_path / "strip.png") as strip:
        assert strip.format == "PNG"
        assert strip.width == 2 * (128 + GAP_PX) + GAP_PX
        middle = GAP_PX + 64
        assert strip.getpixel((GAP_PX + 2, middle)) == (255, 255, 255)
        assert max(strip.getpixel((middle, GAP_PX + 10))) < 60, "wide: empty above"
        assert strip.getpixel((2 * GAP_PX + 128 + 64, GAP_PX + 2)) == (255, 255, 255)
