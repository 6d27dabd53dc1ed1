"""Saves what the executor has finished: image files, gallery rows, and how long it took."""

import asyncio
from dataclasses import dataclass
from pathlib import Path

from flux_mcp.gallery.files import ImageFiles, SavedImage
from flux_mcp.gallery.provenance import ImageProvenance, to_metadata
from flux_mcp.gallery.store import Gallery, new_image_id, record_of
from flux_mcp.images.pasting import Finish, finisher
from flux_mcp.jobs.job import utc_now
from flux_mcp.jobs.measurements import Measurements
from flux_mcp.jobs.saving import Drawn
from flux_mcp.jobs.scheduler import TimedJob
from flux_mcp.models.parts import load_parts
from flux_mcp.models.planning.speed import Figure
from flux_mcp.models.registry import Registry
from flux_mcp.requests.plan import load_of_plan
from flux_mcp.storage.database import DatabaseThread
from flux_mcp.worker_protocol.messages import GeneratedImage, pipeline_key


@dataclass(frozen=True)
class GallerySink:
    """Saves finished jobs; the `ResultSink` of the executor."""

    gallery: Gallery
    files: ImageFiles
    uploads_dir: Path
    """The files of the images that jobs draw from."""
    database: DatabaseThread
    registry: Registry
    measurements: Measurements

    async def save(self, drawn: Drawn) -> None:
        """Save every image: first its file, then its row.

        An image that an earlier attempt saved is left as it is: it has the same pixels. A database
        that does not answer is waited for.

        Raises:
            StorageError: the disk or the database refused.
        """
        saved = {
            record.index for record in await self.database.insist(self.gallery.of_job, drawn.job.id)
        }
        unsaved = [one for one in drawn.images if one[0].index not in saved]
        finish = await asyncio.to_thread(finisher, drawn.job.plan, self.uploads_dir)
        for image, pixels in unsaved:
            provenance = self._provenance(drawn, image)
            files = await asyncio.to_thread(self._save_file, provenance, finish, pixels)
            record = record_of(provenance, files, drawn.job.principal)
            await self.database.insist(self.gallery.add, record, is_new=True)
        # With a step cache steps are skipped: their seconds do not predict another job's.
        if not saved and drawn.job.plan.switches.step_cache == "none":
            await self.database.insist(
                self.measurements.add,
                drawn.environment.device_name,
                figure_of(drawn, self.registry),
                timed(drawn),
            )

    def _save_file(self, known: ImageProvenance, finish: Finish, pixels: bytes) -> SavedImage:
        return self.files.save(known.id, known.created_at, finish(pixels), to_metadata(known))

    def _provenance(self, drawn: Drawn, image: GeneratedImage) -> ImageProvenance:
        job, plan = drawn.job, drawn.job.plan
        size = plan.image_size
        return ImageProvenance(
            id=new_image_id(),
            job_id=job.id,
            index=image.index,
            kind=plan.kind,
            prompt=plan.texts[image.index],
            composed=job.composed[image.index] if job.composed else None,
            negative_prompt=plan.negative_prompt,
            model=plan.model,
            revision=plan.revision,
            weights_sha256=drawn.done.weights_sha256,
            precision=plan.precision,
            loras=[lora.model_dump() for lora in plan.loras],
            seed=image.seed,
            plan=plan.model_dump(mode="json"),
            width=size.width,
            height=size.height,
            parents=plan.parents_of(image.index),
            session=job.session,
            stage=job.stage,
            licence=self.registry.find(plan.kind, plan.model).licence,
            environment=drawn.environment.model_dump(mode="json"),
            seconds=image.seconds,
            created_at=utc_now(),
        )

    async def save_preview(self, job_id: str, preview: bytes) -> None:
        """Replace the preview of a running job."""
        await asyncio.to_thread(self.files.save_preview, job_id, preview)

    async def drop_preview(self, job_id: str) -> None:
        """Remove the preview of a job that no longer runs."""
        await asyncio.to_thread(self.files.drop_preview, job_id)


def timed(drawn: Drawn) -> TimedJob:
    """Return what a finished job took, for ordering later jobs."""
    load_s = None if drawn.load is None else drawn.done.load_s
    return TimedJob(pipeline_key(drawn.job.plan), drawn.done.draw_s, drawn.load, load_s)


def figure_of(drawn: Drawn, registry: Registry) -> Figure:
    """Return what a finished job took, for planning later jobs.

    Without its peak of memory where something else was loaded beside it.
    """
    plan, done = drawn.job.plan, drawn.done
    peak_gib = done.peak_gib if len(done.loaded) == 1 else None
    return Figure(
        model=plan.model,
        kind=plan.kind,
        precision=plan.precision,
        placement=plan.placement,
        megapixels=load_of_plan(plan, registry.find(plan.kind, plan.model)).token_megapixels,
        seconds_per_step=done.draw_s / plan.total_steps,
        peak_gib=None if peak_gib is None else peak_gib + load_parts().machine.context_gib,
    )
