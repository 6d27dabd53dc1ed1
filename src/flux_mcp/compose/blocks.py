"""The parts an assembled prompt is made of, and where each came from."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Block:
    """A part of the prompt, and where it came from. `prompt[start:end] == text` always holds."""

    name: str
    """`fixed`, `subject`, `variable:<name>`, `extra`; `prompt` for a text that stands alone."""
    text: str
    """Tidy, as it stands in the assembled prompt."""
    start: int
    """Offset of its first character in the assembled prompt."""
    source: str
    """`fixed_block.txt`, `subjects/cat.txt`, `variable_style.txt (noir)`, `argument extra`."""

    @property
    def end(self) -> int:
        """Offset just past its last character in the assembled prompt."""
        return self.start + len(self.text)


@dataclass(frozen=True)
class Fill:
    """What stands in place of a `{placeholder}`: which text, from where, inside which block."""

    placeholder: str
    """`subject`, or the name of a variable."""
    block: str
    """Name of the block that had the placeholder."""
    text: str
    """What was filled in, before it was tidied."""
    source: str
    """As `Block.source`."""
