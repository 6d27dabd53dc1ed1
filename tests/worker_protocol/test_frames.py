import asyncio
import io
import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux_mcp.worker_protocol.frames import (
    MAX_BLOB_BYTES,
    MAX_HEADER_BYTES,
    BrokenFrameError,
    Frame,
    encode,
    read_frame,
    read_frame_blocking,
)


def read_blocking(data: bytes) -> Frame | None:
    return read_frame_blocking(io.BytesIO(data))


def read_async(data: bytes) -> Frame | None:
    async def read() -> Frame | None:
        reader = asyncio.StreamReader()
        reader.feed_data(data)
        reader.feed_eof()
        return await read_frame(reader)

    return asyncio.run(read())


BOTH = pytest.mark.parametrize("read", [read_blocking, read_async])


def framed(header: bytes) -> bytes:
    return struct.pack(">I", len(header)) + header


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=["Cs"])),
    lambda children: st.lists(children, max_size=3),
    max_leaves=5,
)
headers = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"])).filter(lambda key: key != "blobs"),
    json_values,
)
blobs = st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), st.binary(max_size=200))


@given(headers, blobs)
def test_what_is_written_is_read(header, named):
    data = b"".join(encode(header, named))
    assert read_blocking(data) == Frame(header, named)


@BOTH
def test_frames_follow_each_other_until_the_stream_ends(read):
    data = b"".join(encode({"n": 1}, {"a": b"123", "b": b""}))
    assert read(data + b"rest") == Frame({"n": 1}, {"a": b"123", "b": b""})
    assert read(b"") is None


@BOTH
def test_a_stream_cut_anywhere_is_a_broken_frame(read):
    data = b"".join(encode({"n": 1}, {"a": b"123"}))
    for length in range(1, len(data)):
        with pytest.raises(BrokenFrameError):
            read(data[:length])


@BOTH
@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\0\0\0\0", id="empty header"),
        pytest.param(struct.pack(">I", MAX_HEADER_BYTES + 1) + b"x", id="huge header"),
        pytest.param(b"print was called\n", id="text"),
        pytest.param(framed(b"\xff\xfe\xfd"), id="not UTF-8"),
        pytest.param(framed(b"nonsense"), id="not JSON"),
        pytest.param(framed(b"[" * 100_000), id="nested too deep"),
        pytest.param(framed(b"[]"), id="not an object"),
        *(
            pytest.param(framed(json.dumps({"blobs": listing}).encode()), id=json.dumps(listing))
            for listing in (
                7,
                None,
                {},
                "ab",
                [7],
                [{}],
                [{"name": "a"}],
                [{"name": "a", "size": "x"}],
                [{"name": "a", "size": None}],
                [{"name": "a", "size": -1}],
                [{"name": "a", "size": float("inf")}],
                [{"name": "a", "size": float("nan")}],
                [{"name": "a", "size": MAX_BLOB_BYTES + 1}],
                [{"name": "a", "size": MAX_BLOB_BYTES}, {"name": "b", "size": 1}],
            )
            if listing != {}
        ),
    ],
)
def test_a_hostile_stream_is_a_broken_frame(read, data):
    with pytest.raises(BrokenFrameError):
        read(data)


@given(st.binary(max_size=100))
def test_any_bytes_give_a_frame_nothing_or_a_broken_frame(data):
    try:
        frame = read_blocking(data)
    except BrokenFrameError:
        return
    assert frame is None or isinstance(frame.header, dict)


def test_the_blob_listing_is_the_frames_own():
    with pytest.raises(ValueError, match="blobs"):
        encode({"blobs": []})
