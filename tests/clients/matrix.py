"""docs/clients/matrix.md from the results of a run: python -m tests.clients.matrix."""

import datetime as dt
import json
from collections.abc import Mapping
from typing import Any

from tests.clients.install import HERE, client_rows

RESULTS = HERE / "results.json"
PAGE = HERE.parents[1] / "docs" / "clients" / "matrix.md"
_YES = {True: "yes", False: "no", None: ""}
_HEAD = """<!-- Written by `make clients` from tests/clients/results.json. -->

# What clients show their models

`make clients` runs each of these clients with `flux-mcp serve`, and records at the model's end what
the client sends there. The last run was on {date}.

Each makes the same calls: an image, an edit of it by its id, a search among more than twenty
images, an image that takes longer than the client waits, and a cancel. Everything goes over stdio;
one image also over HTTP. The worker draws patches of colour, so that the time of an image can be
chosen. A model that gets an error makes the same call again, at most twice; one that gets a job's
id asks flux_get_job.

Libraries without a model of their own ("none") show what they hand to their host, which may drop
parts of it.
"""


_IMAGE = """
## An image

What of the answer to flux_generate reaches the model. Tokens are those of its text, with OpenAI's
o200k_base; an image that the model sees costs more, by its provider's rules.
"""
_CALLS = """
## The other calls

An edit names the image by the id that the model read. The slow image takes longer than the client's
own limit, where it has one, and than the server waits for this client.
"""


def results_text(facts: list[dict[str, Any]]) -> str:
    """Return the text of results.json."""
    today = dt.datetime.now(tz=dt.UTC).date().isoformat()
    return json.dumps({"date": today, "clients": facts}, indent=1, ensure_ascii=False) + "\n"


def matrix_page(results: str) -> str:
    """Return the page.

    Args:
        results: The text of results.json.
    """
    read = json.loads(results)
    facts: list[dict[str, Any]] = read["clients"]
    titles = {row.id: row.title for row in client_rows()}
    parts = [
        _HEAD.format(date=read["date"]),
        "## The clients\n",
        _table(
            ("client", "version", "introduces itself as", "protocol", "model's API", "tools"),
            [
                (
                    titles[one["client"]],
                    one["version"],
                    f"`{one['client_info']}`",
                    one["protocol"],
                    one["model_api"],
                    f"{one['tools']}, {one['tool_tokens']:,} tokens",
                )
                for one in facts
            ],
        ),
        _IMAGE,
        _table(
            ("client", "image", "our text", "file's path", "structured", "link", "tokens", "HTTP"),
            [(titles[one["client"]], *_image(one["image"]), _over_http(one)) for one in facts],
        ),
        _CALLS,
        _table(
            ("client", "edit", "search: images, tokens", "limit", "slow image", "cancel"),
            [
                (
                    titles[one["client"]],
                    one["edit"],
                    f"{one['search']['images']}, {one['search']['tokens']:,}",
                    f"{one['limit_s']} s" if one["limit_s"] else "",
                    _slow(one["slow"]),
                    one["cancel"],
                )
                for one in facts
            ],
        ),
    ]
    lost = [f"* {titles[one['client']]}: {', '.join(_lost(one))}." for one in facts if _lost(one)]
    if lost:
        parts.append("\n## What is lost\n\n" + "\n".join(lost))
    return "\n".join(parts) + "\n"


def _table(head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")


def _image(image: Mapping[str, Any]) -> tuple[Any, ...]:
    if image["error"] is not None:
        return ("no", "no", "no", "no", "no", f"{image['tokens']:,}")
    return (
        image["pixels"],
        _YES[image["text"]],
        _YES[image["path"]],
        _YES[image["structured"]],
        image["link"],
        f"{image['tokens']:,}",
    )


def _over_http(one: Mapping[str, Any]) -> str:
    over_http = one["image_over_http"]
    if over_http is None:
        return "no call"
    differing = [
        name
        for name in ("pixels", "text", "path", "structured", "link")
        if over_http[name] != one["image"][name]
    ]
    if not differing:
        return "the same"
    return ", ".join(f"{name}: {_YES.get(over_http[name], over_http[name])}" for name in differing)


def _slow(slow: Mapping[str, Any]) -> str:
    calls = f"{slow['calls']} calls" if slow["calls"] != 1 else "1 call"
    jobs = f"{slow['jobs']} jobs" if slow["jobs"] != 1 else "1 job"
    end = "the image" if slow["gets_image"] else "**never the image**"
    if slow["first_answer"] != end:
        end = f"first {slow['first_answer']}, then {end}"
    return f"{slow['takes_s']} s: {end} ({calls}, {jobs})"


def _lost(one: Mapping[str, Any]) -> list[str]:
    image = one["image"]
    if one["tools"] == 0:
        return ["every tool"]
    if image["error"] is not None:
        return [f"the whole result; the model reads `{_cell(image['error'])}`"]
    lost = []
    if image["pixels"] == "no":
        lost.append("the image" + (", though not where it is" if image["path"] else ""))
    elif image["pixels"] != "yes":
        lost.append("the image, which is sent as text")
    if not image["text"]:
        lost.append("our text")
    if not image["structured"]:
        lost.append("structured content")
    if image["link"] == "as a broken image":
        lost.append("the link, which becomes an image without an address that a model can fetch")
    if one["slow"]["error"]:
        lost.append(f"the job of a slow image: the model reads `{_cell(one['slow']['error'])}`")
    return lost


def main() -> None:
    """Write the page from the stored results."""
    PAGE.write_text(matrix_page(RESULTS.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
