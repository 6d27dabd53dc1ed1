"""What does a prompt from a pack cost? Ratio: a prompt of 2000 characters / one of 1000.

Method: the shipped packs, read from disk, in this process. Prompts of both lengths are composed in
turn, each time with another seed. It is processor time, not elapsed time: nothing here waits, and
on a busy machine elapsed time would measure other processes.

  compose   check for changed files, choose, assemble, audit
  assemble  choose and assemble alone
  audit     the audit alone

Unit: medians of ratios of neighbours; milliseconds of processor time.
"""

import time
from collections.abc import Callable

from common import Result, median_ratio, ms, p50_p99_ms, start

from flux_mcp.compose.assemble import MAX_CHARACTERS, assemble
from flux_mcp.compose.audit import audit
from flux_mcp.compose.choices import Choice, choose, parts_of
from flux_mcp.compose.composer import draft
from flux_mcp.compose.library import PackLibrary
from flux_mcp.settings.installation import default_packs_dir

PACK = "product-shot"
LENGTHS = {"short": MAX_CHARACTERS // 2, "long": MAX_CHARACTERS}
SENTENCE = "Soft reflections run along brushed steel in a quiet, tidy room without any clutter. "


def measure(quick: bool) -> Result:
    """Compose short and long prompts in turn."""
    repetitions = 20 if quick else 500
    result = Result("compose", quick, {"prompts": repetitions})
    library = PackLibrary(default_packs_dir(), judge=audit)
    result.absolute["read_ms"] = ms(_spent(library.readings))
    looks = [_spent(library.readings) for _ in range(repetitions)]
    result.absolute["look"] = p50_p99_ms(looks)
    pack = library.find(PACK)
    bare = len(draft(library, Choice(PACK), 0).prompt)
    choices = {name: Choice(PACK, extra=_text(most - bare - 3)) for name, most in LENGTHS.items()}
    drafts = {name: draft(library, choice, 0) for name, choice in choices.items()}
    result.counts |= {f"{name}_characters": len(one.prompt) for name, one in drafts.items()}
    works: dict[str, Callable[[str, int], object]] = {
        "compose": lambda name, seed: draft(library, choices[name], seed),
        "assemble": lambda name, seed: assemble(
            parts_of(pack, choose(pack, choices[name], seed), choices[name].extra),
            woven=pack.woven,
        ),
        "audit": lambda name, _: audit(drafts[name].blocks, pack.forbidden),
    }
    for what, work in works.items():
        spent: dict[str, list[float]] = {name: [] for name in LENGTHS}
        for turn in range(repetitions):
            for name in LENGTHS:
                spent[name].append(_spent(lambda: work(name, turn)))  # noqa: B023  # called at once
        result.ratios[what] = median_ratio(spent["long"], spent["short"])
        result.absolute[what] = {name: p50_p99_ms(values) for name, values in spent.items()}
        numbers = result.absolute[what]["long"]
        result.line(
            what,
            f"long/short {result.ratios[what]:.2f}x; "
            f"long p50 {numbers['p50_ms']:.2f} ms, p99 {numbers['p99_ms']:.2f} ms",
            "a few ms" if what == "compose" else "",
        )
    result.line("check for changed files", f"p50 {result.absolute['look']['p50_ms']:.2f} ms")
    result.line("read and check the shipped packs, once", f"{result.absolute['read_ms']:.0f} ms")
    return result


def _text(length: int) -> str:
    return (SENTENCE * (length // len(SENTENCE) + 1))[:length]


def _spent(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


if __name__ == "__main__":
    start(__doc__, measure)
