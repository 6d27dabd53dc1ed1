"""The composer is light: it loads nothing that draws, serves or stores."""

import subprocess
import sys

HEAVY = (
    "torch", "transformers", "diffusers", "tokenizers", "sentencepiece", "mcp", "sqlite3",
    "sqlite_utils", "numpy", "PIL", "flux_mcp.server", "flux_mcp.service.service", "flux_mcp.jobs",
    "flux_mcp.gallery", "flux_mcp.pipelines",
)  # fmt: skip


def test_composing_loads_neither_torch_nor_the_server() -> None:
    code = (
        "import sys\n"
        "from flux_mcp.compose import checking, choosing, composer, guide, skeleton, tokens\n"
        "from flux_mcp.compose.library import PackLibrary\n"
        "from flux_mcp.settings.installation import default_packs_dir\n"
        "library = PackLibrary(default_packs_dir())\n"
        "composer.compose(library, choosing.Choice('micro-shapes', subject='*'), 1)\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
