import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux_mcp.errors import (
    ClipboardError,
    FluxMcpError,
    InvalidImageError,
    InvalidRequestError,
    PathNotAllowedError,
)
from flux_mcp.images import references
from flux_mcp.images.references import (
    Access,
    ClipboardReference,
    DataReference,
    GalleryReference,
    LatestReference,
    NewestReference,
    PathReference,
    Reference,
    parse_reference,
    read_newest,
    read_path,
)
from flux_mcp.principals import acting_as

FOLDER = Path("/home/a/Pictures")
HERE = Access((FOLDER,), (FOLDER,), "off")
"""Of who works on this machine."""

# --- parsing -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("img_AbC-_123", GalleryReference("img_AbC-_123")),
        ("img_A", GalleryReference("img_A")),
        ("latest", LatestReference()),
        ("LATEST", LatestReference()),
        ("latest: My Cats ", LatestReference("My Cats")),
        ("latest:latest:a", LatestReference("latest:a")),
        ("newest in Pictures", NewestReference("Pictures")),
        ("Newest\tin  '/a b/c'", NewestReference("/a b/c")),
        ("newest in newest in x", NewestReference("newest in x")),
        ("Clipboard", ClipboardReference()),
        ("flux://images/img_AbC-_123", GalleryReference("img_AbC-_123")),
        ("/home/a/b.png", PathReference(Path("/home/a/b.png"))),
        ("/home/a/../b.png", PathReference(Path("/home/a/../b.png"))),
        ("file:///home/a%20b.png", PathReference(Path("/home/a b.png"))),
        ("file:///home/%C3%BC.png", PathReference(Path("/home/ü.png"))),
        ("FILE://localhost/home/b.png", PathReference(Path("/home/b.png"))),
        ("C:\\Users\\b.png", PathReference(Path("C:\\Users\\b.png"))),
        ("c:/Users/b.png", PathReference(Path("c:/Users/b.png"))),
        ("file:///C:/Users/b.png", PathReference(Path("C:/Users/b.png"))),
        ("data:image/png;base64,AAEC", DataReference("image/png", b"\0\1\2")),
        ("DATA:Image/WebP;name=a.webp;base64,AAEC", DataReference("image/webp", b"\0\1\2")),
        ("data:image/jpeg;base64,%2B%2F8%3D", DataReference("image/jpeg", b"\xfb\xff")),
        ("data:image/png;base64,AA\r\nEC\n", DataReference("image/png", b"\0\1\2")),
        ("data:image/png;base64,AA%0AEC", DataReference("image/png", b"\0\1\2")),
    ],
)
def test_a_reference_has_one_of_the_forms(text, expected):
    assert parse_reference(text, Access((FOLDER,), (FOLDER,), "on")) == expected


@pytest.mark.parametrize(
    "text",
    ["cat.png", "//server/share/cat.png", "https://example.org/cat.png", "/pictures/cat.png"],
)
def test_who_is_on_another_machine_is_told_of_no_folder(text):
    with acting_as("ada"), pytest.raises(FluxMcpError) as refused:
        read_path(parse_reference(text).path, (), 1000)
    assert "data: URI" in refused.value.hint
    assert "folder" not in refused.value.hint


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", InvalidRequestError),
        ("cat.png", InvalidRequestError),
        ("../cat.png", InvalidRequestError),
        ("~/cat.png", InvalidRequestError),
        ("C:cat.png", InvalidRequestError),
        ("img_", InvalidRequestError),
        ("late\u017ft", InvalidRequestError),
        ("\uff4catest", InvalidRequestError),
        ("clip\u212aboard", InvalidRequestError),
        ("latest.png", InvalidRequestError),
        ("latest:", InvalidRequestError),
        ("newest", InvalidRequestError),
        ("newest in", PathNotAllowedError),
        ("newest in Pictures", PathNotAllowedError),
        ("clipboard", ClipboardError),
        ("img_a/../b", InvalidRequestError),
        ("/pictures/a\0.png", InvalidRequestError),
        ("flux://images/", InvalidRequestError),
        ("flux://images/../secret", InvalidRequestError),
        ("flux://jobs/img_abc", InvalidRequestError),
        ("http://example.com/a.png", InvalidRequestError),
        ("HTTPS://example.com/a.png", InvalidRequestError),
        ("ftp://example.com/a.png", InvalidRequestError),
        ("javascript:alert(1)", InvalidRequestError),
        ("\\\\server\\share\\a.png", InvalidRequestError),
        ("//server/share/a.png", InvalidRequestError),
        ("file://server/share/a.png", InvalidRequestError),
        ("file:////server/share/a.png", InvalidRequestError),
        ("file:a.png", InvalidRequestError),
        ("file:///a.png?x=1", InvalidRequestError),
        ("file:///%00.png", InvalidRequestError),
        ("file:///%FF.png", InvalidRequestError),
        ("file://[::1/a.png", InvalidRequestError),
        ("data:image/png,abc", InvalidRequestError),
        ("data:image/png;base64", InvalidRequestError),
        ("data:;base64,AAEC", InvalidImageError),
        ("data:image/svg+xml;base64,AAEC", InvalidImageError),
        ("data:image/png;base64,AAE", InvalidImageError),
        ("data:image/png;base64,A EC", InvalidImageError),
        ("data:image/png;base64,A_EC", InvalidImageError),
        ("data:image/png;base64,äää=", InvalidImageError),
    ],
)
def test_anything_else_is_refused_with_a_hint(text, error):
    with pytest.raises(error) as refused:
        parse_reference(text)
    assert refused.value.hint


def test_a_url_is_refused_with_the_way_to_do_it():
    with pytest.raises(InvalidRequestError, match="not fetched") as refused:
        parse_reference("https://example.com/a.png", HERE)
    assert "Download it" in refused.value.hint


def test_an_error_quotes_only_the_beginning_of_a_long_reference():
    with pytest.raises(InvalidRequestError) as refused:
        parse_reference("x" * 100_000)
    assert len(str(refused.value)) < 400


@given(
    st.text() | st.text().map("data:image/png;base64,{}".format) | st.text().map("file://{}".format)
)
def test_parsing_any_text_gives_a_reference_or_a_deliberate_error(text):
    try:
        reference = parse_reference(text)
    except FluxMcpError:
        return
    assert isinstance(reference, Reference)


# --- reading -----------------------------------------------------------------------------------


@pytest.fixture
def allowed(tmp_path: Path) -> Path:
    folder = tmp_path / "allowed"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"inside")
    (tmp_path / "secret.png").write_bytes(b"outside")
    return folder


def test_a_file_inside_an_allowed_folder_is_read(allowed: Path):
    assert read_path(allowed / "a.png", [allowed], 100) == b"inside"


def test_an_allowed_folder_may_itself_be_a_link(allowed: Path, tmp_path: Path):
    link = tmp_path / "link"
    link.symlink_to(allowed)
    assert read_path(link / "a.png", [link], 100) == b"inside"
    assert read_path(allowed / "a.png", [link], 100) == b"inside"


def test_a_link_that_stays_inside_is_followed(allowed: Path):
    (allowed / "link.png").symlink_to(allowed / "a.png")
    assert read_path(allowed / "link.png", [allowed], 100) == b"inside"


def _outside_paths(allowed: Path) -> dict[str, Path]:
    (allowed / "link.png").symlink_to(allowed.parent / "secret.png")
    (allowed / "dangling.png").symlink_to(allowed.parent / "nothing.png")
    (allowed / "folder").symlink_to(allowed.parent)
    (allowed / "loop").symlink_to(allowed / "loop2")
    (allowed / "loop2").symlink_to(allowed / "loop")
    return {
        "link": allowed / "link.png",
        "dangling link": allowed / "dangling.png",
        "through a linked folder": allowed / "folder" / "secret.png",
        "dot dot": allowed / ".." / "secret.png",
        "dot dot through nothing": allowed / "nothing" / ".." / ".." / "secret.png",
        "sibling with the same beginning": Path(f"{allowed}2") / "a.png",
        "passwd": Path("/etc/passwd"),
        "nothing there": Path("/nothing/there.png"),
        "relative": Path("a.png"),
        "other system": Path("C:\\Users\\a.png"),
        "nul": Path("/a\0b"),
        "much too long": Path("/" + "a/" * 5000),
    }


def test_nothing_outside_is_read_and_the_answer_does_not_tell_what_is_there(allowed: Path):
    answers = set()
    for path in _outside_paths(allowed).values():
        with pytest.raises(PathNotAllowedError) as refused:
            read_path(path, [allowed], 100)
        answers.add(str(refused.value).partition("is outside")[2])
    assert len(answers) == 1


def test_a_loop_of_links_is_refused(allowed: Path):
    paths = _outside_paths(allowed)
    assert paths
    with pytest.raises((PathNotAllowedError, InvalidImageError)):
        read_path(allowed / "loop", [allowed], 100)


def test_only_regular_files_are_read(allowed: Path):
    os.mkfifo(allowed / "pipe.png")
    for name in ("pipe.png", "."):
        with pytest.raises(InvalidImageError, match="not a regular file"):
            read_path(allowed / name, [allowed], 100)
    with pytest.raises(InvalidImageError, match="not a regular file"):
        read_path(Path("/dev/zero"), [Path("/dev")], 100)


def test_a_missing_file_inside_says_so(allowed: Path):
    with pytest.raises(InvalidImageError, match="cannot be read: No such file"):
        read_path(allowed / "b.png", [allowed], 100)


def test_a_file_over_the_limit_is_refused_and_one_at_it_is_not(allowed: Path):
    assert read_path(allowed / "a.png", [allowed], 6) == b"inside"
    with pytest.raises(InvalidImageError, match="larger than 5 bytes"):
        read_path(allowed / "a.png", [allowed], 5)


@pytest.fixture(params=["beneath", "compared"])
def opening(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to open: beneath a descriptor, and as on Windows, which has no such descriptors."""
    monkeypatch.setattr(references, "_WALKS", request.param == "beneath")
    monkeypatch.setattr(
        references, "_path_of_opened", lambda opened: Path(f"/proc/self/fd/{opened}").readlink()
    )
    return request.param


SWAPPED_READS = 500
"""Each meets the path in some state; the deterministic test is below."""


def read_during(change: Callable[[], None], path: Path, allowed: Path) -> set[str]:
    """Read a path again and again while a thread changes what leads there; return what was read."""
    seen: set[str] = set()
    done = threading.Event()

    def change_until_done() -> None:
        while not done.is_set():
            change()

    thread = threading.Thread(target=change_until_done)
    thread.start()
    try:
        for _ in range(SWAPPED_READS):
            try:
                seen.add(read_path(path, [allowed], 100).decode())
            except (PathNotAllowedError, InvalidImageError) as error:
                seen.add(error.code)
    finally:
        done.set()
        thread.join()
    return seen


def test_a_folder_that_becomes_a_link_during_the_call_leads_nowhere(allowed: Path, opening: str):
    """Swapped thousands of times: resolving sees the folder, opening the link, or the reverse."""
    outside = allowed.parent / "outside"
    deep = allowed / "one" / "two"
    for folder, content in ((deep, "inside"), (outside / "two", "outside")):
        folder.mkdir(parents=True)
        (folder / "a.png").write_text(content)
    (allowed / "link").symlink_to(outside)
    one, link, kept = allowed / "one", allowed / "link", allowed / "kept"

    def swap() -> None:
        one.rename(kept)
        link.rename(one)
        one.rename(link)
        kept.rename(one)

    seen = read_during(swap, deep / "a.png", allowed)
    assert "inside" in seen
    assert "outside" not in seen


def test_a_file_that_becomes_a_link_during_the_call_leads_nowhere(allowed: Path, opening: str):
    link, kept = allowed / "link", allowed / "kept.png"
    link.symlink_to(allowed.parent / "secret.png")
    file = allowed / "a.png"

    def swap() -> None:
        file.rename(kept)
        link.rename(file)
        file.rename(link)
        kept.rename(file)

    assert "outside" not in read_during(swap, file, allowed)


@pytest.mark.parametrize("swapped", ["one", "one/two", "one/two/a.png"])
def test_a_link_that_comes_after_the_path_was_resolved_is_not_followed(
    allowed: Path, opening: str, swapped: str, monkeypatch: pytest.MonkeyPatch
):
    path = allowed / "one" / "two" / "a.png"
    for folder in (allowed, allowed.parent / "outside"):
        (folder / "one" / "two").mkdir(parents=True)
        (folder / "one" / "two" / "a.png").write_text("?")
    resolve = references._resolve

    def resolve_then_swap(path: Path) -> Path | None:
        resolved = resolve(path)
        (allowed / swapped).rename(allowed / "kept")
        (allowed / swapped).symlink_to(allowed.parent / "outside" / swapped)
        return resolved

    monkeypatch.setattr(references, "_resolve", resolve_then_swap)
    with pytest.raises(InvalidImageError, match="changed meanwhile"):
        read_path(path, [allowed], 100)


def test_both_ways_to_open_read_the_same(allowed: Path, opening: str):
    (allowed / "folder").mkdir()
    (allowed / "folder" / "b.png").write_bytes(b"deep")
    assert read_path(allowed / "folder" / "b.png", [allowed], 100) == b"deep"
    for path, problem in (
        (allowed / "folder", "not a regular file"),
        (allowed, "not a regular file"),
        (allowed / "a.png" / "b.png", "cannot be read"),
        (allowed / "none" / "b.png", "No such file"),
    ):
        with pytest.raises(InvalidImageError, match=problem):
            read_path(path, [allowed], 100)


def in_folder(allowed: Path) -> Access:
    return Access((allowed,), (allowed,))


def test_both_ways_to_open_find_the_same_newest_file(allowed: Path, opening: str):
    (allowed / "folder").mkdir()
    (allowed / "b.png").write_bytes(b"newer")
    (allowed / "c.txt").write_bytes(b"no image")
    (allowed / "link.png").symlink_to(allowed.parent / "secret.png")
    os.utime(allowed / "a.png", (1, 1))
    found = read_newest("Allowed", in_folder(allowed), 100)
    assert (found.data, found.name) == (b"newer", "b.png")
    os.utime(allowed / "b.png", (1, 1))
    assert read_newest(str(allowed), in_folder(allowed), 100).name == "b.png", "by name"
    later = read_newest("allowed", in_folder(allowed), 100)
    assert "days ago" in later.told("allowed")
    os.utime(allowed / "a.png", (10**10, 10**10))
    assert "in the future" in read_newest("allowed", in_folder(allowed), 100).told("allowed")
    with pytest.raises(InvalidImageError, match="larger than 5 bytes"):
        read_newest("allowed", in_folder(allowed), 5)
    with pytest.raises(InvalidImageError, match="no image file"):
        read_newest(str(allowed / "folder"), in_folder(allowed), 100)


@pytest.mark.parametrize("swapped", ["one", "one/two", "one/two/a.png"])
def test_a_newest_file_is_not_looked_for_through_links(
    allowed: Path, opening: str, swapped: str, monkeypatch: pytest.MonkeyPatch
):
    """Also where they come after the folder was resolved, or after its files were listed."""
    for folder in (allowed, allowed.parent / "outside"):
        (folder / "one" / "two").mkdir(parents=True)
        (folder / "one" / "two" / "a.png").write_text("?")

    def swap() -> None:
        (allowed / swapped).rename(allowed / "kept")
        (allowed / swapped).symlink_to(allowed.parent / "outside" / swapped)

    name = "_newest_of" if swapped.endswith(".png") else "_allowed_folder"
    before = getattr(references, name)

    def then_swap(*given: object) -> object:
        found = before(*given)
        swap()
        return found

    monkeypatch.setattr(references, name, then_swap)
    with pytest.raises(InvalidImageError, match="changed meanwhile"):
        read_newest(str(allowed / "one" / "two"), in_folder(allowed), 100)
