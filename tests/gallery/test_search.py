"""Searches as a caller sees them, on a real gallery, and as SQLite plans them."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flux_mcp.errors import InvalidCursorError, InvalidRequestError
from flux_mcp.gallery.search import SearchFilter, statement_for
from flux_mcp.gallery.store import Gallery, migrate
from flux_mcp.settings.paths import Paths
from flux_mcp.storage.database import open_database


def prompts(page):
    return [image.prompt for image in page.images]


# --- filters -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({}, "dcba"),
        ({"kind": "text2img"}, "ba"),
        ({"kind": "fill", "model": "flux1-fill-dev"}, "d"),
        ({"model": "micro"}, "cba"),
        ({"model": "nothing"}, ""),
        ({"session": "one"}, "ca"),
        ({"session": "one", "kind": "text2img", "model": "micro", "seed": 1}, "a"),
        ({"seed": 1}, "ba"),
        ({"seed": 2**70}, ""),
        ({"session": "\ud800"}, ""),
        ({"created_after": "2026-01-01T00:02:00Z"}, "dc"),
        ({"created_before": "2026-01-01T00:02:00+00:00"}, "ba"),
        ({"created_before": "2026-01-01T03:01:00+03:00"}, "a"),
        ({"created_after": "2026-01-01T00:01", "created_before": "2026-01-01T00:02"}, "b"),
        ({"created_after": "2026-01-01"}, "dcba"),
        ({"created_before": "2026-01-01"}, ""),
        ({"created_after": "9999-12-31"}, ""),
        ({"created_before": "0001-01-01"}, ""),
        ({"query": "word", "session": "one"}, "ca"),
        ({"query": "word", "kind": "fill"}, "dc"),
        ({"query": "word", "seed": 1}, "ba"),
        ({"query": "a", "seed": 1}, "a"),
        ({"query": "word", "created_before": "2026-01-01T00:02"}, "ba"),
        ({"query": "   "}, "dcba"),
    ],
)
def test_every_filter_that_is_given_must_hold(gallery, record, wanted, expected):
    gallery.add(record(0, prompt="a word", session="one", seed=1))
    gallery.add(record(1, prompt="b word", session="two", seed=1))
    gallery.add(record(2, prompt="c word", session="one", seed=2, kind="fill"))
    gallery.add(record(3, prompt="d word", seed=3, kind="fill", model="flux1-fill-dev"))
    found = "".join(p[0] for p in prompts(gallery.search(SearchFilter(**wanted))))
    assert found == expected


@pytest.mark.parametrize(
    "text", ["yesterday", "", "2026-13-01", "2026-01-01T25:00", "0001-01-01T00:00+14:00x", "\ud800"]
)
@pytest.mark.parametrize("name", ["created_after", "created_before"])
def test_a_date_that_cannot_be_read_is_refused(gallery, name, text):
    with pytest.raises(InvalidRequestError, match=name) as refused:
        gallery.search(SearchFilter(**{name: text}))
    assert "2026-01-31" in refused.value.hint


# --- words -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("cat", True),
        ("CAT", True),
        ("cats", True),
        ("cafe", True),
        ("café", True),
        ("cat café", True),
        ("café cat", True),
        ("cat dog", False),
        ("sitting", True),
        ("sun*", True),
        ("sun", False),
        ("su*", False),
        ("cat 🦊", True),
        ("!!!", False),
        ("cat !!!", True),
        ("it's", True),
        ('"cat"', True),
        ('cat"', True),
        ("cat OR dog", False),
        ("cat NOT café", False),
        ("cat AND café", False),
        ("prompt:cat", False),
        ("NEAR(cat café)", False),
        ("cat\0café", True),
        ("^cat", True),
        ("facets:kind", False),
        ("*", False),
    ],
)
def test_all_words_must_occur_and_none_is_an_operator(gallery, record, query, found):
    gallery.add(record(prompt="A cat sits in a Café, it's sunny"))
    assert bool(gallery.search(SearchFilter(query=query)).images) is found


def test_the_words_that_stand_for_filters_are_not_found_as_words(gallery, record, database):
    gallery.add(record(prompt="cat"))
    (facets,) = database.execute("SELECT facets FROM images").fetchone()
    assert facets
    for facet in facets.split():
        assert not gallery.search(SearchFilter(query=facet)).images


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text() | st.text(alphabet="\"'*^:()-+{}\0 aANDORTE\ud800"))
def test_no_text_breaks_the_search(gallery, query):
    assert gallery.search(SearchFilter(query=query, kind="fill")).images == ()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=15)
@given(st.lists(st.from_regex(r"[a-z]{2,8}", fullmatch=True), min_size=1, max_size=5))
def test_a_prompt_is_found_by_each_of_its_words(tmp_path_factory, record, words):
    database = open_database(tmp_path_factory.mktemp("words") / "g.sqlite")
    migrate(database)
    gallery = Gallery(database)
    gallery.add(record(prompt=" ".join(words)))
    for query in (*words, " ".join(reversed(words))):
        assert gallery.search(SearchFilter(query=query)).images
    database.close()


# --- cursors -----------------------------------------------------------------------------------


@pytest.fixture
def cursor(gallery, record) -> str:
    for n in range(3):
        gallery.add(record(n))
    cursor = gallery.search(SearchFilter(limit=1)).next_cursor
    assert cursor is not None
    assert len(cursor) <= 200
    return cursor


def test_a_cursor_may_be_used_with_another_limit(gallery, cursor):
    assert len(gallery.search(SearchFilter(limit=5, cursor=cursor)).images) == 2


def test_a_cursor_changed_in_any_place_is_refused(gallery, cursor):
    for place in range(len(cursor)):
        # At the end, "B" for "A" changes only bits that decode to nothing.
        other = "A" if cursor[place] != "A" else "B"
        with pytest.raises(InvalidCursorError):
            gallery.search(SearchFilter(cursor=cursor[:place] + other + cursor[place + 1 :]))


@pytest.mark.parametrize("text", ["", "x", "1", "%%%", "AAAA", "é", "\ud800", "A" * 200, "===="])
def test_a_text_that_never_was_a_cursor_is_refused(gallery, text):
    with pytest.raises(InvalidCursorError) as refused:
        gallery.search(SearchFilter(cursor=text))
    assert "next_cursor" in refused.value.hint


@pytest.mark.parametrize(
    "other",
    [
        {"query": "red"},
        {"kind": "fill"},
        {"seed": 7},
        {"session": "s"},
        {"created_after": "2026-01-01"},
    ],
)
def test_a_cursor_is_refused_with_other_filters(gallery, cursor, other):
    with pytest.raises(InvalidCursorError):
        gallery.search(SearchFilter(cursor=cursor, **other))


def test_a_cursor_of_another_gallery_is_refused(cursor, record, tmp_path):
    database = open_database(Paths(tmp_path).database)
    migrate(database)
    with pytest.raises(InvalidCursorError):
        Gallery(database).search(SearchFilter(cursor=cursor))
    database.close()


# --- speed, as SQLite plans it -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "access"),
    [
        ({}, "INTEGER PRIMARY KEY (rowid>? AND rowid<?)"),
        ({"kind": "fill"}, "INDEX images_kind (kind=?"),
        ({"model": "m"}, "INDEX images_model (model=?"),
        ({"kind": "fill", "model": "m"}, "INDEX images_kind_model (kind=? AND model=?"),
        ({"session": "s", "kind": "fill"}, "INDEX images_session (session=?"),
        ({"seed": 1, "session": "s", "model": "m", "kind": "fill"}, "INDEX images_seed (seed=?"),
        ({"query": "cat"}, "images_fts VIRTUAL TABLE"),
        ({"query": "cat dog", "kind": "fill", "session": "s"}, "images_fts VIRTUAL TABLE"),
        ({"query": "cat", "seed": 1}, "INDEX images_seed (seed=?"),
    ],
)
def test_a_search_walks_one_index_newest_first_and_sorts_nothing(gallery, database, wanted, access):
    sql, values = statement_for(SearchFilter(created_before="2026-01-01", **wanted)).build(20)
    plan = [row[3] for row in database.execute(f"EXPLAIN QUERY PLAN {sql}", values).fetchall()]
    assert access in plan[0]
    assert not [step for step in plan if "TEMP B-TREE" in step or step == "SCAN images"]
    if not wanted.get("query"):
        assert "rowid<?" in plan[0]
    assert "count(" not in sql.lower()
    assert "offset" not in sql.lower()
