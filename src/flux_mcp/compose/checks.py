"""What can be wrong with a pack's texts taken together."""

from collections.abc import Mapping

from flux_mcp.compose.assemble import MAX_CHARACTERS, assemble
from flux_mcp.compose.choosing import parts_of
from flux_mcp.compose.examples import longest, usual
from flux_mcp.compose.files import PackFiles
from flux_mcp.compose.packs import Pack, Variable
from flux_mcp.compose.placeholders import names_in, placeholders
from flux_mcp.compose.problems import nearest
from flux_mcp.compose.texts import Text
from flux_mcp.compose.tidy import tidy
from flux_mcp.errors import PromptTooLongError


def check_texts(pack: Pack, files: PackFiles) -> None:
    """Collect what is wrong with placeholders and lengths."""
    known = {argument.name: argument for argument in pack.arguments}
    texts = (pack.fixed, *(text for argument in pack.arguments for text in argument.texts))
    before = len(files.problems)
    for text in texts:
        _check_placeholders(text, known, files)
        _check_length(text, files)
    _check_circles(known, files)
    if len(files.problems) == before:
        _check_whole(pack, files)


def _check_placeholders(text: Text, known: Mapping[str, Variable], files: PackFiles) -> None:
    for placeholder in placeholders(text.text):
        if placeholder.name not in known:
            files.complain(
                text.file,
                f"Nothing fills {{{placeholder.name}}}.",
                nearest(placeholder.name, known, what="Placeholders")
                + f" {{{{{placeholder.name}}}}} stands for the braces themselves.",
                line=text.line_of(placeholder.start),
            )


def _check_length(text: Text, files: PackFiles) -> None:
    characters = len(tidy(text.text))
    if characters > MAX_CHARACTERS:
        files.complain(
            text.file,
            f"The text has {characters} characters; a whole prompt may have {MAX_CHARACTERS}.",
            "Say it shorter.",
            line=text.line,
        )


def _check_circles(known: Mapping[str, Variable], files: PackFiles) -> None:
    """Find texts that ask for each other: each such circle once, at the text that closes it."""
    closed: set[str] = set()

    def walk(name: str, path: tuple[str, ...]) -> None:
        for text in known[name].texts:
            for below in sorted(names_in(text.text) & known.keys()):
                if below in (*path, name):
                    circle = " -> ".join((*path, name, below))
                    message = f"The placeholders go round in a circle: {circle}."
                    files.complain(text.file, message, "Take one of them out.", line=text.line)
                elif below not in closed:
                    walk(below, (*path, name))
        closed.add(name)

    for name in known:
        if name not in closed:
            walk(name, ())


def _check_whole(pack: Pack, files: PackFiles) -> None:
    """Refuse defaults that make no prompt; warn where the longest choices make none."""
    for chosen, is_default in ((usual(pack), True), (longest(pack), False)):
        try:
            assemble(parts_of(pack, chosen), woven=pack.woven)
        except PromptTooLongError as error:
            if is_default:
                files.complain(pack.fixed.file, error.message, error.hint)
                return
            message = f"With the longest choice of each: {error.message}"
            files.warn(pack.fixed.file, message, "Shorten one of them.")
