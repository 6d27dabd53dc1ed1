"""Jobs, plans and a worker for tests that need no images."""

import sys
from pathlib import Path
from typing import Any

from flux_mcp.jobs.job import Job, new_job_id, utc_now
from flux_mcp.requests.render_plan import RenderPlan

BAD_WORKER = (sys.executable, str(Path(__file__).with_name("bad_worker.py")))
"""The command of a worker process; a habit of it goes behind."""
LIGHT_WORKER = (*BAD_WORKER, "patient")
"""For tests to which it does not matter what is drawn."""
ENDLESS: dict[str, Any] = {"prompt": "wait until you are cancelled", "width": 64, "height": 64}
"""What the light worker goes on with until it is cancelled."""


def make_plan_row(**changes: Any) -> RenderPlan:
    facts: dict[str, Any] = {
        "kind": "text2img",
        "model": "micro",
        "revision": None,
        "quality": "standard",
        "precision": "fp32",
        "prompt": "a red circle",
        "width": 64,
        "height": 64,
        "steps": 4,
        "guidance": 3.5,
        "seeds": (7,),
        "max_sequence_length": 64,
    }
    return RenderPlan(**{**facts, **changes})


def make_job(**changes: Any) -> Job:
    plan = changes.pop("plan", None) or make_plan_row()
    facts: dict[str, Any] = {
        "id": new_job_id(),
        "kind": plan.kind,
        "model": plan.model,
        "total_steps": plan.total_steps,
        "request": {"prompt": plan.prompt},
        "plan": plan,
        "created_at": utc_now(),
    }
    return Job(**{**facts, **changes})
