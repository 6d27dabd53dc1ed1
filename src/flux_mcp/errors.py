"""Every deliberate error, as one tree. docs/errors.md lists it with all codes.

FluxMcpError(code, message, hint)
├── RequestError       the caller can fix the request
├── CapacityError      the caller can wait or ask for less
├── EngineError        weights, driver or worker; the operator acts
├── AccessError        a request over HTTP was refused
├── StartError         the server cannot start; the operator acts
├── JobCancelledError  cancelled on request; not a failure
├── StorageError       the disk or the database failed
└── InternalError      an unexpected state, which is a bug

`code` is the stable contract; the wording is free to improve. An exception outside this tree is a
bug, and is reported as `internal`.
"""

import struct
import zlib
from collections.abc import Collection, Sequence
from difflib import SequenceMatcher
from typing import ClassVar


class FluxMcpError(Exception):
    """Base of every deliberate error: what is wrong, and what to do instead.

    Args:
        message: One sentence that says what is wrong.
        hint: One sentence that says what to do instead; may be empty.
    """

    code: ClassVar[str] = "internal"

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        """Return `[code] what is wrong. what to do.`, the form that every caller sees."""
        return f"[{self.code}] {self.message} {self.hint}".rstrip()


# --- the request ---------------------------------------------------------------------------------


class RequestError(FluxMcpError):
    """The caller can fix the request."""

    code = "invalid_request"


class InvalidRequestError(RequestError):
    """An argument has the wrong type, range or name."""


class InvalidSizeError(RequestError):
    """The model cannot generate this width, height, aspect ratio or number of pixels."""

    code = "invalid_size"


class PromptTooLongError(RequestError):
    """The prompt has more characters than a plan may hold."""

    code = "prompt_too_long"


class UnsupportedOptionError(RequestError):
    """The model cannot do what this option asks."""

    code = "unsupported_option"


class NothingFoundError(RequestError):
    """The words of a mask are not found in the image, or not as many times as picked."""

    code = "nothing_found"


class UnknownModelError(RequestError):
    """No registry row of this kind has that id."""

    code = "unknown_model"


class UnknownPackError(RequestError):
    """No prompt pack has that name."""

    code = "unknown_pack"


class InvalidPackError(RequestError):
    """A prompt pack's files are wrong, so it is out of use until they are fixed.

    Args:
        message: As in the base class.
        hint: As in the base class.
        problems: Everything that is wrong with it; each has a `str()` for people.
    """

    code = "invalid_pack"

    def __init__(self, message: str, hint: str = "", *, problems: Sequence[object] = ()) -> None:
        super().__init__(message, hint)
        self.problems = tuple(problems)


class UnknownLoraError(RequestError):
    """No LoRA has that name."""

    code = "unknown_lora"


class InvalidLoraError(RequestError):
    """A LoRA file cannot be used: damaged, of a kind that is not supported, or a pickle."""

    code = "invalid_lora"


class LoraMismatchError(RequestError):
    """A LoRA is made for another family of models, or for a model of another size."""

    code = "lora_mismatch"


class PromptRefusedError(RequestError):
    """The prompt asks for what its pack forbids.

    Args:
        message: As in the base class.
        hint: As in the base class.
        findings: What the audit found, in the order of the prompt.
    """

    code = "prompt_refused"

    def __init__(self, message: str, hint: str = "", *, findings: Sequence[object] = ()) -> None:
        super().__init__(message, hint)
        self.findings = tuple(findings)


class UnknownJobError(RequestError):
    """No job has that id."""

    code = "unknown_job"


class UnknownImageError(RequestError):
    """No gallery image has that id."""

    code = "unknown_image"


class InvalidImageError(RequestError):
    """An image that came in cannot be used: unreadable, truncated, wrong type, too large."""

    code = "invalid_image"


class PathNotAllowedError(RequestError):
    """A path lies outside the folders images may be read from."""

    code = "path_not_allowed"


class ImageWantedError(RequestError):
    """The call waits for an image that the user has not given yet; the hint has the page for it."""

    code = "image_wanted"


class ClipboardError(RequestError):
    """The clipboard cannot be read: turned off, not the caller's, empty, or without a program."""

    code = "clipboard"


class InvalidCursorError(RequestError):
    """A search cursor was not issued by this gallery."""

    code = "invalid_cursor"


class InvalidClientFileError(RequestError):
    """An MCP client's configuration file cannot be read, so it is not changed."""

    code = "invalid_client_file"


class EntryConflictError(RequestError):
    """An MCP client's configuration file has another entry under our name."""

    code = "entry_conflict"


class IdempotencyConflictError(RequestError):
    """The idempotency key was used before, for another request."""

    code = "idempotency_conflict"


class SettingsFileError(RequestError):
    """A configuration file cannot be used: missing, unreadable, not TOML, or open to others."""

    code = "invalid_settings"


# --- capacity ------------------------------------------------------------------------------------


class CapacityError(FluxMcpError):
    """The caller can wait, or ask for less."""

    code = "busy"


class QueueFullError(CapacityError):
    """The queue holds as many jobs as it may."""

    code = "queue_full"


class OutOfMemoryError(CapacityError):
    """The job does not fit into the device's memory."""

    code = "out_of_memory"


class DownloadRunningError(CapacityError):
    """Another process downloads or removes weights in this data folder."""

    code = "download_running"


class TooLittleMemoryError(CapacityError):
    """No model that the settings allow fits into the memory of the GPU and the host."""

    code = "too_little_memory"


# --- engine --------------------------------------------------------------------------------------


class EngineError(FluxMcpError):
    """Weights, driver or worker; the operator acts."""

    code = "engine"


class WeightsMissingError(EngineError):
    """The model's weights are not on this disk."""

    code = "weights_missing"


class WeightsInvalidError(EngineError):
    """The files on disk are not what the registry expects."""

    code = "weights_invalid"


class GatedModelError(EngineError):
    """The repository is gated: the licence is not accepted, or there is no token to prove it."""

    code = "gated"


class HubError(EngineError):
    """The hub cannot be reached, the connection broke repeatedly, or it has no such file."""

    code = "hub"


class DownloadLostError(EngineError):
    """The process of a download was killed; what it received is kept."""

    code = "download_lost"


class EngineUnavailableError(EngineError):
    """Torch or diffusers cannot be used on this machine."""

    code = "engine_unavailable"


class ExtraMissingError(EngineError):
    """The format of the weights needs an extra of this package; the hint is the line for pip."""

    code = "extra_missing"


class FormatUnsupportedError(EngineError):
    """Weights cannot be loaded in this precision on this device, or not for this part."""

    code = "format_unsupported"


class WorkerLostError(EngineError):
    """The worker process died on this job as often as it may be retried."""

    code = "worker_lost"


class TracingUnavailableError(EngineError):
    """Traces are to be exported, but the packages for it are not installed."""

    code = "tracing_unavailable"


# --- access over HTTP ----------------------------------------------------------------------------


class AccessError(FluxMcpError):
    """A request over HTTP was refused."""

    code = "access"
    http_status: ClassVar[int] = 403
    headers: ClassVar[tuple[tuple[str, str], ...]] = ()
    """Headers of the answer."""


class HostRefusedError(AccessError):
    """The request was sent to a host name that this server does not accept."""

    code = "host_refused"
    http_status = 421


class OriginRefusedError(AccessError):
    """The request was sent by a web page of an origin that is not allowed."""

    code = "origin_refused"


class UnauthorizedError(AccessError):
    """The request has no token, more than one, or an unknown one."""

    code = "unauthorized"
    http_status = 401
    # Without resource_metadata: there is no OAuth server a client could be sent to.
    headers = (("www-authenticate", 'Bearer realm="flux-mcp"'),)


class RateLimitedError(AccessError):
    """The caller sent more requests in a minute than it may."""

    code = "rate_limited"
    http_status = 429
    headers = (("retry-after", "5"),)


class TooManyOpenError(AccessError):
    """The caller has as many requests open as it may."""

    code = "too_many_open"
    http_status = 429
    headers = (("retry-after", "1"),)


class TooManySessionsError(AccessError):
    """The caller has as many sessions as it may, or the server has, and each is being used."""

    code = "too_many_sessions"
    http_status = 429
    headers = (("retry-after", "5"),)


class BodyTimeoutError(AccessError):
    """The body of a request did not come in time."""

    code = "request_timeout"
    http_status = 408


class BodyTooLargeError(AccessError):
    """The body of a request is larger than it may be."""

    code = "too_large"
    http_status = 413


class MediaTypeError(AccessError):
    """What is uploaded is said to be something else than an image."""

    code = "unsupported_media_type"
    http_status = 415


class BodiesFullError(AccessError):
    """The bodies of open requests hold as much memory as they may."""

    code = "bodies_full"
    http_status = 503
    headers = (("retry-after", "5"),)


# --- start ---------------------------------------------------------------------------------------


class StartError(FluxMcpError):
    """The server cannot start; the operator acts."""

    code = "start"


class TokenFileError(StartError):
    """The file of tokens cannot be read or written, or has a line that is not a token."""

    code = "token_file"


class AddressError(StartError):
    """The server cannot listen on the address."""

    code = "address"


# --- others --------------------------------------------------------------------------------------


class JobCancelledError(FluxMcpError):
    """The job was cancelled on request; not a failure."""

    code = "cancelled"


class StorageError(FluxMcpError):
    """The disk or the database failed."""

    code = "storage"


class DatabaseUnavailableError(StorageError):
    """The database does not answer at the moment: locked, out of space, or out of reach."""


class InternalError(FluxMcpError):
    """An unexpected state inside flux-mcp, which is a bug."""


def error_of_code(code: str, message: str, hint: str = "") -> FluxMcpError:
    """Return an error that another process has told, to be raised here.

    It has the most general class with its code; what has a code of no class is internal.
    """
    classes: list[type[FluxMcpError]] = [FluxMcpError]
    for one in classes:  # grows while it is looked through: the general before the special
        if one.code == code and one is not FluxMcpError:
            return one(message, hint)
        classes += one.__subclasses__()
    return InternalError(message, hint)


# --- errors of others ----------------------------------------------------------------------------

PILLOW_ERRORS: tuple[type[Exception], ...] = (
    OSError,
    EOFError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    MemoryError,
    RuntimeError,
    struct.error,
    zlib.error,
)
"""What Pillow's readers raise on hostile or broken bytes."""


# --- hints ---------------------------------------------------------------------------------------

_ALIKE = 0.74
"""Least share of letters that a slip keeps: `sede` has it of `seed`, `weights` not of `height`
once the first letter must be the same."""
_LEAST_PREFIX = 4
"""Letters from which on the beginning of a name stands for all of it."""


def nearest_name(name: str, known: Collection[str]) -> str | None:
    """Return the known name that another one may be a slip of; `None` where none is near.

    Not merely the likest: a wrong proposal sends a caller astray.
    """
    lower = name.lower().replace("-", "_")
    begins = [one for one in known if _begins(lower, one) or _begins(one, lower)]
    if begins:
        return min(begins, key=lambda one: abs(len(one) - len(lower)))
    alike = {
        one: SequenceMatcher(None, lower, one.lower()).ratio()
        for one in known
        if one[:1].lower() == lower[:1]
    }
    best = max(alike, key=alike.__getitem__, default=None)
    return best if best is not None and alike[best] >= _ALIKE else None


def _begins(short: str, long: str) -> bool:
    """Whether `width` is meant by `width_px`, or `aspect_ratio` by `aspect`."""
    return len(short) >= _LEAST_PREFIX and long.lower().startswith(f"{short.lower()}_")
