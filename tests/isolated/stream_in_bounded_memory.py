"""Stream MEGABYTES in and out of a filesystem tier under DIRECTORY, and print by how many kilobytes
the process has grown at most meanwhile.
"""

import asyncio
import hashlib
import random
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from cogcache import CacheConfig, CacheManager, FilesystemCacheConfig, MemoryCacheConfig

STEP = 1_234_567


def peak_kb() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


async def source(size: int, seen: "hashlib._Hash") -> AsyncIterator[bytes]:
    noise = random.Random(5)
    left = size
    while left:
        piece = noise.randbytes(min(STEP, left))
        seen.update(piece)
        left -= len(piece)
        yield piece


async def main(directory: str, size: int) -> None:
    manager = CacheManager(
        CacheConfig(
            [MemoryCacheConfig(max_size_mb=32), FilesystemCacheConfig(directory, priority=1)]
        )
    )
    await manager.put_stream("warm", source(12 << 20, hashlib.blake2b()))
    async for _ in manager.get_stream("warm"):
        pass
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = peak_kb()
    given, got = hashlib.blake2b(), hashlib.blake2b()
    result = await manager.put_stream("key", source(size, given))
    assert result.stored and result.size == size, result
    async for piece in manager.get_stream("key"):
        got.update(piece)
    assert got.digest() == given.digest()
    print(peak_kb() - before)
    await manager.aclose()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]) << 20))
