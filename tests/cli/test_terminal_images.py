"""Images in a terminal: the real commands in a pseudo-terminal that answers as one with pixels."""

import contextlib
import os
import re
import select
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from .processes import TIMEOUT_S, Cli

pty = pytest.importorskip("pty", reason="pseudo-terminals of POSIX")
termios = pytest.importorskip("termios", reason="as above")

SIXELS = {"TERM": "xterm-256color", "TERM_PROGRAM": "WezTerm", "COLORTERM": "truecolor"}
PLAIN = {"TERM": "xterm-256color", "TERM_PROGRAM": "", "COLORTERM": "truecolor"}
ANSWERS = {b"\x1b[c": b"\x1b[?62;4;22c", b"\x1b[16t": b"\x1b[6;20;10t"}
"""What a terminal says that has sixels (its device attributes), and of its cells."""
WITHOUT_PIXELS = {b"\x1b[c": b"\x1b[?62;22c", b"\x1b[16t": b"\x1b[6;20;10t"}
HALF_CELL = "▀"


def in_terminal(
    cli: Cli,
    variables: dict[str, str],
    answers: dict[bytes, bytes],
    *arguments: str,
    size: tuple[int, int] | None = (40, 100),
) -> tuple[int, bytes]:
    """Run a command in a terminal of 100x40 cells; return its exit code and all it wrote."""
    ours, theirs = pty.openpty()
    if size is not None:
        termios.tcsetwinsize(theirs, size)
    environment = {**cli.environment(), **variables}
    for name in ("TMUX", "STY", "NO_COLOR"):
        environment.pop(name, None)
    process = subprocess.Popen(
        cli.command(*arguments), env=environment, stdin=theirs, stdout=theirs, stderr=theirs,
        start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    written, answered = b"", dict.fromkeys(answers, 0)
    deadline = time.monotonic() + TIMEOUT_S
    try:
        while time.monotonic() < deadline:
            if not select.select([ours], [], [], 0.1)[0]:
                if process.poll() is not None:
                    break
                continue
            piece = b""
            with contextlib.suppress(OSError):  # EIO: nobody has the other end any more
                piece = os.read(ours, 1 << 16)
            if not piece:
                break
            written += piece
            for question, answer in answers.items():
                while answered[question] < written.count(question):
                    answered[question] += 1
                    os.write(ours, answer)
        return process.wait(TIMEOUT_S), written
    finally:
        process.kill()
        os.close(ours)


_SIXEL = re.compile(
    rb'"[\d;]*|#(?P<colour>\d+)(;2;(?P<rgb>[\d;]+))?|!(?P<count>\d+)(?P<many>[?-~])|'
    rb"(?P<one>[?-~])|(?P<back>[$])|(?P<down>-)"
)


def sixels_as_pixels(data: bytes) -> np.ndarray:
    """Read the first image of sixels (vt100.net, VT330/VT340 Programmer Reference, chapter 14)."""
    body = re.search(rb"\x1bP[0-9;]*q(.*?)\x1b\\", data, re.DOTALL)
    assert body is not None
    canvas = np.zeros((2000, 2000, 3), np.uint8)
    colours: dict[bytes, np.ndarray] = {}
    x = top = right = 0
    colour = b""
    for found in _SIXEL.finditer(body[1]):
        if found["colour"]:
            colour = found["colour"]
            if found["rgb"]:
                colours[colour] = np.array([int(one) * 2.55 for one in found["rgb"].split(b";")])
        elif found["back"] or found["down"]:
            x, top = 0, top + (6 if found["down"] else 0)
        elif found["many"] or found["one"]:
            bits, count = ord(found["many"] or found["one"]) - 63, int(found["count"] or 1)
            for bit in (bit for bit in range(6) if bits >> bit & 1):
                canvas[top + bit, x : x + count] = colours[colour]
            x += count
            right = max(right, x)
    return canvas[: top + 6 if x else top, :right]


@pytest.fixture
def cli(tmp_path: Path, weights_dir: Path) -> Cli:
    return Cli(tmp_path / "data", weights_dir)


def test_an_image_is_shown_in_pixels_where_the_terminal_has_them(cli: Cli) -> None:
    code, written = in_terminal(cli, SIXELS, ANSWERS, "generate", "a red circle", "--seed", "3")
    assert code == 0, written
    shown = sixels_as_pixels(written)
    (path,) = (cli.data_dir / "images").rglob("*.png")
    image = Image.open(path).resize((shown.shape[1], shown.shape[0]))
    apart = np.abs(np.asarray(image).astype(int) - shown).mean()
    assert apart < 12
    assert 0 <= shown.shape[0] - shown.shape[1] < 6  # rows come in sixes
    # Its preview, while it was generated, is in cells.
    assert HALF_CELL in written.decode(errors="replace")
    name = path.stem
    code, again = in_terminal(cli, SIXELS, ANSWERS, "gallery", "show", name)
    assert code == 0
    assert np.array_equal(sixels_as_pixels(again), shown)
    for flags in (("--no-show",), ("--json",)):
        code, written = in_terminal(cli, SIXELS, ANSWERS, "gallery", "show", name, *flags)
        assert code == 0
        assert b"\x1bP" not in written
        assert name.encode() in written


@pytest.mark.torture
def test_another_terminal_is_not_asked_unless_the_user_asks(cli: Cli) -> None:
    arguments = ("generate", "a red circle", "--seed", "3")
    code, written = in_terminal(cli, PLAIN, WITHOUT_PIXELS, *arguments)
    assert code == 0, written
    assert not any(question in written for question in ANSWERS)
    assert HALF_CELL not in written.decode(errors="replace")
    (path,) = (cli.data_dir / "images").rglob("*.png")
    code, written = in_terminal(cli, PLAIN, WITHOUT_PIXELS, "gallery", "show", path.stem, "--show")
    assert code == 0
    assert HALF_CELL in written.decode(errors="replace")
    assert b"\x1bPq" not in written


@pytest.mark.torture
def test_nothing_is_shown_where_nobody_looks(cli: Cli) -> None:
    ended = cli("generate", "a red circle", "--seed", "3", "--show")
    assert ended.code == 0
    assert "\x1b" not in ended.out + ended.err
    assert HALF_CELL not in ended.out


@pytest.mark.torture
def test_a_terminal_without_a_size_stops_nothing(cli: Cli) -> None:
    arguments = ("generate", "a red circle", "--seed", "3")
    code, written = in_terminal(cli, SIXELS, ANSWERS, *arguments, size=None)
    assert code == 0, written
    assert not any(question in written for question in ANSWERS)
    assert list((cli.data_dir / "images").rglob("*.png"))
