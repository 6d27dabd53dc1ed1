"""Clients with a command line: write their entry with `flux-mcp connect`, ask them one request.

python command_lines.py REQUEST [--url URL]   CLIENT_ID says which; the rest is in the environment

The entry is the one that people get, but for the server's command: that is the recording one on
the PATH.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

HOME = Path(os.environ["HOME"])
MODEL_URL = os.environ["MODEL_URL"]
MODULES = Path(os.environ["NODE_PATH"])


def connect(client: str, file: Path, url: str | None, *options: str) -> None:
    """Write the client's entry as the product does, with the recording command."""
    words = [sys.executable, "-m", "flux_mcp", "connect", client, "--write"]
    words += ["--http", "--url", url, *options] if url else []
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    if not url:
        put_recorder(file)


def put_recorder(file: Path) -> None:
    """Replace the server's command in a file."""
    recorder = shutil.which("flux-mcp")
    assert recorder is not None
    text = file.read_text(encoding="utf-8")
    written = str(Path(sys.executable).parent / "flux-mcp")
    assert written in text, text
    file.write_text(text.replace(written, recorder), encoding="utf-8")


def native(*candidates: str) -> str:
    """Return the first program below node_modules that is there."""
    for pattern in candidates:
        for path in sorted(MODULES.glob(pattern)):
            return str(path)
    raise FileNotFoundError(candidates)


def claude_code(request: str, url: str | None) -> None:
    connect("claude-code", HOME / ".claude.json", url)
    program = native("@anthropic-ai/claude-code-*/claude")
    variables = {
        "ANTHROPIC_BASE_URL": MODEL_URL,
        "ANTHROPIC_API_KEY": "none",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "DISABLE_TELEMETRY": "1",
        "DISABLE_AUTOUPDATER": "1",
    }
    run([program, "-p", request, "--allowedTools", "mcp__flux"], variables)


def codex(request: str, url: str | None) -> None:
    connect("codex", HOME / ".codex" / "config.toml", url)
    provider = f'{{name="rec",base_url="{MODEL_URL}/v1",env_key="REC_KEY",wire_api="responses"}}'
    options = ["--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox"]
    options += ["-c", "model_provider=rec", "-c", f"model_providers.rec={provider}", "-m", "gpt-5"]
    program = native("@openai/codex-*/vendor/*/codex/codex", "@openai/codex-*/vendor/*/bin/codex")
    run([program, "exec", *options, request], {"REC_KEY": "none"})


def gemini(request: str, url: str | None) -> None:
    folder = HOME / ".gemini"
    folder.mkdir()
    settings = {"security": {"auth": {"selectedType": "gemini-api-key"}}}
    (folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    connect("gemini", folder / "settings.json", url)
    variables = {
        "GEMINI_API_KEY": "none",
        "GOOGLE_GEMINI_BASE_URL": MODEL_URL,
        "GEMINI_CLI_TRUST_WORKSPACE": "true",
        "GEMINI_TELEMETRY_ENABLED": "false",
    }
    bundle = native("@google/gemini-cli/bundle/gemini.js")
    run([os.environ["NODE"], bundle, "--yolo", "-m", "gemini-2.5-flash", "-p", request], variables)


def opencode(request: str, url: str | None) -> None:
    folder = HOME / ".config" / "opencode"
    folder.mkdir(parents=True)
    model = {"name": "rec", "modalities": {"input": ["text", "image"], "output": ["text"]}}
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "options": {"baseURL": f"{MODEL_URL}/v1", "apiKey": "none"},
        "models": {"rec": {**model, "attachment": True, "tool_call": True}},
    }
    config = {"provider": {"rec": provider}, "autoupdate": False, "share": "disabled"}
    (folder / "opencode.json").write_text(json.dumps(config), encoding="utf-8")
    connect("opencode", folder / "opencode.json", url)
    variables = {"OPENCODE_DISABLE_MODELS_FETCH": "1", "OPENCODE_DISABLE_DEFAULT_PLUGINS": "1"}
    run([native("opencode-*-*/bin/opencode"), "run", "-m", "rec/rec", request], variables)


def cline(request: str, url: str | None) -> None:
    # The command line fills in no environment variables, as the extension of VS Code does.
    file = HOME / ".cline" / "data" / "settings" / "cline_mcp_settings.json"
    connect("cline", file, url, "--token-in-file")
    program = native("@cline/cli-*/bin/cline")
    run(
        [program, "auth", "-p", "openai", "-k", "none", "-m", "gpt-4o", "-b", f"{MODEL_URL}/v1"], {}
    )
    run([program, "-y", request], {})


CLIENTS: Mapping[str, Callable[[str, str | None], None]] = {
    "claude-code": claude_code,
    "codex": codex,
    "gemini": gemini,
    "opencode": opencode,
    "cline": cline,
}


def run(words: list[str], variables: Mapping[str, str]) -> None:
    """Run the client to its end."""
    environment = {**os.environ, **variables}
    # NODE_PATH is how this program finds the clients, and nothing of theirs.
    del environment["NODE_PATH"]
    subprocess.run(words, check=True, env=environment, stdin=subprocess.DEVNULL)


def main() -> None:
    """Ask one client one request."""
    parser = argparse.ArgumentParser()
    parser.add_argument("request")
    parser.add_argument("--url")
    options = parser.parse_args()
    CLIENTS[os.environ["CLIENT_ID"]](options.request, options.url)


if __name__ == "__main__":
    main()
