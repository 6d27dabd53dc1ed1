"""What finished jobs took is kept, newest first, and read by the plans of the same GPU."""

from dataclasses import replace
from pathlib import Path

import pytest
from sqlite_utils import Database

from flux_mcp.jobs.measurements import KEPT, Measurements, migrate
from flux_mcp.jobs.scheduler import Costs, TimedJob
from flux_mcp.models.planning.speed import Figure
from flux_mcp.storage.database import open_database

FIGURE = Figure(
    model="flux1-dev",
    kind="text2img",
    precision="int8",
    placement="model_offload",
    megapixels=1.05,
    seconds_per_step=2.0,
)
PIPELINE = "text2img/flux1-dev"
LOADED = TimedJob(PIPELINE, draw_s=40.0, load="first", load_s=3.0)
THERE = TimedJob(PIPELINE, draw_s=20.0, load=None, load_s=None)


@pytest.fixture
def database(tmp_path: Path):
    opened = open_database(tmp_path / "gallery.sqlite")
    migrate(opened)
    yield opened
    opened.close()


def test_figures_come_back_newest_first_for_their_own_gpu(database: Database) -> None:
    store = Measurements(database)
    store.add("RTX 4090", FIGURE, LOADED)
    store.add("RTX 4090", replace(FIGURE, seconds_per_step=1.0, peak_gib=14.5), THERE)
    store.add("RTX 3090", replace(FIGURE, seconds_per_step=9.0), THERE)
    assert store.of_device("RTX 4090") == (
        replace(FIGURE, seconds_per_step=1.0, peak_gib=14.5),
        FIGURE,
    )
    assert store.of_device("H200") == ()


def test_old_figures_of_a_way_make_room_and_other_ways_stay(database: Database) -> None:
    store = Measurements(database)
    other = replace(FIGURE, precision="nf4")
    store.add("RTX 4090", other, THERE)
    for number in range(KEPT + 5):
        store.add("RTX 4090", replace(FIGURE, seconds_per_step=float(number)), THERE)
    kept = store.of_device("RTX 4090")
    assert [f.seconds_per_step for f in kept[:-1]] == [float(n) for n in range(KEPT + 4, 4, -1)]
    assert kept[-1] == other


def test_a_database_from_before_gets_the_table_once(database: Database) -> None:
    migrate(database)
    assert database.table("measurements").exists()


def test_what_a_switch_took_outlives_the_process_and_belongs_to_a_gpu(database: Database) -> None:
    Measurements(database).add("RTX 4090", FIGURE, LOADED)
    Measurements(database).add("RTX 4090", FIGURE, THERE)
    Measurements(database).add("RTX 3090", FIGURE, replace(LOADED, load_s=9.0))
    later = Measurements(database)
    assert later.costs("RTX 4090") == Costs({PIPELINE: 3.0}, {PIPELINE: 30.0})
    assert later.costs("H200") == Costs({}, {})


def test_before_a_worker_is_up_its_gpu_is_taken_to_be_the_last_one(database: Database) -> None:
    store = Measurements(database)
    assert store.costs(None) == Costs({}, {})
    store.add("RTX 3090", FIGURE, replace(LOADED, load_s=9.0))
    store.add("RTX 4090", FIGURE, LOADED)
    assert store.costs(None) == store.costs("RTX 4090")


def test_what_loading_took_is_not_crowded_out_by_jobs_that_loaded_nothing(
    database: Database,
) -> None:
    store = Measurements(database)
    store.add("RTX 4090", FIGURE, LOADED)
    for _ in range(KEPT + 5):
        store.add("RTX 4090", FIGURE, THERE)
    assert store.costs("RTX 4090").load_s == {PIPELINE: 3.0}


def test_figures_from_before_loads_were_told_apart_say_nothing_of_them(database: Database) -> None:
    database.execute(
        "INSERT INTO measurements (device, model, kind, precision, placement, megapixels, "
        "seconds_per_step, load_s) VALUES ('RTX 4090', 'flux1-dev', 'text2img', 'int8', "
        "'resident', 1.0, 2.0, 0.0002)"
    )
    assert Measurements(database).costs("RTX 4090") == Costs({}, {})
    assert len(Measurements(database).of_device("RTX 4090")) == 1
