"""One pydantic model for each request that draws nothing: search, look at a job, cancel."""

from typing import Literal

from pydantic import Field, model_validator

from flux_mcp.models.registry import Kind
from flux_mcp.requests.fields import (
    MAX_COUNT,
    MAX_SEED,
    MAX_WAIT_S,
    MistakeError,
    Name,
    Real,
    Request,
)


class SearchRequest(Request):
    """Find finished pictures."""

    query: str | None = Field(
        None, max_length=500, description="Words of the prompt; all must occur. Leave out for all."
    )
    kind: Kind | None = Field(
        None,
        description="text2img is flux_generate, kontext flux_edit, fill flux_fill, control "
        "flux_structural, redux flux_variation.",
    )
    model: str | None = Field(None, max_length=100, description="Model id.")
    session: str | None = Field(None, max_length=100, description="Name of an exploration.")
    seed: int | None = Field(None, ge=0, le=MAX_SEED + MAX_COUNT, description="Exact seed.")
    created_after: str | None = Field(
        None, max_length=40, description="ISO 8601 date or time, UTC, inclusive."
    )
    created_before: str | None = Field(
        None, max_length=40, description="ISO 8601 date or time, UTC, exclusive."
    )
    limit: int = Field(20, ge=1, le=50, description="Rows in one answer.")
    cursor: str | None = Field(
        None, max_length=200, description="next_cursor of the answer before, for the next rows."
    )
    preview: Literal["none", "small", "normal"] = Field(
        "small", description="A contact sheet of the hits inside the result."
    )


class GetJobRequest(Request):
    """Look at one job, or at the queue."""

    job_id: Name | None = Field(
        None,
        description="Leave out to see the whole queue. The id of a download of weights works too.",
    )
    wait_s: Real = Field(
        20, ge=0, le=MAX_WAIT_S, description="Longest wait in seconds for the job to finish."
    )
    preview: Literal["none", "small", "normal"] = Field(
        "small", description="Preview picture inside the result."
    )


class CancelJobRequest(Request):
    """Cancel one job, or all of a session."""

    job_id: Name | None = Field(
        None, description="The job, or download of weights, to cancel. Not with session."
    )
    session: Name | None = Field(None, description="Cancel every unfinished job of it.")

    @model_validator(mode="after")
    def _is_given_one_way(self) -> "CancelJobRequest":
        if (self.job_id is None) == (self.session is None):
            raise MistakeError(
                "give exactly one of job_id and session",
                "flux_get_job without an id lists the jobs that can be cancelled.",
            )
        return self
