"""What a real server writes to stderr: every move of a job, and nothing a user wrote.

Its worker is a light one: what a worker says goes into a file of its own.
"""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from mcp.shared.exceptions import MCPError

from .calls import FAST, SLOW, call, draws, is_final, job, job_until
from .light import light_worker
from .observed import Observed, Start, starter

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform == "win32", reason="kills are POSIX here"),
]

MARKER = "zanzibarquartz"
IMAGE = "data:image/png;base64,emFuemliYXJxdWFydHo="


LIGHT = light_worker(holds=True)


@pytest.fixture
def start(tmp_path: Path) -> Start:
    return starter(tmp_path)


async def live_through_everything(server: Observed) -> dict[str, str]:
    """Have a job drawn, one cancelled while drawing, one lose its worker; be refused a lot."""
    client = server.client
    drawn = await job(
        client, "flux_generate", **{**FAST, "prompt": f"a {MARKER} circle"}, wait_s=200
    )
    for tool, arguments in (
        ("flux_generate", {"prompt": MARKER, MARKER: 1}),
        ("flux_generate", {"prompt": MARKER, "width": MARKER, "height": MARKER}),
        ("flux_generate", {"prompt": MARKER, "model": MARKER}),
        ("flux_edit", {"prompt": MARKER, "images": [f"/pictures/{MARKER}.png"]}),
        ("flux_edit", {"prompt": MARKER, "images": [IMAGE]}),
        ("flux_get_job", {"job_id": MARKER}),
        ("flux_search_gallery", {"query": MARKER, "cursor": MARKER}),
    ):
        refused = await call(client, tool, **arguments)
        assert refused.is_error
    with pytest.raises(MCPError):
        await client.get_prompt("micro-shapes", {"subject": MARKER, MARKER: "1"})
    slow = {**SLOW, "prompt": MARKER, "negative_prompt": MARKER}
    lost = await job(client, "flux_generate", **slow, wait_s=0)
    await job_until(client, lost.job_id or "", draws)
    server.worker().kill()
    # Its second attempt: the new worker has to be there before it is asked to stop.
    await job_until(client, lost.job_id or "", lambda _: server.said("job started") == 3)
    await job_until(client, lost.job_id or "", draws)
    await call(client, "flux_cancel_job", job_id=lost.job_id)
    await job_until(client, lost.job_id or "", is_final)
    return {"drawn": drawn.job_id or "", "lost": lost.job_id or ""}


def words_of(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    assert MARKER not in text
    assert IMAGE[-16:] not in text
    assert "Traceback" not in text
    return text


async def test_json_lines_name_every_move_of_a_job_and_no_word_of_a_user(start: Start) -> None:
    async with start(FLUX_MCP_LOG_FORMAT="json", **LIGHT) as server:
        ids = await live_through_everything(server)
    words_of(server.log)
    lines: list[dict[str, Any]] = [json.loads(line) for line in server.lines()]
    assert all({"ts", "level", "logger", "message"} <= set(line) for line in lines)
    assert all(line["ts"].endswith("Z") for line in lines)

    serving = lines[0]
    assert (serving["message"], serving["transport"]) == ("serving", "stdio")
    assert serving["data_dir"]
    assert serving["version"]

    drawn = [line for line in lines if line.get("job_id") == ids["drawn"]]
    assert [line["message"] for line in drawn] == [
        "job submitted",
        "job started",
        "worker started",
        "job completed",
        "tool call ended",
    ]
    submitted, started, _, completed, answered = drawn
    assert submitted["tool"] == "flux_generate"
    assert all((line["kind"], line["model"]) == ("text2img", "micro") for line in drawn[:4])
    assert (started["attempt"], completed["images"]) == (1, 1)
    assert {"wait_s", "load_s", "draw_s"} <= set(completed)
    assert (answered["tool"], answered["code"]) == ("flux_generate", "ok")
    assert answered["seconds"] > 0
    assert answered["request_id"]

    codes = [line["code"] for line in lines if line["message"] == "tool call ended"]
    assert {
        *("invalid_request", "invalid_size", "unknown_model", "path_not_allowed"),
        *("invalid_image", "unknown_job", "invalid_cursor"),
    } <= set(codes)

    lost = [line["message"] for line in lines if line.get("job_id") == ids["lost"]]
    assert [message for message in lost if message.startswith("job")] == [
        "job submitted",
        "job started",
        "job lost its worker",
        "job started",
        "job cancelled",
    ]
    said = [line["message"] for line in lines]
    assert said.count("worker started") == 2
    assert "worker ended" in said


async def test_lines_for_people_say_the_same_without_colour_in_a_file(start: Start) -> None:
    async with start(**LIGHT) as server:
        ids = await live_through_everything(server)
    text = words_of(server.log)
    assert "\x1b" not in text
    completed = next(line for line in server.lines() if "job completed" in line)
    assert f"job_id={ids['drawn']} kind=text2img model=micro attempt=1" in completed
    assert any(
        "tool call ended" in line and "tool=flux_edit" in line and "code=path_not_allowed" in line
        for line in server.lines()
    )


@pytest.mark.torture  # as test_processes.py says of a real worker
async def test_from_warnings_on_a_server_that_does_well_says_nothing(start: Start) -> None:
    async with start(FLUX_MCP_LOG_LEVEL="warning", **LIGHT) as server:
        await job(server.client, "flux_generate", **FAST, wait_s=200)
    assert server.lines() == []
