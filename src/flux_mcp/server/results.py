"""Tool results: answers as MCP content blocks, within a byte budget.

Each result has a text with every fact for a model that cannot see images, previews, links to the
full PNGs, and the answer as structured content. `fitted` leaves out what a client cannot use.

Claude Desktop refuses a result of more than 1,048,576 characters as a whole; base64 makes four
characters of three bytes. All previews of one result together get `PREVIEW_BUDGET_BYTES`,
which leaves 200,000 characters for text and structured content; or fewer, by the setting
`preview_bytes`, `preview_pixels` or the row of the client.
"""

import base64
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from mcp.types import (
    Annotations,
    CallToolResult,
    ContentBlock,
    ImageContent,
    ResourceLink,
    TextContent,
)
from pydantic import BaseModel

from flux_mcp.compose.composer import advise
from flux_mcp.errors import FluxMcpError, StorageError
from flux_mcp.gallery.colours import main_colours
from flux_mcp.gallery.previews import MAX_PREVIEW_BYTES, Sheets, preview_webp, small_preview_webp
from flux_mcp.jobs.job import PreviewSize
from flux_mcp.models.registry import KIND_NAMES
from flux_mcp.principals import only
from flux_mcp.server.clients import PREVIEW_BUDGET_BYTES, ClientFit, PreviewBudget
from flux_mcp.server.links import image_url
from flux_mcp.server.progress import describe_answer
from flux_mcp.server.redaction import for_others
from flux_mcp.service.answers import (
    UNSENT,
    CancelAnswer,
    ComposedAnswer,
    DownloadAnswer,
    DryRunAnswer,
    ImageAnswer,
    JobAnswer,
    LoraAnswer,
    PageAnswer,
    QueueAnswer,
    SearchAnswer,
    lean,
)
from flux_mcp.service.inputs import OverlayLimits

MAX_PREVIEWS = 3
_LONGEST_PX = {"small": 512, "normal": 1024}
_SHEET_PX = {"small": 768, "normal": 1280}
AnyAnswer = TypeVar("AnyAnswer", bound=BaseModel)
_PATH = frozenset({"path"})
_OVERLAY = "The last image shows what the mask changes, tinted, over the image that was given."
_STRUCTURE = "The last image shows the structure that was made of the image that was given."

# --- results -----------------------------------------------------------------------------------


def job_result(
    answer: JobAnswer,
    preview: PreviewSize,
    running_preview: Path,
    sheets: Sheets,
    *,
    overlay: bytes | None = None,
    is_demo: bool = False,
    budget: PreviewBudget | None = None,
) -> CallToolResult:
    """Return a job: text, previews, links to its images, structured content.

    The text numbers images as their contact sheet does. Where no image is inside it says their
    main colours, and what they show as far as a model has said it.

    Args:
        answer: The job as it stands.
        preview: How large an image to put inside.
        running_preview: File of the preview of the job while it runs; it need not exist.
        sheets: Makes the contact sheet of many images.
        overlay: The mask of a finished job over its image, or the structure that was made of an
            image, as a WebP within `overlay_limits`.
        is_demo: Whether its model is the demonstration.
        budget: Of all previews together; left out, as for every client.
    """
    answer = _linked(_for_caller(answer))
    budget = budget or PreviewBudget()
    # The images come first: of a small budget the overlay takes no more than half.
    overlays = [] if overlay is None or 2 * len(overlay) > budget.size_bytes else [overlay]
    text = _job_text(answer, is_demo=is_demo, is_described=preview == "none")
    what = _OVERLAY if answer.structure is None else _STRUCTURE
    content: list[ContentBlock] = [_text(f"{text}\n{what}" if overlays else text)]
    if preview != "none":
        left = replace(budget, size_bytes=budget.size_bytes - sum(map(len, overlays)))
        shown = _previews(answer.images, preview, sheets, len(overlays), left)
        content += shown
        content += [_image(_within(one, preview, budget, 1 + len(shown))) for one in overlays]
        # It is removed when the job ends, which may be now.
        with suppress(FileNotFoundError):
            if answer.status == "running":
                content.append(_image(_within(running_preview.read_bytes(), preview, budget, 1)))
    for image in answer.images:
        with suppress(FileNotFoundError):
            content.append(_link(image))
    is_waiting = answer.status in ("queued", "running")
    return _result(content, answer, _ask_again(answer.job_id) if is_waiting else None)


def dry_run_result(answer: DryRunAnswer, budget: PreviewBudget | None = None) -> CallToolResult:
    """Return what a call would do, with the overlay of its answer, if that has one."""
    answer = _for_caller(answer)
    text = _dry_run_text(answer)
    if answer.overlay is None:
        return _result([_text(text)], answer)
    shown = _STRUCTURE if answer.mask is None else _OVERLAY
    overlay = _within(answer.overlay, "normal", budget or PreviewBudget(), 1)
    return _result([_text(f"{text}\n{shown}"), _image(overlay)], answer)


def overlay_limits(preview: PreviewSize) -> OverlayLimits | None:
    """Return how large the overlay of a mask may be in a result; `None` for no overlay."""
    if preview == "none":
        return None
    return OverlayLimits(_LONGEST_PX[preview], PREVIEW_BUDGET_BYTES // MAX_PREVIEWS)


def download_result(answer: DownloadAnswer) -> CallToolResult:
    """Return how far a download of weights is."""
    answer = _for_caller(answer)
    again = _ask_again(answer.download_id) if answer.status == "running" else None
    return _result([_text(_download_text(answer))], answer, again)


def queue_result(answer: QueueAnswer) -> CallToolResult:
    """Return which job runs and which wait."""
    answer = _for_caller(answer)
    return _result([_text(_queue_text(answer))], answer)


def search_result(
    answer: SearchAnswer,
    preview: PreviewSize,
    sheets: Sheets,
    budget: PreviewBudget | None = None,
) -> CallToolResult:
    """Return gallery images: a list, a contact sheet, structured content."""
    page = PageAnswer.of(answer)
    content: list[ContentBlock] = [_text(_search_text(answer, page))]
    if answer.images and preview != "none":
        content.append(_sheet(answer.images, preview, sheets, budget or PreviewBudget()))
    more = (
        "Call flux_search_gallery again with next_cursor as cursor." if page.next_cursor else None
    )
    return _result(content, page, more)


def cancel_result(answer: CancelAnswer) -> CallToolResult:
    """Return what became of each job."""
    return _result([_text(_cancel_text(answer))], answer)


def error_result(error: FluxMcpError) -> CallToolResult:
    """Return an error the model can read and act on."""
    return CallToolResult(content=[_text(error_text(error))], is_error=True)


def error_text(error: FluxMcpError) -> str:
    """Return `[code] what is wrong. what to do.`, with a hint that its caller can follow."""
    if only() is None:
        return str(error)
    return f"[{error.code}] {error.message} {for_others(error.hint)}".rstrip()


def _for_caller(answer: AnyAnswer) -> AnyAnswer:
    """Return an answer whose notices, and the hint of whose error, its caller can follow."""
    if only() is None:
        return answer
    changes: dict[str, Any] = {}
    if notices := getattr(answer, "notices", ()):
        changes["notices"] = tuple(map(for_others, notices))
    if (error := getattr(answer, "error", None)) is not None:
        changes["error"] = error.model_copy(update={"hint": for_others(error.hint)})
    return answer.model_copy(update=changes)


def _linked(answer: JobAnswer) -> JobAnswer:
    """Return a job whose images have a link for callers over HTTP."""
    images = tuple(image.model_copy(update={"url": image_url(image.id)}) for image in answer.images)
    return answer.model_copy(update={"images": images})


def fitted(result: CallToolResult, fit: ClientFit) -> CallToolResult:
    """Return a result without what its client cannot use."""
    left_out: dict[str, Any] = {}
    if not fit.links:
        kept = [block for block in result.content if not isinstance(block, ResourceLink)]
        left_out["content"] = kept
    if not fit.structured:
        left_out["structured_content"] = None
    return result.model_copy(update=left_out)


def _result(
    content: list[ContentBlock], answer: BaseModel, next_call: str | None = None
) -> CallToolResult:
    if next_call is not None:
        answer = answer.model_copy(update={"next": next_call})
    # Who has a named token cannot read the server's disk.
    unsent = UNSENT if only() is None else UNSENT | _PATH
    return CallToolResult(content=content, structured_content=lean(answer, unsent=unsent))


# --- texts -------------------------------------------------------------------------------------


def _job_text(answer: JobAnswer, *, is_demo: bool, is_described: bool) -> str:
    if answer.status == "completed":
        # Of a pack's prompt the caller knows only the choices it made.
        lines = [
            _image_text(image, answer, is_demo=is_demo)
            + (_colours(image) + _shows(image) if is_described else "")
            for image in answer.images
        ]
        if len(lines) > MAX_PREVIEWS:
            lines = [f"{number}. {line}" for number, line in enumerate(lines, start=1)]
        if answer.structure is not None and only() is None:
            lines.append(f"Its structure, to be used again as control_image: {answer.structure}")
    elif answer.status == "failed" and answer.error is not None:
        error = answer.error
        lines = [
            f"[{error.code}] Job {answer.job_id} failed: {error.message} {error.hint}".rstrip()
        ]
    elif answer.status == "cancelled":
        lines = [f"Job {answer.job_id} was cancelled; nothing was generated."]
    elif answer.status == "stopping":
        # Nothing to wait for: it is cancelled already, whatever it still does.
        lines = [f"Job {answer.job_id} is cancelled: it stops at its next step and makes no image."]
    else:
        lines = [
            f"Job {answer.job_id} is not finished: {describe_answer(answer)}.",
            _ask_again(answer.job_id),
        ]
    return "\n".join([*lines, *_notes(answer.notices)])


def _image_text(image: ImageAnswer, job: JobAnswer, *, is_demo: bool) -> str:
    prompt = f"\nPrompt: {image.prompt}" if job.pack is not None else ""
    model = f"{image.model} (demo)" if is_demo else image.model
    used = ", ".join(f"{lora.name} {lora.weight:g}" for lora in image.loras)
    loras = f", LoRAs {used}" if used else ""
    # Who has a named token cannot read the server's disk.
    file = f"\nFile: {image.path}" if only() is None else ""
    url = f" ({image.url})" if image.url else ""
    if image.kind == "upscale":
        of = f" from {image.parents[0]}" if image.parents else ""
        return (
            f"Image {image.id}: {image.width}x{image.height}, upscaled{of} by {model}, "
            f"job {image.job_id}.{file}\nFull size: {image.uri}{url}"
        )
    return (
        f"Image {image.id}: {image.width}x{image.height}, seed {image.seed}, model {model}"
        f"{loras}, job {image.job_id}.{prompt}{file}\nFull size: {image.uri}{url}"
    )


def _colours(image: ImageAnswer) -> str:
    # An image whose file is gone still has its facts.
    with suppress(StorageError):
        shares = main_colours(Path(image.path).with_suffix(".webp"))
        if shares:
            return "\nColours: " + ", ".join(f"{name} {share} %" for name, share in shares)
    return ""


def _shows(image: ImageAnswer) -> str:
    caption = image.caption
    if caption is None:
        return ""
    if caption.text is None:
        return f"\nWhat it shows is not known yet ({caption.model} looks at it): ask flux_get_job."
    return f"\nShows (by {caption.model}): {caption.text}"


def _dry_run_text(answer: DryRunAnswer) -> str:
    plan = answer.plan
    takes = (
        "unknown until one such job has run" if answer.draw_s is None else f"{answer.draw_s:.1f} s"
    )
    line = (
        f"Dry run, nothing queued: {plan.model} would generate {len(plan.seeds)} image(s) of "
        f"{plan.image_size} in {plan.steps_drawn} steps, guidance {plan.guidance}, "
        f"first seed {plan.seeds[0]}. Estimated time: {takes}."
    )
    words = [line for composed in answer.composed for line in _composed_lines(composed)]
    facts = {lora.name: lora for lora in answer.loras}
    words += [_lora_text(facts[used.name], used.weight) for used in plan.loras]
    return "\n".join([line, *words, *_notes(answer.notices)])


def _composed_lines(composed: ComposedAnswer) -> Iterator[str]:
    """Yield a prompt, what the audit found in it, and its length for each text encoder."""
    yield f"Prompt: {composed.prompt}"
    yield f"Audit: {composed.verdict}."
    for finding in composed.findings:
        where = f"'{finding.text}' in {finding.block}"
        advice = advise(finding.rewording)
        yield f"- {finding.verdict}: {where}: {finding.reason} {advice}".rstrip()
    if composed.more_findings:
        yield f"- and {composed.more_findings} more."
    for count in composed.tokens:
        about = "" if count.exact else "about "
        yield f"Tokens of {count.encoder}: {about}{count.tokens} of {count.limit}."


def _lora_text(lora: LoraAnswer, weight: float) -> str:
    words = ", ".join(lora.trigger_words) or "none known"
    what = f"rank {', '.join(map(str, lora.ranks))}" if lora.ranks else " and ".join(lora.forms)
    return (
        f"LoRA {lora.name}: weight {weight:g}, family {' or '.join(lora.families)}, {what}, "
        f"trigger words: {words}, sha256 {lora.sha256}."
    )


def _download_text(answer: DownloadAnswer) -> str:
    models = ", ".join(answer.models)
    if answer.error is not None:
        return f"{answer.error} (download {answer.download_id} of {models})"
    if answer.status == "completed":
        return f"Download {answer.download_id} is complete: {models} can be used."
    if answer.status == "cancelled":
        return (
            f"Download {answer.download_id} of {models} was cancelled; what was received is kept "
            "for the next pull."
        )
    return (
        f"Download {answer.download_id} is not finished: {answer.message}.\n"
        f"{_ask_again(answer.download_id)}"
    )


def _queue_text(queue: QueueAnswer) -> str:
    wait = "" if queue.wait_s is None else f" A new job would start in about {queue.wait_s:.0f} s."
    lines = [
        f"{job.job_id}: {job.status}, {KIND_NAMES[job.kind]} with {job.model}, "
        + (f"number {job.position}" if job.position else f"step {job.step} of {job.total_steps}")
        for job in queue.jobs
    ]
    head = f"{queue.depth} of at most {queue.limit} jobs wait.{wait}"
    downloads = [f"{one}: a download of weights runs" for one in queue.downloads]
    return "\n".join([head, *lines, *downloads, *_notes(queue.notices)])


def _search_text(answer: SearchAnswer, page: PageAnswer) -> str:
    lines = [
        f"{number}. {hit.id}: {hit.size}, {hit.model}, seed {hit.seed}, {image.created_at[:10]}: "
        f"{hit.prompt!r}"
        for number, (image, hit) in enumerate(zip(answer.images, page.images, strict=True), start=1)
    ]
    head = f"{len(lines)} images, newest first." if lines else "No image fits."
    tail = [f"More with cursor '{answer.next_cursor}'."] if answer.next_cursor else []
    return "\n".join([head, *lines, *tail])


def _cancel_text(answer: CancelAnswer) -> str:
    parts = [
        f"{label}: {', '.join(jobs)}."
        for label, jobs in (
            ("Cancelled", answer.cancelled),
            ("Stopping at the next step", answer.stopping),
            ("Had already ended", answer.already_final),
        )
        if jobs
    ]
    return " ".join(parts) or "There was nothing to cancel."


def _ask_again(job_id: str) -> str:
    return f'Call flux_get_job with job_id "{job_id}" to wait for it.'


def _notes(notices: Iterable[str]) -> Iterator[str]:
    return (f"Note: {notice}" for notice in notices)


# --- content blocks ----------------------------------------------------------------------------


def _previews(
    images: Sequence[ImageAnswer],
    preview: Literal["small", "normal"],
    sheets: Sheets,
    others: int,
    budget: PreviewBudget,
) -> list[ImageContent]:
    """Return a preview of each image, or one sheet of all.

    Args:
        images: The images.
        preview: How large.
        sheets: Makes a sheet.
        others: How many pictures stand beside them.
        budget: Bytes that are left for these, and pixels of all.
    """
    if len(images) > MAX_PREVIEWS - others:
        return [_sheet(images, preview, sheets, budget, others)]
    make = small_preview_webp if preview == "small" else preview_webp
    side_px = budget.side_px(_LONGEST_PX[preview], len(images) + others)
    if side_px < _LONGEST_PX[preview]:
        make = preview_webp  # a thumbnail is taken as it is
    blocks: list[ImageContent] = []
    for image in images:
        size_bytes = min(MAX_PREVIEW_BYTES, budget.size_bytes // len(images))
        # An image whose file is gone still has its facts.
        with suppress(StorageError):
            blocks.append(_image(make(Path(image.path), side_px, size_bytes)))
    return blocks


def _sheet(
    images: Sequence[ImageAnswer],
    preview: Literal["small", "normal"],
    sheets: Sheets,
    budget: PreviewBudget,
    others: int = 0,
) -> ImageContent:
    """Return a numbered contact sheet. Thumbnails are enough: a cell is smaller than one."""
    paths = [Path(image.path).with_suffix(".webp") for image in images]
    sheet = sheets.sheet_jpeg(paths, [image.id for image in images], _SHEET_PX[preview])
    # It may be wider than it was asked to be.
    if len(sheet) > budget.size_bytes or budget.pixels is not None:
        side_px = budget.side_px(_SHEET_PX[preview], 1 + others)
        return _image(preview_webp(sheet, side_px, budget.size_bytes))
    return _image(sheet, "image/jpeg")


def _within(
    webp: bytes, preview: Literal["small", "normal"], budget: PreviewBudget, count: int
) -> bytes:
    """Return a picture that is one of `count` in a result, made smaller where pixels are few."""
    if budget.pixels is None:
        return webp
    return preview_webp(webp, budget.side_px(_LONGEST_PX[preview], count), len(webp))


def _image(data: bytes, mime_type: str = "image/webp") -> ImageContent:
    return ImageContent(
        type="image",
        data=base64.b64encode(data).decode(),
        mime_type=mime_type,
        annotations=Annotations(audience=["user", "assistant"], priority=0.9),
    )


def _link(image: ImageAnswer) -> ResourceLink:
    return ResourceLink(
        type="resource_link",
        uri=image.uri,
        name=f"{image.id}.png",
        mime_type="image/png",
        size=Path(image.path).stat().st_size,
        annotations=Annotations(audience=["user"]),
    )


def _text(text: str) -> TextContent:
    return TextContent(type="text", text=text)
