"""Chunks that are kept for the next range: which, for how long, how many, and that every byte is
right.
"""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cogcache import edge as module
from cogcache._inline import run_inline
from cogcache.edge import EDGE_BYTES, KEPT_WHOLE, Edge

CHUNK = 1000
DATA = random.Random(5).randbytes(20 * CHUNK + 17)
PART = (7, "blob/0")


class Source:
    """A part that counts what is read of it, and an edge with a clock of its own before it."""

    def __init__(self, seconds: float = 3600, data: bytes = DATA, chunk: int = CHUNK) -> None:
        self.data, self.chunk = data, chunk
        self.reads: list[tuple[int, int]] = []
        self.counts: dict[str, int] = {}
        self.now = 1e6
        self.edge = Edge(seconds, self.count, lambda: self.now)

    def count(self, name: str, more: int) -> None:
        self.counts[name] = self.counts.get(name, 0) + more

    async def fetch(self, start: int, stop: int) -> bytes:
        self.reads.append((start, stop))
        return self.data[start:stop]

    async def read(self, start: int, stop: int, part: tuple[int, str] = PART) -> bytes:
        return await self.edge.read(part, len(self.data), self.chunk, start, stop, self.fetch)

    def held(self) -> int:
        return sum(len(data) for _, data in self.edge._held.values())


async def test_a_chunk_is_fetched_whole_and_once() -> None:
    source = Source()
    for start, stop in ((1100, 1200), (1000, 1001), (1999, 2000), (1000, 2000)):
        assert await source.read(start, stop) == DATA[start:stop]
    assert source.reads == [(1000, 2000)]
    assert await source.read(500, 3500) == DATA[500:3500]  # what lies between is fetched once more
    assert source.reads[1:] == [(0, 4000)]
    assert await source.read(len(DATA) - 1, len(DATA)) == DATA[-1:]
    assert source.reads[2:] == [(20_000, len(DATA))]
    assert source.counts["edge_hits"] == 4 - 1 + 1
    assert await source.read(1100, 1200, (8, "blob/0")) == DATA[1100:1200]  # another write
    assert await source.read(1100, 1200, (7, "blob/1")) == DATA[1100:1200]
    assert len(source.reads) == 5


async def test_what_is_kept_passes() -> None:
    source = Source(seconds=60)
    await source.read(1100, 1200)
    source.now += 59
    await source.read(1100, 1200)
    assert len(source.reads) == 1
    source.now += 1  # being used does not keep it
    await source.read(1100, 1200)
    assert len(source.reads) == 2
    source.edge.clear()
    assert source.held() == 0
    nothing = Source(seconds=0)
    for _ in range(2):
        assert await nothing.read(1100, 1200) == DATA[1100:1200]
    assert nothing.reads == [(1000, 2000)] * 2


async def test_no_more_is_kept_than_its_bound() -> None:
    source = Source(data=bytes(40 << 20), chunk=1 << 20)
    for at in range(40):
        await source.read(at << 20, (at << 20) + 1)
        assert source.held() <= EDGE_BYTES
    source.reads.clear()
    for at in (24, 39):
        await source.read(at << 20, (at << 20) + 1)
    assert source.reads == []
    await source.read(23 << 20, (23 << 20) + 1)  # the least recently used one went first
    assert len(source.reads) == 1
    many = Source(data=bytes(1000 * 100), chunk=100)
    for at in range(1000):
        await many.read(at * 100, at * 100 + 1)
    assert len(many.edge._held) == module._MOST


@pytest.mark.parametrize(
    ("size", "chunk", "span", "kept"),
    [
        (20_000_000, 5_000_000, (0, 5_000_000), False),  # whole chunks, as streams read them
        (20_000_000, 5_000_000, (0, 4_999_999), True),
        (20_000_000, 5_000_000, (1, 8_000_000), False),  # two chunks are more than may be read
        (KEPT_WHOLE, 5_000_000, (0, KEPT_WHOLE), True),  # a frame
        (KEPT_WHOLE + 1, 5_000_000, (0, KEPT_WHOLE + 1), False),
        (5000, 0, (0, 10), False),
        (5000, 1000, (10, 10), False),
    ],
)
async def test_what_is_kept(size: int, chunk: int, span: tuple[int, int], kept: bool) -> None:
    source = Source(data=bytes(size), chunk=chunk)
    assert await source.read(*span) == bytes(span[1] - span[0])
    assert bool(source.held()) is kept
    assert len(source.reads) == 1
    if not kept:
        assert source.reads == [span]


@given(st.lists(st.tuples(st.integers(0, len(DATA)), st.integers(0, 4000)), max_size=30))
def test_every_byte_is_right(asked: list[tuple[int, int]]) -> None:
    source = Source()
    for start, size in asked:
        stop = min(start + size, len(DATA))
        assert run_inline(source.read(start, stop)) == DATA[start:stop]
        source.now += 100


async def test_a_read_that_fails_keeps_nothing() -> None:
    source = Source()

    async def failing(start: int, stop: int) -> bytes:
        raise ConnectionError("gone")

    with pytest.raises(ConnectionError):
        await source.edge.read(PART, len(DATA), CHUNK, 5, 10, failing)
    assert source.held() == 0
    assert await source.read(5, 10) == DATA[5:10]
