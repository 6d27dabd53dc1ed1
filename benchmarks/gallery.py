"""Does a search get slower as the gallery grows? Ratio: big gallery / small one.

Method: synthetic rows (rows.py) are added one by one through `Gallery` to a database of its own;
the small gallery is a copy made on the way to the big one. Then the same searches run on both in
turn, each time on the small one and the big one next to each other, in this process, on real SQLite
files. A search ends with records, as callers get them. Pages of 20.

  newest   the first page without words
  deep     the page in the middle of the gallery, by its cursor
  common   a word of every second prompt
  rare     a word of one prompt in 400
  both     the common word within one model
  miss     a word that is nowhere

Then contact sheets of 20 photographs (made-up ones: noise at several scales), in processor time:

  first     of images that were not shown before
  one_new   of 19 that were and a new one
  same      of the same 20 again
  old       as `first`, of thumbnails of the first versions, which have no tile inside

Unit: ratios of medians and of 99th percentiles; milliseconds. Adding rows: milliseconds each, with
the settings of the product, measured on the first rows.
"""

import statistics
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from common import Result, ms, p50_p99_ms, quantile, ratio, scratch, start
from PIL import Image
from rows import COMMON_WORD, RARE_WORD, records
from sqlite_utils import Database

from flux_mcp.gallery.previews import THUMBNAIL_PX, Sheets, thumbnail_webp
from flux_mcp.gallery.search import SearchFilter
from flux_mcp.gallery.store import Gallery, migrate, new_image_id
from flux_mcp.storage.database import open_database

PAGE = 20
WALK = 2000
"""Rows in one stride on the way to the middle."""
SEARCHES = {
    "newest": SearchFilter(limit=PAGE),
    "deep": SearchFilter(limit=PAGE),
    "common": SearchFilter(limit=PAGE, query=COMMON_WORD),
    "rare": SearchFilter(limit=PAGE, query=RARE_WORD),
    "both": SearchFilter(limit=PAGE, query=COMMON_WORD, model="flux1-dev"),
    "miss": SearchFilter(limit=PAGE, query="xylophone"),
}


def measure(quick: bool) -> Result:
    """Build both galleries and search them in turn."""
    small_rows, big_rows = (10_000, 20_000) if quick else (10_000, 200_000)
    repetitions = 50 if quick else 1000
    counts = {"small_rows": small_rows, "big_rows": big_rows, "searches": repetitions}
    result = Result("gallery", quick, counts)
    with scratch() as folder:
        added = _build(folder, small_rows, big_rows)
        databases = {name: open_database(folder / f"{name}.sqlite") for name in ("small", "big")}
        galleries = {name: Gallery(database) for name, database in databases.items()}
        rows = {"small": small_rows, "big": big_rows}
        searches = {
            name: SEARCHES | {"deep": _middle(gallery, rows[name])}
            for name, gallery in galleries.items()
        }
        for kind in SEARCHES:
            seconds: dict[str, list[float]] = {name: [] for name in galleries}
            for turn in range(-5, repetitions):
                for name in ("small", "big") if turn % 2 else ("big", "small"):
                    started = time.perf_counter()
                    galleries[name].search(searches[name][kind])
                    if turn >= 0:
                        seconds[name].append(time.perf_counter() - started)
            _report(result, kind, seconds)
        for database in databases.values():
            database.close()
        _measure_sheets(folder, result, 3 if quick else 15)
        result.absolute["file_mb"] = {
            name: round((folder / f"{name}.sqlite").stat().st_size / 1e6, 1) for name in galleries
        }
    result.absolute["add"] = p50_p99_ms(added)
    result.line("add a row", f"p50 {ms(statistics.median(added)):.2f} ms", "C9: <= 1 ms")
    return result


def _build(folder: Path, small_rows: int, big_rows: int) -> list[float]:
    """Add the rows; return the seconds of each of the first ones."""
    database = open_database(folder / "big.sqlite")
    migrate(database)
    gallery = Gallery(database)
    seconds = []
    timed_rows = small_rows // 10
    for record in records(0, timed_rows):
        started = time.perf_counter()
        gallery.add(record)
        seconds.append(time.perf_counter() - started)
    # From here on the disk is not waited for: only how long building takes depends on it.
    database.execute("PRAGMA synchronous = OFF")
    for record in records(timed_rows, small_rows):
        gallery.add(record)
    small = Database(folder / "small.sqlite")
    database.conn.backup(small.conn)
    small.close()
    for record in records(small_rows, big_rows):
        gallery.add(record)
    database.close()
    return seconds


def _measure_sheets(folder: Path, result: Result, repetitions: int) -> None:
    """Make contact sheets of images that were shown before, and of some that were not."""
    paths = [folder / f"{number}.webp" for number in range(PAGE + 1)]
    for number, path in enumerate(paths):
        path.write_bytes(thumbnail_webp(_photograph(number)))
    old = [path.with_stem(f"old_{path.stem}") for path in paths]
    for new_path, old_path in zip(paths, old, strict=True):
        with Image.open(new_path) as image:
            image.save(old_path, quality=80, method=2, exif=b"")
    labels = [new_image_id() for _ in range(PAGE)]
    seconds: dict[str, list[float]] = {"first": [], "one_new": [], "same": [], "old": []}
    for _ in range(repetitions):
        sheets = Sheets()
        for name, shown in (
            ("first", paths[:PAGE]),
            ("one_new", paths[1:]),
            ("same", paths[1:]),
            ("old", old[:PAGE]),
        ):
            started = time.process_time()
            sheets.sheet_jpeg(shown, labels)
            seconds[name].append(time.process_time() - started)
    result.absolute["sheet"] = {name: p50_p99_ms(found) for name, found in seconds.items()}
    for name, found in seconds.items():
        target = "<= 40 ms" if name in {"first", "one_new"} else ""
        result.line(f"sheet of 20, {name}", f"p50 {ms(statistics.median(found)):.1f} ms", target)


def _photograph(number: int) -> Image.Image:
    """Return an image with the detail of a photograph: noise at several scales."""
    choose = np.random.default_rng(number)
    total = np.zeros((THUMBNAIL_PX, THUMBNAIL_PX, 3))
    for cells in (4, 16, 64, 256):
        noise = choose.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
        grown = Image.fromarray(noise).resize(
            (THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.BICUBIC
        )
        total += np.asarray(grown) / cells
    return Image.fromarray((255 * (total - total.min()) / np.ptp(total)).astype(np.uint8))


def _middle(gallery: Gallery, rows: int) -> SearchFilter:
    """Return the search for the page in the middle of a gallery."""
    wanted = SearchFilter(limit=min(WALK, rows // 2))
    walked = 0
    while walked < rows // 2:
        page = gallery.search(wanted)
        walked += len(page.images)
        wanted = replace(wanted, cursor=page.next_cursor)
    return replace(wanted, limit=PAGE)


def _report(result: Result, kind: str, seconds: dict[str, list[float]]) -> None:
    small, big = seconds["small"], seconds["big"]
    p50 = ratio(statistics.median(big), statistics.median(small))
    p99 = ratio(quantile(big, 0.99), quantile(small, 0.99))
    result.ratios |= {f"{kind}.p50": p50, f"{kind}.p99": p99}
    result.absolute[kind] = {"small": p50_p99_ms(small), "big": p50_p99_ms(big)}
    numbers = result.absolute[kind]["big"]
    result.line(
        kind,
        f"big/small {p50:.2f}x (p99 {p99:.2f}x); big p50 {numbers['p50_ms']:.2f} ms, "
        f"p99 {numbers['p99_ms']:.2f} ms",
        "C5: p99 <= 5 ms and <= 2x" if kind == "newest" else "",
    )


if __name__ == "__main__":
    start(__doc__, measure)
