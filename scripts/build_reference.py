"""Write what is generated from the code: reference pages, the tool list, the schema of packs.

python scripts/build_reference.py            write docs/tools.md, settings.md, errors.md,
                                             prompting.md, models/README.md, clients/,
                                             packs/pack.schema.json and the tools.json that
                                             servers publish
python scripts/build_reference.py --check    fail if a page is not what the code says

The pages are in reference/, a module for each; prompting.md is a text of the server, and here.
"""

import argparse
import json
import sys
from pathlib import Path

from reference.clients import client_page, clients_page
from reference.content import content_page
from reference.errors import errors_page
from reference.markdown import NOTE, page
from reference.models import models_page
from reference.settings import settings_page
from reference.tools import tools_page

from flux_mcp.cli.connect.clients import load_clients
from flux_mcp.compose.guide import guide
from flux_mcp.compose.manifest import SCHEMA_FILE, pack_schema_text
from flux_mcp.server.published import TOOLS_FILE
from flux_mcp.server.tools import described_tools

DOCS = Path(__file__).resolve().parents[1] / "docs"
PACKS = DOCS.parent / "packs"


def pages() -> dict[str, str]:
    """Return every page by its file name."""
    return {
        "tools.md": tools_page(),
        "settings.md": settings_page(),
        "errors.md": errors_page(),
        "prompting.md": prompting_page(),
        "models/README.md": models_page(),
        "clients/README.md": clients_page(),
        "clients/content.md": content_page(),
        **{f"clients/{client.id}.md": client_page(client) for client in load_clients()},
    }


def tool_list_text() -> str:
    """Return the text of tools.json."""
    return json.dumps(described_tools(), indent=1, ensure_ascii=False) + "\n"


def prompting_page() -> str:
    """Return the prompting guide, as calling models read it."""
    title, _, text = guide().partition("\n\n")
    about = (
        "The server gives this text to a calling model that asks how to write a prompt, "
        "whole or for one family of models. It helps people as well."
    )
    return page([NOTE, title, about, text.strip()])


def stale(folder: Path = DOCS) -> list[str]:
    """Return the names of the pages that are not what the code says."""
    return [
        name
        for name, text in pages().items()
        if not (folder / name).is_file() or (folder / name).read_text(encoding="utf-8") != text
    ]


def main() -> int:
    """Write the pages, or check them."""
    parser = argparse.ArgumentParser(description="Write the reference pages from the code.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if one is stale")
    if not parser.parse_args().check:
        for name, text in pages().items():
            (DOCS / name).parent.mkdir(exist_ok=True)
            (DOCS / name).write_text(text, encoding="utf-8")
        (PACKS / SCHEMA_FILE).write_text(pack_schema_text(), encoding="utf-8")
        TOOLS_FILE.write_text(tool_list_text(), encoding="utf-8")
        return 0
    old = stale()
    if old:
        print(f"stale: {', '.join(old)}. Run: python scripts/build_reference.py", file=sys.stderr)
    return 1 if old else 0


if __name__ == "__main__":
    sys.exit(main())
