"""The official Inspector's command line drives the product over every transport."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from flux_mcp.server.tools import TOOLS
from tests.conformance.node import Ended, Inspector
from tests.conformance.servers import listening

REPOSITORY = Path(__file__).resolve().parents[2]
TOKEN = "a-token-of-the-tests-only"  # noqa: S105 - it opens one server, for the time of one test
DRAW = ["prompt=a red circle", "width=64", "height=64", "steps=4", "seed=7", "preview=none"]
LONG = ["prompt=a blue square", "width=256", "height=256", "steps=32", "wait_s=0.3", "preview=none"]
"""More than a second on the CPUs we know; wait_s is longer than the grace before a task."""
WAYS = ["http", "sse", "stdio", "mcp.json"]
"""First those to the server that is there: its worker draws for the ones that are started after."""
AUTH_REQUIRED, UNREACHABLE, TOOL_ERROR = 3, 4, 5


@pytest.fixture(scope="module")
def guarded(data_dir: Path) -> Iterator[str]:
    """The address of a server that asks for a token and serves SSE as well."""
    options = ["--transport", "http", "--port", "0", "--sse", "--data-dir", str(data_dir)]
    with listening(["serve", *options], FLUX_MCP_TOKEN=TOKEN) as address:
        yield address


@pytest.fixture
def ways(guarded: str, data_dir: Path, server_variables: list[str]) -> Mapping[str, list[str]]:
    """What follows `--cli` to reach the server each way; all of them share one data folder."""
    token = ["--header", f"Authorization: Bearer {TOKEN}"]
    started = [*server_variables, "-e", f"FLUX_MCP_DATA_DIR={data_dir}"]
    command = [str(REPOSITORY / ".venv" / "bin" / "flux-mcp"), "serve"]
    return {
        "stdio": [*started, *command],
        "http": [f"{guarded}/mcp", "--transport", "http", *token],
        "sse": [f"{guarded}/sse", "--transport", "sse", *token],
        "mcp.json": ["--config", "./mcp.json", "--server", "flux", *started],
    }


def answer(ended: Ended) -> Any:
    assert ended.code == 0, str(ended)
    return json.loads(ended.out)["result"]


@pytest.mark.parametrize("way", WAYS)
def test_an_image_is_listed_drawn_and_read(
    inspector: Inspector, ways: Mapping[str, list[str]], way: str, tmp_path: Path
) -> None:
    def inspect(*arguments: str) -> Ended:
        return inspector(*ways[way], *arguments, cwd=REPOSITORY)

    listed = inspect("--method", "tools/list", "--strict")
    assert [tool["name"] for tool in answer(listed)["tools"]] == [row.name for row in TOOLS]
    assert "Issue:" not in listed.err, listed.err
    call = ["--method", "tools/call", "--tool-name", "flux_generate", "--tool-arg", *DRAW]
    (image,) = answer(inspect(*call))["structuredContent"]["images"]
    if way == "mcp.json":
        return  # The file only starts a server, for each call one; over stdio the rest is the same.
    assert answer(inspect("--method", "prompts/list"))["prompts"]
    read = tmp_path / "read.png"
    written = ["--output", str(read), "--output-format", "raw"]
    ended = inspect("--method", "resources/read", "--uri", image["uri"], *written)
    assert ended.code == 0, str(ended)
    assert read.read_bytes() == Path(image["path"]).read_bytes()


def test_a_call_that_takes_longer_than_it_may_is_followed_as_a_task(
    inspector: Inspector, ways: Mapping[str, list[str]]
) -> None:
    call = ["--method", "tools/call", "--tool-name", "flux_generate", "--tool-arg", *LONG]

    def drawn(era: str) -> Any:
        answered = answer(inspector(*ways["http"], "--protocol-era", era, *call))
        return answered["structuredContent"]["images"]

    # The tasks extension is of today's protocol: with the older one the call ends at wait_s.
    assert not drawn("legacy")
    assert len(drawn("modern")) == 1


def test_a_missing_token_has_its_exit_code(inspector: Inspector, guarded: str) -> None:
    reached = [f"{guarded}/mcp", "--transport", "http", "--stored-auth-only"]
    ended = inspector(*reached, "--method", "tools/list")
    assert ended.code == AUTH_REQUIRED, str(ended)
    assert json.loads(ended.err)["error"]["code"] == "auth_required"


def test_a_server_that_is_not_there_has_its_exit_code(inspector: Inspector) -> None:
    # Port 1 is reserved (tcpmux, RFC 1078) and nothing of ours.
    ended = inspector("http://127.0.0.1:1/mcp", "--transport", "http", "--method", "tools/list")
    assert ended.code == UNREACHABLE, str(ended)


def test_a_refused_call_has_its_exit_code_and_says_why(
    inspector: Inspector, ways: Mapping[str, list[str]]
) -> None:
    call = ["--method", "tools/call", "--tool-name", "flux_get_job", "--tool-arg", "job_id=job_x"]
    ended = inspector(*ways["http"], *call)
    assert ended.code == TOOL_ERROR, str(ended)
    (content,) = json.loads(ended.out)["result"]["content"]
    assert content["text"].startswith("[unknown_job]")
