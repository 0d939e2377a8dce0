"""Range headers: what they ask for, and what a server answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import cogcache
from cogcache.ranges import content_range, http_answer, http_headers, parse_range

CHUNK = 5_242_880


@dataclass
class Value:
    size: int = 1000
    etag: str = '"0123-blob"'
    content_type: str = "video/mp4"


@pytest.mark.parametrize(
    ("header", "size", "span"),
    [
        ("bytes=0-499", 1000, (0, 500)),
        ("bytes=500-", 1000, (500, 1000)),
        ("bytes=-500", 1000, (500, 1000)),
        ("bytes=-2000", 1000, (0, 1000)),
        ("bytes=750-2000", 1000, (750, 1000)),
        ("bytes=0-0", 1, (0, 1)),
        ("bytes=999-999", 1000, (999, 1000)),
        (f"bytes={CHUNK - 1}-{CHUNK}", 25 << 20, (CHUNK - 1, CHUNK + 1)),
        ("BYTES= 0-499 ", 1000, (0, 500)),
        (f"bytes=0-{'9' * 5000}", 1000, (0, 1000)),
        (f"bytes=-{'9' * 5000}", 1000, (0, 1000)),
        (f"bytes={'0' * 5000}1-2", 1000, (1, 3)),
        ("", 1000, None),
        (None, 1000, None),
        ("0-499", 1000, None),
        ("bytes", 1000, None),
        ("items=0-499", 1000, None),
        ("bytes=1-2-3", 1000, None),
        ("bytes=-", 1000, None),
        ("bytes=abc-def", 1000, None),
        ("bytes=500-300", 1000, None),
        ("bytes=-0", 1000, None),
        ("bytes=1000-", 1000, None),
        ("bytes=1000-1001", 1000, None),
        (f"bytes={'9' * 5000}-", 1000, None),
        ("bytes=0-499", 0, None),
        ("bytes=0-499", -5, None),
        ("bytes=-5", 0, None),
        ("bytes=0-1,4-5", 1000, None),
        ("bytes=0-1,", 1000, None),
        ("bytes=+1-2", 1000, None),
        ("bytes=1_0-20", 1000, None),
        ("bytes=\u0661-\u0662", 1000, None),
        ("bytes=0-499\n", 1000, None),
    ],
)
def test_the_table_of_range_headers(
    header: str | None, size: int, span: tuple[int, int] | None
) -> None:
    assert cogcache.parse_range(header, size) == span


@given(st.integers(1, 1 << 60), st.data())
def test_every_span_survives_the_way_through_a_header(size: int, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, size - 1))
    stop = data.draw(st.integers(start + 1, size))
    assert parse_range(f"bytes={start}-{stop - 1}", size) == (start, stop)
    shown = content_range(start, stop, size)
    unit, _, numbers = shown.partition(" ")
    assert (unit, numbers) == ("bytes", f"{start}-{stop - 1}/{size}")
    assert parse_range(f"bytes={numbers.partition('/')[0]}", size) == (start, stop)
    assert parse_range(f"bytes={start}-", size) == (start, size)
    assert parse_range(f"bytes=-{stop - start}", size) == (size - (stop - start), size)


@given(st.text("bytes=-0123456789, \t", max_size=30), st.integers(-2, 2000))
def test_whatever_is_asked_a_span_lies_within(header: str, size: int) -> None:
    span = parse_range(header, size)
    assert span is None or 0 <= span[0] < span[1] <= size
    answer = http_answer({"Range": header}, Value(size=max(size, 0)))
    assert 0 <= answer.start <= answer.stop <= max(size, 0)
    assert answer.headers["Content-Length"] == str(answer.stop - answer.start)
    assert answer.status in (200, 206, 416)


def test_a_slip_is_said() -> None:
    wrong: Any = b"bytes=0-1"
    with pytest.raises(TypeError, match="header must be the text"):
        parse_range(wrong, 10)
    with pytest.raises(TypeError, match="size must be a number of bytes"):
        parse_range("bytes=0-1", True)
    with pytest.raises(ValueError, match=r"span 5\.\.11 does not lie within the value's 10 bytes"):
        http_headers(10, (5, 11))


def test_the_whole_value_and_a_range_of_it() -> None:
    whole = http_answer({}, Value(), max_age=3600)
    assert (whole.status, whole.start, whole.stop) == (200, 0, 1000)
    assert whole.headers == {
        "Accept-Ranges": "bytes",
        "Content-Length": "1000",
        "Content-Type": "video/mp4",
        "ETag": '"0123-blob"',
        "Cache-Control": "public, max-age=3600",
    }
    part = http_answer({"range": "bytes=100-199"}, Value())
    assert (part.status, part.start, part.stop) == (206, 100, 200)
    assert part.headers["Content-Range"] == "bytes 100-199/1000"
    assert part.headers["Content-Length"] == "100"
    assert http_headers(10, age=61.7)["Age"] == "61"


@pytest.mark.parametrize(
    ("condition", "status"),
    [
        ('"0123-blob"', 206),
        (' "0123-blob" ', 206),
        ('"other"', 200),
        ('W/"0123-blob"', 200),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 200),
        ("", 200),
    ],
)
def test_a_range_of_another_generation_is_the_whole_of_this_one(
    condition: str, status: int
) -> None:
    answer = http_answer({"Range": "bytes=1-2", "If-Range": condition}, Value())
    assert answer.status == status


@pytest.mark.parametrize(
    ("condition", "status"),
    [
        ('"0123-blob"', 304),
        ('W/"0123-blob"', 304),
        ('"a", "b,c" ,"0123-blob"', 304),
        ("*", 304),
        ('"other"', 200),
        ("0123-blob", 200),
    ],
)
def test_what_the_client_has_is_not_sent(condition: str, status: int) -> None:
    answer = http_answer({"If-None-Match": condition}, Value(), max_age=5)
    assert answer.status == status
    if status == 304:
        assert answer.headers == {"ETag": '"0123-blob"', "Cache-Control": "public, max-age=5"}
        assert (answer.start, answer.stop) == (0, 0)


@pytest.mark.parametrize(
    ("header", "status"),
    [("bytes=1000-", 416), ("bytes=-0", 416), ("bytes=9-1", 200), ("x", 200), ("bytes=-", 200)],
)
def test_a_range_that_is_not_there_is_refused_and_nonsense_ignored(
    header: str, status: int
) -> None:
    answer = http_answer({"Range": header}, Value())
    assert answer.status == status
    if status == 416:
        assert answer.headers["Content-Range"] == "bytes */1000"
        assert answer.headers["Content-Length"] == "0"
    recovered = http_answer({"Range": header}, Value(), recover=True)
    assert (recovered.status, recovered.stop) == (200, 1000)
    assert recovered.headers["X-Range-Recovery"] == "true"
