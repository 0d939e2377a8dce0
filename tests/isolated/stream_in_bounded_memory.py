"""Stream MEGABYTES in and out of a filesystem tier under DIRECTORY, and print by how many kilobytes
the process has grown at most meanwhile, and the number of chunks; a third argument ``sparse`` makes
nearly all of it zeros, and holds to the default limit of chunks.
"""

import asyncio
import hashlib
import random
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from cogcache import (
    CacheConfig,
    CacheManager,
    ChunkingConfig,
    FilesystemCacheConfig,
    MemoryCacheConfig,
)

STEP = 1_234_567


def peak_kb() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


async def source(size: int, seen: "hashlib._Hash", *, sparse: bool = False) -> AsyncIterator[bytes]:
    noise = random.Random(5)
    left = size
    while left:
        count = min(STEP, left)
        piece = bytes(count) if sparse and noise.randrange(100) else noise.randbytes(count)
        seen.update(piece)
        left -= len(piece)
        yield piece


async def main(directory: str, size: int, sparse: bool) -> None:
    manager = CacheManager(
        CacheConfig(
            [MemoryCacheConfig(max_size_mb=32), FilesystemCacheConfig(directory, priority=1)],
            chunking=ChunkingConfig() if sparse else None,
        )
    )
    await manager.put_stream("warm", source(12 << 20, hashlib.blake2b()))
    async for _ in manager.get_stream("warm"):
        pass
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = peak_kb()
    given, got = hashlib.blake2b(), hashlib.blake2b()
    result = await manager.put_stream("key", source(size, given, sparse=sparse))
    assert result.stored and result.size == size, result
    async for piece in manager.get_stream("key"):
        got.update(piece)
    assert got.digest() == given.digest()
    print(peak_kb() - before, result.chunks)
    await manager.aclose()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]) << 20, sys.argv[3:] == ["sparse"]))
