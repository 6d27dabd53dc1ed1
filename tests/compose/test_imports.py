"""Composing is light: it loads no model library, no server and no database."""

import subprocess
import sys

HEAVY = (
    "torch", "transformers", "diffusers", "tokenizers", "sentencepiece", "mcp", "sqlite3",
    "sqlite_utils", "numpy", "PIL", "flux_mcp.server", "flux_mcp.service.service", "flux_mcp.jobs",
    "flux_mcp.gallery", "flux_mcp.pipelines",
)  # fmt: skip


def test_composing_loads_neither_torch_nor_the_server_and_the_judge_only_with_the_first_audit() -> (
    None
):
    code = (
        "import sys\n"
        "from flux_mcp.compose import choices, composer, guide, skeleton, tokens\n"
        "from flux_mcp.compose.library import PackLibrary\n"
        "from flux_mcp.settings.installation import default_packs_dir\n"
        "library = PackLibrary(default_packs_dir())\n"
        "early = [name for name in sys.modules if name.startswith('flux_mcp.compose.audit.')]\n"
        "composer.compose(library, choices.Choice('micro-shapes', subject='*'), 1)\n"
        f"print(early, [name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['flux_mcp.compose.audit.findings'] []"
