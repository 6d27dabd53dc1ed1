"""The images of a request: from whatever names them to checked images and plan inputs."""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar

from PIL import Image, ImageOps

from flux_mcp.errors import (
    ClipboardError,
    InvalidImageError,
    InvalidRequestError,
    PathNotAllowedError,
    RequestError,
    StorageError,
)
from flux_mcp.gallery.files import ImageFiles
from flux_mcp.images.budget import DecodeBudget
from flux_mcp.images.clipboard import read_clipboard
from flux_mcp.images.decoding import (
    BYTES_PER_PIXEL,
    InputImage,
    encode_image,
    load_cutout,
    load_image,
    open_image,
    open_png,
    png_size,
    store_image,
)
from flux_mcp.images.masks import (
    FinishedMask,
    default_feather_px,
    draw_shapes,
    finish_mask,
    scaled_mask,
    soft_edge_notice,
    united,
)
from flux_mcp.images.outpainting import LargerCanvas, extended, larger_canvas, placed
from flux_mcp.images.overlays import draw_overlay
from flux_mcp.images.references import (
    ASK,
    Access,
    ClipboardReference,
    DataReference,
    GalleryReference,
    LatestReference,
    NewestReference,
    PathReference,
    StoredReference,
    other_ways,
    parse_reference,
    read_newest,
    read_path,
)
from flux_mcp.images.structure import canny
from flux_mcp.models.registry import ModelSpec
from flux_mcp.principals import is_over_network, only
from flux_mcp.requests.geometry import Rectangle, Size
from flux_mcp.requests.mask_arguments import Area, Mask
from flux_mcp.requests.plan import structure_size
from flux_mcp.requests.render_plan import InputRole, PlanInput
from flux_mcp.requests.schemas import (
    DrawRequest,
    EditRequest,
    FillRequest,
    GenerateRequest,
    JobRequest,
    StructuralRequest,
    VariationRequest,
)
from flux_mcp.requests.upscaling import UpscaleRequest
from flux_mcp.requests.validation import Mistakes
from flux_mcp.service.image_models import FoundWords, ImageModels
from flux_mcp.service.resolving import StoredImage
from flux_mcp.settings.installation import own_command
from flux_mcp.settings.settings import Settings

MAX_KEPT_OVERLAYS = 16
"""The newest: a client may ask for the same job several times."""
AnyArea = TypeVar("AnyArea", bound=Area)


@dataclass(frozen=True)
class OverlayLimits:
    """How large an overlay may be."""

    longest_px: int
    max_bytes: int


@dataclass(frozen=True)
class Incoming:
    """A checked image and what the plan says of it."""

    image: InputImage
    plan_input: PlanInput
    mask: FinishedMask | None = None
    """Of a mask: where it lies and how much it covers."""


def wrong_references(request: JobRequest, access: Access, mistakes: Mistakes) -> None:
    """Note which references of a request refer to nothing by their form; reads nothing."""
    for reference in _references(request):
        if not _is_data(reference):
            with mistakes.noted():
                parse_reference(reference, access)


def stored_references(request: JobRequest) -> tuple[StoredReference, ...]:
    """Return what the database is to look up for a request, each once; refuses nothing."""
    found: list[StoredReference] = []
    for reference in _references(request):
        if not _is_data(reference):
            with suppress(RequestError):
                parsed = parse_reference(reference)
                if isinstance(parsed, GalleryReference | LatestReference):
                    found.append(parsed)
    return tuple(dict.fromkeys(found))


def _is_data(reference: str) -> bool:
    """Whether it is decoded when it is parsed: megabytes of base64."""
    return reference[:5].lower() == "data:"


def _references(request: JobRequest) -> Iterable[str]:
    match request:
        case GenerateRequest():
            return request.refine_from or []
        case EditRequest():
            return [*request.images, *(request.mask.images if request.mask else ())]
        case VariationRequest():
            return [item.image for item in request.images]
        case FillRequest():
            return [request.image, *request.mask.images]
        case StructuralRequest():
            return filter(None, [request.image, request.control_image])
        case _:
            return [request.image] if isinstance(request, UpscaleRequest) else []


def asked_tokens(request: DrawRequest) -> tuple[str | None, ...]:
    """Return the token of each image that the user is to give; `None` for a page to be opened."""
    found = [ASK.match(one) for one in _references(request) if not _is_data(one)]
    return tuple(one["token"] for one in found if one is not None)


def with_given(request: DrawRequest, image_id: str) -> DrawRequest:
    """Return a request with the image that the user gave in the place of what asks for it."""

    def given(reference: str) -> str:
        return reference if _is_data(reference) or not ASK.match(reference) else image_id

    def of_area(area: AnyArea) -> AnyArea:
        return area.model_copy(update={"image": area.image and given(area.image)})

    def of_mask(mask: Mask) -> Mask:
        return of_area(mask).model_copy(update={"more": [of_area(one) for one in mask.more]})

    changes: dict[str, Any] = {}
    match request:
        case GenerateRequest():
            changes["refine_from"] = [given(one) for one in request.refine_from or []]
        case EditRequest():
            changes["images"] = [given(one) for one in request.images]
            changes["mask"] = request.mask and of_mask(request.mask)
        case VariationRequest():
            changes["images"] = [
                one.model_copy(update={"image": given(one.image)}) for one in request.images
            ]
        case FillRequest():
            changes = {"image": given(request.image), "mask": of_mask(request.mask)}
        case StructuralRequest():
            changes["image"] = request.image and given(request.image)
            changes["control_image"] = request.control_image and given(request.control_image)
    return request.model_copy(update=changes)


class InputReader:
    """Reads, checks and stores the images of requests. Every method blocks.

    Args:
        settings: Limits and folders.
        files: The files of the gallery.
        models: Find what words say.
    """

    def __init__(self, settings: Settings, files: ImageFiles, models: ImageModels) -> None:
        self._settings = settings
        self._files = files
        self._models = models
        self._budget = DecodeBudget()
        self._overlays: dict[tuple[str, str, OverlayLimits], bytes] = {}
        self._overlays_lock = threading.Lock()

    @cached_property
    def _bring_in(self) -> str:
        command = own_command("import FILE", self._settings.data_dir)
        return f"'{command}' gives a file an id."

    def access(self) -> Access:
        """Return which references the caller may use."""
        found = self._settings
        if only() is not None:
            # A principal with a name connects from elsewhere: nothing of this machine is for it.
            return Access()
        if is_over_network():
            return Access(found.readable_dirs, found.allowed_dirs)
        return Access(
            found.readable_dirs,
            found.allowed_dirs,
            bring_in=self._bring_in,
            clipboard="on" if found.clipboard else "off",
            ask="off" if found.ask_page == "off" else "on",
        )

    def read(
        self,
        request: JobRequest,
        stored: Mapping[StoredReference, StoredImage],
        *,
        for_demonstration: bool = False,
    ) -> tuple[Incoming, ...]:
        """Return every image of a request, decoded and checked, in the order plans list them.

        Args:
            request: What was asked.
            stored: What each reference that `stored_references` returns stands for.
            for_demonstration: Whether they are for the demonstration model, which has models of
                its own that look at images.

        Raises:
            RequestError: a reference names nothing, or nothing usable.
            StorageError: the file of a gallery image is gone.
            EngineError: words are to be found, and no model can.
        """
        read = _RequestInputs(
            self._settings,
            self._files,
            self._budget,
            self.access(),
            stored,
            self._models,
            for_demonstration,
        )
        role: InputRole
        match request:
            case EditRequest():
                if request.mask is None:
                    return tuple(read.image(image, "reference") for image in request.images)
                first, *others = request.images
                image, mask = read.masked(request, request.mask, first, "reference")
                return (image, *(read.image(other, "reference") for other in others), mask)
            case VariationRequest():
                role = "reference" if request.strength is None else "image"
                return tuple(read.image(item.image, role, item.weight) for item in request.images)
            case FillRequest():
                return read.masked(request, request.mask, request.image, "image")
            case StructuralRequest(image=image, control_image=control):
                role = "control" if image is None else "image"
                return tuple(read.image(one, role) for one in (image, control) if one is not None)
            case _:
                return tuple(read.image(image, "image") for image in _references(request))

    def with_structure(
        self, request: StructuralRequest, spec: ModelSpec, incoming: Sequence[Incoming]
    ) -> tuple[Incoming, ...]:
        """Return the images of a request, and behind an ordinary one the structure made of it.

        Args:
            request: What was asked.
            spec: The row to draw with; it decides the size, and structure is made at that size.
            incoming: What `read` returned.

        Raises:
            InvalidSizeError: the model cannot draw that size.
            WeightsMissingError: no model that estimates depth is on this disk.
            EngineError: it cannot be used.
        """
        (given,) = incoming
        if given.plan_input.role == "control":
            return (given,)
        size = structure_size(request, spec, given.plan_input.size)
        with self._budget.taken(BYTES_PER_PIXEL * given.plan_input.size.pixels):
            image = ImageOps.fit(
                open_image(given.image), (size.width, size.height), Image.Resampling.LANCZOS
            )
            made = _edges(image, request) if request.structure == "canny" else encode_image(image)
        control = made
        if request.structure == "depth":
            control = self._models.depth(made, for_demonstration=spec.is_demonstration)
        return (given, Incoming(control, _plan_input(control, "control")))

    def overlay(self, incoming: Sequence[Incoming], limits: OverlayLimits) -> bytes | None:
        """Return what a request's inputs were made into, small, as a WebP; `None` without that.

        A mask is shown over its image, a structure by itself.
        """
        for item in incoming:
            if item.mask is not None:
                return self._overlay(incoming[0].image.png, item.image.png, limits)
            if item.plan_input.role == "control" and item is not incoming[0]:
                return _small(item.image.png, limits)
        return None

    def stored_structure(self, sha256: str, limits: OverlayLimits) -> bytes:
        """Return the structure of a plan, small, as a WebP.

        Args:
            sha256: Names it.
            limits: How large it may be.

        Raises:
            StorageError: it is no longer in the uploads folder.
        """
        return self._kept((sha256, "", limits), lambda structure: _small(structure, limits))

    def stored_overlay(self, image_sha256: str, mask_sha256: str, limits: OverlayLimits) -> bytes:
        """Return the mask of a plan shown over its image, as a WebP.

        Args:
            image_sha256: Names the first input of the plan.
            mask_sha256: Names its mask.
            limits: How large it may be.

        Raises:
            StorageError: one of them is no longer in the uploads folder.
        """
        return self._kept(
            (image_sha256, mask_sha256, limits),
            lambda image, mask: self._overlay(image, mask, limits),
        )

    def _kept(self, key: tuple[str, str, OverlayLimits], make: Callable[..., bytes]) -> bytes:
        """Return what `make` makes of the inputs that a key names, or made of them before."""
        with self._overlays_lock:
            if key in self._overlays:
                return self._overlays[key]
        uploads = self._settings.paths.uploads
        try:
            inputs = [(uploads / f"{name}.png").read_bytes() for name in key[:2] if name]
        except OSError as error:
            raise StorageError(f"An input cannot be read: {error.strerror}.") from error
        made = make(*inputs)
        with self._overlays_lock:
            self._overlays[key] = made
            while len(self._overlays) > MAX_KEPT_OVERLAYS:
                self._overlays.pop(next(iter(self._overlays)))
        return made

    def _overlay(self, image: bytes, mask: bytes, limits: OverlayLimits) -> bytes:
        from flux_mcp.gallery.previews import fitted_webp  # noqa: PLC0415 - few requests have a mask

        size = png_size(image)
        with self._budget.taken(BYTES_PER_PIXEL * size.pixels):
            overlay = draw_overlay(open_png(image), open_png(mask), limits.longest_px)
        return fitted_webp(overlay, limits.max_bytes)

    def take_in(self, data: bytes) -> InputImage:
        """Decode a file that is brought in, check it and store it, with its transparency.

        Raises:
            InvalidImageError: it is none, or over a limit.
            StorageError: the disk refused.
        """
        image = load_image(
            data,
            max_bytes=self._settings.max_image_bytes,
            max_pixels=self._settings.max_image_pixels,
            mode="RGBA",
            budget=self._budget,
        )
        store_image(self._settings.paths.uploads, image)
        return image

    def thumbnail(self, png: bytes) -> bytes:
        """Return the thumbnail of an image that was brought in, a WebP."""
        from flux_mcp.gallery.previews import thumbnail_webp  # noqa: PLC0415 - as above

        pixels = png_size(png).pixels
        with self._budget.taken(BYTES_PER_PIXEL * pixels):
            image = load_image(png, max_bytes=len(png), max_pixels=pixels, mode="RGB")
            return thumbnail_webp(open_image(image))

    def store(self, incoming: Iterable[Incoming]) -> None:
        """Write the images into the uploads folder, under their hashes."""
        for item in incoming:
            store_image(self._settings.paths.uploads, item.image)


@dataclass(frozen=True)
class _Source:
    """The file that a reference stands for."""

    data: bytes = field(repr=False)
    max_bytes: int
    """How many it may have."""
    image_id: str | None = None
    """In the gallery."""
    notice: str | None = None
    """Which file it is, where the reference does not say so."""
    changes: tuple[str, ...] = ()
    """What was said when it came in: who uses it may be somebody else."""

    def decoded(self, decode: Callable[[bytes, int], InputImage]) -> InputImage:
        """Return its image; what it is goes before what is said of that, or of its faults.

        Raises:
            InvalidImageError: it cannot be used.
        """
        try:
            image = decode(self.data, self.max_bytes)
        except InvalidImageError as error:
            if self.notice is None:
                raise
            raise InvalidImageError(f"{self.notice} {error.message}", error.hint) from error
        return self.told(image)

    def told(self, image: InputImage) -> InputImage:
        """Return an image with what is said of this file."""
        which = () if self.notice is None else (self.notice,)
        return replace(image, notices=(*which, *self.changes, *image.notices))


@dataclass(frozen=True)
class _RequestInputs:
    """Reads the images of one request."""

    settings: Settings
    files: ImageFiles
    budget: DecodeBudget
    access: Access
    stored: Mapping[StoredReference, StoredImage]
    models: ImageModels
    for_demonstration: bool
    changing: dict[NewestReference | ClipboardReference, _Source] = field(default_factory=dict)
    """What was read of what may change: the same words mean the same image in a request."""

    def image(self, reference: str, role: InputRole, weight: float = 1.0) -> Incoming:
        image, image_id = self._load(reference, "RGB")
        return Incoming(image, _plan_input(image, role, weight, image_id))

    def masked(
        self, request: EditRequest | FillRequest, asked: Mask, reference: str, role: InputRole
    ) -> tuple[Incoming, Incoming]:
        """Return an image, in a larger canvas if that is asked for, and its mask."""
        source = self._read(reference)
        masks: list[InputImage] = []
        if asked.takes_alpha:

            def cut_out(data: bytes, max_bytes: int) -> InputImage:
                image, alpha = load_cutout(
                    data,
                    max_bytes=max_bytes,
                    max_pixels=self.settings.max_image_pixels,
                    budget=self.budget,
                )
                masks.append(alpha)
                return image

            image = source.decoded(cut_out)
        else:
            image = self._decoded(source, "RGB")
        masks += [self._load(mask, "L")[0] for mask in asked.images]
        # Before memory is taken for the mask: it may wait for a model to load.
        found = [
            self.models.find(
                image,
                area.words,
                threshold=area.threshold,
                pick=area.pick,
                for_demonstration=self.for_demonstration,
            )
            for area in asked.areas
            if area.words is not None
        ]
        size, canvas = Size(image.width, image.height), None
        if asked.outpainted is not None:
            canvas = larger_canvas(asked.outpainted, size, self.settings.max_image_pixels)
        drawn_on = size if canvas is None else canvas.size
        with self.budget.taken(BYTES_PER_PIXEL * drawn_on.pixels):
            if canvas is not None:
                notices = (canvas.notice, *image.notices)
                image = encode_image(extended(open_image(image), canvas), notices=notices)
            mask = _finished(request, asked, masks, found, size, canvas)
        return (
            Incoming(image, _plan_input(image, role, image_id=source.image_id)),
            Incoming(mask.image, _plan_input(mask.image, "mask"), mask),
        )

    def _load(self, reference: str, mode: Literal["RGB", "L"]) -> tuple[InputImage, str | None]:
        source = self._read(reference)
        return self._decoded(source, mode), source.image_id

    def _read(self, reference: str) -> _Source:
        parsed = parse_reference(reference, self.access)
        match parsed:
            case GalleryReference() | LatestReference():
                found = self.stored[parsed]
                data = self.files.read(found.file)
                # It was admitted before: as a PNG it may be larger than the JPEG that came.
                return _Source(data, len(data), found.image_id, found.notice, found.changes)
            case DataReference(data=data):
                return _Source(data, self.settings.max_image_bytes)
            case PathReference(path=path):
                return self._file(path)
        if parsed not in self.changing:
            self.changing[parsed] = (
                self._newest(parsed.folder)
                if isinstance(parsed, NewestReference)
                else self._pasted()
            )
        return self.changing[parsed]

    def _file(self, path: Path) -> _Source:
        max_bytes = self.settings.max_image_bytes
        try:
            return _Source(read_path(path, self.access.readable_dirs, max_bytes), max_bytes)
        except PathNotAllowedError as error:
            if not self.access.is_here:
                raise
            hint = f"{error.hint} {other_ways(self.access)}"
            raise PathNotAllowedError(error.message, hint) from error

    def _newest(self, folder: str) -> _Source:
        max_bytes = self.settings.max_image_bytes
        newest = read_newest(folder, self.access, max_bytes)
        return _Source(newest.data, max_bytes, notice=newest.told(folder))

    def _pasted(self) -> _Source:
        pasted = read_clipboard(self.settings.max_image_pixels)
        if pasted.png is not None:
            told = f"clipboard is an image of {pasted.width}x{pasted.height}."
            # Pillow wrote this PNG: its pixels are what counts.
            return _Source(pasted.png, len(pasted.png), notice=told)
        if len(pasted.files) > 1:
            raise ClipboardError(
                f"The clipboard holds {len(pasted.files)} files.", "Copy one image and call again."
            )
        path = pasted.files[0]
        return replace(self._file(path), notice=f"clipboard is the file {path.name!r}.")

    def _decoded(self, source: _Source, mode: Literal["RGB", "L"]) -> InputImage:
        def decode(data: bytes, max_bytes: int) -> InputImage:
            return load_image(
                data,
                max_bytes=max_bytes,
                max_pixels=self.settings.max_image_pixels,
                mode=mode,
                budget=self.budget,
            )

        return source.decoded(decode)


def _finished(
    request: EditRequest | FillRequest,
    asked: Mask,
    masks: Iterable[InputImage],
    found: Iterable[FoundWords],
    size: Size,
    canvas: LargerCanvas | None,
) -> FinishedMask:
    """Return the mask of an image.

    Args:
        request: Says how it is finished.
        asked: Its shapes.
        masks: Its images, decoded.
        found: What its words find.
        size: Of the image.
        canvas: Where the image stands, if in a larger one.

    Raises:
        RequestError: a shape does not fit the image, or nothing is left to generate.
    """
    mask = Image.new("L", (size.width, size.height), 0)
    shapes: list[Rectangle] = []
    notices: list[str] = []
    for drawn in (one for area in asked.areas for one in draw_shapes(area, size)):
        mask = united(mask, drawn.mask)
        shapes.append(drawn.box)
        notices += drawn.notices
    for words in found:
        mask = united(mask, words.mask)
        shapes.append(words.box)
        notices.append(words.notice)
    is_painted = False
    for one in masks:
        scaled, told = scaled_mask(open_image(one), size)
        mask = united(mask, scaled)
        notices += (*one.notices, *told)
        is_painted = True
    if canvas is not None:
        if request.invert:
            raise InvalidRequestError(
                "invert would keep the margin of outpaint, where there is nothing yet.",
                "Leave invert out.",
            )
        mask = placed(mask, canvas)
        shapes += canvas.strips
    feather_px = request.feather_px
    if feather_px is None:
        feather_px = 0 if is_painted else default_feather_px(shapes)
        notices += [soft_edge_notice(feather_px)] if feather_px else []
    finished = finish_mask(
        mask, grow_px=request.grow_px, invert=request.invert, feather_px=feather_px
    )
    image = replace(finished.image, notices=(finished.notice, *notices))
    return replace(finished, image=image)


def _edges(image: Image.Image, request: StructuralRequest) -> InputImage:
    """Return the edges of an image that has the size they are drawn at."""
    edges = canny(image, request.canny_low, request.canny_high)
    low, high = edges.thresholds.low, edges.thresholds.high
    is_chosen = request.canny_low is None and request.canny_high is None
    with_ = f"canny_low {low} and canny_high {high}" + (", chosen for it" if is_chosen else "")
    told = f"Edges are {edges.share:.1%} of the image, with {with_}."
    if edges.share == 0:
        told = (
            f"The image has no edges with {with_}: nothing of it is followed. A smaller canny_high "
            "finds fainter ones."
        )
    return encode_image(edges.image, notices=(told,))


def _small(png: bytes, limits: OverlayLimits) -> bytes:
    from flux_mcp.gallery.previews import fitted_webp  # noqa: PLC0415 - as above

    image = open_png(png)
    # Lines of one pixel grow fainter, and stay whole.
    image.thumbnail((limits.longest_px, limits.longest_px), Image.Resampling.BOX)
    return fitted_webp(image, limits.max_bytes)


def _plan_input(
    image: InputImage, role: InputRole, weight: float = 1.0, image_id: str | None = None
) -> PlanInput:
    return PlanInput(
        role=role,
        sha256=image.sha256,
        width=image.width,
        height=image.height,
        weight=weight,
        image_id=image_id,
    )
