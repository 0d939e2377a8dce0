"""Make, receive, link and drop containers in every way, and count what is left over.

Argument: directory.
"""

import asyncio
import contextlib
import gc
import os
import resource
import sys
from pathlib import Path

from cogcache import _bridge, _core

KEY = _core.raw_key("streamed")
VALUE = os.urandom(2_000_000)


def feed(writer: _core.EntryWriter) -> list[bytes]:
    return [writer.feed(VALUE[at : at + 300_000]) for at in range(0, len(VALUE), 300_000)]


def new_writer() -> _core.EntryWriter:
    return _core.EntryWriter(KEY, meta={1: 5}, refreshed_ms=1000, ttl_ms=None, chunk_size=256 << 10)


def begin(store: _core.Store, length: int | None) -> _core.Incoming:
    incoming = store.incoming(KEY, length=length)
    assert isinstance(incoming, _core.Incoming)
    return incoming


async def work(store: _core.Store, rounds: int) -> None:
    for number in range(rounds):
        writer = new_writer()
        image = b"".join([*feed(writer), writer.finish({1: number})])
        feed(new_writer())  # abandoned
        incoming = begin(store, len(image) if number % 2 else None)
        half = len(image) // 2
        await asyncio.gather(
            _bridge.run(incoming, "write_at", half, image[half:]),
            _bridge.run(incoming, "write_at", 0, image[:half]),
        )
        assert incoming.written == [(0, len(image))]
        assert await _bridge.run(incoming, "commit") is None
        begin(store, 5_000_000).append(image)  # dropped
        damaged = begin(store, 100)
        damaged.append(bytes(100))
        assert damaged.commit() == "damaged"
        begin(store, None).abort()
        for wrong in (b"", b"x"):
            with contextlib.suppress(ValueError):
                begin(store, 10).write_at(10, wrong * 5)
        entry = store.fetch(KEY, _core.GET_INDEX_ONLY)
        assert isinstance(entry, _core.Entry)
        assert await _bridge.run(entry, "read_container", 10, 1000) == image[10:1010]
        assert store.spool_link(entry, "job") is None
        assert await _bridge.run(store, "spool_write", entry.digest, "record", b"r") is None
        for name in os.listdir(Path(store.root, "spool")):
            assert store.spool_remove(name)
        cancelled = [
            asyncio.ensure_future(_bridge.run(new_writer(), "feed", VALUE)),
            asyncio.ensure_future(_bridge.run(store, "incoming", KEY, length=1000)),
            asyncio.ensure_future(_bridge.run(begin(store, 9000), "append", bytes(9000))),
            asyncio.ensure_future(_bridge.run(begin(store, 9000), "abort")),
        ]
        await asyncio.sleep(0)
        for one in cancelled:
            one.cancel()
        await asyncio.gather(*cancelled, return_exceptions=True)


def measure(store: _core.Store) -> tuple[int, int, int]:
    assert _core.drain_pool(60)
    gc.collect()
    assert store.stats()["held_bytes"] == 0, store.stats()
    assert os.listdir(Path(store.root, "tmp")) == []
    blocks = sys.getallocatedblocks()
    descriptors = len(os.listdir("/proc/self/fd"))
    return blocks, descriptors, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> None:
    store = _core.Store(sys.argv[1], max_bytes=200_000_000, min_free_bytes=0)
    asyncio.run(settle(store, 15))
    before = measure(store)
    for _ in range(3):
        asyncio.run(settle(store, 15))
    after = measure(store)
    print(*(now - then for then, now in zip(before, after, strict=True)))


async def settle(store: _core.Store, rounds: int) -> None:
    """Work, then let the loop deliver what was cancelled, so that it is dropped."""
    await work(store, rounds)
    await asyncio.to_thread(_core.drain_pool, 60.0)
    await asyncio.sleep(0.01)


main()
