"""What finished jobs took is kept, newest first, and read by the plans of the same card."""

from dataclasses import replace
from pathlib import Path

import pytest
from sqlite_utils import Database

from flux_mcp.database import open_database
from flux_mcp.jobs.measurements import KEPT, Measurements, migrate
from flux_mcp.models.figures import Figure

FIGURE = Figure(
    model="flux1-dev",
    kind="text2img",
    precision="int8",
    placement="model_offload",
    megapixels=1.05,
    seconds_per_step=2.0,
)


@pytest.fixture
def database(tmp_path: Path):
    opened = open_database(tmp_path / "gallery.sqlite")
    migrate(opened)
    yield opened
    opened.close()


def test_figures_come_back_newest_first_for_their_own_card(database: Database) -> None:
    store = Measurements(database)
    store.add("RTX 4090", FIGURE, load_s=3.0)
    store.add("RTX 4090", replace(FIGURE, seconds_per_step=1.0, peak_gib=14.5))
    store.add("RTX 3090", replace(FIGURE, seconds_per_step=9.0))
    assert store.of_device("RTX 4090") == (
        replace(FIGURE, seconds_per_step=1.0, peak_gib=14.5),
        FIGURE,
    )
    assert store.of_device("H200") == ()


def test_old_figures_of_a_way_make_room_and_other_ways_stay(database: Database) -> None:
    store = Measurements(database)
    other = replace(FIGURE, precision="nf4")
    store.add("RTX 4090", other)
    for number in range(KEPT + 5):
        store.add("RTX 4090", replace(FIGURE, seconds_per_step=float(number)))
    kept = store.of_device("RTX 4090")
    assert [f.seconds_per_step for f in kept[:-1]] == [float(n) for n in range(KEPT + 4, 4, -1)]
    assert kept[-1] == other


def test_a_database_from_before_gets_the_table_once(database: Database) -> None:
    migrate(database)
    assert database.table("measurements").exists()
