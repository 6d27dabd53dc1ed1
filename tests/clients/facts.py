"""From a run of a client to the facts of the matrix: what its model saw, what came of its calls."""

import json
import re
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

from tests.clients.conversation import IMAGE_ID, JOB_ID, Turn
from tests.clients.driving import Run, node
from tests.clients.install import HERE, ClientRow, pinned_version

Facts = dict[str, Any]
APIS = {
    "/neutral": "none",
    "/messages": "Anthropic messages",
    "/responses": "OpenAI responses",
    "/chat/completions": "OpenAI chat",
    "enerateContent": "Gemini",
}
_PATH = re.compile(r"images/\d{4}/\d\d/img_[\w-]{16}\.png")
_META = "io.modelcontextprotocol/"
_BASE64_BEGIN = 60
"""Characters of an image's data by which it is found in a text."""
_ERROR = 120
"""Characters of an error that are kept."""
_COUNT = """
import { countTokens } from "gpt-tokenizer/encoding/o200k_base";
let text = "";
process.stdin.setEncoding("utf8");
for await (const piece of process.stdin) text += piece;
console.log(JSON.stringify(JSON.parse(text).map((one) => countTokens(one))));
"""


def count_tokens(texts: Sequence[str]) -> list[int]:
    """Return the tokens of texts with OpenAI's o200k_base; an image counts for nothing here."""
    counted = subprocess.run(
        [node(), "--input-type=module", "--eval", _COUNT],
        input=json.dumps(list(texts)),
        capture_output=True,
        check=True,
        encoding="utf-8",
        cwd=HERE,
    )
    numbers: list[int] = json.loads(counted.stdout)
    return numbers


def facts_of(row: ClientRow, stdio: Run, http: Run) -> Facts:
    """Return everything the matrix says about a client."""
    answers = _answers(stdio)
    scenes: dict[str, list[tuple[Turn, Facts | None]]] = {}
    for turn, answer in zip(stdio.recorder.turns, answers, strict=False):
        scenes.setdefault(turn.scene, []).append((turn, answer))
    over_http = [(turn, None) for turn in http.recorder.turns]
    tools = json.dumps(list(stdio.recorder.tools.values()), ensure_ascii=False)
    generated, searched = _first(scenes, "generate"), _first(scenes, "search")
    texts = [tools, generated[0].text, searched[0].text]
    tool_tokens, image_tokens, search_tokens = count_tokens(texts)
    return {
        "client": row.id,
        "version": pinned_version(row),
        **_introduction(stdio),
        "model_api": _api(stdio),
        "limit_s": row.limit_s,
        "tools": len(stdio.recorder.tools),
        "tool_tokens": tool_tokens,
        "image": {**_seen(*generated), "tokens": image_tokens},
        "image_over_http": _seen(*over_http[0]) if over_http else None,
        "edit": _edit(scenes),
        "search": {**_found(*searched), "tokens": search_tokens},
        "slow": _slow(row, scenes, stdio),
        "cancel": _cancel(scenes, stdio),
    }


def _first(
    scenes: Mapping[str, list[tuple[Turn, Facts | None]]], scene: str
) -> tuple[Turn, Facts | None]:
    return scenes.get(scene, [(Turn(scene, "", {}), None)])[0]


def _introduction(run: Run) -> Facts:
    """Return how the client introduced itself."""
    for sender, message in run.lines:
        params = message.get("params") or {}
        meta = params.get("_meta") or {}
        if sender != "client":
            continue
        if message.get("method") == "initialize":
            asked, info = params["protocolVersion"], params["clientInfo"]
            capabilities = params["capabilities"]
        elif f"{_META}clientInfo" in meta:
            asked, info = meta[f"{_META}protocolVersion"], meta[f"{_META}clientInfo"]
            capabilities = meta[f"{_META}clientCapabilities"]
        else:
            continue
        return {
            "protocol": asked,
            "client_info": f"{info['name']} {info['version']}",
            "capabilities": sorted(capabilities),
        }
    return {"protocol": None, "client_info": None, "capabilities": []}


def _api(run: Run) -> str:
    for path in run.recorder.paths:
        return next(name for part, name in APIS.items() if part in path)
    return "none"


def _answers(run: Run) -> list[Facts | None]:
    """Return the results of the tool calls over stdio, in order; None where there was none."""
    answers: list[Facts | None] = []
    open_calls: dict[Any, int] = {}
    for sender, message in run.lines:
        if sender == "client" and message.get("method") == "tools/call":
            open_calls[message["id"]] = len(answers)
            answers.append(None)
        elif sender == "server" and message.get("id") in open_calls and "result" in message:
            answers[open_calls.pop(message["id"])] = message["result"]
    return answers


def _seen(turn: Turn, answer: Facts | None) -> Facts:
    """Return what of an image's result the model saw."""
    text = turn.text
    content = [] if answer is None else answer["content"]
    data = [block["data"] for block in content if block["type"] == "image"]
    has_base64 = bool(re.search(r"[A-Za-z0-9+/]{2000}", text)) or any(
        one[:_BASE64_BEGIN] in text for one in data
    )
    has_text = bool(re.search(r"Image img_[\w-]{16}: ", text))
    has_structured = bool(re.search(r"""["']status\\?["']: ?\\?["']completed""", text))
    seen = "no"
    if turn.has_image:
        seen = "yes"
    elif has_base64:
        seen = "as base64 text"
    return {
        "text": has_text,
        "pixels": seen,
        "id": bool(IMAGE_ID.search(text)),
        "path": bool(_PATH.search(text)),
        "structured": has_structured,
        "link": _link(text),
        "error": None if has_text or has_structured or seen == "yes" else text[:_ERROR],
    }


def _link(text: str) -> str:
    if '"broken image"' in text:
        return "as a broken image"
    return "yes" if "resource_link" in text or "Resource link" in text else "no"


def _found(turn: Turn, answer: Facts | None) -> Facts:
    text = turn.text
    return {
        "images": len(set(IMAGE_ID.findall(text))),
        "pixels": _seen(turn, answer)["pixels"],
        "text": "images, newest first" in text,
        "structured": bool(re.search(r"""["']next_cursor\\?["']|["']created_at\\?["']""", text)),
    }


def _edit(scenes: Mapping[str, list[tuple[Turn, Facts | None]]]) -> str:
    if "edit" not in scenes:
        return "the model never sees the id"
    turn, _ = scenes["edit"][0]
    return "works" if len(set(IMAGE_ID.findall(turn.text))) > 0 else turn.text[:_ERROR]


def _slow(row: ClientRow, scenes: Mapping[str, list[tuple[Turn, Facts | None]]], run: Run) -> Facts:
    """Return what came of an image that takes longer than the client waits for it."""
    turns = [turn for turn, _ in scenes.get("slow", ())]
    first = turns[0].text if turns else ""
    if IMAGE_ID.search(first):
        begun = "the image"
    else:
        begun = "the job's id" if JOB_ID.search(first) else "an error"
    jobs = [job for job in run.jobs if json.loads(job["request"])["prompt"].startswith("take ")]
    reasons = {
        message["params"].get("reason")
        for sender, message in run.lines
        if sender == "client" and message.get("method") == "notifications/cancelled"
    }
    last = turns[-1] if turns else None
    return {
        "takes_s": row.slow_s,
        "first_answer": begun,
        "error": first[:_ERROR] if begun == "an error" else None,
        "calls": len(turns),
        "jobs": len(jobs),
        "gets_image": last is not None and (last.has_image or bool(IMAGE_ID.search(last.text))),
        "cancel_reasons": sorted(filter(None, reasons)),
    }


def _cancel(scenes: Mapping[str, list[tuple[Turn, Facts | None]]], run: Run) -> str:
    if "cancel" not in scenes:
        return "the model never sees the job's id"
    job_id = scenes["cancel"][0][0].arguments["job_id"]
    status = {job["id"]: job["status"] for job in run.jobs}.get(job_id)
    return "works" if status == "cancelled" else f"the job is {status}"
