"""Estimates grow with the work and come from the same pipeline only."""

import pytest

from flux_mcp.jobs.estimates import Finished, estimate_s, rates, work

from .factories import make_plan_row


def finished(draw_s: float, pipeline: str = "text2img/micro") -> Finished:
    return Finished(pipeline, work(make_plan_row()), draw_s)


def test_nothing_is_estimated_before_such_a_job_has_run() -> None:
    asked = {"text2img/micro": 1.0}
    assert estimate_s(asked, {}) is None
    assert estimate_s(asked, rates([finished(3.0, "fill/micro")])) is None
    assert estimate_s({**asked, "fill/micro": 1.0}, rates([finished(3.0)])) is None


def test_no_work_takes_no_time() -> None:
    assert estimate_s({}, {}) == 0


def test_work_of_several_pipelines_is_added_up() -> None:
    known = {"text2img/micro": 2.0, "fill/micro": 10.0}
    assert estimate_s({"text2img/micro": 3.0, "fill/micro": 0.5}, known) == pytest.approx(11.0)


def test_twice_the_steps_or_pixels_or_images_are_twice_the_work() -> None:
    once = work(make_plan_row())
    assert work(make_plan_row(steps=8)) == pytest.approx(2 * once)
    assert work(make_plan_row(width=128)) == pytest.approx(2 * once)
    assert work(make_plan_row(seeds=(1, 2))) == pytest.approx(2 * once)


def test_twice_the_work_takes_twice_as_long() -> None:
    known = rates([finished(2.0)])
    once = work(make_plan_row())
    assert estimate_s({"text2img/micro": once}, known) == pytest.approx(2.0)
    assert estimate_s({"text2img/micro": 2 * once}, known) == pytest.approx(4.0)


def test_one_slow_job_does_not_spoil_the_estimate() -> None:
    known = rates([finished(2.0), finished(2.0), finished(90.0)])
    assert estimate_s({"text2img/micro": work(make_plan_row())}, known) == pytest.approx(2.0)
