"""Requests that look something up, or cancel it: the arguments of the tools that draw nothing."""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import Field

from flux_mcp.models.registry import Kind
from flux_mcp.requests.validation import (
    MAX_COUNT,
    MAX_SEED,
    MAX_WAIT_S,
    USUAL_POLL_S,
    MistakeError,
    Name,
    Real,
    Request,
    brief,
)


class SearchRequest(Request):
    """Find finished images."""

    query: str | None = Field(
        None,
        max_length=500,
        description="Words of the prompt; all must occur. Leave out for all.",
        json_schema_extra=brief("Words of the prompt; all must occur."),
    )
    kind: Kind | None = Field(
        None,
        description="text2img is flux_generate, kontext flux_edit, fill flux_fill, control "
        "flux_structural, redux flux_variation, img2img flux_variation with strength and "
        "flux_generate with refine_from.",
        json_schema_extra=brief(
            "Of flux_generate, flux_edit, flux_fill, flux_structural, flux_variation.",
            left_out="any",
        ),
    )
    model: str | None = Field(None, max_length=100, description="Model id.")
    session: str | None = Field(None, max_length=100, description="Name of a group of images.")
    seed: int | None = Field(
        None,
        ge=0,
        le=MAX_SEED + MAX_COUNT,
        description="Exact seed. Leave out, or -1, for any.",
        json_schema_extra=brief("Exact seed. -1: any.", left_out=-1),
    )
    created_after: str | None = Field(
        None,
        max_length=40,
        description="ISO 8601 date or time, UTC, inclusive.",
        json_schema_extra=brief("ISO 8601 date or time, UTC."),
    )
    created_before: str | None = Field(
        None,
        max_length=40,
        description="ISO 8601 date or time, UTC, exclusive.",
        json_schema_extra=brief("ISO 8601 date or time, UTC."),
    )
    limit: int = Field(20, ge=1, le=50, description="Most images in one answer.")
    cursor: str | None = Field(
        None,
        max_length=200,
        description="next_cursor of the answer before, for the next images.",
        json_schema_extra=brief("next_cursor of the answer before."),
    )
    preview: Literal["none", "small", "normal"] | None = Field(
        None,
        description="A contact sheet of the hits inside the result. Left out: small, or none where "
        "your program cannot show it.",
        json_schema_extra=brief("Contact sheet in the result.", left_out="auto"),
    )


class GetJobRequest(Request):
    """Look at one job, or at the queue."""

    job_id: Name | None = Field(
        None,
        description="Leave out to see the whole queue. The id of an image, for the job that made "
        "it, and the id of a download of weights work too.",
        json_schema_extra=brief(
            "Id of a job, of an image it made, or of a download of weights. Left out: the queue."
        ),
    )
    wait_s: Real | None = Field(
        None,
        ge=0,
        le=MAX_WAIT_S,
        description="Longest wait in seconds for the job to finish. Leave out, or -1, for "
        f"{USUAL_POLL_S} seconds, and fewer for a client that is known to end its calls sooner.",
        json_schema_extra=brief("Longest wait in seconds for its end. -1: automatic.", left_out=-1),
    )
    preview: Literal["none", "small", "normal"] | None = Field(
        None,
        description="Preview image inside the result: none, 512 px or 1024 px. Left out: small, or "
        "none where your program cannot show it.",
        json_schema_extra=brief("small 512 px, normal 1024 px.", left_out="auto"),
    )


class CancelJobRequest(Request):
    """Cancel one job, or all of a session."""

    job_id: Name | None = Field(
        None,
        description="The job, or download of weights, to cancel. Not with session.",
        json_schema_extra=brief("Id of a job or of a download of weights."),
    )
    session: Name | None = Field(None, description="Instead: every unfinished job of this session.")

    @classmethod
    def contradictions(cls, given: Mapping[str, Any]) -> Iterator[MistakeError]:
        """Yield that it is given both ways, or neither."""
        if ("job_id" in given) == ("session" in given):
            yield MistakeError(
                "give exactly one of job_id and session",
                "flux_get_job without an id lists the jobs that can be cancelled.",
            )
