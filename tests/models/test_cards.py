"""The card is read from the driver's tool; a script stands in that prints what it prints."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from flux_mcp.models.cards import CardReader

ANSWER = "GPU-1, NVIDIA GeForce RTX 4090, 24564, 20000, 8.9"


def tool(folder: Path, cards: str, processes: str = "", code: int = 0) -> str:
    """Write a program that answers like nvidia-smi, and counts how often it was asked."""
    path = folder / "nvidia-smi"
    path.write_text(
        f"#!{sys.executable}\nimport sys\nfrom pathlib import Path\n"
        f"with Path({str(folder / 'asked')!r}).open('a') as log: log.write('x')\n"
        f"print({processes!r} if 'compute-apps' in sys.argv[1] else {cards!r})\nsys.exit({code})\n",
        encoding="utf-8",
    )
    path.chmod(0o755)
    return str(path)


def test_memory_name_and_capability_are_read(tmp_path):
    found = CardReader(tmp_path, tool(tmp_path, ANSWER)).read()
    assert found.card.name == "NVIDIA GeForce RTX 4090"
    assert found.card.total_gib == pytest.approx(23.99, abs=0.01)
    assert found.card.free_gib == pytest.approx(19.53, abs=0.01)
    assert found.card.compute == 8.9
    assert found.ram_gib > 0.5


def test_the_card_a_worker_named_is_taken_among_several(tmp_path):
    both = f"GPU-0, NVIDIA T400, 4096, 4000, 7.5\n{ANSWER}"
    reader = CardReader(tmp_path, tool(tmp_path, both))
    assert reader.read("NVIDIA GeForce RTX 4090").card.free_gib > 19
    assert CardReader(tmp_path, tool(tmp_path, both)).read().card.name == "NVIDIA T400"


def test_an_answer_is_kept_for_some_seconds(tmp_path):
    now_s = [0.0]
    reader = CardReader(tmp_path, tool(tmp_path, ANSWER), lambda: now_s[0])
    for now_s[0] in (0.0, 1.0, 4.9):
        assert reader.read() is not None
    asked = (tmp_path / "asked").stat().st_size
    now_s[0] = 6.0
    reader.read()
    assert (tmp_path / "asked").stat().st_size == 2 * asked


def test_what_our_own_worker_holds_counts_as_free_and_nothing_else_does(tmp_path):
    """Three real processes: our worker, another folder's worker, and some other program."""
    wait = "import sys; print('up', flush=True); sys.stdin.read()"

    def start(*words: str, data_dir: Path) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", wait, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "FLUX_MCP_DATA_DIR": str(data_dir)},
        )
        assert process.stdout is not None
        process.stdout.readline()
        return process

    ours = start("-m", "flux_mcp.pipelines.worker", data_dir=tmp_path)
    theirs = start("-m", "flux_mcp.pipelines.worker", data_dir=tmp_path / "elsewhere")
    other = start(data_dir=tmp_path)
    try:
        held = "\n".join(
            f"GPU-1, {process.pid}, {mib}"
            for process, mib in ((ours, 1024), (theirs, 512), (other, 256))
        )
        found = CardReader(tmp_path, tool(tmp_path, ANSWER, held)).read()
    finally:
        for process in (ours, theirs, other):
            process.communicate()
    assert found.card.free_gib == pytest.approx((20000 + 1024) / 1024)


@pytest.mark.parametrize(
    ("cards", "code"),
    [("", 0), (ANSWER, 9), ("GPU-1, NVIDIA GB10, [N/A], [N/A], 12.1", 0), ("GPU-1", 0)],
)
def test_a_tool_that_does_not_tell_is_no_card(tmp_path, cards, code):
    assert CardReader(tmp_path, tool(tmp_path, cards, code=code)).read() is None


def test_without_the_tool_there_is_no_card(tmp_path):
    assert CardReader(tmp_path, None).read() is None
    assert CardReader(tmp_path, str(tmp_path / "gone")).read() is None
