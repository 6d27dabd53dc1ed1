"""What others than the owner are told: no path of this machine, and all else as it was."""

from pathlib import Path

import pytest
from mcp.shared.exceptions import MCPError
from mcp.types import CallToolResult, ImageContent, TextContent

from flux_mcp.server.redaction import ServerPaths, for_others

PATHS = ServerPaths(
    {
        Path("/home/eve/flux data"): "<data folder>",
        Path("/home/eve"): "<home>",
        Path("/"): "<never>",
    }
)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("Put it into /home/eve/flux data/loras.", "Put it into <data folder>/loras."),
        ("no room in '/home/eve/x'", "no room in '<home>/x'"),
        ("/mnt/big/ae.safetensors is gone", "<path> is gone"),
        ("Run: /opt/venv/bin/pip install 'x>=1'.", "Run: <path> install 'x>=1'."),
        ("(~/models/flux.sft)", "(<path>)"),
        (r"C:\Users\eve\flux is gone", "<path> is gone"),
        ('{"file": "/srv/x/y", "n": 1}', '{"file": "<path>", "n": 1}'),
        ("see https://example.org/a/b and flux://images/img_1/thumbnail", None),
        ("red/green/blue, 1/2, and/or, 2026/11/30, 4:3, a / b", None),
        ("POST /mcp", None),
    ],
)
def test_paths_are_hidden_in_a_text_and_nothing_else(text: str, told: str | None) -> None:
    assert PATHS.hidden_in(text) == (text if told is None else told)


@pytest.mark.parametrize(
    ("advice", "told"),
    [
        ("Use a PNG, JPEG or WebP file.", None),
        ("Ask for less. Wait.", None),
        ("", None),
        ("Run: pip install 'x'.", "For whoever runs this server: Run: pip install 'x'."),
        (
            "Name another. None here: put it into /data/loras.",
            "Name another. For whoever runs this server: None here: put it into /data/loras.",
        ),
        (
            "The server's log has details.",
            "For whoever runs this server: The server's log has details.",
        ),
    ],
)
def test_what_is_to_be_done_here_is_for_the_owner(advice: str, told: str | None) -> None:
    assert for_others(advice) == (advice if told is None else told)


def test_a_result_is_the_same_but_for_its_paths() -> None:
    image = {
        "id": "img_1",
        "path": "/home/eve/flux data/images/img_1.png",
        "prompt": "a sign that says /etc/shadow/x, and /home/eve",
        "uri": "flux://images/img_1",
        "seed": 7,
        "parents": ["img_0"],
    }
    result = CallToolResult(
        content=[
            TextContent(type="text", text="Note: /mnt/x/y is slow."),
            ImageContent(type="image", data="/abc/def+/ghi", mime_type="image/webp"),
        ],
        structured_content={"images": [image], "notices": ["/mnt/x/y is slow."], "error": None},
        is_error=False,
    )
    told = PATHS.hidden(result)
    assert told.content[0].text == "Note: <path> is slow."
    assert told.content[1] == result.content[1]
    assert told.structured_content == {
        "images": [{**image, "path": "", "prompt": "a sign that says /etc/shadow/x, and <home>"}],
        "notices": ["<path> is slow."],
        "error": None,
    }
    assert told.model_fields_set == result.model_fields_set
    assert result.structured_content["images"][0] is image


def test_an_error_has_no_path_either() -> None:
    error = PATHS.hidden_error(MCPError(-32602, "no /srv/a/b", {"where": "/home/eve/x"}))
    assert (error.code, error.message, error.data) == (-32602, "no <path>", {"where": "<home>/x"})
