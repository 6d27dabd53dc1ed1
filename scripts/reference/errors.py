"""docs/errors.md: the tree of errors with their codes, and the exit codes of commands."""

from collections.abc import Sequence

from flux_mcp import errors
from flux_mcp.cli import common
from reference.markdown import NOTE, page, table

RAISED_ITSELF = (errors.StorageError,)
"""Of the classes that have subclasses, those that are raised themselves."""


def errors_page() -> str:
    """Return the error tree with its codes, and the exit codes of the command line."""
    branches = errors.FluxMcpError.__subclasses__()
    lines = [
        NOTE,
        "# Errors",
        (
            "Every deliberate error is `[code] what is wrong. what to do.` "
            "The codes are stable; the wording may improve. "
            "Tools answer them as tool errors; a job that failed keeps its error as `code`, "
            "`message` and `hint`."
        ),
        *(_branch(branch) for branch in branches if branch.__subclasses__()),
        "## Others",
        _error_rows([branch for branch in branches if not branch.__subclasses__()]),
        "## Exit codes of the command line",
        table(
            "exit code",
            "when",
            rows=(
                ("0", "it was done"),
                (str(common.EXIT_ENGINE), "weights, worker, disk or database; or the job failed"),
                (str(common.EXIT_REQUEST), "the request, an argument or a setting is wrong"),
                (str(common.EXIT_BUSY), "the queue is full, or the job does not fit"),
                (str(common.EXIT_INTERRUPTED), "Ctrl-C"),
            ),
        ),
    ]
    return page(lines)


def _branch(branch: type[errors.FluxMcpError]) -> str:
    own = [branch] if branch in RAISED_ITSELF else []
    rows = _error_rows([*own, *branch.__subclasses__()])
    return f"## {branch.__name__}\n\n{_about(branch)}\n\n{rows}"


def _error_rows(classes: Sequence[type[errors.FluxMcpError]]) -> str:
    rows = ((f"`{one.code}`", f"`{one.__name__}`", _about(one)) for one in classes)
    return table("code", "class", "meaning", rows=rows)


def _about(one: type) -> str:
    return (one.__doc__ or "").strip().splitlines()[0]
