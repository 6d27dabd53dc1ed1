"""docs/clients/content.md: what some clients are sent, from the server's clients.toml."""

from typing import Any

from flux_mcp.server.calls import CAPTION_WAIT_S
from flux_mcp.server.clients import Row, known_clients
from flux_mcp.server.results import MAX_PREVIEWS
from flux_mcp.settings.settings import Settings
from reference.markdown import NOTE, page, table

_SETTINGS = ("links", "structured", "preview", "preview_bytes", "preview_pixels")


def content_page() -> str:
    """Return what clients are sent, and how to change it."""
    rows = ((row.name, _who(row), _different(row), row.source) for row in known_clients())
    fields = Settings.model_fields
    settings = (
        (f"`{name}`", f"`FLUX_MCP_{name.upper()}`", fields[name].description or "")
        for name in _SETTINGS
    )
    lines = [
        NOTE,
        "# What clients are sent",
        (
            "Every client is sent a text with every fact, a preview of 512 px, a link to each "
            "full PNG and structured content ([tools.md](../tools.md#what-an-answer-holds)). Some "
            "clients refuse a part, or hand it to their model in a form that does harm. What such "
            "a client is sent depends on the revision of the protocol that it speaks, and on the "
            "name it gives itself (`clientInfo.name`)."
        ),
        table("client", "known by", "is sent", "known from", rows=rows),
        (
            "An image that is not shown is not lost: the text has its id, its URI and, for the "
            "owner, its file; also its main colours and, after `flux-mcp models pull "
            "florence-2-base`, a sentence about what it shows (a model's guess, made on the CPU, "
            f"for jobs of at most {MAX_PREVIEWS} images). Such a sentence takes seconds: an answer "
            f"waits {CAPTION_WAIT_S:g} s for it, and flux_get_job tells it when it is there. Where "
            "a client is sent no structured content, its tools have no output schema: the SDKs of "
            "clients refuse a result without structured content of a tool that has one."
        ),
        "## The name `mcp`",
        (
            "The Python SDK calls itself `mcp` where the program that uses it gives no name. Most "
            "frameworks give none, and the server cannot tell them apart: some end a call after "
            "5 seconds, some give the base64 of an image to their model as text, 24,000 to 39,000 "
            "tokens each, and some show it. All of them are sent what does none of them harm. If "
            "yours shows images to its model (openai-agents does), set `preview` to `small` in "
            "the environment of the server it starts, or let its model ask for `preview` in the "
            "call. LangChain's adapters do as well, and can give a name of their own: "
            '`"session_kwargs": {"client_info": Implementation(name="langchain", version="1")}` '
            "in the connection. Any other program gives `client_info` to `ClientSession` or "
            "`Client`."
        ),
        "## Settings",
        "A value other than `auto` is for every client; an argument `preview` wins over both.",
        table("setting", "in the environment", "what it decides", rows=settings),
    ]
    return page(lines)


def _who(row: Row) -> str:
    name = "any name" if row.client_info is None else f"`{row.client_info}`"
    return name if row.below is None else f"{name}, before {row.below}"


def _different(row: Row) -> str:
    words = [_in_words(key, value) for key, value in row.different.items()]
    return "; ".join(words) or "everything"


def _in_words(key: str, value: Any) -> str:  # noqa: PLR0911 - one for each field
    match key, value:
        case "wait_s", seconds:
            return f"an answer after at most {seconds} s, with the job's id if it is not finished"
        case "poll_s", seconds:
            return f"of flux_get_job after at most {seconds} s"
        case "preview", "none":
            return "no preview"
        case "preview_bytes", size:
            return f"previews of {size:,} bytes together"
        case "preview_pixels", pixels:
            return f"previews of {pixels:,} pixels together"
        case "preview", size:
            return f"a preview of the size {size}"
        case "links", False:
            return "no links"
        case "structured", False:
            return "no structured content"
    raise ValueError(f"The page has no words for {key} = {value}.")
