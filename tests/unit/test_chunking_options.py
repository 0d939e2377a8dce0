"""Every option of the ``kvChunking`` block does what it says, or says that it does nothing."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import random
import warnings
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

import pytest
from support_cache import DictTier, manager_over

from cogcache import ChunkingConfig, CogcacheWarning, ConfigError, IncompleteError, _core
from cogcache.manager import CacheManager

MIB = 1 << 20
CHUNK = 5 * MIB
TESTED: set[str] = set()
T = TypeVar("T")


def of(*options: str) -> Callable[[T], T]:
    """The options that a test is about."""

    def note(test: T) -> T:
        TESTED.update(options)
        return test

    return note


class Far(DictTier):
    """A remote tier that counts the reads of parts and lets them wait."""

    is_remote = True

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = self.reads = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def read(self, key: bytes) -> _core.Entry | None:
        data = self.images.get(key)
        if data is None:
            return None
        return _core.Entry.from_reader(len(data), lambda at, size: data[at : at + size], key)

    async def read_part(self, entry: _core.Entry, part: int, start: int, stop: int) -> bytes:
        self.reads += 1
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await self.gate.wait()
            return await super().read_part(entry, part, start, stop)
        finally:
            self.now -= 1


class Cutting(DictTier):
    """A tier with a limit on one of its own values, as Redis."""

    cuts_values = True


def blob(size: int) -> bytes:
    return random.Random(size).randbytes(size)


async def pieces(data: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(data), 999_999):
        yield data[at : at + 999_999]


async def read_through(manager: CacheManager) -> bytes:
    return b"".join([piece async for piece in manager.get_stream("key")])


@of("enabled", "sizeThreshold")
@pytest.mark.parametrize("how", ["store", "stream"])
@pytest.mark.parametrize(
    ("enabled", "size", "taken"),
    [(True, 30 * MIB, True), (False, 30 * MIB, False), (False, 20_000_000, True)],
)
async def test_without_cutting_a_large_value_is_left_to_other_tiers(
    enabled: bool, size: int, taken: bool, how: str
) -> None:
    cutting, other = Cutting(), DictTier()
    manager = manager_over(cutting, other, chunking={"enabled": enabled})
    if how == "store":
        stored = (await manager.store("key", blob(size))).tiers
    else:
        stored = (await manager.put_stream("key", pieces(blob(size)))).tiers
    assert stored == ((cutting.name,) if taken else ()) + (other.name,)
    assert await manager.get("key") == blob(size)


@of("sizeThreshold")
async def test_the_threshold_counts_stored_bytes_and_belongs_to_what_is_cut() -> None:
    probe = DictTier()
    await manager_over(probe).set("key", blob(500_000))
    stored = len(next(iter(probe.images.values())))
    for threshold, taken in ((stored, False), (stored + 1, True)):
        tier = Cutting()
        manager = manager_over(tier, chunking={"enabled": False, "sizeThreshold": threshold})
        assert await manager.set("key", blob(500_000)) is taken


@of("sizeThreshold")
def test_a_threshold_where_everything_may_be_cut_says_that_it_does_nothing() -> None:
    with pytest.warns(CogcacheWarning, match="size_threshold has no effect unless enabled=False"):
        ChunkingConfig(size_threshold=1000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ChunkingConfig(size_threshold=1000, enabled=False)


@of("chunkSize")
async def test_a_stream_is_cut_into_chunks_of_the_size_that_was_said() -> None:
    data = blob(3 * MIB + 5)
    for size, chunks in ((MIB, 4), (CHUNK, 1)):
        manager = manager_over(DictTier(), chunking={"chunkSize": size})
        result = await manager.put_stream("key", pieces(data))
        assert (result.chunk_size, result.chunks) == (size, chunks)
        async with manager.open("key") as reader:
            assert reader is not None and reader._info is not None
            assert reader._info.chunk_size == size


async def test_namespaces_of_one_store_have_chunks_of_their_own_size() -> None:  # C25
    sizes = {"hls:*": MIB, "archive:*": 8 * MIB, "hls:long:*": 2 * MIB}
    tier = DictTier()
    manager = manager_over(tier, chunking={"chunk_sizes": sizes})
    data = blob(17 * MIB + 3)
    wanted = {"hls:a": 18, "hls:long:a": 18, "archive:a": 3, "hls": 4, "other:a": 4}
    for key, chunks in wanted.items():
        result = await manager.put_stream(key, pieces(data))
        assert (key, result.chunks) == (key, chunks)
        assert result.chunk_size == sizes.get(f"{key.split(':')[0]}:*" if ":" in key else "", CHUNK)
    async with manager.tee_stream("hls:b", pieces(data)) as stream:
        assert b"".join([piece async for piece in stream]) == data
    assert (await stream.stored()).chunk_size == MIB
    later = manager_over(tier)  # what is stored keeps its own
    for key in (*wanted, "hls:b"):
        assert await later.read_range(key, 5 * MIB - 2, 9 * MIB) == data[5 * MIB - 2 : 9 * MIB]


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"hls:*": 100}, r"chunk_sizes\['hls:\*'\] must be .* at least 4096"),
        ({"hls:*": None}, "patterns of keys to numbers"),
        ({7: MIB}, "patterns of keys to numbers"),
        ([("hls:*", MIB)], "chunk_sizes must map patterns"),
        ({"hls*x": MIB}, r"chunk_sizes: 'hls\*x': .*stands for whole segments"),
        ({"": MIB}, "must not be empty"),
    ],
)
def test_wrong_sizes_of_chunks_are_said(sizes: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        manager_over(DictTier(), chunking={"chunk_sizes": sizes})


@pytest.mark.parametrize("size", [39_000_000, 41_000_000])
@pytest.mark.parametrize("known", [True, False])
async def test_a_stream_is_a_stream_whatever_its_length(size: int, known: bool) -> None:  # C36
    tier = Streaming()
    manager = manager_over(tier)
    data = blob(size)

    async def source() -> AsyncIterator[bytes]:
        for at in range(0, size, MIB):
            yield data[at : at + MIB]
            if at == 32 * MIB:
                assert tier.fed > CHUNK  # it was not gathered first

    result = await manager.put_stream("key", source(), length=size if known else None)
    assert (result.size, result.chunks) == (size, -(-size // CHUNK))
    assert tier.fed == result.stored_bytes


class Streaming(DictTier):
    """A tier that counts the bytes of a stream as they come."""

    fed = 0

    async def receive(self, key: bytes, token: int, *, source: int = 0, kind: int = 0) -> Any:
        return self

    async def feed(self, data: bytes, /) -> str | None:
        self.fed += len(data)
        return None

    async def finish(self) -> str | None:
        return None

    async def abort(self) -> None:
        pass


@of("maxChunks")
async def test_chunks_grow_with_a_known_length_and_an_unknown_one_is_refused() -> None:
    data = blob(100_000)
    manager = manager_over(DictTier(), chunking={"chunkSize": 4096, "maxChunks": 10})
    result = await manager.put_stream("key", pieces(data), length=len(data))
    assert result.chunks <= 10 and result.chunk_size > 4096
    with pytest.raises(ValueError, match=r"more than max_chunks \(10\) of 4096 bytes"):
        await manager.put_stream("other", pieces(data))
    assert not await manager.exists("other")
    more = manager_over(DictTier(), chunking={"chunkSize": 4096, "maxChunks": 30})
    assert (await more.put_stream("other", pieces(data))).chunks == 25


@of("maxChunks")
async def test_a_length_that_no_chunk_size_holds_is_refused_before_a_byte_is_read() -> None:
    read = False

    async def source() -> AsyncIterator[bytes]:
        nonlocal read
        read = True
        yield b"x"

    manager = manager_over(DictTier(), chunking={"maxChunks": 1000})
    with pytest.raises(ValueError, match="1000 chunks"):
        await manager.put_stream("key", source(), length=100 << 30)
    assert not read


@of("parallelFetches")
@pytest.mark.parametrize("parallel", [1, 3, 5])
async def test_so_many_chunks_are_read_at_once(parallel: int) -> None:
    tier = Far()
    manager = manager_over(tier, chunking={"parallelFetches": parallel})
    data = blob(6 * CHUNK)
    await manager.put_stream("key", pieces(data))
    tier.gate.clear()
    reading = asyncio.create_task(read_through(manager))
    while tier.now < parallel:
        await asyncio.sleep(0)
    for _ in range(50):
        await asyncio.sleep(0)
    assert tier.now == parallel
    tier.gate.set()
    assert await reading == data
    assert tier.most == parallel
    await manager.aclose()


@of("timeoutMs")
async def test_a_chunk_that_takes_longer_is_given_up() -> None:
    tier = Far()
    manager = manager_over(tier, chunking={"timeoutMs": 50})
    await manager.put_stream("key", pieces(blob(2 * CHUNK)))
    tier.gate.clear()
    async with manager.open("key") as reader:
        assert reader is not None
        with pytest.raises(IncompleteError, match="it took too long"):
            await reader.read(0, 10)
    patient = manager_over(tier, chunking={"timeoutMs": 86_400_000})
    reading = asyncio.create_task(read_through(patient))
    while not tier.now:
        await asyncio.sleep(0)
    _, late = await asyncio.wait({reading}, timeout=0.2)
    assert late
    tier.gate.set()
    assert await reading == blob(2 * CHUNK)
    await manager.aclose()


@of("logChunkOperations")
@pytest.mark.parametrize("wanted", [True, False])
async def test_chunks_are_logged_if_that_is_wanted(
    wanted: bool, caplog: pytest.LogCaptureFixture
) -> None:
    manager = manager_over(DictTier(), chunking={"logChunkOperations": wanted})
    said: list[list[str]] = []
    with caplog.at_level(logging.DEBUG, "cogcache"):
        for size in (3 * CHUNK, 2 * CHUNK + 1, 10_000, 0):
            caplog.clear()
            await manager.put_stream("key", pieces(blob(size)))
            await read_through(manager)
            said.append([r.getMessage() for r in caplog.records if "chunk" in r.getMessage()])
    if not wanted:
        assert said == [[]] * 4
        return
    assert all(line.endswith(" ms: key") for lines in said for line in lines)
    stored = [[line.partition(" in ")[0] for line in lines if "stored" in line] for lines in said]
    assert stored[0] == [
        f"stored chunk {n}: bytes {n * CHUNK} to {(n + 1) * CHUNK}" for n in range(3)
    ]
    assert stored[1][2:] == [f"stored chunk 2: bytes {2 * CHUNK} to {2 * CHUNK + 1}"]
    assert [len(lines) for lines in stored] == [3, 3, 1, 0]
    assert [sum("read" in line for line in lines) for lines in said] == [3, 3, 1, 0]


@of("useEdgeCache")
@pytest.mark.parametrize("wanted", [True, False])
async def test_a_streamed_value_is_copied_into_local_tiers_if_that_is_wanted(wanted: bool) -> None:
    far = Far()
    await manager_over(far).put_stream("key", pieces(blob(MIB)))
    local = DictTier()
    manager = manager_over(local, InMemory(far), chunking={"useEdgeCache": wanted})
    assert await read_through(manager) == blob(MIB)
    await manager.aclose()
    assert bool(local.images) is wanted


class InMemory(DictTier):
    """A remote tier whose entries come whole."""

    is_remote = True

    def __init__(self, like: DictTier) -> None:
        super().__init__()
        self.images = like.images


@of("useEdgeCache", "edgeCacheTtl")
@pytest.mark.parametrize(
    ("block", "kept"),
    [({}, True), ({"useEdgeCache": False}, False), ({"edgeCacheTtl": 0}, False)],
)
async def test_a_second_range_of_a_chunk_asks_nobody(block: dict[str, Any], kept: bool) -> None:
    tier = Far()
    manager = manager_over(tier, chunking=block)
    data = blob(3 * CHUNK)
    await manager.put_stream("key", pieces(data))
    for at in (CHUNK + 5, CHUNK + 1_000_000, 2 * CHUNK - 10):
        assert await manager.read_range("key", at, at + 10) == data[at : at + 10]
    assert tier.reads == (1 if kept else 3)
    await manager.put_stream("key", pieces(data[::-1]))
    at = CHUNK + 5
    assert await manager.read_range("key", at, at + 10) == data[::-1][at : at + 10]
    assert tier.reads == (2 if kept else 4)
    await manager.aclose()


def test_no_option_is_left_out() -> None:
    names = {field.name for field in dataclasses.fields(ChunkingConfig)} - {
        "read_ahead",
        "chunk_sizes",
    }
    aliases: Any = {name: alias for alias, name in ChunkingConfig.ALIASES.items()}
    assert {aliases.get(name, name) for name in names} == TESTED
