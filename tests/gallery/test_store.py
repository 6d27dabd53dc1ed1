import re

import pytest
from pydantic import ValidationError

from flux_mcp.errors import (
    InternalError,
    InvalidRequestError,
    StorageError,
    UnknownImageError,
)
from flux_mcp.gallery.search import SearchFilter
from flux_mcp.gallery.store import new_image_id


def prompts(page):
    return [image.prompt for image in page.images]


def all_pages(gallery, **wanted):
    pages, cursor = [], None
    while True:
        page = gallery.search(SearchFilter(cursor=cursor, **wanted))
        pages.append(page)
        cursor = page.next_cursor
        if cursor is None:
            return pages


def test_an_added_record_is_found_again_in_every_detail(gallery, record):
    added = record(
        prompt="Zwölf Kätzchen\nim Grünen \0 🦊",
        composed={"pack": "pets", "blocks": [{"name": "fixed", "text": "a {b}"}]},
        negative_prompt="dogs",
        revision="abc",
        loras=[{"name": "ink", "weight": 0.5}],
        parents=("img_a", "img_b"),
        session="s",
        stage="draft",
        rating=5,
        seed=2**53 - 1,
    )
    assert gallery.add(added) == added
    assert gallery.find(added.id) == added
    assert gallery.find(added.id).render_plan().seeds == (7, 8)


def test_a_column_that_a_newer_version_added_is_left_out(gallery, record, database):
    added = gallery.add(record())
    database.execute("ALTER TABLE images ADD COLUMN aesthetic REAL")
    assert gallery.find(added.id) == added
    assert gallery.search(SearchFilter()).images == (added,)
    later = gallery.add(record(1))
    assert gallery.find(later.id) == later


def test_ids_are_unguessable_and_safe_in_a_path():
    ids = {new_image_id() for _ in range(100)}
    assert len(ids) == 100
    assert all(re.fullmatch(r"img_[A-Za-z0-9_-]{16}", image_id) for image_id in ids)


def test_a_late_duplicate_changes_nothing_and_returns_the_first(gallery, record):
    first = gallery.add(record(0, prompt="first"))
    assert gallery.add(record(0, prompt="late")) == first
    assert prompts(gallery.search(SearchFilter())) == ["first"]


def test_an_id_used_for_two_jobs_is_our_own_mistake(gallery, record):
    gallery.add(record(0, id="img_same"))
    with pytest.raises(InternalError):
        gallery.add(record(1, id="img_same"))
    assert len(gallery.search(SearchFilter()).images) == 1


@pytest.mark.parametrize("image_id", ["img_nothing", "", "img_\ud800", "' OR 1=1 --", "x" * 9999])
def test_an_unknown_id_is_refused_with_a_hint(gallery, image_id):
    with pytest.raises(UnknownImageError) as refused:
        gallery.find(image_id)
    assert refused.value.hint


def test_the_images_of_a_job_come_in_order(gallery, record):
    for index in (2, 0, 1):
        gallery.add(record(index, job_id="job", index=index))
    assert [image.index for image in gallery.of_job("job")] == [0, 1, 2]
    assert gallery.of_job("other") == ()


def test_known_files_are_the_files_and_thumbnails_of_a_month(gallery, record):
    moments = ("2026-02-28T23:59:59.999999+00:00", "2026-03-01T00:00:00.000000+00:00")
    february, march = [
        gallery.add(record(created_at=moment, job_id=f"job_{moment}")) for moment in moments
    ]
    assert gallery.known_files("2026/02") == {february.file, february.thumbnail}
    assert gallery.known_files("2026/03") == {march.file, march.thumbnail}
    assert gallery.known_files("2026/04") == frozenset()


@pytest.mark.parametrize(
    "wrong",
    [
        {"file": "/etc/passwd"},
        {"rating": 6},
        {"created_at": "2026-01-01"},
        {"created_at": "2026-01-01T00:00:00.000000+01:00"},
        {"seed": 2**63},
        {"id": "../a"},
        {"prompt": "\ud800"},
        {"colour": "red"},
    ],
)
def test_a_record_that_is_not_coherent_cannot_be_made(record, wrong):
    with pytest.raises(ValidationError):
        record(**wrong)


# --- order and pages ---------------------------------------------------------------------------


def test_search_gives_the_newest_first_whatever_the_order_of_adding(gallery, record):
    for n in (3, 1, 2):
        gallery.add(record(n, prompt=f"image {n}"))
    assert prompts(gallery.search(SearchFilter())) == ["image 3", "image 2", "image 1"]


def test_what_is_saved_last_is_first_after_the_clock_was_put_back(gallery, record):
    """By years, by an hour, by a second; dates are those that the clock told all the same."""
    moments = {
        "future": "2036-05-01T00:00:00.000000+00:00",
        "now": "2026-05-02T01:00:00.000000+00:00",
        "an hour before": "2026-05-02T00:00:00.000000+00:00",
        "a second before": "2026-05-01T23:59:59.000000+00:00",
    }
    added = {
        name: gallery.add(record(n, prompt=name, created_at=moment), is_new=True)
        for n, (name, moment) in enumerate(moments.items())
    }
    newest_first = list(reversed(moments))
    assert prompts(gallery.search(SearchFilter())) == newest_first
    assert prompts(gallery.search(SearchFilter(created_before="2026-06-01"))) == newest_first[:3]
    assert prompts(gallery.search(SearchFilter(created_before="2026-05-02"))) == newest_first[:1]
    assert prompts(gallery.search(SearchFilter(created_after="2026-06-01"))) == ["future"]
    first = gallery.search(SearchFilter(created_before="2026-06-01", limit=2))
    rest = SearchFilter(created_before="2026-06-01", limit=2, cursor=first.next_cursor)
    assert prompts(first) + prompts(gallery.search(rest)) == newest_first[:3]
    for name, month in (("future", "2036/05"), ("now", "2026/05")):
        assert added[name].file in gallery.known_files(month)
    assert len(gallery.known_files("2026/05")) == 6


def test_an_image_that_is_taken_back_has_the_place_of_its_time(gallery, record):
    gallery.add(record(5, prompt="new"), is_new=True)
    gallery.add(record(1, prompt="old"))
    assert prompts(gallery.search(SearchFilter())) == ["new", "old"]


@pytest.mark.parametrize("limit", [1, 3, 7, 8, 100])
@pytest.mark.parametrize("query", [None, "image"])
def test_pages_hold_every_row_once(gallery, record, limit, query):
    for n in range(7):
        gallery.add(record(n, prompt=f"image {n}"))
    pages = all_pages(gallery, limit=limit, query=query)
    assert [p for page in pages for p in prompts(page)] == [f"image {n}" for n in range(6, -1, -1)]
    assert all(len(page.images) == limit for page in pages[:-1])


def test_rows_added_meanwhile_do_not_disturb_the_pages(gallery, record):
    for n in range(4):
        gallery.add(record(n, prompt=f"image {n}"))
    first = gallery.search(SearchFilter(limit=2))
    gallery.add(record(9, prompt="new"))
    second = gallery.search(SearchFilter(limit=2, cursor=first.next_cursor))
    assert prompts(first) + prompts(second) == [f"image {n}" for n in (3, 2, 1, 0)]


def test_images_of_one_microsecond_keep_their_order_and_their_dates(gallery, record):
    for n in range(5):
        gallery.add(record(0, job_id=f"j{n}", prompt=f"image {n}"))
    pages = all_pages(gallery, limit=2)
    assert [p for page in pages for p in prompts(page)] == [f"image {n}" for n in (4, 3, 2, 1, 0)]
    just_after = "2026-01-01T00:00:00.000001Z"
    assert len(gallery.search(SearchFilter(created_before=just_after)).images) == 5
    assert not gallery.search(SearchFilter(created_after=just_after)).images


def test_a_limit_below_one_is_refused(gallery):
    with pytest.raises(InvalidRequestError, match="limit"):
        gallery.search(SearchFilter(limit=0))


@pytest.mark.parametrize("damage", ["plan = '{'", "kind = 'of next year'", "created_at = 'today'"])
def test_a_row_that_cannot_be_read_does_not_take_a_page_along(
    gallery, record, database, damage, caplog
):
    for n in range(5):
        gallery.add(record(n, prompt=f"p{n}"))
    bad = gallery.search(SearchFilter(limit=9)).images[2]
    database.execute(f"UPDATE images SET {damage} WHERE id = ?", [bad.id])  # noqa: S608 - our own
    assert prompts(gallery.search(SearchFilter(limit=9))) == ["p4", "p3", "p1", "p0"]
    first = gallery.search(SearchFilter(limit=3))
    assert prompts(first) == ["p4", "p3"]
    assert prompts(gallery.search(SearchFilter(limit=3, cursor=first.next_cursor))) == ["p1", "p0"]
    assert f"an image is left out of a list: [storage] The row of image {bad.id}" in caplog.text
    with pytest.raises(StorageError, match="cannot be read"):
        gallery.find(bad.id)
