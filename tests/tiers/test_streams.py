"""Values as streams and ranges over every tier: what comes back, what is left behind by whatever
goes wrong, and how much is read for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import random
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support_cache import BrokenTier, DictTier, manager_over

from cogcache import (
    CacheConfig,
    CacheManager,
    ConfigError,
    FilesystemCacheConfig,
    IncompleteError,
    MemoryCacheConfig,
    NotFoundError,
    _core,
)
from cogcache.backends.base import META_CONTENT_DIGEST, CacheBackend
from cogcache.backends.filesystem import FilesystemCacheBackend
from cogcache.backends.memory import MemoryCacheBackend
from cogcache.frames import make_bundle
from cogcache.keys import Key, key_bytes
from cogcache.ranges import http_answer

CHUNK = 5_242_880
MIB = 1 << 20


def blob(size: int, salt: int = 0) -> bytes:
    return random.Random(salt).randbytes(size)


def files(path: Path, **options: Any) -> FilesystemCacheBackend:
    return FilesystemCacheBackend(FilesystemCacheConfig(path, cleanup_on_startup=False, **options))


def leftovers(path: Path) -> list[str]:
    """Files under a root that are neither entries nor tables."""
    return [str(p) for p in path.rglob("*") if p.is_file() and "tmp" in str(p.relative_to(path))]


async def collected(pieces: AsyncIterator[bytes]) -> bytes:
    return b"".join([piece async for piece in pieces])


async def sliced(data: bytes, step: int = 100_000) -> AsyncIterator[bytes]:
    for at in range(0, len(data), step):
        yield data[at : at + step]


@pytest.fixture(params=["filesystem", "memory", "third-party"])
def tier(request: pytest.FixtureRequest, tmp_path: Path) -> CacheBackend:
    made: dict[str, Callable[[], CacheBackend]] = {
        "filesystem": lambda: files(tmp_path),
        "memory": lambda: MemoryCacheBackend(MemoryCacheConfig()),
        "third-party": DictTier,
    }
    return made[request.param]()


@pytest.mark.parametrize(
    "size", [0, 1, 4096, 4097, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, 3 * CHUNK + 17]
)
async def test_a_stream_is_the_value_that_set_would_have_kept(
    tier: CacheBackend, size: int
) -> None:
    manager = manager_over(tier)
    data = blob(size)
    result = await manager.put_stream("key", sliced(data), content_type="video/mp4", tags=["t"])
    assert (result.stored, result.size, result.tiers) == (True, size, (tier.name,))
    assert result.digest == _core.hash128(data)
    assert result.chunks == -(-size // CHUNK)
    assert await manager.get("key") == data
    assert await collected(manager.get_stream("key")) == data
    async with manager.open("key") as reader:
        assert reader is not None
        assert (reader.size, reader.content_type) == (size, "video/mp4")
    described = await manager.get_metadata("key")
    assert described is not None
    assert described["tags"] == ["t"]
    assert described["content_digest"] == _core.hash128(data)
    await manager.invalidate_tags("t")
    assert await manager.read_range("key", 0, 1) is None


async def test_the_entry_does_not_depend_on_the_pieces(tmp_path: Path) -> None:
    data = blob(2 * CHUNK + 5)
    chunks = set()
    for step in (7_000_000, 65_536, 4_999):
        manager = manager_over(DictTier())
        result = await manager.put_stream("key", sliced(data, step))
        chunks.add((result.chunks, result.chunk_size, result.stored_bytes, result.digest))
    assert len(chunks) == 1


async def test_ranges_at_every_boundary(tier: CacheBackend) -> None:
    data = blob(2 * CHUNK + 1000)
    manager = manager_over(tier)
    await manager.put_stream("key", data)
    edges = [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, len(data) - 1, len(data)]
    for start in edges:
        for stop in edges:
            if start <= stop:
                assert await manager.read_range("key", start, stop) == data[start:stop]
    assert await manager.read_range("key", len(data) - 5, len(data) + 100) == data[-5:]
    assert await manager.read_range("key", len(data) + 5, len(data) + 100) == b""
    assert await manager.read_range("key", 7) == data[7:]
    assert await manager.read_range_inclusive("key", 0, 0) == data[:1]
    assert (
        await manager.read_range_inclusive("key", CHUNK - 1, CHUNK) == data[CHUNK - 1 : CHUNK + 1]
    )
    assert await manager.read_range("absent", 0, 10) is None


async def test_wrong_ranges_and_keys_are_said(tier: CacheBackend) -> None:
    manager = manager_over(tier)
    await manager.put_stream("key", b"0123456789")
    with pytest.raises(ValueError, match="start must not be negative"):
        await manager.read_range("key", -1, 5)
    with pytest.raises(ValueError, match=r"stop \(3\) must not lie before start \(5\)"):
        await manager.read_range("key", 5, 3)
    wrong: Any = "1"
    with pytest.raises(TypeError, match="stop must be a number of bytes"):
        await manager.read_range("key", 0, wrong)
    with pytest.raises(NotFoundError, match="no tier has 'absent'"):
        await collected(manager.get_stream("absent"))
    await manager.set("mapping", {"a": 1})
    with pytest.raises(ValueError, match="a part must be named"):
        await collected(manager.get_stream("mapping"))
    with pytest.raises(TypeError, match="length must be a number of bytes"):
        await manager.put_stream("key", b"", length=wrong)


async def test_every_tier_is_fed_from_one_pass(tmp_path: Path) -> None:
    tiers: list[CacheBackend] = [
        MemoryCacheBackend(MemoryCacheConfig()),
        files(tmp_path / "a"),
        files(tmp_path / "b", enable_compression=False),
        DictTier(),
    ]
    tiers[2].enable_compression = False
    manager = manager_over(*tiers)
    data = b"the same words " * 500_000
    reads = []

    def source() -> Iterator[bytes]:
        for at in range(0, len(data), 300_000):
            reads.append(at)
            yield data[at : at + 300_000]

    result = await manager.put_stream("key", source())
    assert len(result.tiers) == 4
    assert reads == list(range(0, len(data), 300_000))
    for tier in tiers:
        assert await tier.get("key") == data


async def test_a_failing_source_raises_and_leaves_nothing(
    tier: CacheBackend, tmp_path: Path
) -> None:
    manager = manager_over(tier)
    await manager.set("key", b"older")

    async def source() -> AsyncIterator[bytes]:
        yield blob(7 * MIB)
        raise ConnectionResetError("the camera is gone")

    with pytest.raises(ConnectionResetError, match="the camera is gone"):
        await manager.put_stream("key", source())
    assert await manager.get("key") == b"older"
    with pytest.raises(ConnectionResetError):
        await manager.put_stream("new", source())
    assert not await manager.exists("new")
    assert leftovers(tmp_path) == []
    assert (await manager.get_stats())["manager"]["streams"]["streams_aborted"] == 2


async def test_length_is_kept_to_the_byte(tier: CacheBackend, tmp_path: Path) -> None:
    manager = manager_over(tier)
    with pytest.raises(IncompleteError, match="ended after 10 of the 11 bytes that length"):
        await manager.put_stream("key", iter([b"0123456789"]), length=11)
    with pytest.raises(ValueError, match="more than the 9 bytes that length announced"):
        await manager.put_stream("key", iter([b"0123456789"]), length=9)
    with pytest.raises(ValueError, match="length must not be negative"):
        await manager.put_stream("key", b"", length=-1)
    assert not await manager.exists("key")
    assert await manager.put_stream("key", iter([b"0123456789"]), length=10)
    assert leftovers(tmp_path) == []


async def test_a_cancelled_put_leaves_nothing(tier: CacheBackend, tmp_path: Path) -> None:
    manager = manager_over(tier)
    await manager.set("key", b"older")
    given = asyncio.Event()
    closed = asyncio.Event()

    async def source() -> AsyncIterator[bytes]:
        try:
            yield blob(12 * MIB)
            given.set()
            await asyncio.Event().wait()
        finally:
            closed.set()

    before = asyncio.all_tasks()
    task = asyncio.create_task(manager.put_stream("key", source()))
    await given.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert closed.is_set()
    assert asyncio.all_tasks() == before
    assert await manager.get("key") == b"older"
    assert leftovers(tmp_path) == []


class FailingTier(DictTier):
    """Fails at one step of a stream."""

    def __init__(self, step: str, how: str | Exception) -> None:
        super().__init__()
        self.step, self.how = step, how
        self.aborted = 0

    async def _maybe(self, step: str) -> str | None:
        if step == self.step:
            if isinstance(self.how, Exception):
                raise self.how
            return self.how
        return None

    async def receive(self, key: bytes, token: int, *, source: int = 0, kind: int = 0) -> Any:
        return await self._maybe("receive") or self

    async def feed(self, data: bytes, /) -> str | None:
        return await self._maybe("feed")

    async def finish(self) -> str | None:
        return await self._maybe("finish")

    async def abort(self) -> None:
        self.aborted += 1
        if self.step == "abort":
            raise ConnectionError("no route")


@pytest.mark.parametrize("step", ["receive", "feed", "finish"])
@pytest.mark.parametrize("how", ["no-space", ConnectionError("no route")], ids=["word", "raises"])
@pytest.mark.parametrize("place", [0, 1])
async def test_a_failing_tier_is_left_behind(
    tmp_path: Path, step: str, how: str | Exception, place: int, caplog: pytest.LogCaptureFixture
) -> None:
    good, bad = files(tmp_path), FailingTier(step, how)
    tiers: list[CacheBackend] = [bad, good] if place == 0 else [good, bad]
    manager = manager_over(*tiers)
    bad.images[key_bytes("key")] = (
        DictTier().draft(key_bytes("key"), b"older", ttl_ms=None).compose().tobytes()
    )
    data = blob(7 * MIB)
    with caplog.at_level(logging.WARNING, "cogcache"):
        result = await manager.put_stream("key", sliced(data))
    assert result.tiers == (good.name,)
    assert result.refused == {bad.name: how if isinstance(how, str) else "io-error"}
    assert bad.images == {}  # or it would go on answering with the older value
    assert await manager.get("key") == data
    assert len(caplog.records) == (0 if isinstance(how, str) else 1)


@pytest.mark.parametrize("step", ["receive", "feed", "finish"])
async def test_nothing_counts_without_a_required_tier(tmp_path: Path, step: str) -> None:
    bad = FailingTier(step, "unavailable")
    object.__setattr__(bad.config, "required", True)
    good = files(tmp_path)
    manager = manager_over(good, bad)
    await good.set("key", b"older")
    result = await manager.put_stream("key", sliced(blob(7 * MIB)))
    assert (result.stored, result.reason) == (False, "unavailable")
    assert await good.get("key") == b"older"
    assert leftovers(tmp_path) == []


async def test_the_rest_is_not_read_when_no_tier_takes_it() -> None:
    asked = 0

    async def source() -> AsyncIterator[bytes]:
        nonlocal asked
        while True:
            asked += 1
            yield blob(6 * MIB)

    manager = manager_over(FailingTier("feed", "no-space"), BrokenTier())
    result = await manager.put_stream("key", source())
    assert not result.stored
    assert asked < 20
    assert set(result.refused.values()) <= {"no-space", "too-large", "io-error"}


async def test_policies_of_size_and_mode(tmp_path: Path) -> None:
    all_of_it = files(tmp_path / "all")
    small = files(tmp_path / "small", max_value_size=2000)
    large = files(tmp_path / "large", min_value_size=2001)
    off = files(tmp_path / "off", write_mode="off")
    for tier, name in ((small, "small"), (large, "large"), (off, "off"), (all_of_it, "all")):
        tier.name = name
    manager = manager_over(all_of_it, small, large, off)
    for size, tiers in ((1000, ("all", "small")), (3_000_000, ("all", "large"))):
        for source in (sliced(blob(size), 7 if size == 1000 else MIB), blob(size)):
            result = await manager.put_stream("key", source)
            assert result.tiers == tiers
    assert (await off.usage())["total_files"] == 0


async def test_an_older_value_that_waits_for_its_tier_does_not_come_after_a_stream(
    tmp_path: Path,
) -> None:
    upper, slow = DictTier(), DictTier()
    object.__setattr__(slow.config, "write_mode", "behind")
    manager = manager_over(upper, slow)
    assert await manager.set("key", b"older")
    assert (await manager.put_stream("key", iter([b"newer"]))).tiers == (upper.name, slow.name)
    assert await manager.flush() == 0
    assert await slow.get("key") == b"newer"
    await manager.aclose()


async def test_memory_takes_no_more_than_a_quarter_of_its_size(tmp_path: Path) -> None:
    memory = MemoryCacheBackend(MemoryCacheConfig(max_size_mb=40))
    manager = manager_over(memory, files(tmp_path))
    await memory.set("key", b"older")
    result = await manager.put_stream("key", sliced(blob(12 * MIB), MIB))
    assert result.refused == {memory.name: "too-large"}
    assert not await memory.exists("key")
    assert await manager.read_range("key", 0, 3) == blob(12 * MIB)[:3]


# --- reading --------------------------------------------------------------------------------------


class CountingTier(DictTier):
    """Reads parts when it is told to, and counts."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[tuple[int, int]] = []
        self.now = self.most = 0
        self.waiting: dict[int, asyncio.Event] = {}
        self.fail: Callable[[int], Exception | None] = lambda start: None

    async def read_part(self, entry: _core.Entry, part: int, start: int, stop: int) -> bytes:
        self.reads.append((start, stop))
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            if start in self.waiting:
                await self.waiting[start].wait()
            error = self.fail(start)
            if error is not None:
                raise error
            return await super().read_part(entry, part, start, stop)
        finally:
            self.now -= 1


async def counting(size: int, **options: Any) -> tuple[CacheManager, CountingTier, bytes]:
    tier = CountingTier()
    manager = manager_over(tier, **options)
    data = blob(size)
    assert await manager.set("key", data)
    return manager, tier, data


async def test_three_chunks_are_read_at_once_and_given_in_order() -> None:
    manager, tier, data = await counting(9 * CHUNK)
    tier.waiting = {at * CHUNK: asyncio.Event() for at in range(9)}
    pieces = manager.get_stream("key")
    first = asyncio.create_task(anext(pieces))
    while len(tier.reads) < 3:
        await asyncio.sleep(0)
    for at in (2, 1):  # the first one comes last
        tier.waiting[at * CHUNK].set()
        for _ in range(10):
            await asyncio.sleep(0)
    assert not first.done()
    assert tier.reads == [(at * CHUNK, (at + 1) * CHUNK) for at in range(3)]
    tier.waiting[0].set()
    got = [await first]
    assert got[0] == data[:MIB]
    for event in tier.waiting.values():
        event.set()
    got += [piece async for piece in pieces]
    assert b"".join(got) == data
    assert max(map(len, got)) == MIB
    assert tier.most == 3
    assert tier.reads == [(at * CHUNK, (at + 1) * CHUNK) for at in range(9)]


async def test_the_first_byte_comes_with_the_first_chunk() -> None:
    manager, tier, data = await counting(9 * CHUNK)
    tier.waiting = {at * CHUNK: asyncio.Event() for at in range(1, 9)}
    pieces = manager.get_stream("key")
    assert await anext(pieces) == data[:MIB]
    assert len(tier.reads) == 3
    await pieces.aclose()
    assert tier.now == 0


@pytest.mark.parametrize("how", ["aclose", "cancel", "break"])
async def test_who_stops_early_leaves_nothing_running(how: str) -> None:
    manager, tier, _ = await counting(9 * CHUNK)
    tier.waiting = {at * CHUNK: asyncio.Event() for at in range(1, 9)}
    before = asyncio.all_tasks()
    pieces = manager.get_stream("key")
    await anext(pieces)
    assert tier.now == 2
    if how == "aclose":
        await pieces.aclose()
    elif how == "cancel":

        async def rest() -> None:
            async for _ in pieces:
                pass

        task = asyncio.create_task(rest())
        while len(tier.reads) < 4 and tier.now < 3:
            await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    else:
        async for _ in pieces:
            break
        del pieces
        while tier.now:
            await asyncio.sleep(0)
    for _ in range(10):
        await asyncio.sleep(0)
    assert tier.now == 0
    assert asyncio.all_tasks() == before


async def test_a_range_reads_its_chunks_and_no_other() -> None:
    manager, tier, data = await counting(5 * CHUNK)
    assert await manager.read_range("key", 1_000_000, 2_000_001) == data[1_000_000:2_000_001]
    assert tier.reads == [(1_000_000, 2_000_001)]
    tier.reads.clear()
    async with manager.open("key") as reader:
        assert reader is not None
        start = 3 * CHUNK + 17
        assert await collected(reader.stream(start, start + CHUNK)) == data[start : start + CHUNK]
    assert tier.reads == [(start, 4 * CHUNK), (4 * CHUNK, start + CHUNK)]


async def test_a_hung_chunk_ends_at_its_deadline() -> None:
    manager, tier, _ = await counting(3 * CHUNK, chunking={"timeoutMs": 2000, "parallelFetches": 2})
    tier.waiting = {CHUNK: asyncio.Event()}
    before = asyncio.all_tasks()
    with pytest.raises(IncompleteError, match="it took too long") as caught:
        await collected(manager.get_stream("key"))
    assert (caught.value.tier, caught.value.part) == (tier.name, "blob/0")
    assert caught.value.position == CHUNK
    assert tier.now == 0
    assert tier.most <= 2
    assert asyncio.all_tasks() == before
    streams = (await manager.get_stats())["manager"]["streams"]
    assert streams["chunk_timeouts"] == 1


async def test_a_way_that_is_too_slow_for_three_chunks_carries_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cogcache.window._LATE", 0)  # whatever fails took all of its time
    manager, tier, data = await counting(7 * CHUNK)
    counters = manager._readers.reading.counters
    tier.fail = lambda start: None if "streams_narrowed" in counters else OSError("slow")
    assert await collected(manager.get_stream("key")) == data
    assert counters["streams_narrowed"] == 1
    assert tier.reads[3:] == [(at * CHUNK, (at + 1) * CHUNK) for at in range(7)]
    tier.fail = lambda start: OSError("slow") if start == 3 * CHUNK else None
    got = await collected(manager.get_stream("key", on_missing="zero"))
    assert got == data[: 3 * CHUNK] + bytes(CHUNK) + data[4 * CHUNK :]


async def test_what_one_tier_cannot_read_another_one_gives() -> None:
    bad, good = CountingTier(), CountingTier()
    manager = manager_over(bad, good)
    data = blob(6 * CHUNK)
    await manager.put_stream("key", sliced(data, MIB))
    bad.fail = lambda start: ConnectionResetError("gone") if start >= 2 * CHUNK else None
    assert await collected(manager.get_stream("key")) == data
    assert good.reads[0][0] >= 2 * CHUNK
    assert (await manager.get_stats())["manager"]["streams"]["chunk_retries"] == 1
    bad.fail = lambda start: _core.DamagedError("flipped")
    assert await manager.read_range("key", 5, 6) == data[5:6]
    assert key_bytes("key") not in bad.images  # set aside


async def test_bytes_of_another_generation_are_never_mixed_in() -> None:
    bad, other = CountingTier(), CountingTier()
    manager = manager_over(bad, other)
    await bad.set("key", blob(3 * CHUNK, 1))
    await other.set("key", blob(3 * CHUNK, 2))
    bad.fail = lambda start: ConnectionResetError("gone") if start else None
    with pytest.raises(IncompleteError) as caught:
        await collected(manager.get_stream("key"))
    assert caught.value.position == CHUNK
    assert other.reads == []


async def test_before_the_first_byte_any_generation_will_do() -> None:
    bad, other = CountingTier(), CountingTier()
    manager = manager_over(bad, other)
    await bad.set("key", blob(3 * CHUNK, 1))
    await other.set("key", blob(3 * CHUNK, 2))
    bad.fail = lambda start: ConnectionResetError("gone")
    assert await collected(manager.get_stream("key")) == blob(3 * CHUNK, 2)
    assert await manager.read_range("key", 7, 9) == blob(3 * CHUNK, 2)[7:9]
    other.fail = bad.fail
    with pytest.raises(NotFoundError):
        await collected(manager.get_stream("key"))
    assert await manager.read_range("key", 7, 9) is None


async def test_a_hole_is_filled_with_zeros_only_if_asked() -> None:
    manager, tier, data = await counting(4 * CHUNK + 9)
    tier.fail = lambda start: OSError("gone") if start == 2 * CHUNK else None
    with pytest.raises(IncompleteError) as caught:
        await collected(manager.get_stream("key"))
    assert caught.value.position == 2 * CHUNK
    got = await collected(manager.get_stream("key", on_missing="zero"))
    assert got == data[: 2 * CHUNK] + bytes(CHUNK) + data[3 * CHUNK :]
    assert (await manager.get_stats())["manager"]["streams"]["chunks_zeroed"] == 1
    wrong: Any = "skip"
    with pytest.raises(ValueError, match="on_missing must be 'raise' or 'zero'"):
        await collected(manager.get_stream("key", on_missing=wrong))


async def test_a_range_or_stream_is_not_copied_into_higher_tiers() -> None:
    upper, lower = DictTier(), DictTier()
    manager = manager_over(upper, lower)
    await lower.set("key", blob(CHUNK))
    await manager.read_range("key", 0, 10)
    await collected(manager.get_stream("key"))
    assert upper.images == {}


async def test_a_stream_goes_on_while_its_key_is_replaced(tmp_path: Path) -> None:
    manager = manager_over(files(tmp_path))
    data = blob(4 * CHUNK)
    await manager.put_stream("key", data)
    pieces = manager.get_stream("key")
    got = [await anext(pieces)]
    await manager.put_stream("key", blob(4 * CHUNK, 1))
    await manager.delete("key")
    got += [piece async for piece in pieces]
    assert b"".join(got) == data


async def test_a_flipped_byte_on_disk_is_never_given_out(tmp_path: Path) -> None:
    manager = manager_over(files(tmp_path))
    data = blob(3 * CHUNK)
    await manager.put_stream("key", data)
    [path] = [
        p for p in tmp_path.rglob("*") if p.is_file() and 0 <= p.stat().st_size - 3 * CHUNK < 4096
    ]
    content = bytearray(path.read_bytes())
    content[CHUNK + 1000] ^= 1
    path.write_bytes(content)
    manager = manager_over(files(tmp_path))
    got = bytearray()
    with pytest.raises(IncompleteError) as caught:
        async for piece in manager.get_stream("key"):
            got += piece
    assert got == data[:CHUNK]
    assert caught.value.position == CHUNK
    assert await manager.read_range("key", CHUNK, CHUNK + 1) is None


async def test_the_counters_are_those_of_what_happened() -> None:
    bad, good = CountingTier(), CountingTier()
    manager = manager_over(bad, good, chunking={"timeoutMs": 600_000})
    data = blob(3 * CHUNK + 5)
    assert await manager.put_stream("key", sliced(data, MIB))
    assert await manager.put_stream("other", b"x" * 10_000)
    with pytest.raises(IncompleteError):
        await manager.put_stream("key", iter([b"0123456789"]), length=11)
    bad.fail = lambda start: ConnectionResetError("gone") if start == 2 * CHUNK else None
    assert await collected(manager.get_stream("key")) == data
    assert await manager.read_range("other", 2, 5) == b"xxx"
    bad.fail = lambda start: None
    assert await manager.read_range("key", CHUNK - 1, CHUNK + 1) == data[CHUNK - 1 : CHUNK + 1]
    streams = (await manager.get_stats())["manager"]["streams"]
    assert streams.pop("store_ms") >= 0
    assert streams == {
        "streams_stored": 2,
        "streams_aborted": 1,
        "bytes_stored": len(data) + 10_000,
        "chunks_stored": 5,
        "bytes_read": len(data) + 3 + 2,
        "chunks_read": 4 + 1 + 2,
        "chunk_errors": 1,
        "chunk_retries": 1,
    }


# --- configuration --------------------------------------------------------------------------------

BLOCK = {
    "enabled": True,
    "sizeThreshold": 20971520,
    "chunkSize": 5242880,
    "timeoutMs": 10000,
    "maxChunks": 1000,
    "parallelFetches": 3,
    "logChunkOperations": True,
    "useEdgeCache": True,
    "edgeCacheTtl": 3600,
}


def test_the_nine_options_load_as_they_are_written() -> None:
    config = CacheConfig.from_dict({"backends": [{"backend_type": "memory"}], "kvChunking": BLOCK})
    chunking: Any = config.chunking
    assert chunking.max_chunks == 1000
    assert chunking.log_chunk_operations
    assert chunking.edge_cache_ttl == 3600
    for name, value in (("chunkSize", 100), ("parallelFetches", 0), ("enabled", "yes")):
        with pytest.raises(ConfigError):
            CacheConfig([{"backend_type": "memory"}], chunking={**BLOCK, name: value})
    with pytest.raises(ConfigError, match="chunking must be a ChunkingConfig or a dict"):
        CacheConfig([{"backend_type": "memory"}], chunking=7)  # type: ignore[arg-type]


async def test_chunks_grow_so_that_their_number_holds() -> None:
    small = {"chunkSize": 4096, "maxChunks": 10}
    manager = manager_over(DictTier(), chunking=small)
    data = blob(100_000)
    result = await manager.put_stream("key", data)
    assert result.chunks <= 10
    assert await manager.get("key") == data
    with pytest.raises(ValueError, match="max_chunks"):
        await manager.put_stream("other", sliced(data))
    assert not await manager.exists("other")
    result = await manager.put_stream("other", sliced(data), length=len(data))
    assert result.chunks <= 10
    later = manager_over(*manager.backends, chunking={"chunkSize": MIB})
    assert await collected(later.get_stream("key")) == data


async def test_chunk_operations_are_logged_when_wanted(caplog: pytest.LogCaptureFixture) -> None:
    manager, tier, _ = await counting(2 * CHUNK, chunking={"logChunkOperations": True})
    with caplog.at_level(logging.DEBUG, "cogcache"):
        await collected(manager.get_stream("key"))
    said = sorted(r.getMessage() for r in caplog.records if "chunk" in r.getMessage())
    assert len(said) == 2
    assert f"{tier.name}: read blob/0, chunk 1: bytes {CHUNK} to {2 * CHUNK}" in said[1]


def test_sync_streams_over_local_tiers(tmp_path: Path) -> None:
    manager = manager_over(files(tmp_path))
    data = blob(2 * CHUNK + 3)
    assert manager.sync.put_stream("key", io.BytesIO(data)).stored
    assert b"".join(manager.sync.get_stream("key")) == data
    assert manager.sync.read_range("key", 5, 9) == data[5:9]
    with manager.sync.open("key") as reader:
        assert reader.read(CHUNK - 1, CHUNK + 1) == data[CHUNK - 1 : CHUNK + 1]


async def test_a_key_object_is_compared_in_full(tmp_path: Path) -> None:
    manager = manager_over(files(tmp_path))
    key = Key.parse("profile:video:1")
    await manager.put_stream(key, b"x" * 10)
    assert await manager.read_range(key, 0, 3) == b"xxx"
    entry = await manager.backends[0].fetch(key_bytes(key))
    assert not isinstance(entry, str)
    assert META_CONTENT_DIGEST in entry.meta


class WaitingTier(DictTier):
    """A tier that cannot answer without an event loop."""

    async def read(self, key: bytes) -> _core.Entry | None:
        await asyncio.sleep(0)
        return await super().read(key)


async def test_a_blocking_reader_goes_on_in_a_tier_that_has_to_wait(tmp_path: Path) -> None:
    data = blob(3 * MIB)
    local, other = files(tmp_path), WaitingTier()
    local.enable_compression = other.enable_compression = False
    async with manager_over(local, other) as manager:
        await manager.set("key", data)

        def read() -> bytes:
            with manager.sync.open("key") as reader:
                (path,) = (p for p in tmp_path.rglob("*") if p.is_file() and p.stat().st_ino == ino)
                with path.open("r+b") as file:
                    file.seek(MIB)
                    file.write(bytes(64))
                return bytes(reader.read(0, 2 * MIB))

        ino = max(
            (p.stat() for p in tmp_path.rglob("*/objects/*/*") if p.is_file()),
            key=lambda found: found.st_size,
        ).st_ino
        assert await asyncio.to_thread(read) == data[: 2 * MIB]


async def test_the_etag_of_a_frame_of_any_name_is_fit_for_a_header(tmp_path: Path) -> None:
    name = 'a"b\r\nX-Other: \u00e9'
    bundle = make_bundle([{"frame_id": name}, {"frame_id": 1}], {name: b"one", 1: b"two"})
    async with manager_over(files(tmp_path)) as manager:
        await manager.set("bundle", bundle)
        async with manager.open("bundle", f"frame/{name}") as reader:
            assert reader is not None
            assert reader.etag.isascii() and reader.etag.isprintable()
            assert reader.etag.count('"') == 2 and " " not in reader.etag
            answer = http_answer({"If-None-Match": f'"other", {reader.etag}'}, reader)
            assert answer.status == 304
        async with manager.open("bundle", "frame/1") as reader:
            assert reader is not None and reader.etag.endswith('-frame/1"')


class SlowToLeave:
    """A receiver that takes its time to give up."""

    def __init__(self) -> None:
        self.fed, self.leaving, self.may_leave = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.aborted = False

    async def feed(self, data: bytes, /) -> str | None:
        self.fed.set()
        await asyncio.Event().wait()
        return None

    async def finish(self) -> str | None:
        raise AssertionError("it was never fed")

    async def abort(self) -> None:
        self.leaving.set()
        await self.may_leave.wait()
        self.aborted = True


class ReceivingTier(DictTier):
    """A tier with one receiver for every stream."""

    def __init__(self) -> None:
        super().__init__()
        self.receiver = SlowToLeave()

    async def receive(self, key: bytes, token: int, *, source: int = 0, kind: int = 0) -> Any:
        return self.receiver


async def test_who_cancels_twice_waits_for_nothing_and_leaves_nothing() -> None:
    tiers = [ReceivingTier(), ReceivingTier()]
    manager = manager_over(*tiers)
    putting = asyncio.create_task(manager.put_stream("key", sliced(blob(20 * MIB))))
    for tier in tiers:
        await tier.receiver.fed.wait()
    putting.cancel()
    await tiers[0].receiver.leaving.wait()
    putting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await putting
    for tier in tiers:
        tier.receiver.may_leave.set()
    while not all(tier.receiver.aborted for tier in tiers):
        await asyncio.sleep(0)
