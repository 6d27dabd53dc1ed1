"""Saves what the executor has finished: image files, gallery rows, and how long it took."""

import asyncio
import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from flux_mcp.errors import StorageError, UnknownImageError
from flux_mcp.gallery.files import ImageFiles, SavedImage
from flux_mcp.gallery.provenance import ImageProvenance, to_metadata
from flux_mcp.gallery.store import Gallery, ImageRecord, new_image_id, record_of
from flux_mcp.images.pasting import Finish, finisher, in_folder
from flux_mcp.jobs.job import utc_now
from flux_mcp.jobs.measurements import Measurements
from flux_mcp.jobs.saving import Drawn
from flux_mcp.jobs.scheduler import TimedJob
from flux_mcp.models.parts import load_parts
from flux_mcp.models.planning.speed import Figure
from flux_mcp.models.registry import LANCZOS, Registry
from flux_mcp.requests.plan import load_of_plan
from flux_mcp.requests.render_plan import PlanInput, RenderPlan
from flux_mcp.requests.upscaling import upscale_plan
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
        plan = drawn.job.plan
        saved = {
            record.index: record
            for record in await self.database.insist(self.gallery.of_job, drawn.job.id)
        }
        is_repeated = bool(saved)
        finish = await asyncio.to_thread(finisher, plan, in_folder(self.uploads_dir))
        licence = await self._licence(plan)
        for image, pixels in drawn.images:
            if image.index in saved:
                continue
            how = plan.upscale
            if how is None or image.index < len(plan.seeds):
                provenance = self._provenance(drawn, image, plan, licence)
                make = finish
            else:
                parent = saved[image.index - len(plan.seeds)]
                source = await asyncio.to_thread(self._as_input, parent)
                upscaled = upscale_plan(how, source, prompt=parent.prompt, seed=image.seed)
                provenance = self._provenance(drawn, image, upscaled, licence)
                make = finisher(upscaled, in_folder(self.uploads_dir))
            files = await asyncio.to_thread(self._save_file, provenance, make, pixels)
            record = record_of(provenance, files, drawn.job.principal)
            saved[image.index] = await self.database.insist(self.gallery.add, record, is_new=True)
        # With a step cache steps are skipped: their seconds do not predict another job's.
        if not is_repeated and plan.switches.step_cache == "none":
            await self.database.insist(
                self.measurements.add,
                drawn.environment.device_name,
                figure_of(drawn, self.registry),
                timed(drawn),
            )

    def _save_file(self, known: ImageProvenance, finish: Finish, pixels: bytes) -> SavedImage:
        return self.files.save(known.id, known.created_at, finish(pixels), to_metadata(known))

    def _as_input(self, record: ImageRecord) -> PlanInput:
        """Have the file of an image among the inputs of plans, where it takes no more disk.

        Raises:
            StorageError: the disk refused.
        """
        source, target = self.files.path_of(record.file), self.uploads_dir / f"{record.sha256}.png"
        try:
            if not target.exists():
                try:
                    os.link(source, target)
                except OSError:  # no hard links on this file system
                    shutil.copyfile(source, target)
        except OSError as error:
            raise StorageError(f"An input cannot be stored: {error.strerror}.") from error
        return PlanInput(
            role="image",
            sha256=record.sha256,
            width=record.width,
            height=record.height,
            image_id=record.id,
        )

    async def _licence(self, plan: RenderPlan) -> str:
        """Return the licence of a plan's images: of the model that drew them, also upscaled."""
        if plan.kind != "upscale":
            return self.registry.find(plan.kind, plan.model).licence
        for parent in plan.parents:
            with suppress(UnknownImageError):
                found = await self.database.insist(self.gallery.find, parent)
                return found.licence
        spec = self.registry.helpers.get(plan.model)
        if spec is not None:
            return spec.licence
        return "apache-2.0" if plan.model == LANCZOS else "other"

    def _provenance(
        self, drawn: Drawn, image: GeneratedImage, plan: RenderPlan, licence: str
    ) -> ImageProvenance:
        """Return the facts of an image.

        Args:
            drawn: Its job.
            image: The image.
            plan: What makes it again: the job's, or of one that was upscaled besides, its own.
            licence: Of what drew it.
        """
        job, size = drawn.job, plan.image_size
        number = image.index % len(job.plan.seeds)
        is_upscaled = plan.kind == "upscale"
        return ImageProvenance(
            id=new_image_id(),
            job_id=job.id,
            index=image.index,
            kind=plan.kind,
            prompt=job.plan.texts[number],
            composed=job.composed[number] if job.composed else None,
            negative_prompt=plan.negative_prompt,
            model=plan.model,
            revision=plan.revision,
            weights_sha256=_upscaler_sha256(plan) if is_upscaled else drawn.done.weights_sha256,
            precision=plan.precision,
            loras=[lora.model_dump() for lora in plan.loras],
            seed=image.seed,
            plan=plan.model_dump(mode="json"),
            width=size.width,
            height=size.height,
            parents=plan.parents if is_upscaled else plan.parents_of(number),
            session=job.session,
            stage=job.stage,
            licence=licence,
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


def _upscaler_sha256(plan: RenderPlan) -> str:
    return (plan.upscale.sha256 if plan.upscale is not None else None) or ""


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
    if plan.kind == "upscale":
        # For the order of jobs; no model is planned with it.
        megapixels, peak_gib = plan.image_size.pixels / 1e6, None
    else:
        megapixels = load_of_plan(plan, registry.find(plan.kind, plan.model)).token_megapixels
    return Figure(
        model=plan.model,
        kind=plan.kind,
        precision=plan.precision,
        placement=plan.placement,
        megapixels=megapixels,
        seconds_per_step=done.draw_s / plan.total_steps,
        peak_gib=None if peak_gib is None else peak_gib + load_parts().machine.context_gib,
    )
