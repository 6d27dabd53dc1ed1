"""A user's own model draws through the real worker, and what that took is kept."""

from pathlib import Path

import pytest

from flux_mcp.jobs.measurements import Measurements
from flux_mcp.requests.schemas import GenerateRequest
from flux_mcp.service.service import Service
from flux_mcp.settings.settings import Settings
from flux_mcp.storage.database import open_database

pytestmark = pytest.mark.anyio


async def test_a_model_of_the_users_draws_and_is_learned_from(
    tmp_path: Path, weights_dir: Path
) -> None:
    settings = Settings(data_dir=tmp_path / "data", weights_dir=weights_dir, allowed_dirs=())
    settings.data_dir.mkdir()
    settings.paths.models.write_text(
        f'[[model]]\nid = "mine"\nextends = "micro"\nkind = "text2img"\n'
        f"folder = '{weights_dir / 'micro' / 'text2img'}'\n",
        encoding="utf-8",
    )
    service = Service(settings)
    await service.open()
    try:
        request = GenerateRequest(prompt="a red circle", model="mine", steps=4, seed=7)
        job = await service.submit(request)
        async for seen in service.watch(job.id, 200):
            job = seen
    finally:
        await service.close()
    assert (job.status, job.plan.model, job.error) == ("completed", "mine", None)
    database = open_database(settings.paths.database)
    device = database.execute("SELECT device FROM measurements").fetchone()[0]
    (figure,) = Measurements(database).of_device(device)
    database.close()
    assert (figure.model, figure.kind, figure.precision) == ("mine", "text2img", "fp32")
    assert figure.megapixels == pytest.approx(128 * 128 / 1e6)
    assert figure.seconds_per_step == pytest.approx(job.draw_s / 4)
    assert figure.peak_gib is None
