"""Estimates grow with the work and come from the same pipeline only."""

import pytest

from flux_mcp.jobs.estimates import Finished, estimate_s

from .factories import make_plan_row


def test_nothing_is_estimated_before_such_a_job_has_run() -> None:
    other = Finished(make_plan_row(kind="fill"), 3.0)
    assert estimate_s(make_plan_row(), []) is None
    assert estimate_s(make_plan_row(), [other]) is None


def test_twice_the_steps_or_pixels_or_pictures_take_twice_as_long() -> None:
    history = [Finished(make_plan_row(), 2.0)]
    assert estimate_s(make_plan_row(), history) == pytest.approx(2.0)
    assert estimate_s(make_plan_row(steps=8), history) == pytest.approx(4.0)
    assert estimate_s(make_plan_row(width=128), history) == pytest.approx(4.0)
    assert estimate_s(make_plan_row(seeds=(1, 2)), history) == pytest.approx(4.0)


def test_one_slow_job_does_not_spoil_the_estimate() -> None:
    history = [Finished(make_plan_row(), seconds) for seconds in (2.0, 2.0, 90.0)]
    assert estimate_s(make_plan_row(), history) == pytest.approx(2.0)
