"""What the model of a client asks for, one call after the other.

The model knows only what its client hands to it: it reads ids out of that, as a model would, and
does not make a call for which it never saw the id. Where a call ends without an image, it follows
the job whose id it was told; where it ends with an error, it makes the same call again, as models
do.
"""

import re
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any

IMAGE_ID = re.compile(r"\bimg_[\w-]{16}")
JOB_ID = re.compile(r"\bjob_[\w-]{16}")
MOST_TRIES = 3
"""Calls that a model makes again after an error, the first included."""
MOST_LOOKS = 5
"""Calls of flux_get_job for one job."""
FIRST: Mapping[str, Any] = {"prompt": "a circle of patches", "seed": 7, "width": 256, "height": 256}
SMALL: Mapping[str, Any] = {"width": 64, "height": 64}


@dataclass(frozen=True)
class Part:
    """A piece of what a model receives.

    Attributes:
        kind: "text", "image" (pixels that the model sees) or "other" (a block of another type).
        text: Its text; of others their JSON; of images their media type or URL.
    """

    kind: str
    text: str


@dataclass
class Turn:
    """One call of the model and everything that came back to it.

    Attributes:
        scene: What the call is for.
        tool: The tool, by our name.
        arguments: Its arguments.
        parts: What the model was sent after the call, in order; None until something was.
    """

    scene: str
    tool: str
    arguments: Mapping[str, Any]
    parts: list[Part] | None = field(default=None)

    @property
    def text(self) -> str:
        """All text that the model received, in one piece."""
        return "\n".join(part.text for part in self.parts or () if part.kind != "image")

    @property
    def has_image(self) -> bool:
        """Whether the model sees an image."""
        return any(part.kind == "image" for part in self.parts or ())


Conversation = Generator[Turn, Turn, None]


def image_call() -> Conversation:
    """One image, nothing else."""
    yield Turn("generate", "flux_generate", FIRST)


def every_call(slow_s: int) -> Conversation:
    """Generate, edit by id, search, a slow image, a cancel.

    The light worker understands the prompts: see "patient" in `tests/jobs/bad_worker.py`.

    Args:
        slow_s: How long the slow image takes.
    """
    made = yield Turn("generate", "flux_generate", FIRST)
    if image := IMAGE_ID.search(made.text):
        arguments = {"prompt": "make it green", "images": [image[0]], **SMALL}
        yield Turn("edit", "flux_edit", arguments)
    yield Turn("search", "flux_search_gallery", {})
    slow = {"prompt": f"take {slow_s} s for a slow circle", "seed": 8, **SMALL}
    yield from _until_there(Turn("slow", "flux_generate", slow))
    endless = {"prompt": "wait for an endless circle", "wait_s": 1, **SMALL}
    begun = yield Turn("begin", "flux_generate", endless)
    if job := JOB_ID.search(begun.text):
        yield Turn("cancel", "flux_cancel_job", {"job_id": job[0]})


def _until_there(call: Turn) -> Conversation:
    for _ in range(MOST_TRIES):
        answered = yield Turn(call.scene, call.tool, call.arguments)
        job = JOB_ID.search(answered.text)
        if IMAGE_ID.search(answered.text) or answered.has_image:
            return
        if job is None:
            continue
        for _ in range(MOST_LOOKS):
            looked = yield Turn(call.scene, "flux_get_job", {"job_id": job[0]})
            if IMAGE_ID.search(looked.text) or looked.has_image:
                return
        return
