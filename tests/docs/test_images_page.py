"""docs/images.md: every tool call and every command is carried out, and both plan the same."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from flux_mcp.requests.lookups import CancelJobRequest, SearchRequest
from flux_mcp.requests.schemas import DRAW_REQUESTS
from flux_mcp.requests.validation import Request, parse_request
from flux_mcp.service.service import Service
from flux_mcp.settings.settings import Settings
from tests.cli.processes import Cli
from tests.e2e.light import light_worker

PAGE = Path(__file__).parents[2] / "docs" / "images.md"
TOOLS = {request.tool: request for request in DRAW_REQUESTS.values()}
LOOKUPS: dict[str, type[Request]] = {
    "flux_search_gallery": SearchRequest,
    "flux_cancel_job": CancelJobRequest,
}
BLOCK = re.compile(r"```(json|sh)\n(.*?)\n```", re.DOTALL)


def test_each_thing_is_the_same_as_a_tool_call_and_as_a_command(
    tmp_path: Path, weights_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cli, folder = Cli(tmp_path / "data", weights_dir), tmp_path / "pictures"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for name, turned in (("car", 0), ("house", 90)):
        picture = Image.linear_gradient("L").rotate(turned).resize((96, 96)).convert("RGB")
        picture.save(f"{name}.png")
    Path("animals.txt").write_text("a red fox in the snow\na grey owl at night\n")
    drawn = cli.process(
        "generate", "a bicycle", "--steps", "2", "--json", **light_worker(holds=False)
    )
    assert drawn.code == 0, drawn.err
    found = drawn.json["images"][0]["id"]
    text = PAGE.read_text(encoding="utf-8").replace("img_FOUND", found)
    parts = text.replace("/pictures/", f"{folder}/").split("\n## ")[1:]
    things = [part for part in parts if part[0].isdigit()]
    assert len(things) == 10
    calls, planned = [], []
    for thing in things:
        blocks = BLOCK.findall(thing)
        assert {kind for kind, _ in blocks} == {"json", "sh"}, thing
        calls += [json.loads(block) for kind, block in blocks if kind == "json"]
        for words in (shlex.split(block)[1:] for kind, block in blocks if kind == "sh"):
            is_drawn = words[0] in ("generate", "edit", "fill", "vary", "structure")
            more = ["--dry-run"] if is_drawn and "--dry-run" not in words else []
            ended = cli(*words, *more, "--json")
            assert ended.code == 0, (words, ended.err)
            if is_drawn:
                planned += ended.json.get("plans", [ended.json])
            elif words[0] == "gallery":
                assert [image["id"] for image in ended.json["images"]] == [found]

    async def plans_of_calls(_: Service) -> list[Any]:
        settings = Settings(data_dir=cli.data_dir, weights_dir=weights_dir, allowed_dirs=[folder])
        service, plans = Service(settings, executes=False), []
        await service.open()
        try:
            for call in calls:
                if call["tool"] in TOOLS:
                    request = parse_request(TOOLS[call["tool"]], call["arguments"])
                    plans.append((await service.dry_run(request)).model_dump(mode="json"))
                else:
                    parse_request(LOOKUPS[call["tool"]], call["arguments"])
        finally:
            await service.close()
        return plans

    plans = cli.prepare(plans_of_calls)
    assert [one["plan"] for one in planned] == [one["plan"] for one in plans]
