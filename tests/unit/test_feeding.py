"""Where a stream comes from: every kind of source gives the same bytes in the same pieces."""

from __future__ import annotations

import asyncio
import io
import mmap
import os
import random
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cogcache import CacheManager, MemoryCacheConfig, _offload
from cogcache._inline import run_inline
from cogcache.config import CacheConfig
from cogcache.feeding import PIECE_BYTES, known_length, pieces_of
from cogcache.sources import capture_async

DATA = random.Random(7).randbytes(2 * PIECE_BYTES + 12_345)
EVEN = [PIECE_BYTES, PIECE_BYTES, 12_345]


async def sizes_and_bytes(source: Any) -> tuple[list[int], bytes]:
    pieces = [bytes(piece) async for piece in pieces_of(source)]
    return [len(piece) for piece in pieces], b"".join(pieces)


def cut(data: bytes, step: int) -> Iterator[bytes]:
    return (data[at : at + step] for at in range(0, len(data), step))


async def asynchronous(pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        await asyncio.sleep(0)
        yield piece


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, mmap.mmap])
async def test_bytes_come_without_being_copied_first(kind: type) -> None:
    source: Any = kind(DATA) if kind is not mmap.mmap else mmap.mmap(-1, len(DATA))
    if isinstance(source, mmap.mmap):
        source[:] = DATA
    assert known_length(source) == len(DATA)
    assert await sizes_and_bytes(source) == (EVEN, DATA)


@pytest.mark.parametrize("step", [1, 1000, 65_536, PIECE_BYTES - 1, PIECE_BYTES, 5_000_000])
@pytest.mark.parametrize("how", ["plain", "asynchronous"])
async def test_pieces_of_any_size(step: int, how: str) -> None:
    data = DATA[:100_000] if step == 1 else DATA
    pieces = cut(data, step)
    source = asynchronous(pieces) if how == "asynchronous" else pieces
    assert known_length(source) is None
    sizes, got = await sizes_and_bytes(source)
    assert got == data
    assert sizes == ([100_000] if step == 1 else EVEN)


@given(st.lists(st.binary(max_size=50), max_size=20))
def test_whatever_the_pieces_the_bytes_are_the_same(pieces: list[bytes]) -> None:
    async def gather() -> bytes:
        return b"".join([bytes(piece) async for piece in pieces_of(iter(pieces))])

    assert run_inline(gather()) == b"".join(pieces)


async def test_a_buffer_that_is_used_again_for_each_piece() -> None:
    def reusing() -> Iterator[memoryview]:
        room = bytearray(50_000)
        for piece in cut(DATA, 50_000):
            room[: len(piece)] = piece
            yield memoryview(room)[: len(piece)]

    assert (await sizes_and_bytes(reusing()))[1] == DATA


async def test_files_pipes_and_readers(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(DATA)
    with path.open("rb") as file:
        assert await sizes_and_bytes(file) == (EVEN, DATA)
        assert not file.closed
    with path.open("rb", buffering=0) as raw:
        assert await sizes_and_bytes(raw) == (EVEN, DATA)
    assert await sizes_and_bytes(io.BytesIO(DATA)) == (EVEN, DATA)

    reader = asyncio.StreamReader()
    reader.feed_data(DATA)
    reader.feed_eof()
    assert await sizes_and_bytes(reader) == (EVEN, DATA)

    out, into = os.pipe()

    def write() -> None:
        with os.fdopen(into, "wb") as pipe:
            pipe.write(DATA)

    thread = threading.Thread(target=write)
    thread.start()
    with os.fdopen(out, "rb", buffering=0) as pipe:
        assert await sizes_and_bytes(pipe) == (EVEN, DATA)
    thread.join()


@pytest.mark.parametrize("blocking", [True, False])
async def test_sockets(blocking: bool) -> None:
    here, there = socket.socketpair()
    with here, there:
        thread = threading.Thread(target=lambda: (there.sendall(DATA), there.close()))
        thread.start()
        here.setblocking(blocking)
        assert await sizes_and_bytes(here) == (EVEN, DATA)
        thread.join()


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("text", "source must be bytes, a file, a socket or an iterator of bytes, not str"),
        (7, "not int"),
        (io.StringIO("text"), "source gave a piece of str, not bytes; open the file with 'rb'"),
        ([b"good", 7], "source gave a piece of int, not bytes"),
    ],
)
async def test_what_gives_no_bytes_is_refused(source: Any, said: str) -> None:
    with pytest.raises(TypeError, match=said):
        await sizes_and_bytes(source)


def test_a_blocking_caller_cannot_read_an_asynchronous_source() -> None:
    manager = CacheManager(CacheConfig([MemoryCacheConfig()]))
    sources: list[Any] = [asynchronous(iter([b"x"]))]
    for source in sources:
        with pytest.raises(TypeError, match=r"await put_stream\(\) for it"):
            manager.sync.put_stream("key", source)
    assert manager.sync.put_stream("key", iter([b"x", b"y"])).stored
    assert b"".join(manager.sync.get_stream("key")) == b"xy"


async def test_a_generator_is_closed_when_nobody_wants_the_rest() -> None:
    closed: list[str] = []

    def plain() -> Iterator[bytes]:
        try:
            while True:
                yield DATA
        finally:
            closed.append("plain")

    async def other() -> AsyncIterator[bytes]:
        try:
            while True:
                yield DATA
        finally:
            closed.append("asynchronous")

    for source in (plain(), other()):
        pieces = pieces_of(source)
        await anext(pieces)
        await pieces.aclose()
    assert closed == ["plain", "asynchronous"]


async def test_quiet_streams_hold_up_neither_each_other_nor_the_look_at_a_source(
    tmp_path: Path,
) -> None:
    """Those that were cancelled still have a thread each, which waits for bytes."""
    video = tmp_path / "video.mp4"
    video.write_bytes(DATA)
    manager = CacheManager(CacheConfig([MemoryCacheConfig()]))
    pairs = [socket.socketpair() for _ in range(3 * _offload._THREADS)]
    quiet = [asyncio.create_task(manager.put_stream("key", here)) for here, _ in pairs]
    while _offload._streams._waiting < len(pairs):
        await asyncio.sleep(0.001)
    for task in quiet[::2]:
        task.cancel()
    await asyncio.wait(quiet[::2])
    assert (await capture_async(video, "content", timeout_seconds=60)).digest is not None
    assert await manager.put_stream("file", io.BytesIO(DATA))
    assert await manager.get("file") == DATA
    for _, there in pairs:
        there.close()
    assert all(await asyncio.gather(*quiet[1::2]))
    for here, _ in pairs:
        here.close()
    await manager.aclose()
