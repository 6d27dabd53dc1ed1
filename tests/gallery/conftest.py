"""Records, a gallery on a real SQLite file, and image files in a real folder."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlite_utils import Database

from flux_mcp.gallery.files import ImageFiles
from flux_mcp.gallery.store import Gallery, ImageRecord, migrate, new_image_id
from flux_mcp.models.registry import load_registry
from flux_mcp.requests.plan import PlanParts, make_plan
from flux_mcp.requests.schemas import GenerateRequest
from flux_mcp.settings.paths import Paths, ensure_dirs
from flux_mcp.storage.database import open_database

START = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    paths = Paths(tmp_path / "data")
    ensure_dirs(paths)
    return paths


@pytest.fixture
def database(paths: Paths) -> Iterator[Database]:
    database = open_database(paths.database)
    migrate(database)
    yield database
    database.close()


@pytest.fixture
def gallery(database: Database) -> Gallery:
    return Gallery(database)


@pytest.fixture
def files(paths: Paths) -> ImageFiles:
    return ImageFiles(paths)


@pytest.fixture
def record() -> Callable[..., ImageRecord]:
    """Make the n-th record, one minute after the one before, with what the test says about it."""

    def make(n: int = 0, **facts: Any) -> ImageRecord:
        image_id = new_image_id()
        prompt = facts.get("prompt", "a red square")
        spec = load_registry().find("text2img", "micro")
        drawn = make_plan(
            GenerateRequest(prompt="a", count=2), spec, PlanParts(revision=None, seed=7)
        )
        # Requests refuse control characters; the gallery keeps whatever it is given.
        plan = {**drawn.model_dump(mode="json"), "prompt": prompt}
        values = {
            "id": image_id,
            "job_id": f"job_{n}",
            "index": 0,
            "kind": "text2img",
            "prompt": prompt,
            "model": "micro",
            "weights_sha256": "0" * 64,
            "precision": "fp32",
            "seed": 7,
            "plan": plan,
            "width": 128,
            "height": 128,
            "licence": "apache-2.0",
            "environment": {"torch": "2.13.0", "device": "cpu"},
            "seconds": 1.5,
            "created_at": (START + timedelta(minutes=n)).isoformat(timespec="microseconds"),
            "file": f"images/2026/01/{image_id}.png",
            "thumbnail": f"images/2026/01/{image_id}.webp",
            "sha256": "1" * 64,
            "pixels_sha256": "2" * 64,
            "size_bytes": 1000,
        }
        return ImageRecord.model_validate({**values, **facts})

    return make
