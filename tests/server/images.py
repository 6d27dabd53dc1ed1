"""Images written straight into a gallery, as the executor would, without drawing them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from flux_mcp.gallery.files import ImageFiles
from flux_mcp.gallery.provenance import ImageProvenance, to_metadata
from flux_mcp.gallery.store import ImageRecord, new_image_id, record_of
from flux_mcp.jobs.job import Job, utc_now
from flux_mcp.jobs.queue import JobQueue
from flux_mcp.jobs.scheduler import NextJob
from flux_mcp.principals import LOCAL
from flux_mcp.service.service import Service
from flux_mcp.worker_protocol.messages import Progress
from tests.jobs.factories import make_job


def noise(width: int, height: int, seed: int = 0) -> bytes:
    """Raw RGB no codec can make small."""
    random = np.random.default_rng(seed)
    return random.integers(0, 256, size=(height, width, 3), dtype=np.uint8).tobytes()


async def keep_image(
    service: Service, pixels: bytes, width: int, height: int, **facts: Any
) -> ImageRecord:
    """Write files and row of one finished image; `principal` is whose, else local."""
    principal = facts.pop("principal", LOCAL)
    plan = make_job().plan.model_dump(mode="json")
    provenance = ImageProvenance.model_validate(
        {
            "id": new_image_id(),
            "job_id": "job_of_a_test",
            "index": 0,
            "kind": "text2img",
            "prompt": "a red circle",
            "model": "micro",
            "weights_sha256": "0" * 64,
            "precision": "fp32",
            "seed": 7,
            "plan": plan,
            "width": width,
            "height": height,
            "licence": "apache-2.0",
            "environment": {"device": "cpu"},
            "seconds": 1.5,
            "created_at": utc_now(),
            **facts,
        }
    )
    files = ImageFiles(service.settings.paths).save(
        provenance.id,
        provenance.created_at,
        Image.frombytes("RGB", (width, height), pixels),
        to_metadata(provenance),
    )
    gallery = service.runtime.rooms.gallery
    return await service._database.call(gallery.add, record_of(provenance, files, principal))


async def run_job(service: Service, progress: Progress | None = None, **facts: Any) -> Job:
    """Store a job and claim it, as an executor does; `progress` moves it on."""
    job = await queue_job(service, **facts)
    queue: JobQueue = service._queue
    claimed = await service._database.call(queue.claim, "an executor", lambda _: NextJob(job.id))
    assert claimed is not None
    if progress is not None:
        await service._database.call(
            queue.report, progress.model_copy(update={"job_id": job.id, "attempt": claimed.attempt})
        )
    return await service.find_job(job.id)


async def queue_job(service: Service, **facts: Any) -> Job:
    """Store a waiting job."""
    return await service._database.call(service._queue.submit, make_job(**facts))


async def complete_job(
    service: Service, images: Sequence[tuple[bytes, int, int]], **facts: Any
) -> Job:
    """Store a finished job with its images."""
    job = await run_job(service, **facts)
    for index, (pixels, width, height) in enumerate(images):
        seed = job.plan.seeds[index]
        await keep_image(
            service,
            pixels,
            width,
            height,
            job_id=job.id,
            index=index,
            seed=seed,
            prompt=job.plan.prompt,
        )
    assert await service._database.call(service._queue.complete, job, 0.1, 1.0)
    return await service.find_job(job.id)
