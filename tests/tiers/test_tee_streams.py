"""Streams that are stored while their caller consumes them (C41): what the caller gets, what tiers
keep, and what is left of either by whatever goes wrong.
"""

from __future__ import annotations

import asyncio
import io
import random
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support_cache import BrokenTier, DictTier, manager_over

from cogcache import (
    CacheManager,
    FilesystemCacheConfig,
    MemoryCacheConfig,
    StreamResult,
    TeeStream,
    _core,
)
from cogcache.backends.base import CacheBackend
from cogcache.backends.filesystem import FilesystemCacheBackend
from cogcache.backends.memory import MemoryCacheBackend
from cogcache.backends.receiving import BufferedReceiver

MIB = 1 << 20
DATA = random.Random(41).randbytes(11 * MIB + 5)


def files(path: Path) -> FilesystemCacheBackend:
    return FilesystemCacheBackend(FilesystemCacheConfig(path, cleanup_on_startup=False))


async def pieces(data: bytes = DATA, step: int = 300_000) -> AsyncIterator[bytes]:
    for at in range(0, len(data), step):
        yield data[at : at + step]


async def consumed(stream: TeeStream) -> bytes:
    return b"".join([piece async for piece in stream])


def taken_by(stream: TeeStream, tier: CacheBackend) -> int:
    """Bytes of the value that a tier has taken."""
    assert stream._inflow is not None
    [taken] = [lane.taken for lane in stream._inflow._lanes if lane.branch.tier is tier] or [0]
    return taken


class HeldTier(DictTier):
    """A tier that stops at one step of a stream until it is let go."""

    def __init__(self, step: str) -> None:
        super().__init__()
        self.step = step
        self.reached, self.gate = asyncio.Event(), asyncio.Event()
        self.aborted = 0

    async def hold(self, step: str) -> None:
        if step == self.step:
            self.reached.set()
            await self.gate.wait()

    async def receive(self, key: bytes, token: int, *, source: int = 0, kind: int = 0) -> Any:
        await self.hold("receive")
        return HeldReceiver(self, key)


class HeldReceiver(BufferedReceiver):
    def __init__(self, tier: HeldTier, key: bytes) -> None:
        super().__init__(tier.write, key, 64 * MIB)
        self.held_by = tier

    async def feed(self, data: Any, /) -> str | None:
        await self.held_by.hold("feed")
        return await super().feed(data)

    async def finish(self) -> str | None:
        await self.held_by.hold("finish")
        return await super().finish()

    async def abort(self) -> None:
        self.held_by.aborted += 1
        await super().abort()


async def test_the_caller_gets_the_pieces_and_every_tier_the_value(tmp_path: Path) -> None:
    tiers: list[CacheBackend] = [
        MemoryCacheBackend(MemoryCacheConfig()),
        files(tmp_path),
        DictTier(),
    ]
    manager = manager_over(*tiers)
    async with manager.tee_stream(
        "key", pieces(), content_type="video/mp4", tags=["t"], metadata={"a": 1}
    ) as stream:
        got = [piece async for piece in stream]
    assert [len(piece) for piece in got[:3]] == [300_000] * 3
    assert b"".join(got) == DATA
    result = await stream.stored()
    assert isinstance(result, StreamResult) and result
    assert (result.size, result.digest) == (len(DATA), _core.hash128(DATA))
    assert set(result.tiers) == {tier.name for tier in tiers}
    for tier in tiers:
        assert await tier.get("key") == DATA
    found = await manager.get_metadata("key")
    assert found is not None and found["tags"] == ["t"]
    assert found["content_digest"] == result.digest
    streams = (await manager.get_stats())["manager"]["streams"]
    assert (streams["streams_stored"], streams["bytes_stored"]) == (1, len(DATA))
    await manager.aclose()


def from_socket() -> socket.socket:
    here, there = socket.socketpair()

    def send() -> None:
        with there:
            there.sendall(DATA)

    threading.Thread(target=send).start()
    return here


@pytest.mark.parametrize(
    "source",
    [
        lambda: DATA,
        lambda: memoryview(DATA),
        lambda: io.BytesIO(DATA),
        lambda: iter([DATA[:7], b"", bytearray(DATA[7:MIB]), DATA[MIB:]]),
        from_socket,
    ],
    ids=["bytes", "view", "file", "iterator", "socket"],
)
async def test_any_source_is_read_as_it_comes(source: Callable[[], Any]) -> None:
    manager = manager_over(DictTier())
    given = source()
    async with manager.tee_stream("key", given) as stream:
        got = [piece async for piece in stream]
    assert all(type(piece) is bytes and 0 < len(piece) <= MIB for piece in got)
    assert b"".join(got) == DATA
    assert await stream.stored()
    assert await manager.get("key") == DATA
    if isinstance(given, socket.socket):
        given.close()


@pytest.mark.parametrize("size", [0, 1, 5 * MIB])
async def test_sizes(size: int) -> None:
    manager = manager_over(DictTier())
    async with manager.tee_stream("key", pieces(DATA[:size])) as stream:
        assert await consumed(stream) == DATA[:size]
    assert (await stream.stored()).size == size
    assert await manager.get("key") == DATA[:size]


async def test_a_piece_of_a_plain_iterator_is_handed_out_before_the_next_is_asked_for() -> None:
    asked = 0

    def source() -> Iterator[bytes]:
        nonlocal asked
        for _ in range(5):
            asked += 1
            yield b"piece"

    async with manager_over(DictTier()).tee_stream("key", source()) as stream:
        for number in range(1, 6):
            assert await anext(stream) == b"piece"
            assert asked == number


@pytest.mark.parametrize("step", ["receive", "feed"])
@pytest.mark.parametrize("place", [0, 1])
async def test_a_tier_that_stalls_is_given_up_and_slows_nobody(
    tmp_path: Path, step: str, place: int
) -> None:
    good, held = files(tmp_path), HeldTier(step)
    manager = manager_over(*([held, good] if place == 0 else [good, held]))
    await held.set("key", b"older")
    most = 0

    async def source() -> AsyncIterator[bytes]:
        nonlocal most
        for at in range(0, len(DATA), MIB // 2):
            while taken_by(stream, good) < at - 2 * MIB:  # as quick as the one that works
                await asyncio.sleep(0.001)
            most = max(most, at - taken_by(stream, held) if held.reached.is_set() else 0)
            yield DATA[at : at + MIB // 2]
            if at > 8 * MIB:
                assert held.aborted >= (step == "feed")  # what it held is let go before the end

    async with manager.tee_stream("key", source(), buffer_mb=4) as stream:
        assert await consumed(stream) == DATA
        result = await stream.stored()
    assert result.tiers == (good.name,)
    assert result.refused == {held.name: "too-slow"}
    assert most > 4_000_000  # it had that much time
    assert await manager.get("key") == DATA
    assert held.images == {}  # or it would go on answering with the older value
    await manager.aclose()


async def test_where_nothing_keeps_up_the_caller_has_it_all_and_nothing_is_stored() -> None:
    held = HeldTier("feed")
    manager = manager_over(held)
    await held.set("key", b"older")
    async with manager.tee_stream("key", pieces(), buffer_mb=4) as stream:
        assert await consumed(stream) == DATA
    result = await stream.stored()
    assert (result.stored, result.reason) == (False, "too-slow")
    assert await manager.get("key") == b"older"
    assert await manager.flush() == 0


async def test_what_is_held_stays_within_the_buffer() -> None:
    held = HeldTier("feed")
    manager = manager_over(held)
    most = 0
    async with manager.tee_stream("key", pieces(), buffer_mb=4) as stream:
        assert stream._inflow is not None
        async for _ in stream:
            raw = sum(len(piece) for piece in list(stream._waiting._queue))  # type: ignore[attr-defined]
            made = sum(
                len(data or b"")
                for lane in stream._inflow._live_lanes()
                for data, _ in list(lane.waiting._queue)  # type: ignore[attr-defined]
            )
            most = max(most, raw + made)
    assert 2 * MIB < most <= 4_000_000 + MIB


async def test_a_caller_that_has_time_waits_for_tiers_that_lag() -> None:
    held = HeldTier("feed")
    manager = manager_over(held)

    async def let_go() -> None:
        await held.reached.wait()
        while not stream._inflow.lags(stream._handed):  # type: ignore[union-attr]
            await asyncio.sleep(0.001)
        held.gate.set()

    async with manager.tee_stream("key", pieces(), buffer_mb=4, wait_seconds="1h") as stream:
        letting = asyncio.create_task(let_go())
        assert await consumed(stream) == DATA
    await letting
    assert await stream.stored()
    assert await manager.get("key") == DATA


async def test_nothing_counts_without_a_required_tier(tmp_path: Path) -> None:
    good, held = files(tmp_path), HeldTier("feed")
    object.__setattr__(held.config, "required", True)
    manager = manager_over(good, held)
    async with manager.tee_stream("key", pieces(), buffer_mb=4) as stream:
        assert await consumed(stream) == DATA
    assert not (await stream.stored()).stored
    assert await manager.get("key") is None
    await manager.aclose()


async def test_a_broken_tier_is_no_matter_of_the_caller(tmp_path: Path) -> None:
    good, bad = files(tmp_path), BrokenTier()
    manager = manager_over(bad, good)
    async with manager.tee_stream("key", pieces(), wait_seconds="1h") as stream:
        assert await consumed(stream) == DATA
    result = await stream.stored()
    assert (result.tiers, set(result.refused)) == ((good.name,), {bad.name})
    await manager.aclose()
    manager = manager_over(BrokenTier())
    async with manager.tee_stream("key", pieces()) as stream:
        assert await consumed(stream) == DATA
    assert (await stream.stored()).reason in ("io-error", "too-slow")


# --- who leaves ----------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["break", "raise", "cancel"])
@pytest.mark.parametrize("finish", [False, True])
async def test_who_leaves_early_keeps_nothing_or_all_of_it(
    tmp_path: Path, how: str, finish: bool
) -> None:
    manager = manager_over(files(tmp_path), DictTier())
    await manager.set("key", b"older")
    closed, reading, goes_on = asyncio.Event(), asyncio.Event(), asyncio.Event()
    streams: list[TeeStream] = []

    async def source() -> AsyncIterator[bytes]:
        try:
            for at in range(0, len(DATA), MIB):
                if at == 4 * MIB:
                    reading.set()
                    await goes_on.wait()
                yield DATA[at : at + MIB]
        finally:
            closed.set()

    async def consume() -> None:
        async with manager.tee_stream("key", source(), finish=finish) as stream:
            streams.append(stream)
            for _ in range(4):
                await anext(stream)
            if how == "raise":
                raise ZeroDivisionError
            if how == "cancel":
                await anext(stream)

    before = asyncio.all_tasks()
    task = asyncio.create_task(consume())
    if how == "cancel":
        await reading.wait()
        task.cancel()
    await asyncio.wait({task})
    assert task.cancelled() == (how == "cancel")
    if how == "raise":
        assert isinstance(task.exception(), ZeroDivisionError)
    assert closed.is_set() == (not finish)
    goes_on.set()
    assert await manager.flush() == 0
    result = await streams[0].stored()
    if finish:
        assert result.stored and await manager.get("key") == DATA
        assert closed.is_set()
    else:
        assert (result.stored, result.reason) == (False, "abandoned")
        assert await manager.get("key") == b"older"
    assert asyncio.all_tasks() == before
    await manager.aclose()


async def test_the_rest_of_a_source_is_read_no_faster_than_tiers_take_it() -> None:
    held = HeldTier("feed")
    manager = manager_over(held)
    given = 0

    async def source() -> AsyncIterator[bytes]:
        nonlocal given
        for at in range(0, 4 * len(DATA), MIB):
            given = at
            yield DATA[:MIB]

    async with manager.tee_stream("key", source(), buffer_mb=4, finish=True) as stream:
        await anext(stream)
    await held.reached.wait()
    assert stream._inflow is not None
    while not stream._inflow.lags(stream._inflow._size):
        await asyncio.sleep(0.001)
    for _ in range(50):
        await asyncio.sleep(0)
    assert given <= 12 * MIB
    held.gate.set()
    assert (await stream.stored()).size == -(-4 * len(DATA) // MIB) * MIB


class CameraError(Exception):
    pass


async def broken(after: int = 6 * MIB) -> AsyncIterator[bytes]:
    yield DATA[:after]
    raise CameraError("the camera is gone")


async def test_an_error_of_the_source_reaches_the_caller_and_nothing_is_stored(
    tmp_path: Path,
) -> None:
    manager = manager_over(files(tmp_path))
    await manager.set("key", b"older")
    async with manager.tee_stream("key", broken()) as stream:
        with pytest.raises(CameraError, match="the camera is gone"):
            await consumed(stream)
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
    assert (await stream.stored()).reason == "source-failed"
    async with manager.tee_stream("key", broken(), finish=True) as stream:
        await anext(stream)
    assert (await stream.stored()).reason == "source-failed"
    assert await manager.get("key") == b"older"
    async with manager.tee_stream("key", ["no", "bytes"]) as stream:
        with pytest.raises(TypeError, match="a piece of str, not bytes"):
            await consumed(stream)
    await manager.aclose()


@pytest.mark.parametrize(("more", "reason"), [(1, "incomplete"), (-1, "too-large")])
async def test_another_length_than_announced_is_for_the_caller_to_judge(
    more: int, reason: str
) -> None:
    manager = manager_over(DictTier())
    async with manager.tee_stream("key", pieces(), length=len(DATA) + more) as stream:
        assert await consumed(stream) == DATA
    assert (await stream.stored()).reason == reason
    assert not await manager.exists("key")


# --- after the last piece ------------------------------------------------------------------------


async def test_tiers_end_in_the_background_and_flush_waits_for_them() -> None:
    held = HeldTier("finish")
    manager = manager_over(held)
    async with manager.tee_stream("key", pieces()) as stream:
        assert await consumed(stream) == DATA
    await held.reached.wait()
    assert await manager.flush(0.01) == 1
    held.gate.set()
    assert await manager.flush() == 0
    assert await manager.get("key") == DATA
    assert await stream.stored()


@pytest.mark.parametrize("in_time", [True, False])
async def test_closing_waits_for_what_is_still_stored(in_time: bool) -> None:
    held = HeldTier("finish")
    manager = manager_over(held)
    async with manager.tee_stream("key", pieces()) as stream:
        await consumed(stream)
    await held.reached.wait()
    if in_time:
        asyncio.get_running_loop().call_later(0.01, held.gate.set)
    await manager.aclose(60 if in_time else 0.01)
    result = await stream.stored()
    assert (result.stored, bool(held.images)) == (in_time, in_time)
    assert in_time or (result.reason, held.aborted > 0) == ("withdrawn", True)


async def put(manager: CacheManager) -> None:
    assert await manager.set("key", b"newer")


async def stream_in(manager: CacheManager) -> None:
    assert await manager.put_stream("key", b"newer")


async def tee_in(manager: CacheManager) -> None:
    async with manager.tee_stream("key", b"newer") as stream:
        await consumed(stream)
    assert await stream.stored()


async def forget(manager: CacheManager) -> None:
    await manager.delete("key")


async def clear(manager: CacheManager) -> None:
    await manager.clear("key")


@pytest.mark.parametrize("change", [put, stream_in, tee_in, forget, clear])
async def test_what_came_later_is_what_counts(change: Any) -> None:
    held = HeldTier("finish")
    manager = manager_over(held)
    async with manager.tee_stream("key", pieces()) as older:
        await consumed(older)
    await held.reached.wait()
    held.step = ""
    await change(manager)
    held.gate.set()
    assert (await older.stored()).reason == "withdrawn"
    found = await manager.get("key")
    assert found == (b"newer" if change in (put, stream_in, tee_in) else None)


async def test_from_another_thread_too_no_older_value_stays_above_a_newer_one() -> None:
    held = HeldTier("finish")
    manager = manager_over(held)
    async with manager.tee_stream("key", pieces()) as older:
        await consumed(older)
    await held.reached.wait()
    held.step = ""
    assert manager.sync.set("key", b"newer")  # this loop stands still meanwhile
    held.gate.set()
    assert (await older.stored()).reason == "withdrawn"
    assert await manager.get("key") in (b"newer", None)


# --- faces and arguments -------------------------------------------------------------------------


class WaitingTier(DictTier):
    """A tier that cannot answer without an event loop."""

    async def read(self, key: bytes) -> _core.Entry | None:
        await asyncio.sleep(0)
        return await super().read(key)


@pytest.mark.parametrize("make", [files, lambda _: WaitingTier()], ids=["local", "waiting"])
def test_sync(tmp_path: Path, make: Callable[[Path], CacheBackend]) -> None:
    manager = manager_over(make(tmp_path))
    threads = set()

    def source() -> Iterator[bytes]:
        for at in range(0, len(DATA), MIB):
            threads.add(threading.current_thread())
            yield DATA[at : at + MIB]

    with manager.sync.tee_stream("key", source()) as stream:
        assert b"".join(stream) == DATA
    assert stream.stored().size == len(DATA)
    assert manager.sync.get("key") == DATA
    assert threads == {threading.current_thread()}
    with manager.sync.tee_stream("left", source(), finish=True) as stream:
        for _ in stream:
            break
    assert stream.stored().stored
    assert manager.sync.get("left") == DATA
    with manager.sync.tee_stream("gone", source()) as stream:
        for _ in stream:
            break
    assert stream.stored().reason == "abandoned"
    manager.sync.aclose()


async def test_a_key_that_is_never_there_stores_nothing() -> None:
    manager = manager_over(DictTier())
    with pytest.warns(UserWarning, match="NUL"):
        tee = manager.tee_stream("a\0b", pieces())
    async with tee as stream:
        assert await consumed(stream) == DATA
    assert (await stream.stored()).reason == "bad-key"


async def test_wrong_uses_are_said() -> None:
    manager = manager_over(DictTier())
    with pytest.raises(RuntimeError, match="inside 'async with"):
        await anext(manager.tee_stream("key", b""))
    async with manager.tee_stream("key", pieces()) as stream:
        with pytest.raises(RuntimeError, match="after the last piece"):
            await stream.stored()
    wrong: Any = "32"
    with pytest.raises(TypeError, match="buffer_mb must be a number, not str"):
        manager.tee_stream("key", b"", buffer_mb=wrong)
    with pytest.raises(ValueError, match="buffer_mb must be a number from 4"):
        manager.tee_stream("key", b"", buffer_mb=1)
    with pytest.raises(ValueError, match="wait_seconds"):
        manager.tee_stream("key", b"", wait_seconds=-1)
    with pytest.raises(ValueError, match="length must not be negative"):
        manager.tee_stream("key", b"", length=-1)
