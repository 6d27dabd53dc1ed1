"""What do answers cost a model? Tokens of what it is shown: structured content, or the text.

Method: `flux-mcp serve` over stdio with a gallery of rows.py is asked as a model asks, without
previews. Counted are the structured content, as JSON without a space (Claude Code, for one, gives
its model that and no text), and the text (Codex, for one, is sent no structured content), with
o200k_base, the public tokenizer of OpenAI's models. Other tokenizers differ by a few percent; how
long prompts are makes more of a difference, so searches are counted with short and with long ones.

  short, long   a page of 20 with another after it, prompts of 90 and of 700 characters
  image         one finished image, by its id
  whole         the same as flux://jobs/{id} has it, with every key

The numbers do not depend on the machine, and hardly on the ids, which are random. It needs
`pip install bpe-openai`, which brings the tokenizer's table with it; no dependency of the project.

Unit: tokens; the ratio of a page to its target.
"""

import json
import secrets
from pathlib import Path
from typing import Any

from common import Result, flux_server, ratio, scratch, start_async, tokens
from mcp import Client
from mcp.types import TextContent, TextResourceContents
from rows import IMAGE, fill, records

from flux_mcp.gallery.store import new_image_id

PAGE = 20
PAGE_TOKENS = 1200
REPEATED = {"short": 1, "long": 8}
"""How often the words of a prompt of rows.py are said."""


async def measure(quick: bool) -> Result:
    """Ask once each; there is nothing to repeat."""
    result = Result("answers", quick, {"page": PAGE})
    with scratch() as folder:
        for name, times in REPEATED.items():
            data_dir = folder / name
            _fill(data_dir, times)
            async with flux_server(data_dir) as client:
                asked = {"limit": PAGE, "preview": "none"}
                found = await _counted(client, "flux_search_gallery", asked)
                _tell(result, name, found, PAGE_TOKENS)
        async with flux_server(folder / "drawn") as client:
            asked = {"prompt": "a red circle", "width": 64, "height": 64, "preview": "none"}
            drawn = await client.call_tool("flux_generate", {**asked, "seed": 7, "wait_s": 100})
            content = drawn.structured_content or {}
            image = {"job_id": content["images"][0]["id"], "preview": "none"}
            _tell(result, "image", await _counted(client, "flux_get_job", image))
            (job,) = (await client.read_resource(f"flux://jobs/{content['job_id']}")).contents
            if isinstance(job, TextResourceContents):
                _tell(result, "whole", {"structured": tokens(json.loads(job.text))})
    return result


def _fill(data_dir: Path, times: int) -> None:
    fill(
        data_dir,
        (
            row.model_copy(
                update={
                    "id": new_image_id(),
                    "model": "flux1-kontext-dev",
                    "seed": secrets.randbelow(2**32),
                    "prompt": " ".join([row.prompt] * times),
                    "width": 1024,
                    "height": 1024,
                }
            )
            for row in records(0, PAGE + 1, image=IMAGE)
        ),
    )


async def _counted(client: Client, tool: str, asked: dict[str, Any]) -> dict[str, int]:
    answered = await client.call_tool(tool, asked)
    said = [block.text for block in answered.content if isinstance(block, TextContent)]
    return {"structured": tokens(answered.structured_content), "text": tokens("\n".join(said))}


def _tell(result: Result, name: str, counts: dict[str, int], target: int | None = None) -> None:
    result.absolute[name] = counts
    for part, count in counts.items():
        goal = "" if target is None else f"at most {target:,}"
        if target is not None:
            result.ratios[f"{name}_{part}_of_target"] = ratio(count, target)
        result.line(f"{name}, {part}", f"{count:,} tokens", goal)


if __name__ == "__main__":
    start_async(__doc__, measure)
